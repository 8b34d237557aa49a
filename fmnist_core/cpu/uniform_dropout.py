"""Dropout on a CPU with masks from uniform numbers: PyTorch's Bernoulli numbers take four times as long to draw."""

import torch
from torch import Tensor, nn


def draw_masks_from_uniform(model: nn.Module) -> nn.Module:
    """`model`, on a CPU, with its `Dropout` layers changed in place, but for those that overwrite their input."""
    for module in model.modules():
        if type(module) is nn.Dropout and not module.inplace:
            module.__class__ = UniformDropout
    return model


class UniformDropout(nn.Dropout):
    """`nn.Dropout` with other draws. Uniform numbers are multiples of 2**-24, and so is the probability."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu" or not 0 < self.p < 1:
            return super().forward(x)
        mask = torch.rand_like(x, dtype=torch.float32).ge_(self.p).mul_(1 / (1 - self.p))
        return x * mask.to(x.dtype)
