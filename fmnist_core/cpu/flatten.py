"""Flatten on a CPU whose gradient has the format of the maps.

It comes in the contiguous format; the activation before it is in channels_last, and PyTorch multiplies the two number
by number: 0.28 ms instead of 0.04, a copy included, at the report's final network.
"""

import torch
from torch import Tensor, nn


def keep_format_of_flattened_maps(model: nn.Module) -> nn.Module:
    """`model`, on a CPU, with its `Flatten` layers changed in place."""
    for module in model.modules():
        if type(module) is nn.Flatten:
            module.__class__ = KeepFormatFlatten
    return model


class KeepFormatFlatten(nn.Flatten):
    """`nn.Flatten` with the same result."""

    def forward(self, maps: Tensor) -> Tensor:
        if maps.grad_fn is not None and maps.ndim == 4 and maps.is_contiguous(memory_format=torch.channels_last):
            maps.register_hook(lambda g: g.contiguous(memory_format=torch.channels_last))
        flat: Tensor = super().forward(maps)
        return flat
