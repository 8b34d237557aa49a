"""Batch normalization over the images of all processes, on the CPU too, where PyTorch's own has no kernel.

C channels; the mean and variance of a batch are over its images and, of maps, pixels: `x` is (N, C), (N, C, L) or
(N, C, H, W).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with its batch normalization sharing its statistics. Call it in every process.

    Raises ValueError where there is none, and on a CPU for a layer that could not share them.
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    if not norms:
        raise ValueError("train.sync_batch_norm = true has no effect on a network without batch normalization")
    if device.type != "cpu":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for name, module in norms.items():
        kind = KINDS.get(type(module))
        if kind is None or not module.track_running_stats or module.momentum is None:
            raise ValueError(f"train.sync_batch_norm = true, but on a CPU {name} = {module} cannot be synchronized; "
                             "allowed: BatchNorm1d and BatchNorm2d with running statistics and a momentum")
        module.__class__ = kind
    return model


class _HostSync(_BatchNorm):
    """Batch normalization with the statistics of the whole batch, however its images are shared by the processes.

    Computed in the data type of the running statistics: bfloat16 would round even the number of images.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        dims = [0, *range(2, x.ndim)]
        per_channel = [-1, *[1] * (x.ndim - 2)]
        wide = x.to(self.running_mean.dtype)
        own_num = wide.new_tensor([x.numel() / x.shape[1]])
        sums = _AddUp.apply(torch.cat([wide.sum(dims), own_num]))
        num = sums[-1].detach()
        mean_C = sums[:-1] / num
        centred = wide - mean_C.view(per_channel)
        var_C = _AddUp.apply(centred.square().sum(dims)) / num
        with torch.no_grad():
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(var_C * num / (num - 1), self.momentum)
            self.num_batches_tracked += 1
        scale_C = torch.rsqrt(var_C + self.eps)
        if self.affine:
            scale_C = self.weight * scale_C
        normalized: Tensor = centred * scale_C.view(per_channel)
        if self.affine:
            normalized = normalized + self.bias.view(per_channel)
        return normalized.to(x.dtype)


class HostSyncBatchNorm1d(_HostSync, nn.BatchNorm1d):
    """`nn.BatchNorm1d` of a batch that processes share."""


class HostSyncBatchNorm2d(_HostSync, nn.BatchNorm2d):
    """`nn.BatchNorm2d` of a batch that processes share."""


KINDS: dict[type[nn.Module], type[_HostSync]] = {
    nn.BatchNorm1d: HostSyncBatchNorm1d, nn.BatchNorm2d: HostSyncBatchNorm2d}


class _AddUp(torch.autograd.Function):
    """All-reduced sum with a gradient: each process's loss depends on the total, so its gradient is summed as well."""

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
