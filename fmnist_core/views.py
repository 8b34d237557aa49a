"""Test-time augmentation: the mean of the logits of several views of an image.

N images, C channels, H x W pixels, K classes (with fused seeds (R, N, K)).
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Views = Literal["one", "flip", "flip_shift"]


def logits(model: nn.Module, images_NCHW: Tensor, views: Views) -> Tensor:
    """`flip`: the mean over the image and its mirror image. `flip_shift`: half of the weight on these two, a quarter on
    them a pixel up and to the left, a quarter on them a pixel down and to the right (weights of
    KellerJordan/cifar10-airbench).
    """
    if views == "one":
        plain: Tensor = model(images_NCHW)
        return plain
    both = _both_sides(model, images_NCHW)
    if views == "flip":
        return both
    height, width = images_NCHW.shape[-2:]
    padded = F.pad(images_NCHW, (1, 1, 1, 1), mode="replicate")
    up_left, down_right = padded[..., 2:, 2:], padded[..., :height, :width]
    return 0.5 * both + 0.25 * _both_sides(model, up_left) + 0.25 * _both_sides(model, down_right)


def _both_sides(model: nn.Module, images_NCHW: Tensor) -> Tensor:
    mean: Tensor = 0.5 * model(images_NCHW) + 0.5 * model(images_NCHW.flip(-1))
    return mean
