"""Augmentation of a whole batch at once, on the device that holds it.

N images, C channels, H x W pixels. Randomness comes from the device's global generator, so that a CUDA graph draws
anew at each replay.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fmnist_core.config import DataConfig


def augment(images_NCHW: Tensor, config: DataConfig, flip_N: Tensor | None = None) -> Tensor:
    """Random flip, rotation, shift and erasing, in this order, as configured.

    `flip_N`: bool, which images to flip; drawn where it is not given. Only who knows the epoch can alternate.
    """
    if flip_N is None and config.flip != "none":
        flip_N = torch.rand(len(images_NCHW), device=images_NCHW.device) < 0.5
    if flip_N is not None:
        images_NCHW = torch.where(flip_N[:, None, None, None], images_NCHW.flip(-1), images_NCHW)
    if config.rotation:
        images_NCHW = rotate(images_NCHW, config.rotation)
    if config.shift:
        images_NCHW = shift(images_NCHW, config.shift)
    if config.erasing:
        images_NCHW = erase(images_NCHW, config.erasing, config.erasing_size)
    return images_NCHW


def shift(images_NCHW: Tensor, pixels: int) -> Tensor:
    """Translate each image by up to `pixels` in each direction, zeros moving in."""
    height, width = images_NCHW.shape[-2:]
    windows = F.pad(images_NCHW, (pixels,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    dy_N, dx_N = torch.randint(2 * pixels + 1, (2, len(images_NCHW)), device=images_NCHW.device)
    return windows[torch.arange(len(images_NCHW), device=images_NCHW.device), :, dy_N, dx_N]


def rotate(images_NCHW: Tensor, degrees: float) -> Tensor:
    """Rotate each image about its centre by up to `degrees` either way, bilinear, zeros moving in."""
    angle_N = (torch.rand(len(images_NCHW), device=images_NCHW.device) * 2 - 1) * math.radians(degrees)
    cos_N, sin_N, zero_N = angle_N.cos(), angle_N.sin(), torch.zeros_like(angle_N)
    theta_N23 = torch.stack([cos_N, -sin_N, zero_N, sin_N, cos_N, zero_N], 1).view(-1, 2, 3)
    grid_NHW2 = F.affine_grid(theta_N23, list(images_NCHW.shape), align_corners=False)
    return F.grid_sample(images_NCHW, grid_NHW2.to(images_NCHW.dtype), align_corners=False)


def erase(images_NCHW: Tensor, probability: float, size: int) -> Tensor:
    """Overwrite a random `size` x `size` square of an image, with `probability`, by uniform noise."""
    num, _, height, width = images_NCHW.shape
    device = images_NCHW.device
    top_N11 = torch.randint(height - size + 1, (num, 1, 1), device=device)
    left_N11 = torch.randint(width - size + 1, (num, 1, 1), device=device)
    row_1H1, column_11W = torch.arange(height, device=device).view(1, -1, 1), torch.arange(width, device=device)
    inside_NHW = ((row_1H1 >= top_N11) & (row_1H1 < top_N11 + size)
                  & (column_11W >= left_N11) & (column_11W < left_N11 + size))
    chosen_NHW = inside_NHW & (torch.rand(num, 1, 1, device=device) < probability)
    return torch.where(chosen_NHW[:, None], torch.rand_like(images_NCHW), images_NCHW)
