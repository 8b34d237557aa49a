"""A network's layers, one row each, in closed form. No torch."""

from collections.abc import Sequence

from bench.formatting import NOTHING, count, escape, table
from bench.record import Layer
from fmnist_core.config import CellConfig, input_shape
from fmnist_core.models import layers as spec
from fmnist_core.models.networks import layers_of

KINDS: dict[type[spec.Layer], str] = {
    spec.Pad: "ZeroPad2d", spec.Conv: "Conv2d", spec.BatchNorm: "BatchNorm2d", spec.MaxPool: "MaxPool2d",
    spec.Flatten: "Flatten", spec.Linear: "Linear", spec.Dropout: "Dropout",
}
ACTIVATIONS = {"relu": "ReLU", "leaky_relu": "LeakyReLU", "elu": "ELU", "gelu": "GELU", "silu": "SiLU", "tanh": "Tanh"}
"""PyTorch's names."""


def layer_table(layers: Sequence[Layer]) -> str:
    """Table 1.3 of the report, with the parameters and multiply-adds of each layer."""
    shape = lambda sizes: f"({', '.join(map(str, sizes))})"
    rows = [[escape(layer.name), escape(layer.kind), shape(layer.in_shape),
             str(layer.kernel_size or NOTHING), str(layer.stride or NOTHING), escape(layer.padding) or NOTHING,
             shape(layer.out_shape), count(layer.num_parameters), count(layer.multiply_adds)] for layer in layers]
    total = ["**total**", *[""] * 6, count(sum(layer.num_parameters for layer in layers)),
             count(sum(layer.multiply_adds for layer in layers))]
    headers = ["layer", "kind", "input shape", "kernel size", "stride", "padding", "output shape",
               "parameters", "multiply-adds"]
    return table(headers, [*rows, total], text_columns=2)


def in_closed_form(config: CellConfig) -> list[Layer]:
    """Empty where the model is no plain sequence of layers."""
    return [_layer(row) for row in spec.trace(layers_of(config.model) or [], input_shape(config.data))]


def _layer(row: spec.Row) -> Layer:
    layer = row.layer
    kernel_size, stride, padding = None, None, ""
    if isinstance(layer, spec.Conv):
        kernel_size, stride, padding = layer.kernel_size, layer.stride, str(layer.padding)
    elif isinstance(layer, spec.MaxPool):
        kernel_size, stride, padding = 2, 2, "0"
    elif isinstance(layer, spec.Pad):
        padding = str(layer.padding)
    kind = ACTIVATIONS[layer.kind] if isinstance(layer, spec.Activate) else KINDS[type(layer)]
    return Layer(name=layer.name, kind=kind, in_shape=list(row.in_shape), out_shape=list(row.out_shape),
                 kernel_size=kernel_size, stride=stride, padding=padding, num_parameters=row.num_parameters,
                 multiply_adds=row.multiply_adds)
