"""What of a cell only a try can judge, tried before any work: what is wrong with it is wrong input. No torch before."""

import contextlib
from collections.abc import Iterable

import msgspec

from bench.sweep.plan import Task
from fmnist_core.config import CellConfig, input_shape
from fmnist_core.model_config import Baseline, CitedModel, CustomModel

NUM_IMAGES = 64
"""Made up, for what looks at images before training."""


def of(tasks: Iterable[Task]) -> list[CellConfig]:
    """The distinct cells whose model has options of its own, or whose network is to begin or step as not all can."""
    found: dict[bytes, CellConfig] = {}
    for cell in (task.cell.config for task in tasks):
        train = cell.train
        if (isinstance(cell.model, CustomModel | CitedModel | Baseline) or train.whitening != "no" or train.identity
                or train.optimizer == "muon"):
            found[msgspec.json.encode((cell.model, cell.data, train), order="sorted")] = cell
    return list(found.values())


def check(cells: Iterable[CellConfig]) -> None:
    """Make the model and the optimizer of each once. Raises ValueError."""
    for cell in cells:
        if isinstance(cell.model, Baseline):
            from fmnist_core.baselines import estimator_for

            estimator_for(cell.model, 0)
        else:
            with contextlib.suppress(MemoryError, RuntimeError):  # too large for the memory: its record will say so
                _make(cell)


def _make(cell: CellConfig) -> None:
    import torch

    from fmnist_core.data import Dataset, Split
    from fmnist_core.initialization import initialize
    from fmnist_core.models.build import build
    from fmnist_core.optimizers import optimizer_for
    from fmnist_core.train import check_own_loss

    shape = input_shape(cell.data)
    images_NCHW = torch.randint(256, (NUM_IMAGES, *shape), dtype=torch.uint8)
    split = Split(images_NCHW, torch.zeros(NUM_IMAGES, dtype=torch.int64))
    model = build(cell.model, shape)
    initialize(model, Dataset(cell.data, split, split, split, 0.0, 1.0), cell.train)
    check_own_loss(cell, getattr(model, "training_loss", None))
    optimizer_for(model, cell.train)
