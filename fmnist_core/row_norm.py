"""Batch normalization of few channels on a CPU, by whole rows of the map.

In channels_last the channels of a pixel lie side by side, and PyTorch's CPU kernel works through the pixels one by one
in vectors of channels: with 4 channels, as in the report's final network, its vectors stay empty and the layer takes
five times as long. A row of a map is W x C numbers side by side whatever C is, so here the statistics are sums over
rows (NH of them), and the scale of a channel is repeated W times to meet a row.

Shapes: M = NH rows, P = WC numbers of a row.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

VECTOR = 8
"""float32 numbers that PyTorch's CPU kernels take at once, at least: AVX2's. Multiples of it are left to them."""


def normalize_by_rows(model: nn.Module) -> nn.Module:
    """`model`, on a CPU in channels_last, with those of its `BatchNorm2d` layers that gain by it changed in place."""
    for module in model.modules():
        if (type(module) is nn.BatchNorm2d and module.num_features % VECTOR and module.affine
                and module.track_running_stats and module.momentum is not None):
            module.__class__ = RowBatchNorm
    return model


class RowBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with the same parameters, buffers and result, up to rounding."""

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        num, channels, height, width = maps_NCHW.shape
        per_channel = num * height * width
        fits = (maps_NCHW.dtype in (torch.float32, torch.float64) and maps_NCHW.device.type == "cpu"
                and per_channel > 1 and maps_NCHW.is_contiguous(memory_format=torch.channels_last))
        if not fits:
            return super().forward(maps_NCHW)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        maps_MP = maps_NCHW.permute(0, 2, 3, 1).reshape(num * height, width * channels)
        if self.training:
            maps_MP, mean_C, var_C = _Normalize.apply(maps_MP, self.weight, self.bias, self.eps)
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(var_C * (per_channel / (per_channel - 1)), self.momentum)
            self.num_batches_tracked += 1
        else:
            scale_C = self.weight * torch.rsqrt(self.running_var + self.eps)
            offset_C = self.bias - self.running_mean * scale_C
            maps_MP = torch.addcmul(offset_C.repeat(width), maps_MP, scale_C.repeat(width))
        return maps_MP.view(num, height, width, channels).permute(0, 3, 1, 2)


class _Normalize(torch.autograd.Function):
    """Rows to normalised rows, and the mean and (biased) variance of each channel."""

    @staticmethod
    def forward(ctx: Any, maps_MP: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float) -> tuple[Tensor, ...]:
        channels = len(weight_C)
        mean_C = _mean(maps_MP, channels)
        centred_MP = maps_MP - _row(mean_C, maps_MP)
        work_MP = centred_MP.square()
        var_C = _mean(work_MP, channels)
        rstd_C = torch.rsqrt(var_C + eps)
        torch.addcmul(_row(bias_C, maps_MP), centred_MP, _row(rstd_C * weight_C, maps_MP), out=work_MP)
        ctx.save_for_backward(centred_MP, rstd_C, weight_C)
        ctx.mark_non_differentiable(mean_C, var_C)
        return work_MP, mean_C, var_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """With x the centred map and s = weight / std: s (g - mean(g) - x mean(g x) / var)."""
        centred_MP, rstd_C, weight_C = ctx.saved_tensors
        channels, gradient_MP = len(weight_C), gradients[0]
        per_channel = gradient_MP.numel() // channels
        work_MP = gradient_MP * centred_MP
        mean_product_C, mean_C = _mean(work_MP, channels), _mean(gradient_MP, channels)
        scale_C = rstd_C * weight_C
        torch.addcmul(_row(-scale_C * mean_C, work_MP), centred_MP,
                      _row(-scale_C * rstd_C.square() * mean_product_C, work_MP), out=work_MP)
        work_MP.addcmul_(gradient_MP, _row(scale_C, work_MP))
        return work_MP, mean_product_C * rstd_C * per_channel, mean_C * per_channel, None


def _mean(rows_MP: Tensor, channels: int) -> Tensor:
    return rows_MP.sum(0).view(-1, channels).sum(0).div_(rows_MP.numel() // channels)


def _row(values_C: Tensor, rows_MP: Tensor) -> Tensor:
    """A value per channel, repeated to the length of a row."""
    return values_C.repeat(rows_MP.shape[1] // len(values_C))
