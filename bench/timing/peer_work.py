"""What every system of `bench.peers` is given, and what it has to answer."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fmnist_core import data
from fmnist_core.accelerator import accelerator_for
from fmnist_core.clock import synchronize
from fmnist_core.config import CellConfig
from fmnist_core.models.build import build
from fmnist_core.summary import num_parameters

Span = tuple[float, float]
"""Start and end in seconds, by `time.monotonic`: on Linux one clock for all processes of the machine."""


class Peer(Protocol):
    """A system with its data and model in place."""

    num_parameters: int
    libraries: dict[str, str]
    """Name to version, of what the record of the environment does not name."""

    def train(self, epochs: int) -> list[Span]:
        """One of each epoch."""

    def test_accuracies(self) -> list[float]:
        """One fraction per model trained."""


class Work:
    """The cell, its images and their device: what all systems are given."""

    def __init__(self, cell: CellConfig, num_images: int, seed: int, data_dir: str | None) -> None:
        self.cell, self.seed = cell, seed
        self.device = accelerator_for(cell.train.precision).device
        whole = data.load(cell.data, self.device, data_dir)
        train = data.Split(whole.train.images_NCHW[:num_images], whole.train.labels_N[:num_images])
        self.dataset = dataclasses.replace(whole, train=train)
        torch.manual_seed(seed)

    def model(self) -> nn.Module:
        return build(self.cell.model, self.dataset.input_shape).to(self.device)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """As anyone would make it; how it is carried out is torch's choice."""
        return torch.optim.Adam(model.parameters(), lr=self.cell.train.learning_rate)

    @property
    def batch_size(self) -> int:
        return self.cell.train.global_batch_size

    def floats(self) -> tuple[Tensor, Tensor]:
        """All training images as floats in [0, 1], and labels."""
        return self.dataset.train.images_NCHW.float() / 255, self.dataset.train.labels_N


class TorchPeer:
    """A plain model and a loop of one epoch."""

    def __init__(self, work: Work) -> None:
        self.work, self.model = work, work.model()
        self.num_parameters = num_parameters(self.model)
        self.libraries: dict[str, str] = {}

    def train_epoch(self) -> None:
        raise NotImplementedError

    def train(self, epochs: int) -> list[Span]:
        return [timed(self.train_epoch, self.work.device) for _ in range(epochs)]

    def test_accuracies(self) -> list[float]:
        test = self.work.dataset.test
        model = self.model.to(self.work.device).eval()
        with torch.inference_mode():
            right = [(model(images.float() / 255).argmax(1) == labels).sum()
                     for images, labels in zip(test.images_NCHW.split(1000), test.labels_N.split(1000), strict=True)]
        return [int(torch.stack(right).sum()) / len(test)]


def timed(epoch: Callable[[], Any], device: torch.device) -> Span:
    """Of one epoch, until the device has finished."""
    start = time.monotonic()
    epoch()
    synchronize(device)
    return start, time.monotonic()
