"""Convolutions on a CPU whose input has few channels.

oneDNN computes 16 channels at a time: of a gradient with 4 channels, as in the report's final network, three quarters
of the work is thrown away. Where output channels fill vectors, output and gradients are functions in C, see
`narrow_conv.c`. Elsewhere the four pixels of a 2 x 2 block of the maps' gradient are computed as four times the
channels, by one convolution of stride 2 whose filters are the flipped ones at four offsets: half the time or less, and
the same sums, mostly to the last bit.

Shapes: g is the output's gradient (N, O, H, W), k the kernel size, B = 2 the side of a block.
"""

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fmnist_core.cpu.native import REALS, address, compiled

SOURCE = Path(__file__).with_name("narrow_conv.c")
BLOCK = 2
LANES = 16
"""float32 numbers of the largest vectors."""
MAX_CHANNELS = 4
"""More fill the vectors of a kernel by themselves, or nearly so: measured at 8, a block gains little."""


def speed_up_narrow_convolutions(model: nn.Module) -> nn.Module:
    """`model`, on a CPU in channels_last, with those of its convolutions that gain by it changed in place."""
    for module in model.modules():
        if (isinstance(module, nn.Conv2d) and 1 < module.in_channels <= MAX_CHANNELS and is_plain(module)
                and int(module.padding[0]) < module.kernel_size[0]):
            module.__class__ = NarrowConv2d
            _functions(module.weight.dtype)  # compiled off the clock of training
    return model


def is_plain(module: nn.Conv2d) -> bool:
    """PyTorch's own layer, of stride 1, square, with the same zeros on all sides."""
    return (type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros"
            and module.stride == (1, 1) and module.dilation == (1, 1) and not isinstance(module.padding, str)
            and module.kernel_size[0] == module.kernel_size[1] and module.padding[0] == module.padding[1])


class NarrowConv2d(nn.Conv2d):
    """`nn.Conv2d` with the same parameters and, up to rounding, result."""

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        fits = (maps_NCHW.requires_grad and maps_NCHW.device.type == "cpu" and maps_NCHW.dtype == self.weight.dtype
                and maps_NCHW.is_contiguous(memory_format=torch.channels_last)
                and maps_NCHW.ndim == 4 and maps_NCHW.shape[1] == self.in_channels
                and (self.bias is None or self.bias.dtype == self.weight.dtype)
                and not torch.is_autocast_enabled("cpu"))
        if not fits:
            return super().forward(maps_NCHW)
        output: Tensor = _Convolve.apply(maps_NCHW, self.weight, self.bias, self.padding[0])
        return output


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps_NCHW: Tensor, weight: Tensor, bias_O: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(maps_NCHW, weight)
        ctx.padding = padding
        if not fills_vectors(maps_NCHW, weight):
            return F.conv2d(maps_NCHW, weight, bias_O, padding=padding)
        y: Tensor = torch.ops.fmnist.narrow_conv(maps_NCHW, weight, bias_O, padding)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps_NCHW, weight = ctx.saved_tensors
        g = gradients[0].contiguous(memory_format=torch.channels_last)
        asked = ctx.needs_input_grad[1:3]
        if fills_vectors(maps_NCHW, weight):
            of_maps, *found = torch.ops.fmnist.narrow_conv_backward(g, maps_NCHW, weight, ctx.padding)
            of_weight, of_bias = (each if wanted else None for each, wanted in zip(found, asked, strict=True))
        else:
            sides = [ctx.padding] * 2
            _, of_weight, of_bias = torch.ops.aten.convolution_backward(
                g, maps_NCHW, weight, [len(weight)], [1, 1], sides, [1, 1], False, [0, 0], 1, [False, *asked])
            of_maps = gradient_of_input(g, weight, ctx.padding, maps_NCHW.shape[2:])
        return of_maps, of_weight, of_bias, None


def fills_vectors(maps_NCHW: Tensor, weight: Tensor) -> bool:
    """Whether the functions in C are there, and their vectors of output channels are full.

    They work with one thread, 1.3 times as fast as PyTorch's: not with two.
    """
    return (len(weight) % LANES == 0 and len(maps_NCHW) > 0 and torch.get_num_threads() == 1
            and _functions(weight.dtype) is not None)


@functools.cache
def _functions(dtype: torch.dtype) -> Any:
    if dtype not in REALS:
        return None
    num_pointers = {"convolve": 6, "convolve_backward": 7, "convolve_maps_backward": 5}
    return compiled(SOURCE, {name: [ctypes.c_void_p] * num for name, num in num_pointers.items()},
                    f"REAL={REALS[dtype][0]}")


class _Conv(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ssize_t)
                for name in ("num", "height", "width", "in", "out", "kernel", "padding", "rows", "columns")]


