"""Layers of a network on a CPU, several at once: norm, pool and ReLU, before them the first convolution in blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from fmnist_core.cpu.first_conv import can_be_in_blocks, convolve_in_blocks, gains_by_blocks
from fmnist_core.cpu.norm_pool_relu import MAX_CHANNELS, functions, norm_pool_relu, real_of

MAX_THREADS = 2
"""`norm_pool_relu` works with one thread, up to 3.9 times as fast as PyTorch's layers with one: with more threads they
overtake it."""
MIN_NUMBERS = 2**15
"""Of a batch of maps: with fewer, calls cost more than they save."""
VECTOR = 8
"""A batch norm alone, of a multiple of so many channels, is as fast in PyTorch and left as it is."""


def has_native_layers() -> bool:
    """Whether the functions in C are there, and this process has few enough threads for them."""
    return functions(torch.float32) is not None and torch.get_num_threads() <= MAX_THREADS


def fuse_layers(model: nn.Module) -> nn.Module:
    """`model`, on a CPU in channels_last, with its plain sequences and its batch norms changed in place.

    Left as it is on a machine without a C compiler.
    """
    if functions(torch.float32) is None:
        return model
    for module in model.modules():
        if type(module) is nn.Sequential:
            module.__class__ = LayerFusingSequential
        elif _is_norm(module) and module.num_features % VECTOR:
            module.__class__ = NativeBatchNorm2d
    for module in model.modules():
        if isinstance(module, LayerFusingSequential):
            module.parts()  # what they need is compiled now, off the clock of training
    return model


class NativeBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with the same parameters, buffers and result, up to rounding."""

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        if not _can_be_fused(maps_NCHW, self):
            return super().forward(maps_NCHW)
        return norm_pool_relu(maps_NCHW, self, pool=False, relu=False)


class LayerFusingSequential(nn.Sequential):
    """`nn.Sequential` with the same layers and result, up to rounding."""

    def forward(self, maps: Tensor) -> Tensor:
        for part in self.parts():
            maps = part(maps)
        return maps

    def parts(self) -> "Sequence[nn.Module | FusedLayers]":
        """Found once, since that takes as long as layers of few numbers."""
        layers = tuple(self)
        if layers != self.__dict__.get("_layers"):
            self._layers, self._found = layers, tuple(_parts(layers))
        return self._found


@dataclass
class FusedLayers:
    """Layers that follow each other, at once; one by one where a layer is watched."""

    conv: nn.Conv2d | None
    norm: nn.BatchNorm2d | None
    pool: bool
    relu: bool
    layers: Sequence[nn.Module]

    def __call__(self, maps: Tensor) -> Tensor:
        layers = self.layers
        if any(_is_watched(layer) for layer in layers):
            return _one_by_one(layers, maps)
        if self.conv is not None:
            layers = layers[1:]
            channels = self.conv.out_channels
            if _can_be_fused(maps, self.norm, channels) and can_be_in_blocks(maps, self.conv):
                return norm_pool_relu(convolve_in_blocks(maps, self.conv), self.norm, pool=True, relu=self.relu)
            maps = self.conv(maps)
        if _can_be_fused(maps, self.norm) and (not self.pool or min(maps.shape[2:]) > 1):
            return norm_pool_relu(maps, self.norm, pool=self.pool, relu=self.relu)
        return _one_by_one(layers, maps)


def _one_by_one(layers: Sequence[nn.Module], maps: Tensor) -> Tensor:
    for layer in layers:
        maps = layer(maps)
    return maps


def _parts(layers: Sequence[nn.Module]) -> Iterator[nn.Module | FusedLayers]:
    start = 0
    while start < len(layers):
        fused = _fused_layers(layers[start:])
        yield fused or layers[start]
        start += len(fused.layers) if fused else 1


def _fused_layers(layers: Sequence[nn.Module]) -> FusedLayers | None:
    """Of the first of these layers: what holds a pool, or two others; a convolution that gains by its blocks before."""
    first = layers[0]
    conv = first if isinstance(first, nn.Conv2d) and gains_by_blocks(first) else None
    found: dict[str, nn.Module] = {}
    for layer in layers if conv is None else layers[1:]:
        kind = _kind(layer)
        if kind is None or kind in found or (kind == "norm" and found):
            break
        if kind == "relu" and layer is first and getattr(layer, "inplace", False):  # others may see its input
            break
        found[kind] = layer
    if "pool" not in found and (conv is not None or len(found) < 2):
        return None
    norm = found.get("norm")
    assert norm is None or _is_norm(norm)
    return FusedLayers(conv, norm, "pool" in found, "relu" in found, layers[:len(found) + (conv is not None)])


def _kind(layer: nn.Module) -> str | None:
    kinds = {"norm": _is_norm(layer), "pool": _is_pool(layer), "relu": type(layer) is nn.ReLU}
    return next((kind for kind, found in kinds.items() if found), None)


def _can_be_fused(maps: Tensor, norm: nn.BatchNorm2d | None, channels: int = 0) -> bool:
    """`channels`: of what a convolution will make of the maps, if not their own."""
    numbers = maps.numel() // max(1, maps.shape[1]) * (channels or maps.shape[1]) if maps.ndim == 4 else 0
    fits = (type(maps) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(maps)
            and maps.device.type == "cpu" and functions(maps.dtype) is not None and numbers >= max(1, MIN_NUMBERS)
            and maps.is_contiguous(memory_format=torch.channels_last) and maps.shape[1] <= MAX_CHANNELS
            and torch.get_num_threads() <= MAX_THREADS)
    if norm is None or not fits:
        return fits
    has_result = maps.numel() > norm.num_features if norm.training else not torch.is_grad_enabled()
    tensors = norm.weight, norm.bias, norm.running_mean, norm.running_var
    return (has_result and _is_norm(norm) and norm.num_features == (channels or maps.shape[1])
            and all(each is not None and each.dtype == real_of(maps.dtype) for each in tensors))


def _is_norm(layer: nn.Module | None) -> TypeGuard[nn.BatchNorm2d]:
    return (isinstance(layer, nn.BatchNorm2d) and type(layer) in (nn.BatchNorm2d, NativeBatchNorm2d)
            and layer.track_running_stats and layer.momentum is not None
            and all(each is not None for each in (layer.weight, layer.bias, layer.running_mean, layer.running_var)))


def _is_pool(layer: nn.Module) -> bool:
    return (type(layer) is nn.MaxPool2d and layer.kernel_size in (2, (2, 2)) and layer.stride in (2, (2, 2))
            and layer.padding in (0, (0, 0)) and layer.dilation in (1, (1, 1)) and not layer.return_indices
            and not layer.ceil_mode)


def _is_watched(layer: nn.Module) -> bool:
    """Whether anyone would notice that it is not called."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
                or "forward" in vars(layer) or _has_any_global_hook())
