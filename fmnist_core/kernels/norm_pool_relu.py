"""Triton kernels of what follows a convolution: batch norm, 2 x 2 max-pooling and ReLU, each where there is one.

R replicas, N images each, C channels per replica, H x W pixels. Maps are (N, R * C, H, W) and contiguous; scale and
shift of a replica are a row of (R, C), whose rows may lie apart. Sums are of float32.

One after the other these layers read and write a map nine times. Here forward reads it twice and writes a quarter of it
with the place of each maximum; backward reads it where the maxima were, and once more, and writes its gradient.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 1024
"""Elements of a map that one program takes at a time."""
SPLITS = 32
"""Most parts into which a channel's sums are split."""


class Norm(NamedTuple):
    """Batch norm: its parameters (R, C), its running statistics (R * C,), which training updates in place."""

    weight_RC: Tensor
    bias_RC: Tensor
    running_mean_RC: Tensor
    running_var_RC: Tensor
    momentum: float
    eps: float
    training: bool


def norm_pool_relu(x: Tensor, norm: Norm | None, *, pool: bool, relu: bool) -> Tensor:
    """(N, R * C, H, W) to the same, or with half the height and width, rounded down. Differentiable in training."""
    if norm is None:
        y: Tensor = _NormPoolRelu.apply(x, None, None, None, pool, relu)  # type: ignore[no-untyped-call]
    else:
        y = _NormPoolRelu.apply(x, norm.weight_RC, norm.bias_RC, norm, pool, relu)  # type: ignore[no-untyped-call]
    return y


