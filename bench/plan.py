"""What is to be done: tasks, less those whose record is there. Pure; no torch."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bench.experiment import Cell, Experiment
from bench.record import Record
from fmnist_core.config import quality_key, speed_key


class Task(NamedTuple):
    experiment: str
    cell: Cell
    key: str
    seed: int | None
    """None: time the cell instead of training it."""
    timeout_s: float = 0.0

    @property
    def name(self) -> str:
        what = "speed" if self.seed is None else f"seed {self.seed}"
        return f"{self.experiment}: {self.cell.label or 'cell'}, {what}"

    @property
    def folder(self) -> str:
        """`<experiment>/<name of its own>`, for files about this task."""
        readable = re.sub(r"[^\w .,=+-]", "_", self.name.partition(": ")[2], flags=re.ASCII)[:100]
        return f"{self.experiment}/{readable} ({self.key[:8]})"


def tasks(experiments: Iterable[Experiment], *, num_seeds: int | None, gpu: bool, machine: Mapping[str, Any],
          num_processes: int = 1) -> list[Task]:
    """Every training of every cell, seed by seed, so that an early stop leaves whole tables; then every timing.

    `num_seeds` overrides the experiments' own numbers. Tasks with the same key, of several experiments, are one.
    """
    experiments = list(experiments)
    planned = [*_trainings(experiments, num_seeds, gpu, num_processes), *_timings(experiments, machine, num_processes)]
    return list({task.key: task for task in reversed(planned)}.values())[::-1]


def siblings(task: Task, left: Iterable[Task]) -> list[Task]:
    """The trainings of other seeds of the task's cell: what could be trained as one module with it."""
    return [other for other in left if task.seed is not None and other.seed not in (None, task.seed)
            and other.cell.config == task.cell.config and other.timeout_s == task.timeout_s]


def missing(planned: Iterable[Task], latest: Mapping[str, Record], *, rerun: bool = False,
            retry_failed: bool = False) -> list[Task]:
    """The tasks without a record; with `retry_failed`, also those whose record is a failure; with `rerun`, all."""
    return [task for task in planned
            if rerun or task.key not in latest or (retry_failed and latest[task.key].status != "ok")]


def _trainings(experiments: list[Experiment], num_seeds: int | None, gpu: bool, num_processes: int) -> Iterator[Task]:
    for experiment in experiments:
        for seed in range(num_seeds or (experiment.seeds.cuda if gpu else experiment.seeds.cpu)):
            for cell in experiment.cells:
                key = quality_key(cell.config, seed, num_processes=_sharing(experiment, num_processes))
                yield Task(experiment.name, cell, key, seed, experiment.launch.timeout_s)


def _timings(experiments: list[Experiment], machine: Mapping[str, Any], num_processes: int) -> Iterator[Task]:
    for experiment in experiments:
        for cell in experiment.cells if experiment.measure else ():
            key = speed_key(cell.config, dict(machine), num_processes=_sharing(experiment, num_processes))
            yield Task(experiment.name, cell, key, None, experiment.launch.timeout_s)


def _sharing(experiment: Experiment, num_processes: int) -> int:
    """Processes that share one cell."""
    return num_processes if experiment.launch.mode == "ddp" else 1
