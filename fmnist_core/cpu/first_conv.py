"""A network's first convolution on a CPU, with its output in 2 x 2 blocks, see `first_conv.c`.

oneDNN computes 16 channels at a time: a first convolution of 4 channels, as in the report's final network, leaves three
quarters of them unused. Here neighbouring pixels fill the vectors. A block is what the pool takes the largest of, so
no pixel is moved back: the pool compares four whole planes.
"""

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fmnist_core.cpu.narrow_conv import is_plain
from fmnist_core.cpu.native import REALS, address, compiled

SOURCE = Path(__file__).with_name("first_conv.c")
BLOCK = 2
MAX_CHANNELS, MAX_KERNEL = 8, 7
"""As in the source. Measured forward and backward at kernel size 3: three times as fast as PyTorch's at 4 channels, 1.9
times at 8."""
MAX_LANES = 16


class _Conv(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ssize_t)
                for name in ("num", "height", "width", "channels", "kernel", "padding", "rows", "columns")]


@functools.cache
def _functions(dtype: torch.dtype) -> Any:
    arguments = [ctypes.c_void_p] * 6
    return compiled(SOURCE, {"convolve": arguments, "convolve_backward": arguments}, f"REAL={REALS[dtype][0]}")


def gains_by_blocks(conv: nn.Conv2d) -> bool:
    return (is_plain(conv) and conv.in_channels == 1 and conv.out_channels <= MAX_CHANNELS
            and conv.kernel_size[0] <= MAX_KERNEL and _functions(torch.float32) is not None)


def can_be_in_blocks(images_NCHW: Tensor, conv: nn.Conv2d) -> bool:
    """Where the output has an even size and the images' type, and nobody asks for the images' gradient."""
    sizes = _output_size(images_NCHW, conv.kernel_size[0], int(conv.padding[0]))
    return (images_NCHW.shape[1] == 1 and not images_NCHW.requires_grad
            and images_NCHW.dtype == conv.weight.dtype in REALS
            and (conv.bias is None or conv.bias.dtype == conv.weight.dtype)
            and not torch.is_autocast_enabled("cpu")
            and all(size > 0 and size % BLOCK == 0 for size in sizes))


def convolve_in_blocks(images_NCHW: Tensor, conv: nn.Conv2d) -> Tensor:
    """(N, 4, O, H/2, W/2): a pixel's place in its block comes first. `images_NCHW`: one channel."""
    blocks: Tensor = _Convolve.apply(images_NCHW, conv.weight, conv.bias, int(conv.padding[0]))
    return blocks


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images_NCHW: Tensor, weight: Tensor, bias_O: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(images_NCHW, weight)
        ctx.padding = padding
        blocks: Tensor = torch.ops.fmnist.first_conv(images_NCHW, weight, bias_O, padding)
        return blocks

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_weight, of_bias = torch.ops.fmnist.first_conv_backward(gradients[0], *ctx.saved_tensors, ctx.padding)
        _, weight_asked, bias_asked, _ = ctx.needs_input_grad
        return None, of_weight if weight_asked else None, of_bias if bias_asked else None, None


def _forward(images_NCHW: Tensor, weight: Tensor, bias_O: Tensor | None, padding: int) -> Tensor:
    conv, phases = _prepared(images_NCHW, weight, padding)
    blocks = weight.new_empty(conv.num, BLOCK * BLOCK, conv.channels, conv.rows, conv.columns)
    bias_O = None if bias_O is None else bias_O.contiguous()
    given = images_NCHW.contiguous(), weight.contiguous(), bias_O, blocks, phases
    _functions(weight.dtype).convolve(ctypes.byref(conv), *(address(each) for each in given))
    return blocks


def _backward(g: Tensor, images_NCHW: Tensor, weight: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    conv, phases = _prepared(images_NCHW, weight, padding)
    of_weight = torch.empty_like(weight)  # DDP expects the weight's strides
    found = of_weight if of_weight.is_contiguous() else weight.new_empty(weight.shape), weight.new_empty(conv.channels)
    given = g.contiguous(), images_NCHW.contiguous(), *found, phases
    _functions(weight.dtype).convolve_backward(ctypes.byref(conv), *(address(each) for each in given))
    return of_weight if found[0] is of_weight else of_weight.copy_(found[0]), found[1]


def _prepared(images_NCHW: Tensor, weight: Tensor, padding: int) -> tuple[_Conv, Tensor]:
    num, _, height, width = images_NCHW.shape
    channels, _, kernel, _ = weight.shape
    assert images_NCHW.shape[1] == weight.shape[1] == 1
    rows, columns = (size // BLOCK for size in _output_size(images_NCHW, kernel, padding))
    room = BLOCK * BLOCK * (rows + kernel // 2) * (columns + kernel // 2 + MAX_LANES)
    return _Conv(num, height, width, channels, kernel, padding, rows, columns), weight.new_empty(room)


def _output_size(images_NCHW: Tensor, kernel: int, padding: int) -> list[int]:
    return [pixels + 2 * padding - kernel + 1 for pixels in images_NCHW.shape[2:]]


_OPERATORS = torch.library.Library("fmnist", "FRAGMENT")
_OPERATORS.define("first_conv(Tensor images, Tensor weight, Tensor? bias, int padding) -> Tensor")
_OPERATORS.define("first_conv_backward(Tensor g, Tensor images, Tensor weight, int padding) -> (Tensor, Tensor)")
_OPERATORS.impl("first_conv", _forward, "CPU")
_OPERATORS.impl("first_conv_backward", _backward, "CPU")
