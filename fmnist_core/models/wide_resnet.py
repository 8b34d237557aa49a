"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv 1605.07146), as a factory that an experiment names.

N images of C channels and H x W pixels, K classes.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fmnist_core.config import NUM_CLASSES


def wide_resnet(*, depth: int = 28, widening: int = 10, in_channels: int = 1) -> nn.Module:
    """(N, in_channels, H, W) images to (N, 10) logits. `depth` counts convolutions on the longest path: 6 n + 4."""
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth = {depth}: expected 10, 16, 22, 28, 34, 40, ...")
    if widening < 1:
        raise ValueError(f"widening = {widening}: expected 1 or more")
    return WideResNet((depth - 4) // 6, widening, in_channels)


class WideResNet(nn.Module):
    """Three groups of `num_blocks` blocks, of 16, 32 and 64 times `widening` channels, each at half the size before."""

    def __init__(self, num_blocks: int, widening: int, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        channels = 16
        for group in range(3):
            for i in range(num_blocks):
                width = 16 * 2**group * widening
                blocks.append(Block(channels, width, 2 if group and i == 0 else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, NUM_CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_NCHW: Tensor) -> Tensor:
        maps = F.relu(self.norm(self.blocks(self.stem(images_NCHW))))
        logits_NK: Tensor = self.classifier(maps.mean((2, 3)))
        return logits_NK


class Block(nn.Module):
    """Batch norm and ReLU come before each convolution, and before the shortcut where that is one too."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        same = stride == 1 and in_channels == channels
        self.shortcut: Any = None if same else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        ready = F.relu(self.norm1(maps))
        aside: Tensor = maps if self.shortcut is None else self.shortcut(ready)
        through: Tensor = self.conv2(F.relu(self.norm2(self.conv1(ready))))
        return aside + through
