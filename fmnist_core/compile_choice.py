"""Eager or compiled: the one whose steps are faster here, by timing both."""

from collections.abc import Callable
from typing import Literal

import msgspec
import torch

from fmnist_core import step_time
from fmnist_core.config import CellConfig
from fmnist_core.memory import free_memory
from fmnist_core.steps import Steps

Mode = Literal["no", "default"]


def faster(cell: CellConfig, training_of: Callable[[CellConfig], Steps]) -> tuple[CellConfig, dict[str, float]]:
    """The cell, eager or compiled, and the seconds of a training step of both: the same in every process.

    Of the eager one alone where the compiler does not work: it needs tools that a machine may lack. `training_of` makes
    the throw-away trainings that are timed.
    """
    timings = _time_modes(lambda mode: training_of(with_compile(cell, mode)))
    return with_compile(cell, min(timings, key=lambda mode: timings[mode])), dict(timings.items())


def with_compile(cell: CellConfig, mode: Mode) -> CellConfig:
    return msgspec.structs.replace(cell, execution=msgspec.structs.replace(cell.execution, compile=mode))


def _time_modes(training_of: Callable[[Mode], Steps]) -> dict[Mode, float]:
    trainings: dict[Mode, Steps] = {"no": training_of("no")}
    try:
        trainings["default"] = training_of("default")
        step_time.seconds_per_step(trainings["default"])  # compiles
    except Exception:  # what is missing shows itself in many ways
        trainings.pop("default", None)
    timings = step_time.fastest_steps(trainings)
    device, num_processes = trainings["no"].device, trainings["no"].num_processes
    del trainings
    free_memory()
    return timings if num_processes == 1 else _slowest(timings, device)


def _slowest(timings: dict[Mode, float], device: torch.device) -> dict[Mode, float]:
    """Entry by entry over the processes; compiled only where it works in all of them."""
    modes: tuple[Mode, ...] = ("no", "default")
    seconds = torch.tensor([timings.get(mode, float("inf")) for mode in modes], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(seconds, torch.distributed.ReduceOp.MAX)
    return {mode: value for mode, value in zip(modes, seconds.tolist(), strict=True) if value != float("inf")}
