"""Layers that are faster on a CPU than PyTorch's own."""

from torch import nn

from fmnist_core.cpu.flatten import KeepFormatFlatten, keep_format_of_flattened_maps
from fmnist_core.cpu.layer_fusion import NativeBatchNorm2d, fuse_layers
from fmnist_core.cpu.narrow_conv import NarrowConv2d, speed_up_narrow_convolutions
from fmnist_core.cpu.uniform_dropout import UniformDropout, draw_masks_from_uniform

CPU_LAYERS = NativeBatchNorm2d, KeepFormatFlatten, NarrowConv2d, UniformDropout
"""Each a subclass of the layer of PyTorch's whose place it takes, with the same parameters and results."""


def for_cpu(model: nn.Module, channels_last: bool) -> nn.Module:
    """`model`, on a CPU, with the layers that gain by it changed in place; `channels_last`: what its maps are."""
    changes = (draw_masks_from_uniform,) if not channels_last else (
        fuse_layers, speed_up_narrow_convolutions, keep_format_of_flattened_maps, draw_masks_from_uniform)
    for change in changes:
        model = change(model)
    return model
