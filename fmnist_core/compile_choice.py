"""Eager or compiled: the one whose steps are faster here, by timing both."""

import gc
from typing import Literal

import msgspec
import torch

from fmnist_core import step_time
from fmnist_core.config import CellConfig
from fmnist_core.data import Dataset
from fmnist_core.train import Training

Mode = Literal["no", "default"]


def with_compile(cell: CellConfig, mode: Mode) -> CellConfig:
    return msgspec.structs.replace(cell, execution=msgspec.structs.replace(cell.execution, compile=mode))


def time_modes(cell: CellConfig, dataset: Dataset) -> dict[Mode, float]:
    """Seconds of a training step, eager and compiled, of throw-away models. The same in every process: the slowest's.

    Without the compiled one where it does not work: the compiler needs tools that a machine may lack.
    """
    trainings: dict[Mode, Training] = {"no": Training(with_compile(cell, "no"), 0, dataset)}
    try:
        trainings["default"] = Training(with_compile(cell, "default"), 0, dataset)
        step_time.seconds_per_step(trainings["default"])  # compiles
    except Exception:  # what is missing shows itself in many ways
        trainings.pop("default", None)
    timings = step_time.fastest_steps(trainings)
    device, num_processes = trainings["no"].device, trainings["no"].num_processes
    del trainings
    gc.collect()  # what Accelerate prepared is freed by the garbage collector alone
    return timings if num_processes == 1 else _slowest(timings, device)


def _slowest(timings: dict[Mode, float], device: torch.device) -> dict[Mode, float]:
    """Entry by entry over the processes; compiled only where it works in all of them."""
    modes: tuple[Mode, ...] = ("no", "default")
    seconds = torch.tensor([timings.get(mode, float("inf")) for mode in modes], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(seconds, torch.distributed.ReduceOp.MAX)
    return {mode: value for mode, value in zip(modes, seconds.tolist(), strict=True) if value != float("inf")}
