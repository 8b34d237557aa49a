"""The systems that `bench.peers` runs side by side, each in processes of its own.

As a program (`python -m bench.timing.peer_systems NAME REQUEST`): prepare, print `ready`, wait for a line, train, and
print what came of it as JSON. The request is JSON: `cell`, `epochs`, `images`, `seed`, `threads`, `data_dir`.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.timing.peer_frameworks import Keras, Lightning
from bench.timing.peer_work import Peer, Span, TorchPeer, Work, timed
from bench.timing.workers import READY
from fmnist_core.accelerator import accelerator_for
from fmnist_core.config import CellConfig, ExecutionConfig
from fmnist_core.evaluation import evaluate
from fmnist_core.fused.evaluation import fused_evaluate
from fmnist_core.fused.training import FusedTraining, fused_epoch
from fmnist_core.summary import num_parameters
from fmnist_core.train import Training, train_epoch

NUM_FUSED = 16


class Tutorial(TorchPeer):
    """Accelerate's own introduction: images as PIL, ToTensor per item, a DataLoader, prepare, backward."""

    def __init__(self, work: Work) -> None:
        from torchvision.transforms import ToTensor

        super().__init__(work)
        split = work.dataset.train
        items = _Items(split.images_NCHW.cpu().numpy()[:, 0], split.labels_N.cpu().tolist(), ToTensor())
        loader = torch.utils.data.DataLoader(items, batch_size=work.batch_size, shuffle=True)
        self.accelerator = accelerator_for(work.cell.train.precision)
        prepared = self.accelerator.prepare(self.model, work.optimizer(self.model), loader)
        self.model, self.optimizer, self.loader = prepared

    def train_epoch(self) -> None:
        self.model.train()
        for images, labels in self.loader:
            self.optimizer.zero_grad()
            self.accelerator.backward(F.cross_entropy(self.model(images), labels))
            self.optimizer.step()


class Raw(TorchPeer):
    """PyTorch alone, images held as floats on the device."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.images_NCHW, self.labels_N = work.floats()
        self.optimizer = work.optimizer(self.model)

    def train_epoch(self) -> None:
        self.model.train()
        for index_N in torch.randperm(len(self.labels_N), device=self.work.device).split(self.work.batch_size):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(self.images_NCHW[index_N]), self.labels_N[index_N]).backward()
            self.optimizer.step()


class Ours:
    """`fmnist_core.train`, as every record of this project is made, with captured steps."""

    def __init__(self, work: Work) -> None:
        self.work, self.training = work, Training(_captured(work), work.seed, work.dataset)
        self.num_parameters = num_parameters(self.training.model)
        self.libraries: dict[str, str] = {}

    def train(self, epochs: int) -> list[Span]:
        return [timed(lambda: train_epoch(self.training), self.work.device) for _ in range(epochs)]

    def test_accuracies(self) -> list[float]:
        return [evaluate(self.training, self.work.dataset.test).accuracy]


class Fused:
    """`fmnist_core.fused.training`: several seeds as one module."""

    def __init__(self, work: Work) -> None:
        seeds = range(work.seed * NUM_FUSED, (work.seed + 1) * NUM_FUSED)
        self.work, self.training = work, FusedTraining(_captured(work), seeds, work.dataset)
        self.num_parameters = num_parameters(self.training.single(0))
        self.libraries: dict[str, str] = {}

    def train(self, epochs: int) -> list[Span]:
        return [timed(lambda: fused_epoch(self.training), self.work.device) for _ in range(epochs)]

    def test_accuracies(self) -> list[float]:
        return [one.accuracy for one in fused_evaluate(self.training, self.work.dataset.test)]


SYSTEMS: dict[str, Callable[[Work], Peer]] = {
    "tutorial": Tutorial, "raw": Raw, "lightning": Lightning, "keras": Keras, "ours": Ours, "fused": Fused,
}


class _Items(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """What torchvision's data set does for every item: a PIL image of an array, then the transform."""

    def __init__(self, images_NHW: np.ndarray, labels: list[int], transform: Callable[[Any], Tensor]) -> None:
        self.images_NHW, self.labels, self.transform = images_NHW, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images_NHW[i], mode="L")), self.labels[i]


def _captured(work: Work) -> CellConfig:
    return msgspec.structs.replace(work.cell, execution=ExecutionConfig(capture=True))


def main(name: str, request: str) -> None:
    asked, system = json.loads(request), SYSTEMS[name]
    torch.set_num_threads(asked["threads"])
    cell = msgspec.convert(asked["cell"], CellConfig)
    epochs = max(cell.train.epochs, asked["epochs"])  # a captured run has as many learning rates as it has steps
    cell = msgspec.structs.replace(cell, train=msgspec.structs.replace(cell.train, epochs=epochs))
    peer = system(Work(cell, asked["images"], asked["seed"], asked["data_dir"]))
    print(READY, flush=True)
    sys.stdin.readline()
    epochs_at = peer.train(asked["epochs"])
    print(json.dumps({"epochs_at": epochs_at, "num_parameters": peer.num_parameters, "libraries": peer.libraries,
                      "test_accuracies": peer.test_accuracies()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
