"""R convolutions side by side, and the ways to compute them.

R replicas, N images each, C channels in and O out per replica, H x W pixels. Maps are (N, R * C, H, W); the weights of
a replica are a row of (R, O * C * k * k), its biases one of (R, O).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmnist_core.kernels import available


class FusedConv(nn.Module):
    """R convolutions side by side: (N, R * C, H, W) to (N, R * O, H', W')."""

    def __init__(self, layer: nn.Conv2d, num_replicas: int) -> None:
        super().__init__()
        assert isinstance(layer.padding, tuple)
        self.num_replicas, self.in_channels, self.out_channels = num_replicas, layer.in_channels, layer.out_channels
        self.kernel_size, self.stride, self.padding = layer.kernel_size, layer.stride, layer.padding
        self.method = "grouped"
        """A key of `METHODS`."""

    def forward(self, x: Tensor, weight_RP: Tensor, bias_RO: Tensor | None = None) -> Tensor:
        return METHODS[self.method](self, x, weight_RP, bias_RO)

    def extra_repr(self) -> str:
        return f"{self.num_replicas} x ({self.in_channels}, {self.out_channels}), kernel_size={self.kernel_size}, " \
               f"stride={self.stride}, padding={self.padding}"


def grouped(conv: FusedConv, x: Tensor, weight_RP: Tensor, bias_RO: Tensor | None) -> Tensor:
    """One convolution with a group per replica."""
    weight = weight_RP.reshape(-1, conv.in_channels, *conv.kernel_size)
    bias = None if bias_RO is None else bias_RO.flatten()
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, groups=conv.num_replicas)


def grouped_channels_last(conv: FusedConv, x: Tensor, weight_RP: Tensor, bias_RO: Tensor | None) -> Tensor:
    """The same with the channels innermost; the cost of getting there and back is part of it."""
    return grouped(conv, x.contiguous(memory_format=torch.channels_last), weight_RP, bias_RO).contiguous()


def separate(conv: FusedConv, x: Tensor, weight_RP: Tensor, bias_RO: Tensor | None) -> Tensor:
    """A convolution per replica."""
    weights = weight_RP.unflatten(1, (conv.out_channels, conv.in_channels, *conv.kernel_size))
    biases = [None] * conv.num_replicas if bias_RO is None else bias_RO.unbind()
    maps = x.chunk(conv.num_replicas, dim=1)
    return torch.cat([F.conv2d(one, weight, bias, conv.stride, conv.padding)
                      for one, weight, bias in zip(maps, weights.unbind(), biases, strict=True)], dim=1)


def gemm(conv: FusedConv, x: Tensor, weight_RP: Tensor, bias_RO: Tensor | None) -> Tensor:
    """Every patch a column, one batched matrix product over the replicas."""
    (height, width), (top, left), num = conv.kernel_size, conv.padding, conv.num_replicas
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))  # before the patches are copied, not after
    x = F.pad(x, (left, left, top, top))
    patches: Tensor = x.unfold(2, height, conv.stride[0]).unfold(3, width, conv.stride[1])
    size = patches.shape[0], *patches.shape[2:4]
    columns = patches.unflatten(1, (num, -1)).permute(1, 2, 5, 6, 0, 3, 4).flatten(4).flatten(1, 3)
    weight_ROP = weight_RP.unflatten(1, (conv.out_channels, -1))
    y = weight_ROP.bmm(columns) if bias_RO is None else torch.baddbmm(bias_RO.unsqueeze(2), weight_ROP, columns)
    maps: Tensor = y.unflatten(2, size).permute(2, 0, 1, 3, 4).flatten(1, 2)
    return maps.contiguous()


def implicit_gemm(conv: FusedConv, x: Tensor, weight_RP: Tensor, bias_RO: Tensor | None) -> Tensor:
    """The same product without the copy of the patches, by a kernel of this project."""
    from fmnist_core.kernels.conv import convolve

    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return convolve(x, weight_RP, bias_RO, (conv.in_channels, conv.out_channels), conv.kernel_size, conv.padding)


METHODS: dict[str, Callable[[FusedConv, Tensor, Tensor, Tensor | None], Tensor]] = {
    "grouped": grouped, "grouped_channels_last": grouped_channels_last, "separate": separate, "gemm": gemm,
    "implicit_gemm": implicit_gemm,
}
"""Ways to compute the same convolutions. Which is fastest depends on the shape and the device: see `tune`."""


def methods_for(conv: FusedConv, x: Tensor) -> list[str]:
    """Keys of `METHODS` that can take this convolution of `x`."""
    return [name for name in METHODS if name != "implicit_gemm" or (available.has_kernels(x) and conv.stride == (1, 1))]
