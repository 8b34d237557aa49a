"""Checks that need the data or a built model. They run before any training, so that a mistake is wrong input.

No torch before a model is built.
"""

import contextlib
import warnings
from collections.abc import Iterable
from typing import Any

from bench.experiment import ONLY_CELL, Cell
from bench.sweep.plan import Task, first_of_each
from fmnist_core.batches import check_batches
from fmnist_core.config import CellConfig, canonical_json, check_validation_size, input_shape
from fmnist_core.files import load_arrays
from fmnist_core.model_config import Baseline, CitedModel, CustomModel

MAX_NAMED = 5
"""Parameters, or mistakes, that a message names."""
NUM_IMAGES = 64
"""Random ones, for an initialization or a network that wants to see images."""


def check_data(tasks: Iterable[Task], data_dir: str | None, num_processes: int) -> None:
    """Raise ValueError for files that are not there, and for a split or batches that they do not allow.

    `num_processes`: that share a cell.
    """
    for data, train in {(task.cell.config.data, task.cell.config.train) for task in tasks}:
        num_images = len(load_arrays(data.dataset, data_dir, data.sha256).train_labels_N)
        check_validation_size(data.validation_size, num_images)
        check_batches(train, num_images - data.validation_size, num_processes)


def to_build(tasks: Iterable[Task]) -> list[Cell]:
    """The distinct cells whose model has options of its own, or whose initialization or optimizer not every network
    supports."""
    what_is_built = lambda task: canonical_json((task.cell.config.model, task.cell.config.data, task.cell.config.train))
    return [task.cell for task in first_of_each(filter(_needs_to_be_built, tasks), what_is_built)]


def check(cells: Iterable[Cell], *, ddp: bool = False) -> None:
    """Make the model and the optimizer of each once. Raises ValueError, a line for each mistake. `ddp`: whether
    processes share each."""
    mistakes: dict[str, str] = {}
    for cell in cells:
        try:
            with contextlib.suppress(MemoryError, RuntimeError):  # too large for the memory: its record will say so
                _make(cell.config, ddp)
        except ValueError as error:
            mistakes.setdefault(str(error), f"cell '{cell.label}': " if cell.label != ONLY_CELL else "")
    if mistakes:
        lines = [f"{where}{text}" for text, where in mistakes.items()]
        more = [f"and {len(lines) - MAX_NAMED} mistakes more"] * (len(lines) > MAX_NAMED)
        raise ValueError("\n".join([*lines[:MAX_NAMED], *more]))


def _needs_to_be_built(task: Task) -> bool:
    model, train = task.cell.config.model, task.cell.config.train
    return (isinstance(model, CustomModel | CitedModel | Baseline) or train.whitening != "no" or train.identity
            or train.optimizer == "muon")


def _make(cell: CellConfig, ddp: bool) -> None:
    if isinstance(cell.model, Baseline):
        from fmnist_core.baselines import estimator_for

        estimator_for(cell.model, 0)
        return
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
    if isinstance(cell.model, CustomModel):
        _try_step(model, cell, cell.model.factory, ddp)


def _try_step(model: Any, cell: CellConfig, factory: str, ddp: bool) -> None:
    """In training mode the user's network may do something else than in evaluation. DDP waits for a gradient of every
    parameter, and would end in the first step where one has none."""
    import torch

    from fmnist_core import objective
    from fmnist_core.evaluation import EVALUATION_BATCH
    from fmnist_core.models.own import refusal, refusing

    num_images = min(NUM_IMAGES, cell.train.global_batch_size)
    labels_N = torch.zeros(num_images, dtype=torch.int64)
    with refusing(factory, f"on a training step of {num_images} images: "):
        output = model.train()(torch.rand(num_images, *input_shape(cell.data)))
        own = getattr(model, "training_loss", None)
        loss = objective.loss(output, labels_N, cell.train) if own is None else own(output, labels_N, 0.0)
        if not isinstance(loss, torch.Tensor):
            raise refusal(factory, f"its training_loss gave a {type(loss).__name__}, not a tensor")
        if not loss.requires_grad:
            raise refusal(factory, "its loss has no gradient; is there .detach(), .numpy(), argmax or torch.no_grad() "
                                   "in its forward?")
        loss.backward()
    if own is None and cell.train.loss == "cross_entropy" and _are_probabilities(output):
        warnings.warn(f"model.name = '{factory}' gives probabilities, where the loss expects logits and takes the "
                      "softmax of them", stacklevel=2)
    if ddp:
        _check_that_none_is_idle(model)
    with refusing(factory, f"on {EVALUATION_BATCH} images, in evaluation: "), torch.no_grad():
        model.eval()(torch.rand(EVALUATION_BATCH, *input_shape(cell.data)))


def _check_that_none_is_idle(model: Any) -> None:
    if idle := [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]:
        more = f" and {len(idle) - MAX_NAMED} more" if len(idle) > MAX_NAMED else ""
        raise ValueError(f"launch.mode = 'ddp' waits for gradients of all parameters; none reach "
                         f"{', '.join(idle[:MAX_NAMED])}{more}: leave them out, or set requires_grad = False")


def _are_probabilities(output_NK: Any) -> bool:
    return bool((output_NK >= 0).all() and ((output_NK.sum(1) - 1).abs() < 1e-3).all())
