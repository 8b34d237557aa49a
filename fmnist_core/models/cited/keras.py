"""What Keras does where a cited system says nothing: initialisation and batch normalization."""

from collections.abc import Container

from torch import nn

BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.01
"""PyTorch's word: the weight of the new batch. Keras calls the rest, 0.99, its momentum."""


def keras_init(model: nn.Module, *, small_uniform: Container[str] = ()) -> nn.Module:
    """Glorot-uniform weights and zero biases.

    Modules named in `small_uniform` get what Keras calls `random_uniform` weights (-0.05 to 0.05) and `RandomNormal`
    biases (standard deviation 0.05).
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        assert module.bias is not None
        if name in small_uniform:
            nn.init.uniform_(module.weight, -0.05, 0.05)
            nn.init.normal_(module.bias, std=0.05)
        else:
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def keras_batch_norm(model: nn.Module) -> nn.Module:
    """Keras's epsilon and pace of the running statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps, module.momentum = BATCH_NORM_EPS, BATCH_NORM_MOMENTUM
    return model
