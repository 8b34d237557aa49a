"""`ModelConfig` to `nn.Module`: (N, C, H, W) float images to (N, 10) logits."""

from collections import OrderedDict

from torch import nn

from fmnist_core.config import CitedModel, CustomModel, ModelConfig
from fmnist_core.models import layers as spec
from fmnist_core.models import own
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
    return own.build(config, input_shape)


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
