"""Adam's step of one large tensor as a Triton kernel.

PyTorch's fused step gives 65,536 numbers to a block: a tensor of some 300,000, like the first Linear layer of the
report's final network, keeps five blocks of a GPU busy. Here a block has 1,024.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@torch.no_grad()
def adam_step(parameter: Tensor, gradient: Tensor, average: Tensor, square: Tensor, step: Tensor, counts: Tensor,
              rate: Tensor, *, betas: tuple[float, float], eps: float, weight_decay: float, decoupled: bool) -> None:
    """In place, on contiguous float32 tensors of one size; then `counts` is added to `step`.

    `step`, `counts` and `rate`: 0-d, read on the device; where `counts` is 0, not 1, nothing changes. `decoupled`:
    weight decay as AdamW's.
    """
    size, (beta1, beta2) = parameter.numel(), betas
    _adam[(triton.cdiv(size, BLOCK),)](parameter, gradient, average, square, step, counts, rate, size, weight_decay,
                                       BETA1=beta1, BETA2=beta2, LOG1=math.log(beta1), LOG2=math.log(beta2), EPS=eps,
                                       DECOUPLED=decoupled, BLOCK=BLOCK)
    step.add_(counts)


@triton.jit(do_not_specialize=["size"])
def _adam(parameter, gradient, average, square, step, counts, rate, size, weight_decay, BETA1: tl.constexpr,
          BETA2: tl.constexpr, LOG1: tl.constexpr, LOG2: tl.constexpr, EPS: tl.constexpr, DECOUPLED: tl.constexpr,
          BLOCK: tl.constexpr):
    """Betas are constants of the kernel: its arguments are of float32, in which 1 - 0.999 has five digits."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = i < tl.where(tl.load(counts) == 0.0, 0, size)
    learning_rate, count = tl.load(rate), tl.load(step).to(tl.float64) + 1.0
    p, g = tl.load(parameter + i, mask=here, other=0.0), tl.load(gradient + i, mask=here, other=0.0)
    if DECOUPLED:
        p -= learning_rate * weight_decay * p
    else:
        g += weight_decay * p
    m, v = tl.load(average + i, mask=here, other=0.0), tl.load(square + i, mask=here, other=0.0)
    m += (1.0 - BETA1) * (g - m)
    v = BETA2 * v + (1.0 - BETA2) * g * g
    correction1 = (1.0 - tl.exp(count * LOG1)).to(tl.float32)
    correction2 = tl.sqrt(1.0 - tl.exp(count * LOG2)).to(tl.float32)
    p -= learning_rate / correction1 * m / (tl.sqrt(v) / correction2 + EPS)
    tl.store(parameter + i, p, mask=here)
    tl.store(average + i, m, mask=here)
    tl.store(square + i, v, mask=here)
