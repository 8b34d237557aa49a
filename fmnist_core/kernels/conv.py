"""Triton kernels of R convolutions side by side, each as one implicit matrix product: no patch is ever stored.

R replicas, N images each, C channels in and O out per replica, k x k taps, P output pixels of all N images. Tensors are
(N, R * C, H, W) and contiguous; the weights of a replica are a row of (R, O * C * k * k), whose rows may lie apart.
Stride 1. Sums are of float32; products are TF32 where PyTorch lets cuDNN use it. Maps are padded before a kernel sees
them, so that an element of a patch costs an addition and a load. Tiles are what was fastest on an H200.

cuDNN computes such a grouped convolution's gradients group by group, from copies with the channels innermost.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_OUT, MAX_TAPS = 64, 128
"""Largest tile of output channels, and of (channel, tap) pairs in the gradient of the weights."""
PROGRAMS = 4096
"""About how many the gradient of the weights is split into: some for each of a large GPU's multiprocessors."""


def convolve(x: Tensor, weight_RP: Tensor, bias_RO: Tensor | None, channels: tuple[int, int], kernel: tuple[int, ...],
             padding: tuple[int, ...]) -> Tensor:
    """(N, R * C, H, W) to (N, R * O, H', W'); `channels`: (C, O). Differentiable."""
    y: Tensor = _Convolution.apply(  # type: ignore[no-untyped-call]
        x, weight_RP, bias_RO, channels, kernel, padding)
    return y


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_RP: Tensor, bias_RO: Tensor | None, channels: tuple[int, int],
                kernel: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        num_in, num_out = channels
        x = _padded(x.contiguous(), *padding)
        ctx.save_for_backward(x, weight_RP)
        ctx.channels, ctx.kernel, ctx.padding = channels, kernel, padding
        taps = kernel[0] * kernel[1]
        return _launch(x, weight_RP, bias_RO, num_in, num_out, kernel, (num_in * taps, taps, 1), 0)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.contiguous()  # the layer behind may have left it in any order
        (x, weight_RP), (num_in, num_out), (height, width) = ctx.saved_tensors, ctx.channels, ctx.kernel
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:  # the same convolution with the taps in reverse and the channels' parts exchanged
            taps = height * width
            padded = _padded(grad, height - 1 - ctx.padding[0], width - 1 - ctx.padding[1])
            grad_x = _launch(padded, weight_RP, None, num_out, num_in, ctx.kernel, (taps, num_in * taps, -1), taps - 1)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(x, grad, num_in, num_out, ctx.kernel).to(weight_RP.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3), dtype=torch.float32).to(weight_RP.dtype).view(-1, num_out)
        return grad_x, grad_weight, grad_bias, None, None, None


def _padded(x: Tensor, vertical: int, horizontal: int) -> Tensor:
    """By so many pixels on both sides; a negative number takes away."""
    return F.pad(x, (horizontal, horizontal, vertical, vertical)).contiguous() if vertical or horizontal else x


def _launch(x: Tensor, weight_RP: Tensor, bias_RO: Tensor | None, num_in: int, num_out: int, kernel: tuple[int, int],
            strides: tuple[int, int, int], start: int) -> Tensor:
    """`strides`: of the weights by output channel, input channel and tap, from the first at `start`."""
    num, _, height, width = x.shape
    num_replicas = x.shape[1] // num_in
    out_height, out_width = height - kernel[0] + 1, width - kernel[1] + 1
    y = x.new_empty(num, num_replicas * num_out, out_height, out_width)
    num_pixels, tile_out = num * out_height * out_width, _tile(num_out, MAX_OUT)
    tile_pixels = 256 if tile_out == 16 else 128
    grid = triton.cdiv(num_pixels, tile_pixels), num_replicas, triton.cdiv(num_out, tile_out)
    _convolve[grid](x, weight_RP, weight_RP if bias_RO is None else bias_RO, y, num_pixels, num_in, num_out, height,
                    width, out_height, out_width, weight_RP.stride(0), *strides, start,
                    0 if bias_RO is None else bias_RO.stride(0), HAS_BIAS=bias_RO is not None, HEIGHT=kernel[0],
                    WIDTH=kernel[1], TILE_OUT=tile_out, TILE_PIXELS=tile_pixels, TILE_DEPTH=16,
                    PRECISION=_precision(x), FAR=_is_far(x, y, weight_RP), num_warps=4)
    return y


