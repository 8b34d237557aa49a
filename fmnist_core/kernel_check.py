"""Whether this project's Triton kernels give what PyTorch's layers give on a device: asked once, before first use.

A compiler of kernels can be wrong on a GPU that nobody has tried, and an accuracy alone might not show it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fmnist_core.adam_kernel import adam_step
from fmnist_core.conv_kernels import convolve
from fmnist_core.finish_kernels import Norm, finish

TOLERANCE = 0.02
"""Of the largest number: products are TF32 or of float32, with 10 bits and 23."""
SHAPES = (1, 4), (8, 48)
"""Channels in and out, of the smallest tiles and of the largest."""


def check(device: torch.device) -> None:
    """Raises ArithmeticError where they differ, and whatever Triton raises where it cannot compile them."""
    generator = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(shape, generator=generator).to(device)
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for num_in, num_out in SHAPES:
            _check_layers(random(5, 2 * num_in, 8, 8), random(2, num_out * num_in * 9), random(2, num_out))
    parameter, gradient = random(5000), random(5000)
    wanted = parameter - 0.1 * gradient / (gradient.abs() + 1e-8)  # Adam's first step
    average, square, step = torch.zeros_like(parameter), torch.zeros_like(parameter), torch.zeros((), device=device)
    adam_step(parameter, gradient, average, square, step, step + 1, step + 0.1, betas=(0.9, 0.999), eps=1e-8,
              weight_decay=0.0, decoupled=False)
    _compare("Adam's steps", [parameter], [wanted])


def _check_layers(x: Tensor, weight_RP: Tensor, bias_RO: Tensor) -> None:
    """A convolution of two replicas, batch norm, pooling and ReLU, forward and backward."""
    replicas, num_out = bias_RO.shape
    num_in = x.shape[1] // replicas
    inputs = [each.requires_grad_() for each in (x, weight_RP, bias_RO)]
    scale_RC = torch.ones(replicas, num_out, device=x.device)
    statistics = lambda: (torch.zeros_like(scale_RC).flatten(), torch.ones_like(scale_RC).flatten())

    mine = convolve(x, weight_RP, bias_RO, (num_in, num_out), (3, 3), (1, 1))
    other = F.conv2d(x, weight_RP.view(-1, num_in, 3, 3), bias_RO.flatten(), padding=1, groups=replicas)
    upstream = torch.ones_like(other) * other.detach().cos()
    _compare("convolutions", [mine, *torch.autograd.grad(mine, inputs, upstream)],
             [other, *torch.autograd.grad(other, inputs, upstream)])

    maps = other.detach().requires_grad_()
    mine = finish(maps, Norm(scale_RC, scale_RC, *statistics(), 0.1, 1e-5, training=True), pool=True, relu=True)
    other = F.relu(F.max_pool2d(F.batch_norm(maps, *statistics(), scale_RC.flatten(), scale_RC.flatten(), True), 2))
    upstream = other.detach().cos()
    _compare("batch norm and pooling", [mine, *torch.autograd.grad(mine, [maps], upstream)],
             [other, *torch.autograd.grad(other, [maps], upstream)])


def _compare(what: str, mine: list[Tensor], others: list[Tensor]) -> None:
    for one, other in zip(mine, others, strict=True):
        if not (one - other).abs().max() <= TOLERANCE * other.abs().max():  # also where it is not a number
            raise ArithmeticError(f"{what} differ from PyTorch's on this device")