class _NormPoolRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_RC: Tensor | None, bias_RC: Tensor | None, norm: Norm | None, pool: bool,
                relu: bool) -> Tensor:
        x = x.contiguous()
        num, num_maps, height, width = x.shape
        mean, rstd = _statistics(x, norm)
        y = x.new_empty(num, num_maps, height // 2, width // 2) if pool else torch.empty_like(x)
        place = torch.empty(y.shape, dtype=torch.int8, device=x.device) if pool else y
        size = num * y.shape[2] * y.shape[3]
        channels = 1 if weight_RC is None else weight_RC.shape[1]
        weight, bias = (x, x) if weight_RC is None or bias_RC is None else (weight_RC, bias_RC)
        rows = (0, 0) if weight_RC is None or bias_RC is None else (weight_RC.stride(0), bias_RC.stride(0))
        _forward[triton.cdiv(size, BLOCK), num_maps](
            x, y, place, mean, rstd, weight, bias, *rows, channels, size, height, width, y.shape[2], y.shape[3],
            NORM=norm is not None, POOL=pool, RELU=relu, BLOCK=BLOCK)
        ctx.save_for_backward(y, place, *([] if norm is None else [x, mean, rstd, weight]))
        ctx.options = norm is not None, pool, relu, rows[0], channels, x.shape
        ctx.in_evaluation = norm is not None and not norm.training
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.in_evaluation:
            raise NotImplementedError("batch norm has no gradient in evaluation mode here")
        y, place, *of_norm = ctx.saved_tensors
        has_norm, pool, relu, weight_row, channels, (num, num_maps, height, width) = ctx.options
        grad = grad.contiguous()
        x, mean, rstd, weight = of_norm if has_norm else [grad] * 4
        grad_x = grad.new_empty(num, num_maps, height, width)
        small, large = num * y.shape[2] * y.shape[3], num * height * width
        grad_weight = grad_bias = None
        sums_2M = mean
        if has_norm:
            splits = _splits(small)
            parts = torch.empty(splits, 2, num_maps, dtype=torch.float32, device=x.device)
            _sum_gradients[num_maps, splits](
                x, y, place, grad, mean, rstd, parts, triton.cdiv(triton.cdiv(small, BLOCK), splits), small, height,
                width, y.shape[2], y.shape[3], POOL=pool, RELU=relu, BLOCK=BLOCK)
            sums_2M = parts.sum(0)
            grad_bias, grad_weight = (sums.view(-1, channels).to(weight.dtype) for sums in sums_2M.unbind())
        _backward[triton.cdiv(large, BLOCK), num_maps](
            x, y, place, grad, mean, rstd, weight, sums_2M, grad_x, weight_row, channels, large, height, width,
            y.shape[2], y.shape[3], NORM=has_norm, POOL=pool, RELU=relu, BLOCK=BLOCK)
        return grad_x, grad_weight, grad_bias, None, None, None


def _statistics(x: Tensor, norm: Norm | None) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation by channel, of the batch or, in evaluation, the running ones."""
    if norm is None:
        return x, x
    if not norm.training:
        return norm.running_mean_RC, (norm.running_var_RC + norm.eps).rsqrt()
    num, num_maps, height, width = x.shape
    size = num * height * width
    if size == 1:
        raise ValueError(f"batch norm needs more than one value per channel in training, got maps {tuple(x.shape)}")
    splits = _splits(size)
    parts = torch.empty(splits, 2, num_maps, dtype=torch.float32, device=x.device)
    mean, rstd = torch.empty(2, num_maps, dtype=torch.float32, device=x.device).unbind()
    _sum_values[num_maps, splits](x, parts, triton.cdiv(triton.cdiv(size, BLOCK), splits), size, height * width,
                                  BLOCK=BLOCK)
    _finalize[(triton.cdiv(num_maps, 128),)](x, parts, mean, rstd, norm.running_mean_RC, norm.running_var_RC, num_maps,
                                            size, splits, height * width, norm.momentum, norm.eps, BLOCK=128)
    return mean, rstd


def _splits(size: int) -> int:
    return int(max(1, min(SPLITS, triton.cdiv(size, BLOCK))))


@triton.jit(do_not_specialize=["blocks", "size", "map_size"])
def _sum_values(x, parts, blocks, size, map_size, BLOCK: tl.constexpr):
    """Sums of a channel's values and of their squares, both less its first value, which keeps the squares small."""
    channel, split, num_maps = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    first = tl.load(x + channel * map_size).to(tl.float32)
    sums, squares = tl.zeros((BLOCK,), dtype=tl.float32), tl.zeros((BLOCK,), dtype=tl.float32)
    for block in range(blocks):
        i = (split * blocks + block) * BLOCK + tl.arange(0, BLOCK)
        at = ((i // map_size).to(tl.int64) * num_maps + channel) * map_size + i % map_size
        values = tl.load(x + at, mask=i < size, other=0.0).to(tl.float32)
        values = tl.where(i < size, values - first, 0.0)
        sums += values
        squares += values * values
    tl.store(parts + split * 2 * num_maps + channel, tl.sum(sums, axis=0))
    tl.store(parts + (split * 2 + 1) * num_maps + channel, tl.sum(squares, axis=0))


@triton.jit(do_not_specialize=["num_maps", "size", "splits", "map_size"])
def _finalize(x, parts, mean, rstd, running_mean, running_var, num_maps, size, splits, map_size, momentum, eps,
              BLOCK: tl.constexpr):
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = channel < num_maps
    sums, squares = tl.zeros((BLOCK,), dtype=tl.float32), tl.zeros((BLOCK,), dtype=tl.float32)
    for split in range(splits):
        sums += tl.load(parts + split * 2 * num_maps + channel, mask=here, other=0.0)
        squares += tl.load(parts + (split * 2 + 1) * num_maps + channel, mask=here, other=0.0)
    first = tl.load(x + channel * map_size, mask=here, other=0.0).to(tl.float32)
    shift = sums / size
    average, variance = first + shift, squares / size - shift * shift
    variance = tl.where(variance < 0.0, 0.0, variance)
    tl.store(mean + channel, average, mask=here)
    tl.store(rstd + channel, 1.0 / tl.sqrt(variance + eps), mask=here)
    old_mean = tl.load(running_mean + channel, mask=here, other=0.0)
    old_var = tl.load(running_var + channel, mask=here, other=0.0)
    unbiased = variance * (size / (size - 1.0))
    tl.store(running_mean + channel, old_mean + momentum * (average - old_mean), mask=here)
    tl.store(running_var + channel, old_var + momentum * (unbiased - old_var), mask=here)


@triton.jit(do_not_specialize=["weight_row", "bias_row", "channels", "size", "height", "width", "out_height",
                               "out_width"])
def _forward(x, y, place, mean, rstd, weight, bias, weight_row, bias_row, channels, size, height, width, out_height,
             out_width, NORM: tl.constexpr, POOL: tl.constexpr, RELU: tl.constexpr, BLOCK: tl.constexpr):
    map_number, num_maps = tl.program_id(1), tl.num_programs(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here, out_size = i < size, out_height * out_width
    first, at = (i // out_size).to(tl.int64) * num_maps + map_number, i % out_size
    scale, shift = 1.0, 0.0
    if NORM:
        replica, channel = map_number // channels, map_number % channels
        scale = tl.load(weight + replica.to(tl.int64) * weight_row + channel) * tl.load(rstd + map_number)
        shift = tl.load(bias + replica.to(tl.int64) * bias_row + channel) - tl.load(mean + map_number) * scale
    if POOL:
        corner = x + first * height * width + at // out_width * 2 * width + at % out_width * 2
        best = tl.load(corner, mask=here, other=0.0).to(tl.float32) * scale + shift
        best_place = tl.zeros((BLOCK,), dtype=tl.int8)
        for quarter in tl.static_range(1, 4):
            value = tl.load(corner + quarter // 2 * width + quarter % 2, mask=here, other=0.0).to(tl.float32)
            value = value * scale + shift
            better = (value > best) | (value != value)
            best, best_place = tl.where(better, value, best), tl.where(better, quarter, best_place).to(tl.int8)
        tl.store(place + first * out_size + at, best_place, mask=here)
    else:
        best = tl.load(x + first * out_size + at, mask=here, other=0.0).to(tl.float32) * scale + shift
    if RELU:
        best = tl.where(best < 0.0, 0.0, best)  # what is not a number stays so
    tl.store(y + first * out_size + at, best.to(y.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=["blocks", "size", "height", "width", "out_height", "out_width"])
def _sum_gradients(x, y, place, grad, mean, rstd, parts, blocks, size, height, width, out_height, out_width,
                   POOL: tl.constexpr, RELU: tl.constexpr, BLOCK: tl.constexpr):
    """By channel: sums of the gradient behind the norm, and of it times the normalized value."""
    map_number, split, num_maps = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    average, inverse, out_size = tl.load(mean + map_number), tl.load(rstd + map_number), out_height * out_width
    sums, products = tl.zeros((BLOCK,), dtype=tl.float32), tl.zeros((BLOCK,), dtype=tl.float32)
    for block in range(blocks):
        i = (split * blocks + block) * BLOCK + tl.arange(0, BLOCK)
        here = i < size
        first, at = (i // out_size).to(tl.int64) * num_maps + map_number, i % out_size
        gradient = tl.load(grad + first * out_size + at, mask=here, other=0.0).to(tl.float32)
        if RELU:
            gradient = tl.where(tl.load(y + first * out_size + at, mask=here, other=0.0) > 0.0, gradient, 0.0)
        source = first * out_size + at
        if POOL:
            quarter = tl.load(place + first * out_size + at, mask=here, other=0).to(tl.int32)
            row, column = at // out_width * 2 + quarter // 2, at % out_width * 2 + quarter % 2
            source = (first * height + row) * width + column
        value = (tl.load(x + source, mask=here, other=0.0).to(tl.float32) - average) * inverse
        sums += gradient
        products += tl.where(here, gradient * value, 0.0)
    tl.store(parts + split * 2 * num_maps + map_number, tl.sum(sums, axis=0))
    tl.store(parts + (split * 2 + 1) * num_maps + map_number, tl.sum(products, axis=0))


@triton.jit(do_not_specialize=["weight_row", "channels", "size", "height", "width", "out_height", "out_width"])
def _backward(x, y, place, grad, mean, rstd, weight, sums, grad_x, weight_row, channels, size, height, width,
              out_height, out_width, NORM: tl.constexpr, POOL: tl.constexpr, RELU: tl.constexpr, BLOCK: tl.constexpr):
    map_number, num_maps = tl.program_id(1), tl.num_programs(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here, map_size, out_size = i < size, height * width, out_height * out_width
    first, at = (i // map_size).to(tl.int64) * num_maps + map_number, i % map_size
    pooled, chosen = first * out_size + at, here
    if POOL:
        row, column = at // width, at % width
        pooled = first * out_size + row // 2 * out_width + column // 2
        chosen = here & (row // 2 < out_height) & (column // 2 < out_width)
        quarter = tl.load(place + pooled, mask=chosen, other=0).to(tl.int32)
        chosen = chosen & (quarter == row % 2 * 2 + column % 2)
    gradient = tl.load(grad + pooled, mask=chosen, other=0.0).to(tl.float32)
    if RELU:
        gradient = tl.where(tl.load(y + pooled, mask=chosen, other=0.0) > 0.0, gradient, 0.0)
    if NORM:
        replica, channel = map_number // channels, map_number % channels
        inverse = tl.load(rstd + map_number)
        scale = tl.load(weight + replica.to(tl.int64) * weight_row + channel) * inverse
        value = tl.load(x + first * map_size + at, mask=here, other=0.0).to(tl.float32)
        value = (value - tl.load(mean + map_number)) * inverse
        mean_gradient, mean_product = tl.load(sums + map_number) / size, tl.load(sums + num_maps + map_number) / size
        gradient = scale * (gradient - mean_gradient - value * mean_product)
    tl.store(grad_x + first * map_size + at, gradient.to(grad_x.dtype.element_ty), mask=here)
