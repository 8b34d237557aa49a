"""`ModelConfig` to `nn.Module`: (N, C, H, W) float images to (N, 10) logits."""

import importlib
from collections import OrderedDict

import torch
from torch import Tensor, nn

from fmnist_core.config import NUM_CLASSES, CitedModel, CustomModel, ModelConfig
from fmnist_core.models import layers as spec
from fmnist_core.models.networks import layers_of

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh,
}


def build(config: ModelConfig, input_shape: spec.Shape) -> nn.Module:
    """The network for images of `input_shape` = (C, H, W), with PyTorch's default initialisation.

    Draws from the global generator: seed it first. Raises ValueError for a network that does not fit the images.
    """
    layers = layers_of(config)
    if layers is not None:
        return sequential(layers, input_shape)
    if isinstance(config, CitedModel):
        from fmnist_core.models import cited  # torchvision takes a second to import
        return cited.build(config.system, input_shape, **config.options)
    assert isinstance(config, CustomModel)
    return _custom(config, input_shape)


def sequential(layers: list[spec.Layer], input_shape: spec.Shape) -> nn.Sequential:
    """One named module per layer; widths follow from the shapes."""
    rows = spec.trace(layers, input_shape)
    return nn.Sequential(OrderedDict((row.layer.name, _module(row.layer, row.in_shape)) for row in rows))


def _module(layer: spec.Layer, shape: spec.Shape) -> nn.Module:
    match layer:
        case spec.Pad():
            return nn.ZeroPad2d(layer.padding)
        case spec.Conv():
            return nn.Conv2d(shape[0], layer.channels, layer.kernel_size, layer.stride, layer.padding, bias=layer.bias)
        case spec.BatchNorm():
            return nn.BatchNorm2d(shape[0])
        case spec.Activate():
            return ACTIVATIONS[layer.kind]()
        case spec.MaxPool():
            return nn.MaxPool2d(2)
        case spec.Flatten():
            return nn.Flatten()
        case spec.Linear():
            return nn.Linear(shape[0], layer.features, bias=layer.bias)
        case spec.Dropout():
            return nn.Dropout(layer.probability)
    raise AssertionError(f"no module for {layer}")


def _custom(config: CustomModel, input_shape: spec.Shape) -> nn.Module:
    module_name, factory_name = config.factory.split(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
        model = factory(**config.options)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"model.name = '{config.factory}' cannot be built: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"model.name = '{config.factory}' gave a {type(model).__name__}, not an nn.Module")
    with torch.no_grad():
        logits_NK = model.eval()(torch.zeros(2, *input_shape))
    if not isinstance(logits_NK, Tensor) or logits_NK.shape != (2, NUM_CLASSES):
        shape = tuple(getattr(logits_NK, "shape", ()))
        raise ValueError(f"model.name = '{config.factory}': 2 images gave {type(logits_NK).__name__} of shape {shape}, "
                         f"not logits of shape (2, {NUM_CLASSES})")
    return model.train()
