"""Batch normalization of few channels on a CPU, by whole rows of the map.

In channels_last the channels of a pixel lie side by side, and PyTorch's CPU kernel works through the pixels one by one
in vectors of channels: with 4 channels, as in the report's final network, its vectors stay empty and the layer takes
five times as long. A row of a map is W x C numbers side by side whatever C is, so here the statistics are sums over
rows (NH of them), and the scale of a channel is repeated W times to meet a row. Blocks (`block_conv.py`) are N rows.

Shapes: M rows, P numbers of a row, which is `Row`: outer x channels x inner of them.
"""

from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MIN_NUMBERS = 2**16
"""Of a map, all channels and images: with fewer, calls cost more than they save (measured with 4 to 36 channels)."""
VECTOR = 8
"""float32 numbers that PyTorch's CPU kernels take at once, at least: AVX2's. Multiples of it are left to them."""


class Row(NamedTuple):
    """How the numbers of a row lie: `inner` of one channel side by side, and all channels so `outer` times."""

    outer: int
    channels: int
    inner: int


def normalize_by_rows(model: nn.Module) -> nn.Module:
    """`model`, on a CPU in channels_last, with those of its `BatchNorm2d` layers that gain by it changed in place."""
    for module in model.modules():
        if can_be_by_rows(module) and module.num_features % VECTOR:
            module.__class__ = RowBatchNorm
    return model


def can_be_by_rows(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    return (type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats
            and module.momentum is not None)


class RowBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with the same parameters, buffers and result, up to rounding, of maps or of their blocks."""

    def forward(self, maps: Tensor) -> Tensor:
        in_blocks, channels = maps.ndim == 5, self.num_features
        per_channel = maps.numel() // channels
        gains = in_blocks or (maps.numel() >= MIN_NUMBERS and maps.is_contiguous(memory_format=torch.channels_last))
        fits = (gains and maps.dtype in (torch.float32, torch.float64) and maps.device.type == "cpu"
                and per_channel > 1)
        if not fits:
            return super().forward(maps)
        if in_blocks:
            return self._of_rows(maps.flatten(1), Row(maps.shape[1], channels, maps[0, 0, 0].numel())).view_as(maps)
        num, _, height, width = maps.shape
        rows_MP = maps.permute(0, 2, 3, 1).reshape(num * height, width * channels)
        rows_MP = self._of_rows(rows_MP, Row(width, channels, 1))
        return rows_MP.view(num, height, width, channels).permute(0, 3, 1, 2)

    def _of_rows(self, rows_MP: Tensor, row: Row) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        if self.training:
            per_channel = rows_MP.numel() // row.channels
            rows_MP, mean_C, var_C = _Normalize.apply(rows_MP, self.weight, self.bias, self.eps, row)
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(var_C * (per_channel / (per_channel - 1)), self.momentum)
            self.num_batches_tracked += 1
            return rows_MP
        scale_C = self.weight * torch.rsqrt(self.running_var + self.eps)
        offset_C = self.bias - self.running_mean * scale_C
        return torch.addcmul(_spread(offset_C, row), rows_MP, _spread(scale_C, row))


class _Normalize(torch.autograd.Function):
    """Rows to normalised rows, and the mean and (biased) variance of each channel."""

    @staticmethod
    def forward(ctx: Any, rows_MP: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float,
                row: Row) -> tuple[Tensor, ...]:
        mean_C = _mean(rows_MP, row)
        centred_MP = rows_MP - _spread(mean_C, row)
        work_MP = centred_MP.square()
        var_C = _mean(work_MP, row)
        rstd_C = torch.rsqrt(var_C + eps)
        torch.addcmul(_spread(bias_C, row), centred_MP, _spread(rstd_C * weight_C, row), out=work_MP)
        ctx.save_for_backward(centred_MP, rstd_C, weight_C)
        ctx.row = row
        ctx.mark_non_differentiable(mean_C, var_C)
        return work_MP, mean_C, var_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """With x the centred map and s = weight / std: s (g - mean(g) - x mean(g x) / (var + eps))."""
        centred_MP, rstd_C, weight_C = ctx.saved_tensors
        row, gradient_MP = ctx.row, gradients[0]
        per_channel = gradient_MP.numel() // row.channels
        work_MP = gradient_MP * centred_MP
        mean_product_C, mean_C = _mean(work_MP, row), _mean(gradient_MP, row)
        scale_C = rstd_C * weight_C
        torch.addcmul(_spread(-scale_C * mean_C, row), centred_MP,
                      _spread(-scale_C * rstd_C.square() * mean_product_C, row), out=work_MP)
        work_MP.addcmul_(gradient_MP, _spread(scale_C, row))
        return work_MP, mean_product_C * rstd_C * per_channel, mean_C * per_channel, None, None


def _mean(rows_MP: Tensor, row: Row) -> Tensor:
    return rows_MP.sum(0).view(row).sum((0, 2)).div_(rows_MP.numel() // row.channels)


def _spread(values_C: Tensor, row: Row) -> Tensor:
    """A value per channel, repeated to the length of a row."""
    return values_C.view(1, -1, 1).expand(row).reshape(-1)
