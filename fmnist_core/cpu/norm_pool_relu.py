"""Batch norm, 2 x 2 max-pooling and ReLU on a CPU, in few passes: `norm_pool_relu.c` as operators of PyTorch.

One thread works, whatever PyTorch's number of threads is.
"""

import ctypes
import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fmnist_core.cpu.native import REALS, address, compiled

SOURCE = Path(__file__).with_name("norm_pool_relu.c")
PIXELS, WINDOWS, BLOCKS = range(3)
FORWARD_ROWS, BACKWARD_ROWS = 2, 7
MAX_CHANNELS = 4096
"""Of which the functions keep some numbers on the stack."""


class _Maps(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ssize_t) for name in ("form", "num", "channels", "height", "width")]


@functools.cache
def functions(dtype: torch.dtype) -> tuple[Any, Any] | None:
    """`norm_pool_relu_forward` and `norm_pool_relu_backward` for numbers of this type; None if there are none."""
    if dtype not in (*REALS, torch.bfloat16):
        return None
    name, real = REALS[real_of(dtype)]
    pointer, size = ctypes.c_void_p, ctypes.c_ssize_t
    library = compiled(SOURCE, {
        "norm_pool_relu_forward": [pointer] * 4 + [ctypes.c_double, real, size] + [pointer] * 4 + [size],
        "norm_pool_relu_backward": [pointer] * 5 + [ctypes.c_double, real] + [pointer] * 6 + [size],
    }, f"REAL={name}", *["BFLOAT16"] * (dtype == torch.bfloat16))
    return None if library is None else (library.norm_pool_relu_forward, library.norm_pool_relu_backward)


def norm_pool_relu(maps: Tensor, norm: nn.BatchNorm2d | None, *, pool: bool, relu: bool) -> Tensor:
    """Normalized, pooled and activated maps in channels_last, of maps in channels_last or of their blocks.

    (N, C, H, W) to the same or, pooled, to half of it, rounded down; blocks are (N, 4, C, H, W) of 2H x 2W maps. In
    evaluation a norm has no gradient. Raises TypeError where `functions` has none.
    """
    form = BLOCKS if maps.ndim == 5 else WINDOWS if pool else PIXELS
    weight_C, bias_C = (None, None) if norm is None else (norm.weight.contiguous(), norm.bias.contiguous())
    if norm is None:
        y, _, _ = _NormPoolRelu.apply(maps, None, None, form, 0.0, relu)
    elif norm.training:
        y, mean_C, var_C = _NormPoolRelu.apply(maps, weight_C, bias_C, form, norm.eps, relu)
        _remember(norm, mean_C, var_C, maps.numel() // norm.num_features)
    else:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        y, _, _ = torch.ops.fmnist.norm_pool_relu(maps, weight_C, bias_C, norm.running_mean.contiguous(),
                                                  norm.running_var.contiguous(), form, norm.eps, relu)
    in_channels_last: Tensor = y.contiguous(memory_format=torch.channels_last)
    return in_channels_last


def _remember(norm: nn.BatchNorm2d, mean_C: Tensor, var_C: Tensor, per_channel: int) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    # As in PyTorch's layer, not seen by autograd, which may keep them for another call of the same layer.
    norm.running_mean.data.lerp_(mean_C, norm.momentum)
    norm.running_var.data.lerp_(var_C * (per_channel / (per_channel - 1)), norm.momentum)
    norm.num_batches_tracked += 1


class _NormPoolRelu(torch.autograd.Function):
    """Maps, and the mean and (biased) variance of each channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, form: int, eps: float,
                relu: bool) -> tuple[Tensor, ...]:
        y, mean_C, var_C = torch.ops.fmnist.norm_pool_relu(x, weight_C, bias_C, None, None, form, eps, relu)
        ctx.save_for_backward(x, weight_C, bias_C, mean_C, var_C)
        ctx.options = form, eps, relu
        ctx.mark_non_differentiable(mean_C, var_C)
        return y, mean_C, var_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_C, *others = ctx.saved_tensors
        dx, dweight_C, dbias_C = torch.ops.fmnist.norm_pool_relu_backward(gradients[0], x, weight_C, *others,
                                                                          *ctx.options)
        return dx, *((None, None) if weight_C is None else (dweight_C, dbias_C)), None, None, None


def _forward(x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, mean_C: Tensor | None, var_C: Tensor | None,
             form: int, eps: float, relu: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`mean_C` and `var_C` are found, unless they are given: then nothing is returned in their place."""
    maps = _described(x, form)
    halved = 2 if form == WINDOWS else 1
    y = torch.empty(maps.num, maps.channels, maps.height // halved, maps.width // halved, dtype=x.dtype,
                    memory_format=torch.contiguous_format if form == BLOCKS else torch.channels_last)
    size = maps.channels if mean_C is None and weight_C is not None else 0
    found = [torch.empty(size, dtype=real_of(x.dtype)) for _ in range(2)]
    work = _work(x, maps, FORWARD_ROWS)
    addresses = [address(each) for each in (*(found if mean_C is None else (mean_C, var_C)), y, work)]
    _functions(x)[0](ctypes.byref(maps), address(x), address(weight_C), address(bias_C), eps, _least(relu),
                     len(found[0]), *addresses, work.shape[1])
    return y, found[0], found[1]


def _backward(g: Tensor, x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, mean_C: Tensor, var_C: Tensor,
              form: int, eps: float, relu: bool) -> tuple[Tensor, Tensor, Tensor]:
    maps = _described(x, form)
    g = g.contiguous(memory_format=torch.contiguous_format if form == BLOCKS else torch.channels_last)
    found = torch.empty_like(x), torch.empty_like(mean_C), torch.empty_like(mean_C)
    work = _work(x, maps, BACKWARD_ROWS)
    addresses = [address(each) for each in (mean_C, var_C, *found, work)]
    _functions(x)[1](ctypes.byref(maps), address(g), address(x), address(weight_C), address(bias_C), eps,
                     _least(relu), *addresses, work.shape[1])
    return found


def _described(x: Tensor, form: int) -> _Maps:
    num, *pixels, channels, height, width = x.shape
    assert len(pixels) == (form == BLOCKS)
    assert x.is_contiguous(memory_format=torch.contiguous_format if form == BLOCKS else torch.channels_last)
    assert channels <= MAX_CHANNELS
    return _Maps(form, num, channels, height, width)


def _work(x: Tensor, maps: _Maps, num_rows: int) -> Tensor:
    row = maps.channels * max(1, maps.width) * (4 * maps.height if maps.form == BLOCKS else 1)
    return torch.empty(num_rows, row, dtype=real_of(x.dtype))


def _functions(x: Tensor) -> tuple[Any, Any]:
    found = functions(x.dtype)
    if found is None:
        raise TypeError(f"no compiled functions for {x.dtype}")
    return found


def real_of(dtype: torch.dtype) -> torch.dtype:
    """Of parameters, statistics and sums."""
    return torch.float32 if dtype == torch.bfloat16 else dtype


def _least(relu: bool) -> float:
    return 0.0 if relu else math.nan


_OPERATORS = torch.library.Library("fmnist", "FRAGMENT")
_OPERATORS.define("norm_pool_relu(Tensor x, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? var, int form, "
                  "float eps, bool relu) -> (Tensor, Tensor, Tensor)")
_OPERATORS.define("norm_pool_relu_backward(Tensor g, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, "
                  "int form, float eps, bool relu) -> (Tensor, Tensor, Tensor)")
_OPERATORS.impl("norm_pool_relu", _forward, "CPU")
_OPERATORS.impl("norm_pool_relu_backward", _backward, "CPU")
