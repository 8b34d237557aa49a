"""Images mixed with each other, and their labels in proportion: mixup and CutMix.

N images of a batch (with fused seeds (N, R)), C channels, H x W pixels, K classes. An image's partner is the one before
it in the batch, whose order is random. What the papers draw once for a batch is drawn for each image, from Beta(1, 1).
"""

import torch
from torch import Tensor

from fmnist_core.config import NUM_CLASSES, DataConfig
from fmnist_core.objective import one_hot


def mix(images: Tensor, labels: Tensor, config: DataConfig) -> tuple[Tensor, Tensor]:
    """Images (N, ..., C, H, W), some mixed as configured, and the probabilities of their classes (N, ..., K).

    `labels`: (N, ...) classes. Cross-entropy with such labels is the mean of those with both labels, in proportion.
    """
    kind, ratio = torch.rand((2, *labels.shape), device=labels.device).unbind()
    share = torch.ones_like(ratio)
    other = images.roll(1, 0)
    if config.mixup:  # Zhang et al. 2018, arXiv 1710.09412
        share = torch.where(kind < config.mixup, ratio, share)
        blended = images * ratio[..., None, None, None] + other * (1 - ratio)[..., None, None, None]
        images = torch.where((kind < config.mixup)[..., None, None, None], blended, images)
    if config.cutmix:  # Yun et al. 2019, arXiv 1905.04899
        chosen = kind >= 1 - config.cutmix
        inside = _boxes(1 - ratio, images.shape[-2], images.shape[-1]) & chosen[..., None, None]
        images = torch.where(inside.unsqueeze(-3), other, images)
        share = torch.where(chosen, 1 - inside.float().mean((-2, -1)), share)
    classes = one_hot(labels, NUM_CLASSES).to(images.dtype)
    return images, classes * share.unsqueeze(-1) + classes.roll(1, 0) * (1 - share.unsqueeze(-1))


def _boxes(area: Tensor, height: int, width: int) -> Tensor:
    """Bool (..., H, W): a box of this fraction of the image, its centre anywhere, cut off at the border."""
    centre_y, centre_x = torch.rand((2, *area.shape, 1, 1), device=area.device).unbind()
    half = area.sqrt()[..., None, None] / 2
    y = (torch.arange(height, device=area.device).view(-1, 1) + 0.5) / height
    x = (torch.arange(width, device=area.device) + 0.5) / width
    return ((y - centre_y).abs() < half) & ((x - centre_x).abs() < half)
