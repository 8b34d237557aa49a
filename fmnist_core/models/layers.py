"""Layers as data: each knows its output shape, parameters and multiply-adds. No torch.

Shapes leave the batch out: (C, H, W) before `Flatten`, (F,) after it. Multiply-adds are per image, one per
fused multiply-add, of convolutions and Linear layers alone (the convention of fvcore and of the field).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """`name` is the attribute that the module gets, as in the report's printed networks."""

    name: str

    def out_shape(self, shape: Shape) -> Shape:
        return shape

    def num_parameters(self, shape: Shape) -> int:
        return 0

    def multiply_adds(self, shape: Shape) -> int:
        return 0


@dataclass(frozen=True, kw_only=True)
class Pad(Layer):
    """Zeros around the map: (left, right, top, bottom) pixels."""

    padding: tuple[int, int, int, int]

    def out_shape(self, shape: Shape) -> Shape:
        channels, height, width = shape
        left, right, top, bottom = self.padding
        return channels, height + top + bottom, width + left + right


@dataclass(frozen=True, kw_only=True)
class Conv(Layer):
    """Square convolution with `padding` zeros on every side."""

    channels: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    bias: bool = True

    def out_shape(self, shape: Shape) -> Shape:
        _, height, width = shape
        size = lambda pixels: (pixels + 2 * self.padding - self.kernel_size) // self.stride + 1
        if min(height, width) + 2 * self.padding < self.kernel_size:
            raise ValueError(f"{self.name}: a kernel of {self.kernel_size} does not fit a map of {height} x {width}"
                             + (f" with padding {self.padding}" if self.padding else ""))
        return self.channels, size(height), size(width)

    def num_parameters(self, shape: Shape) -> int:
        return self.channels * (shape[0] * self.kernel_size**2 + self.bias)

    def multiply_adds(self, shape: Shape) -> int:
        _, height, width = self.out_shape(shape)
        return self.channels * shape[0] * self.kernel_size**2 * height * width


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Layer):
    """Over channels; running statistics are no parameters."""

    def num_parameters(self, shape: Shape) -> int:
        return 2 * shape[0]


@dataclass(frozen=True, kw_only=True)
class Activate(Layer):
    kind: str


@dataclass(frozen=True, kw_only=True)
class MaxPool(Layer):
    """2x2, stride 2, no padding: an odd last row or column is dropped."""

    def out_shape(self, shape: Shape) -> Shape:
        channels, height, width = shape
        if min(height, width) < 2:
            raise ValueError(f"{self.name}: a 2 x 2 pool does not fit a map of {height} x {width}")
        return channels, height // 2, width // 2


@dataclass(frozen=True, kw_only=True)
class Flatten(Layer):
    name: str = "flatten"

    def out_shape(self, shape: Shape) -> Shape:
        channels, height, width = shape
        return (channels * height * width,)


@dataclass(frozen=True, kw_only=True)
class Linear(Layer):
    features: int
    bias: bool = True

    def out_shape(self, shape: Shape) -> Shape:
        return (self.features,)

    def num_parameters(self, shape: Shape) -> int:
        return self.features * (shape[0] + self.bias)

    def multiply_adds(self, shape: Shape) -> int:
        return self.features * shape[0]


@dataclass(frozen=True, kw_only=True)
class Dropout(Layer):
    probability: float


class Row(NamedTuple):
    """One layer in its place: what a model summary prints."""

    layer: Layer
    in_shape: Shape
    out_shape: Shape
    num_parameters: int
    multiply_adds: int


def trace(layers: Iterable[Layer], input_shape: Shape) -> list[Row]:
    """Walk `layers` from `input_shape` = (C, H, W). Raises ValueError where a kernel or pool does not fit."""
    rows, shape = [], input_shape
    for layer in layers:
        out_shape = layer.out_shape(shape)
        rows.append(Row(layer, shape, out_shape, layer.num_parameters(shape), layer.multiply_adds(shape)))
        shape = out_shape
    return rows


def num_parameters(layers: Iterable[Layer], input_shape: Shape) -> int:
    """Trainable parameters, in closed form."""
    return sum(row.num_parameters for row in trace(layers, input_shape))


def multiply_adds(layers: Iterable[Layer], input_shape: Shape) -> int:
    """Multiply-adds of one image's forward pass, in closed form."""
    return sum(row.multiply_adds for row in trace(layers, input_shape))


def step_multiply_adds(by_layer: Sequence[int]) -> int:
    """Of one image's training step, from those of its forward pass, layer by layer in the order of execution.

    Backward costs twice as much as forward, but nobody needs the gradient of the images.
    """
    first = next(filter(None, by_layer), 0)
    return 3 * sum(by_layer) - first
