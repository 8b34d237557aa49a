"""The data set on the device, whole: a batch is an index.

N images, C channels, H x W pixels. Images stay uint8 until a batch is gathered: the training set takes 47 MB.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fmnist_core.augment import augment
from fmnist_core.config import DataConfig, check_validation_size
from fmnist_core.files import load_arrays
from fmnist_core.seeds import stream

PART = 1000
"""Images that are looked at at once for their mean."""


@dataclass(frozen=True)
class Split:
    """Images (uint8; float32 in [0, 255] where they were resized) and labels (int64) on one device."""

    images_NCHW: Tensor
    labels_N: Tensor

    def __len__(self) -> int:
        return len(self.labels_N)


@dataclass(frozen=True)
class Dataset:
    config: DataConfig
    train: Split
    validation: Split
    test: Split
    mean: float
    """Of the training pixels, in [0, 1]; 0 unless `config.normalize`."""
    std: float
    """Likewise; 1 unless `config.normalize`."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.images_NCHW.shape[1:]
        return channels, height, width

    def images(self, split: Split, index_N: Tensor) -> Tensor:
        """A float32 batch (N, C, H, W) in [0, 1], or normalised."""
        return self._normalized(_scaled(split, index_N))

    def augmented(self, split: Split, index_N: Tensor, flip_N: Tensor | None = None) -> Tensor:
        """The same, augmented before it is normalised: what moves into an image is black. `flip_N`: see `augment`."""
        return self._normalized(augment(_scaled(split, index_N), self.config, flip_N))

    def train_batch(self, index_N: Tensor, flip_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Augmented training images and their labels; `flip_N`: see `augment`."""
        return self.augmented(self.train, index_N, flip_N), self.train.labels_N.index_select(0, index_N)

    def _normalized(self, images_NCHW: Tensor) -> Tensor:
        return images_NCHW.sub_(self.mean).div_(self.std) if self.config.normalize else images_NCHW


def load(config: DataConfig, device: torch.device | str = "cpu", data_dir: str | None = None) -> Dataset:
    """The data set on `device`, split and resized as configured. Raises ValueError."""
    arrays = load_arrays(config.dataset, data_dir, config.sha256)
    check_validation_size(config.validation_size, len(arrays.train_labels_N))
    num_train = len(arrays.train_labels_N) - config.validation_size
    order = np.random.default_rng(stream(config.split_seed, "split")).permutation(len(arrays.train_labels_N))
    images, labels = torch.from_numpy(arrays.train_images_NCHW.copy()), arrays.train_labels_N
    test_images = torch.from_numpy(arrays.test_images_NCHW.copy())

    def split(images_NCHW: Tensor, labels_N: np.ndarray) -> Split:
        resized = _resize(images_NCHW.to(device), config.input_size)
        return Split(resized, torch.from_numpy(labels_N.astype(np.int64)).to(device))

    train = split(images[order[:num_train]], labels[order[:num_train]])
    mean, std = _mean_and_std(train.images_NCHW) if config.normalize else (0.0, 1.0)
    return Dataset(config, train, split(images[order[num_train:]], labels[order[num_train:]]),
                   split(test_images, arrays.test_labels_N), mean, std)


def _mean_and_std(images_NCHW: Tensor) -> tuple[float, float]:
    """Of all pixels, which are then in [0, 1]. Part by part: as float64 they need eight times the room of bytes."""
    parts = images_NCHW.split(PART)
    mean = sum(part.sum(dtype=torch.float64).item() for part in parts) / images_NCHW.numel() / 255
    squares = sum((part.to(torch.float64) / 255 - mean).square().sum().item() for part in parts)
    return mean, math.sqrt(squares / (images_NCHW.numel() - 1))


def _scaled(split: Split, index_N: Tensor) -> Tensor:
    return split.images_NCHW.index_select(0, index_N).to(torch.float32).div_(255)


def _resize(images_NCHW: Tensor, size: int) -> Tensor:
    """Bilinear, to size x size. Kept as float32 where it changes anything: rounding would be a second change."""
    if images_NCHW.shape[2:] == (size, size) or not len(images_NCHW):
        return images_NCHW
    return F.interpolate(images_NCHW.to(torch.float32), size=(size, size), mode="bilinear", antialias=True)
