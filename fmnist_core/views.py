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
    if views == "flip":
        return _mean(model, _both_sides(images_NCHW))
    height, width = images_NCHW.shape[-2:]
    padded = F.pad(images_NCHW, (1, 1, 1, 1), mode="replicate")
    shifted = padded[..., 2:, 2:].clone(), padded[..., :height, :width].clone()
    as_it_is, up_left, down_right = (_both_sides(each) for each in (images_NCHW, *shifted))
    return 0.5 * _mean(model, as_it_is) + 0.25 * _mean(model, up_left) + 0.25 * _mean(model, down_right)


def _both_sides(images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    return images_NCHW, images_NCHW.flip(-1)


def _mean(model: nn.Module, sides: tuple[Tensor, Tensor]) -> Tensor:
    """Of views that were all made before the first is looked at: a network may change its input in place."""
    mean: Tensor = 0.5 * model(sides[0]) + 0.5 * model(sides[1])
    return mean
