"""H-CNN (Seo and Shin 2019): a VGG that also learns coarser classes from its earlier blocks.

The authors published no code. Layers, classes and weights of the loss follow a public re-implementation in Keras
(AdicherlaVenkataSai/HCNN), whose printed number of trainable parameters the VGG19 form matches.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmnist_core.config import NUM_CLASSES
from fmnist_core.models.cited.keras import keras_batch_norm, keras_init
from fmnist_core.models.layers import Shape

COARSE2_OF_CLASS = (0, 1, 0, 2, 3, 5, 0, 5, 4, 5)
"""Tops, bottoms, dresses, outers, accessories, shoes."""
COARSE1_OF_CLASS = (0, 0, 0, 0, 0, 1, 0, 1, 1, 1)
"""Clothes, goods."""

LOSS_WEIGHTS = ((0.98, 0.01, 0.01), (0.1, 0.8, 0.1), (0.1, 0.2, 0.7), (0.0, 0.0, 1.0))
"""Of coarse 1, coarse 2 and the classes themselves, in each stage of training."""
STAGE_STARTS = (0.0, 16 / 60, 26 / 60, 36 / 60)
"""Fractions of training. There the weights change after epochs 16, 26 and 36 of 60."""


class HierarchicalOutput(NamedTuple):
    """What training mode gives: the logits of every level."""

    coarse1: Tensor
    """(N, 2)"""
    coarse2: Tensor
    """(N, 6)"""
    fine: Tensor
    """(N, 10)"""


def hcnn_vgg16(input_shape: Shape, *, input_scale: float = 1.0) -> nn.Module:
    """On VGG16. The pixels are multiplied by `input_scale`: 255 feeds the 0 to 255 of the re-implementation."""
    return HierarchicalVGG(input_shape, (2, 2, 3, 3, 3), input_scale)


def hcnn_vgg19(input_shape: Shape, *, input_scale: float = 1.0) -> nn.Module:
    """On VGG19: 44,067,538 parameters at 28x28. `input_scale` as for VGG16."""
    return HierarchicalVGG(input_shape, (2, 2, 4, 4, 4), input_scale)


class HierarchicalVGG(nn.Module):
    """`forward` gives a `HierarchicalOutput` in training mode, for `training_loss`, and (N, 10) logits otherwise."""

    loss_weights: Tensor
    stage_starts: Tensor
    coarse1_of_class: Tensor
    coarse2_of_class: Tensor

    def __init__(self, input_shape: Shape, depths: tuple[int, ...], input_scale: float) -> None:
        """`depths`: convolutions in each of the five blocks. There is no pool after the fifth: 1x1 is left of 28x28."""
        super().__init__()
        if input_scale <= 0:
            raise ValueError(f"model.options.input_scale = {input_scale}: expected a number above 0")
        channels, height, width = input_shape
        self.input_scale = input_scale
        pixels = lambda pools: (height >> pools) * (width >> pools)
        self.low = nn.Sequential(*_block(channels, 64, depths[0]), nn.MaxPool2d(2),
                                 *_block(64, 128, depths[1]), nn.MaxPool2d(2))
        self.middle = nn.Sequential(*_block(128, 256, depths[2]), nn.MaxPool2d(2))
        self.high = nn.Sequential(*_block(256, 512, depths[3]), nn.MaxPool2d(2), *_block(512, 512, depths[4]))
        self.coarse1 = _head(128 * pixels(2), 256, 2)
        self.coarse2 = _head(256 * pixels(3), 1024, 6)
        self.fine = _head(512 * pixels(4), 4096, NUM_CLASSES)
        self._constant("loss_weights", LOSS_WEIGHTS, torch.float32)
        self._constant("stage_starts", STAGE_STARTS, torch.float32)
        self._constant("coarse1_of_class", COARSE1_OF_CLASS, torch.int64)
        self._constant("coarse2_of_class", COARSE2_OF_CLASS, torch.int64)
        keras_batch_norm(keras_init(self))

    def forward(self, images_NCHW: Tensor) -> HierarchicalOutput | Tensor:
        low = self.low(images_NCHW * self.input_scale)
        middle = self.middle(low)
        fine_NK: Tensor = self.fine(self.high(middle))
        if not self.training:
            return fine_NK
        return HierarchicalOutput(self.coarse1(low), self.coarse2(middle), fine_NK)

    def training_loss(self, output: HierarchicalOutput, labels_N: Tensor, progress: float | Tensor) -> Tensor:
        """The levels' mean cross-entropies, weighted for the stage that `progress` in [0, 1) has reached.

        A 0-d tensor on the device as `progress` makes it the same operators in every step, as a captured graph needs.
        """
        losses = torch.stack([
            F.cross_entropy(output.coarse1, self.coarse1_of_class[labels_N]),
            F.cross_entropy(output.coarse2, self.coarse2_of_class[labels_N]),
            F.cross_entropy(output.fine, labels_N)])
        stage = (self.stage_starts <= progress).sum() - 1
        return (losses * self.loss_weights.index_select(0, stage.reshape(1)).squeeze(0)).sum()

    def _constant(self, name: str, values: tuple[object, ...], dtype: torch.dtype) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)


def _block(in_channels: int, channels: int, depth: int) -> Iterator[nn.Module]:
    """Convolution, ReLU, then batch norm: in this order there."""
    for _ in range(depth):
        yield nn.Conv2d(in_channels, channels, 3, padding=1)
        yield nn.ReLU()
        yield nn.BatchNorm2d(channels)
        in_channels = channels


def _head(in_features: int, features: int, num_classes: int) -> nn.Sequential:
    hidden = lambda inputs: (nn.Linear(inputs, features), nn.ReLU(), nn.BatchNorm1d(features), nn.Dropout(0.5))
    return nn.Sequential(nn.Flatten(), *hidden(in_features), *hidden(features), nn.Linear(features, num_classes))
