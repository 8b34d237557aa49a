"""What weights begin as, beyond PyTorch's default: other scales, a whitening of the images, the identity.

N images, C channels, O filters of k x k pixels, P = C * k * k pixels of a patch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmnist_core.config import TrainConfig
from fmnist_core.data import Dataset

NUM_IMAGES = 5000
"""Training images, the first ones, whose patches are whitened."""
EPSILON = 5e-4
"""Added to the variances, so that directions without any are not blown up. Both as in KellerJordan/cifar10-airbench."""


@torch.no_grad()
def initialize(model: nn.Module, dataset: Dataset, config: TrainConfig) -> None:
    """As configured, in place. Raises ValueError for a network that cannot begin so."""
    if config.initialization != "torch":
        _draw_anew(model, config.initialization)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if config.whitening != "no":
        if not convolutions or convolutions[0].in_channels != dataset.input_shape[0]:
            raise ValueError(f"train.whitening = '{config.whitening}' needs a network that begins with a convolution")
        _whiten(convolutions[0], dataset, frozen=config.whitening == "frozen")
    if config.identity:
        if len(convolutions) < 2:
            raise ValueError("train.identity = true needs a network with two convolutions or more")
        for convolution in convolutions[1:]:
            pass_on(convolution)


def _draw_anew(model: nn.Module, initialization: str) -> None:
    """On the CPU and contiguous: neither device nor memory format decides which weight gets which number."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            drawn = torch.empty(module.weight.shape)
            if initialization == "kaiming":
                nn.init.kaiming_normal_(drawn, nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(drawn)
            module.weight.copy_(drawn)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _whiten(convolution: nn.Conv2d, dataset: Dataset, *, frozen: bool) -> None:
    index_N = torch.arange(min(NUM_IMAGES, len(dataset.train)), device=dataset.train.labels_N.device)
    if min(dataset.input_shape[1:]) < max(convolution.kernel_size):
        raise ValueError(f"train.whitening = '{'frozen' if frozen else 'initial'}' needs images that hold a patch of "
                         f"{convolution.kernel_size[0]} x {convolution.kernel_size[1]} pixels")
    filters = whitening_filters(dataset.images(dataset.train, index_N), convolution.kernel_size)
    num = convolution.out_channels
    if frozen and num > len(filters):
        raise ValueError(f"train.whitening = 'frozen' knows {len(filters)} filters of {convolution.kernel_size[0]} x "
                         f"{convolution.kernel_size[1]} pixels; the first convolution has {num}; allowed: 'initial'")
    convolution.weight[: len(filters)] = filters[:num].to(convolution.weight)
    convolution.weight.requires_grad_(not frozen)


def whitening_filters(images_NCHW: Tensor, kernel_size: tuple[int, ...]) -> Tensor:
    """(2 * P, C, k, k): each direction of the patches' variance, the largest first, and its negative.

    Their outputs over the patches are uncorrelated and, but for `EPSILON`, of variance 1.
    """
    patches = F.unfold(images_NCHW.double().cpu(), kernel_size).transpose(1, 2).flatten(0, 1)
    variance_P, direction_PP = torch.linalg.eigh(torch.atleast_2d(patches.t().cov()))
    filters = (direction_PP / (variance_P + EPSILON).sqrt()).t().flip(0)
    both = torch.stack([filters, -filters], 1).flatten(0, 1)
    return both.view(-1, images_NCHW.shape[1], *kernel_size)


@torch.no_grad()
def pass_on(convolution: nn.Conv2d) -> None:
    """Filter i gives input i as it came, for as many as there are of both; other filters stay as they are.

    For an even kernel its middle is the pixel before the centre, as the zeros around the map are laid here.
    """
    if convolution.groups != 1:
        return
    row, column = ((size - 1) // 2 for size in convolution.kernel_size)
    num = min(convolution.in_channels, convolution.out_channels)
    convolution.weight[:num] = 0
    convolution.weight[range(num), range(num), row, column] = 1