def _forward(maps_NCHW: Tensor, weight: Tensor, bias_O: Tensor | None, padding: int) -> Tensor:
    conv, weight, work = _prepared(maps_NCHW, weight, padding)
    y = torch.empty(conv.num, conv.out, conv.rows, conv.columns, dtype=weight.dtype, memory_format=torch.channels_last)
    given = maps_NCHW, weight, None if bias_O is None else bias_O.contiguous(), y, work
    _functions(weight.dtype).convolve(ctypes.byref(conv), *(address(each) for each in given))
    return y


def _backward(g: Tensor, maps_NCHW: Tensor, weight: Tensor, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the maps, the weight and the bias."""
    conv, weight, work = _prepared(maps_NCHW, weight, padding)
    of_weight, of_bias = torch.empty_like(weight), weight.new_empty(conv.out)  # in channels_last, as the weight is now
    total = torch.empty(weight.numel() + conv.out, dtype=torch.double)
    given = g, maps_NCHW, of_weight, of_bias, total, work
    functions = _functions(weight.dtype)
    functions.convolve_backward(ctypes.byref(conv), *(address(each) for each in given))
    bordered = conv.out * (conv.height + conv.kernel - 1) * (conv.width + conv.kernel - 1)
    work = weight.new_empty(conv.kernel**2 * MAX_CHANNELS * conv.out + bordered)
    of_maps = torch.empty_like(maps_NCHW)
    functions.convolve_maps_backward(ctypes.byref(conv), *(address(each) for each in (g, weight, of_maps, work)))
    return of_maps, of_weight, of_bias


def _prepared(maps_NCHW: Tensor, weight: Tensor, padding: int) -> tuple[_Conv, Tensor, Tensor]:
    """The convolution, its weight in channels_last, and memory to work in."""
    num, channels, height, width = maps_NCHW.shape
    out, _, kernel, _ = weight.shape
    assert channels == weight.shape[1]
    assert maps_NCHW.is_contiguous(memory_format=torch.channels_last)
    rows, columns = (pixels + 2 * padding - kernel + 1 for pixels in (height, width))
    padded = channels * (height + 2 * padding) * (width + 2 * padding)
    return (_Conv(num, height, width, channels, out, kernel, padding, rows, columns),
            weight.contiguous(memory_format=torch.channels_last), weight.new_empty(padded + weight.numel() + out))


_OPERATORS = torch.library.Library("fmnist", "FRAGMENT")
_OPERATORS.define("narrow_conv(Tensor maps, Tensor weight, Tensor? bias, int padding) -> Tensor")
_OPERATORS.define("narrow_conv_backward(Tensor g, Tensor maps, Tensor weight, int padding) -> "
                  "(Tensor, Tensor, Tensor)")
_OPERATORS.impl("narrow_conv", _forward, "CPU")
_OPERATORS.impl("narrow_conv_backward", _backward, "CPU")


def gradient_of_input(g: Tensor, weight: Tensor, padding: int, size: torch.Size) -> Tensor:
    """(N, C, *size) of the output's gradient `g`, both channels_last; `size`: of the input's map."""
    num, channels = len(g), weight.shape[1]
    height, width = size
    odd = height % BLOCK, width % BLOCK
    if any(odd):
        g = F.pad(g, (0, odd[1], 0, odd[0]))
    filters = block_filters(weight.flip(2, 3).transpose(0, 1))
    blocks = F.conv2d(g, filters, stride=BLOCK, padding=weight.shape[2] - 1 - padding)
    rows, columns = blocks.shape[2:]
    pixels = blocks.permute(0, 2, 3, 1).reshape(num, rows, columns, BLOCK, BLOCK, channels).transpose(2, 3)
    maps = pixels.reshape(num, rows * BLOCK, columns * BLOCK, channels).permute(0, 3, 1, 2)
    return maps[:, :, :height, :width] if any(odd) else maps


def block_filters(filters: Tensor) -> Tensor:
    """(B * B * O, C, k + 1, k + 1) of (O, C, k, k): one pixel further right or down for each pixel of a block."""
    num, channels, size, _ = filters.shape
    shifted = filters.reshape(num * channels, size * size) @ _offsets(size, filters.dtype)
    shifted = shifted.view(num, channels, BLOCK * BLOCK, size + 1, size + 1).permute(2, 0, 1, 3, 4)
    return shifted.flatten(0, 1).contiguous(memory_format=torch.channels_last)


@functools.cache
def _offsets(size: int, dtype: torch.dtype) -> Tensor:
    """(k * k, B * B * (k + 1) * (k + 1)), 0 or 1: where each number of a filter lies in that of each pixel."""
    pixels = torch.eye(size * size, dtype=dtype).view(-1, 1, size, size)
    shifts = [F.pad(pixels, (column, BLOCK - 1 - column, row, BLOCK - 1 - row))
              for row in range(BLOCK) for column in range(BLOCK)]
    return torch.cat(shifts, 1).flatten(1)