def _weight_gradient(x: Tensor, grad: Tensor, num_in: int, num_out: int, kernel: tuple[int, int]) -> Tensor:
    """(R, O * C * k * k): sums of parts, always in the same order."""
    num, _, out_height, out_width = grad.shape
    num_replicas, depth = x.shape[1] // num_in, num_in * kernel[0] * kernel[1]
    tile_out, tile_depth = _tile(num_out, MAX_OUT), _tile(depth, MAX_TAPS)
    tile_pixels = 128 if tile_depth == 16 else 32
    tiles_out, tiles_depth = triton.cdiv(num_out, tile_out), triton.cdiv(depth, tile_depth)
    num_pixels = num * out_height * out_width
    num_blocks = triton.cdiv(num_pixels, tile_pixels)
    splits = max(1, min(triton.cdiv(num_blocks, 4), PROGRAMS // (num_replicas * tiles_out * tiles_depth)))
    blocks = triton.cdiv(num_blocks, splits)
    weights = torch.empty(splits, num_replicas, num_out * depth, dtype=torch.float32, device=x.device)
    _correlate[splits, num_replicas, tiles_out * tiles_depth](
        x, grad, weights, num_pixels, blocks, num_in, num_out, x.shape[2], x.shape[3], out_height, out_width,
        tiles_depth, HEIGHT=kernel[0], WIDTH=kernel[1], TILE_OUT=tile_out, TILE_DEPTH=tile_depth,
        TILE_PIXELS=tile_pixels, PRECISION=_precision(x), FAR=_is_far(x, grad, weights), num_warps=4)
    return weights.sum(0)


def _tile(size: int, largest: int) -> int:
    """A power of two from 16, the least that the tensor cores take."""
    return int(max(16, min(largest, triton.next_power_of_2(size))))


def _precision(x: Tensor) -> str:
    return "tf32" if torch.backends.cudnn.allow_tf32 or x.dtype != torch.float32 else "ieee"


def _is_far(*tensors: Tensor) -> bool:
    """Whether places of elements need 64 bits, which take longer to compute with."""
    return any(1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) >= 2**31
               for tensor in tensors)


SIZES = ["num_pixels", "num_in", "num_out", "height", "width", "out_height", "out_width"]
"""Triton would compile a kernel again for every size that 16 divides or that is 1."""


@triton.jit(do_not_specialize=[*SIZES, "weight_row", "weight_out", "weight_in", "weight_tap", "weight_start",
                               "bias_row"])
def _convolve(x, weight, bias, y, num_pixels, num_in, num_out, height, width, out_height, out_width,
              weight_row, weight_out, weight_in, weight_tap, weight_start, bias_row, HAS_BIAS: tl.constexpr,
              HEIGHT: tl.constexpr, WIDTH: tl.constexpr, TILE_OUT: tl.constexpr, TILE_PIXELS: tl.constexpr,
              TILE_DEPTH: tl.constexpr, PRECISION: tl.constexpr, FAR: tl.constexpr):
    """A tile (output pixels, output channels) of one replica."""
    replica, num_replicas = tl.program_id(1), tl.num_programs(1)
    pixel = tl.program_id(0) * TILE_PIXELS + tl.arange(0, TILE_PIXELS)
    out = tl.program_id(2) * TILE_OUT + tl.arange(0, TILE_OUT)
    map_size, depth = out_height * out_width, num_in * HEIGHT * WIDTH
    real = tl.minimum(pixel, num_pixels - 1)
    image, place = real // map_size, real % map_size
    if FAR:
        image, replica = image.to(tl.int64), replica.to(tl.int64)
    first = image * num_replicas + replica
    corner = first * num_in * height * width + place // out_width * width + place % out_width
    filters = weight + (replica * weight_row + weight_start + out * weight_out)
    sums = tl.zeros((TILE_PIXELS, TILE_OUT), dtype=tl.float32)
    for start in range(0, depth, TILE_DEPTH):
        k = start + tl.arange(0, TILE_DEPTH)
        channel, tap = k // (HEIGHT * WIDTH), k % (HEIGHT * WIDTH)
        offset = tl.where(k < depth, (channel * height + tap // WIDTH) * width + tap % WIDTH, 0)  # there weights are 0
        patches = tl.load(x + (corner[:, None] + offset[None, :]))
        weights = tl.load(filters[None, :] + (channel * weight_in + tap * weight_tap)[:, None],
                          mask=(out < num_out)[None, :] & (k < depth)[:, None], other=0.0)
        sums = tl.dot(patches, weights.to(patches.dtype), sums, input_precision=PRECISION)
    if HAS_BIAS:
        biases = tl.load(bias + (replica * bias_row + out), mask=out < num_out, other=0.0)
        sums += biases.to(tl.float32)[None, :]
    at = first * num_out * map_size + place
    tl.store(y + (at[:, None] + (out * map_size)[None, :]), sums.to(y.dtype.element_ty),
             mask=(out < num_out)[None, :] & (pixel < num_pixels)[:, None])


@triton.jit(do_not_specialize=[*SIZES, "blocks", "tiles_depth"])
def _correlate(x, grad, weights, num_pixels, blocks, num_in, num_out, height, width, out_height, out_width,
               tiles_depth, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, TILE_OUT: tl.constexpr,
               TILE_DEPTH: tl.constexpr, TILE_PIXELS: tl.constexpr, PRECISION: tl.constexpr, FAR: tl.constexpr):
    """A tile (output channels, (channel, tap) pairs) of one replica's gradient, over `blocks` blocks of pixels.

    What is loaded is for the product alone. With a second use of `grads`, to sum the biases' gradient, Triton 3.6 and
    3.8 gave it two buffers where the product of the block before, on a Hopper, may still be reading the older one.
    """
    split, replica, num_replicas = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    out = tl.program_id(2) // tiles_depth * TILE_OUT + tl.arange(0, TILE_OUT)
    k = tl.program_id(2) % tiles_depth * TILE_DEPTH + tl.arange(0, TILE_DEPTH)
    channel, tap = k // (HEIGHT * WIDTH), k % (HEIGHT * WIDTH)
    depth, map_size = num_in * HEIGHT * WIDTH, out_height * out_width
    offset = tl.where(k < depth, (channel * height + tap // WIDTH) * width + tap % WIDTH, 0)  # these are not stored
    sums = tl.zeros((TILE_OUT, TILE_DEPTH), dtype=tl.float32)
    for block in range(blocks):
        pixel = (split * blocks + block) * TILE_PIXELS + tl.arange(0, TILE_PIXELS)
        real = tl.minimum(pixel, num_pixels - 1)
        image, place = real // map_size, real % map_size
        if FAR:
            image = image.to(tl.int64)
        first = image * num_replicas + replica
        at = first * num_out * map_size + place
        grads = tl.load(grad + (at[None, :] + (out * map_size)[:, None]),
                        mask=(out < num_out)[:, None] & (pixel < num_pixels)[None, :], other=0.0)
        corner = first * num_in * height * width + place // out_width * width + place % out_width
        patches = tl.load(x + (corner[:, None] + offset[None, :]))
        sums = tl.dot(grads, patches, sums, input_precision=PRECISION)
    row = split * num_replicas + replica
    if FAR:
        row = row.to(tl.int64)
    tl.store(weights + (row * num_out * depth + out[:, None] * depth + k[None, :]), sums,
             mask=(out < num_out)[:, None] & (k < depth)[None, :])
