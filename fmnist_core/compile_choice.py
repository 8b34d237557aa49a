"""Eager or compiled: the one whose steps are faster here, by timing both."""

from collections.abc import Callable
from typing import Literal, TypeVar

import msgspec
import torch

from fmnist_core import step_time
from fmnist_core.config import CellConfig
from fmnist_core.memory import free_memory
from fmnist_core.steps import Steps

Mode = Literal["no", "default"]
_Result = TypeVar("_Result")


def faster(cell: CellConfig, training_of: Callable[[CellConfig], Steps]) -> tuple[CellConfig, dict[str, float]]:
    """The cell, eager or compiled, and the seconds of a training step of both: the same in every process.

    Of the eager one alone where the compiler does not work: it needs tools that a machine may lack. `training_of` makes
    the throw-away trainings that are timed.
    """
    timings = _time_modes(cell, training_of)
    return with_compile(cell, min(timings, key=lambda mode: timings[mode])), dict(timings.items())


def with_compile(cell: CellConfig, mode: Mode) -> CellConfig:
    return msgspec.structs.replace(cell, execution=msgspec.structs.replace(cell.execution, compile=mode))


def _time_modes(cell: CellConfig, training_of: Callable[[CellConfig], Steps]) -> dict[Mode, float]:
    eager = training_of(with_compile(cell, "no"))
    trainings: dict[Mode, Steps] = {"no": eager}
    if (compiled := _compiled(with_compile(cell, "default"), training_of, eager)) is not None:
        trainings["default"] = compiled
    timings = step_time.fastest_steps(trainings)
    device, num_processes = eager.device, eager.num_processes
    del trainings, eager, compiled
    free_memory()
    return timings if num_processes == 1 else _slowest(timings, device)


def _compiled(cell: CellConfig, training_of: Callable[[CellConfig], Steps], eager: Steps) -> Steps | None:
    """A training that the compiler works for; None where it fails in any of the processes.

    Several processes try it each by itself, and agree before the first step that they share: else those where it works
    would wait for one where it does not.
    """
    alone = msgspec.structs.replace(cell, train=msgspec.structs.replace(cell.train, sync_batch_norm=False))
    training = _in_all(lambda: training_of(alone), eager)
    try_out = step_time.seconds_per_step if eager.num_processes == 1 else _step_alone
    if training is None or _in_all(lambda: try_out(training), eager) is None:
        return None
    return training if alone == cell else training_of(cell)


def _step_alone(training: Steps) -> torch.Tensor:
    """A step that is not shared, from index to optimizer; its loss. Only buffers come from rank 0, before it compiles.
    """
    training.model.train()
    with training.accelerator.no_sync(training.model):
        return training.step_on(training.order()[:training.batch_size])


def _in_all(work: Callable[[], _Result], eager: Steps) -> _Result | None:
    """What `work` gives here; None where it fails in any of the processes."""
    result: _Result | None = None
    try:
        result = work()
        works = torch.ones((), device=eager.device)
    except Exception:  # what a compiler misses shows itself in many ways
        works = torch.zeros((), device=eager.device)
    if eager.num_processes > 1:
        torch.distributed.all_reduce(works, torch.distributed.ReduceOp.MIN)
    return result if works else None


def _slowest(timings: dict[Mode, float], device: torch.device) -> dict[Mode, float]:
    """Entry by entry over the processes, which have timed the same modes."""
    seconds = torch.tensor(list(timings.values()), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(seconds, torch.distributed.ReduceOp.MAX)
    return dict(zip(timings, seconds.tolist(), strict=True))
