"""A network's first stage on a CPU, convolution to pool, with a map's pixels sorted into 2 x 2 blocks.

oneDNN computes 16 channels at a time and PyTorch's pool goes through a map pixel by pixel in vectors of channels: a
first convolution of 4 channels, as in the report's final network, leaves three quarters of both unused. Here that
convolution computes the four pixels of a block as four times the channels, at stride 2. A block is what the pool
takes the largest of, so no pixel is moved back: maps stay in blocks up to the pool, which compares four whole planes.

Shapes: blocks are (N, B, C, H/2, W/2), B = 2 x 2: a pixel's place in its block, by rows. O: output channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fmnist_core.cpu.narrow_conv import BLOCK, block_filters, gradient_of_filters, is_plain
from fmnist_core.cpu.row_norm import RowBatchNorm, can_be_by_rows

MAX_CHANNELS = 8
"""Output channels. Measured forward and backward with the pool, kernel sizes 2 to 7: 2 to 3 times as fast at 4
channels and fewer, 1.3 times at 8, slower at 16."""


def compute_first_stage_in_blocks(model: nn.Module) -> nn.Module:
    """`model`, on a CPU, with the layers of its first stage, if that gains by it, changed in place.

    Of a plain sequence alone, where the convolution stands once: elsewhere others may read its output.
    """
    layers = list(model) if type(model) is nn.Sequential else []
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or sum(layer is first for layer in layers) != 1 or not _gains(first):
        return model
    match layers[layers.index(first) + 1:]:
        case [norm, pool, *_] if can_be_by_rows(norm) and _takes_blocks(pool):
            norm.__class__ = RowBatchNorm
        case [pool, *_] if _takes_blocks(pool):
            pass
        case _:
            return model
    first.__class__, pool.__class__ = BlockConv2d, BlockMaxPool2d
    return model


def _gains(conv: nn.Conv2d) -> bool:
    return conv.out_channels <= MAX_CHANNELS and is_plain(conv) and not conv._forward_hooks


def _takes_blocks(pool: nn.Module) -> bool:
    return (type(pool) is nn.MaxPool2d and pool.kernel_size in (BLOCK, (BLOCK, BLOCK)) and pool.padding in (0, (0, 0))
            and pool.stride in (BLOCK, (BLOCK, BLOCK)) and pool.dilation in (1, (1, 1)) and not pool.return_indices)


class BlockConv2d(nn.Conv2d):
    """`nn.Conv2d` with the same parameters, that gives blocks while it is trained, where a map has an even size.

    Finite numbers alone come out the same: an infinite one makes its neighbours NaN, here and in the pool.
    """

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        sizes = [pixels + 2 * int(self.padding[0]) - self.kernel_size[0] + 1 for pixels in maps_NCHW.shape[2:]]
        fits = (self.training and maps_NCHW.ndim == 4 and len(maps_NCHW) and not maps_NCHW.requires_grad
                and maps_NCHW.device.type == "cpu"
                and maps_NCHW.dtype == self.weight.dtype in (torch.float32, torch.float64)
                and not torch.is_autocast_enabled("cpu")
                and all(size > 0 and size % BLOCK == 0 for size in sizes))
        if not fits:
            return super().forward(maps_NCHW)
        blocks: Tensor = _Convolve.apply(maps_NCHW, self.weight, self.bias, self.padding[0])
        return blocks


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps_NCHW: Tensor, weight: Tensor, bias_O: Tensor | None, padding: int) -> Tensor:
        filters = block_filters(weight)
        bias = None if bias_O is None else torch.cat([bias_O] * BLOCK * BLOCK)
        planes = F.conv2d(maps_NCHW, filters, bias, stride=BLOCK, padding=padding)
        ctx.save_for_backward(maps_NCHW, weight, filters)
        ctx.padding = padding
        num, _, height, width = planes.shape
        return planes.contiguous().view(num, BLOCK * BLOCK, len(weight), height, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps_NCHW, weight, filters = ctx.saved_tensors
        _, of_filters, of_bias = torch.ops.aten.convolution_backward(
            gradients[0].flatten(1, 2), maps_NCHW, filters, [len(filters)], [BLOCK] * 2, [ctx.padding] * 2, [1, 1],
            False, [0, 0], 1, [False, *ctx.needs_input_grad[1:3]])
        of_weight = None
        if ctx.needs_input_grad[1]:  # DDP expects the weight's strides
            of_weight = torch.empty_like(weight).copy_(gradient_of_filters(of_filters))
        return None, of_weight, of_bias.view(BLOCK * BLOCK, -1).sum(0) if ctx.needs_input_grad[2] else None, None


class BlockMaxPool2d(nn.MaxPool2d):
    """`nn.MaxPool2d(2)`, of maps or of their blocks."""

    def forward(self, maps: Tensor) -> Tensor:
        if maps.ndim != 5:
            pooled: Tensor = super().forward(maps)
            return pooled
        pooled = _Pool.apply(maps)
        return pooled


class _Pool(torch.autograd.Function):
    """Blocks to (N, C, H/2, W/2) in channels_last. Of equals in a block the first gets the gradient, as in PyTorch."""

    @staticmethod
    def forward(ctx: Any, blocks: Tensor) -> Tensor:
        first, second, third, fourth = blocks.unbind(1)
        top, bottom = torch.maximum(first, second), torch.maximum(third, fourth)
        ctx.save_for_backward(_is_largest(first, second), _is_largest(third, fourth), _is_largest(top, bottom))
        return torch.maximum(top, bottom).contiguous(memory_format=torch.channels_last)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        is_first, is_third, is_top = ctx.saved_tensors
        g = gradients[0].contiguous()
        of_blocks = g.new_empty(len(g), BLOCK * BLOCK, *g.shape[1:])
        first, second, third, fourth = of_blocks.unbind(1)
        of_top = g * is_top
        of_bottom = g - of_top
        torch.mul(of_top, is_first, out=first)
        torch.sub(of_top, first, out=second)
        torch.mul(of_bottom, is_third, out=third)
        torch.sub(of_bottom, third, out=fourth)
        return of_blocks


def _is_largest(a: Tensor, b: Tensor) -> Tensor:
    """1 where a >= b, else 0; as floats, by which PyTorch multiplies five times as fast as by booleans."""
    return torch.ge(a, b, out=torch.empty_like(a))
