"""Batch normalization over the images of all processes, on the CPU too, where PyTorch's own has no kernel.

C channels; the mean and variance of a batch are over its images and pixels (NHW).
"""

from typing import Any

import torch
from torch import Tensor, nn


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with its `BatchNorm2d` layers sharing their statistics. Call it in every process."""
    if device.type != "cpu":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for module in model.modules():
        if type(module) is nn.BatchNorm2d and module.affine and module.momentum is not None:
            module.__class__ = HostSyncBatchNorm
    return model


class HostSyncBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with the statistics of the whole batch, however its images are shared by the processes."""

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(maps_NCHW)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        own_num = maps_NCHW.new_tensor([maps_NCHW.numel() / maps_NCHW.shape[1]])
        sums = _AddUp.apply(torch.cat([maps_NCHW.sum((0, 2, 3)), own_num]))
        num = sums[-1].detach()
        mean_C = sums[:-1] / num
        centred_NCHW = maps_NCHW - mean_C[:, None, None]
        var_C = _AddUp.apply(centred_NCHW.square().sum((0, 2, 3))) / num
        with torch.no_grad():
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(var_C * num / (num - 1), self.momentum)
            self.num_batches_tracked += 1
        scale_C = self.weight * torch.rsqrt(var_C + self.eps)
        maps_NCHW = centred_NCHW * scale_C[:, None, None] + self.bias[:, None, None]
        return maps_NCHW


class _AddUp(torch.autograd.Function):
    """The sum over processes. A term counts in the losses of all of them: so does its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total
