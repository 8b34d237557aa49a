"""Whether this project's Triton kernels give what PyTorch gives on a device: tried on a few shapes, before first use.

A compiler of kernels can be wrong on a GPU that nobody has tried, and an accuracy alone might not show it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fmnist_core.kernels.adam import adam_step
from fmnist_core.kernels.conv import convolve
from fmnist_core.kernels.norm_pool_relu import Norm, norm_pool_relu

TOLERANCES = {torch.float32: 3e-3, torch.bfloat16: 2e-2}
"""Of the largest number. TF32 products, with 10 bits, are off by 4e-4 of it; what is of float32 throughout, by less."""
SHAPES = (1, 4), (1, 64), (2, 64), (5, 64), (8, 16), (20, 32), (20, 70)
"""Channels in and out, so that each size of a tile comes up, in products of each width and in several at once."""


def check(device: torch.device) -> None:
    """Raises ArithmeticError where they differ, and whatever Triton raises where it cannot compile them."""
    generator = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float32).to(device)
    dtypes = [torch.float32, torch.bfloat16] if device.type == "cuda" else [torch.float32]  # as `has_kernels` allows
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for dtype in dtypes:
            for num_in, num_out in SHAPES:
                x, weight_RP, bias_RO = random(5, 2 * num_in, 8, 7), random(2, num_out * num_in * 9), random(2, num_out)
                _check_layers(x.to(dtype), weight_RP, bias_RO)
        for decoupled in (False, True):
            _check_adam(random(3, 5000), random(5000), decoupled)


def _check_layers(x: Tensor, weight_RP: Tensor, bias_RO: Tensor) -> None:
    """A convolution of two replicas, batch norm, pooling and ReLU, forward and backward."""
    (replicas, num_out), tolerance = bias_RO.shape, TOLERANCES[x.dtype]
    num_in = x.shape[1] // replicas
    inputs = [each.requires_grad_() for each in (x, weight_RP, bias_RO)]
    scale_RC = torch.ones_like(bias_RO).detach()
    statistics = lambda: (torch.zeros_like(scale_RC).flatten(), torch.ones_like(scale_RC).flatten())

    mine = convolve(x, weight_RP, bias_RO, (num_in, num_out), (3, 3), (1, 1))
    weight = weight_RP.to(x.dtype).float().view(-1, num_in, 3, 3)  # the products of `x.dtype`, summed in float32
    other = F.conv2d(x.float(), weight, bias_RO.flatten(), padding=1, groups=replicas)
    upstream = other.detach().cos().to(x.dtype)
    _compare("convolutions", [mine, *torch.autograd.grad(mine, inputs, upstream)],
             [other, *torch.autograd.grad(other, inputs, upstream.float())], tolerance)

    maps = other.detach().to(x.dtype).requires_grad_()
    mine = norm_pool_relu(maps, Norm(scale_RC, scale_RC, *statistics(), 0.1, 1e-5, training=True), pool=True, relu=True)
    normal = F.batch_norm(maps.float(), *statistics(), scale_RC.flatten(), scale_RC.flatten(), True)
    other = F.relu(F.max_pool2d(normal, 2))
    upstream = other.detach().cos().to(x.dtype)
    _compare("batch norm and pooling", [mine, *torch.autograd.grad(mine, [maps], upstream)],
             [other, *torch.autograd.grad(other, [maps], upstream.float())], tolerance)


def _check_adam(gradients_K: Tensor, start: Tensor, decoupled: bool) -> None:
    """Some steps, the last of which does not count."""
    parameter, wanted = start.clone(), start.clone().requires_grad_()
    average, square, step = torch.zeros_like(start), torch.zeros_like(start), torch.zeros_like(start[0])
    optimizer = (torch.optim.AdamW if decoupled else torch.optim.Adam)([wanted], 0.125, weight_decay=0.5)
    for gradient in gradients_K[:-1]:
        adam_step(parameter, gradient, average, square, step, torch.ones_like(step), torch.full_like(step, 0.125),
                  betas=(0.9, 0.999), eps=1e-8, weight_decay=0.5, decoupled=decoupled)
        wanted.grad = gradient
        optimizer.step()
    adam_step(parameter, gradients_K[-1], average, square, step, torch.zeros_like(step), torch.full_like(step, 0.125),
              betas=(0.9, 0.999), eps=1e-8, weight_decay=0.5, decoupled=decoupled)
    state = optimizer.state[wanted]
    _compare("Adam's steps", [parameter - start, average, square, step],
             [wanted - start, state["exp_avg"], state["exp_avg_sq"], state["step"].to(step)], 1e-4)


def _compare(what: str, mine: list[Tensor], others: list[Tensor], tolerance: float) -> None:
    for one, other in zip(mine, others, strict=True):
        if not (one - other).abs().max() <= tolerance * other.abs().max():  # also where it is not a number
            raise ArithmeticError(f"{what} differ from PyTorch's on this device")
