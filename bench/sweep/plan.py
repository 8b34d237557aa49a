"""What is to be done: tasks, less those whose record is there. Pure; no torch."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, Optional

from msgspec.structs import replace

from bench.experiment import ONLY_CELL, Cell, Experiment
from bench.record import Record
from bench.records.cells import TRAINING_SECTIONS
from bench.records.lines import Head
from fmnist_core.config import Baseline, CellConfig, canonical_json, quality_key, speed_key

Known = Record | Head
"""Whether a task is done, and how it ended, can be told from either."""


class Task(NamedTuple):
    experiment: str
    cell: Cell
    key: str
    seed: int | None
    """None: time the cell instead of training it."""
    timeout_s: float = 0.0
    smaller: Optional["Task"] = None
    """What follows if this one runs out of memory: the cell with half the batch, where the experiment asks for it."""
    repeat: int = 0
    """Which of the cell's timings."""

    @property
    def name(self) -> str:
        what = f"timing {self.repeat}" if self.seed is None else f"seed {self.seed}"
        return f"{self.experiment}: {self.cell.label}, {what}"

    @property
    def folder(self) -> str:
        """`<experiment>/<name of its own>`, for files about this task."""
        readable = re.sub(r"[^\w .,=+-]", "_", self.name.partition(": ")[2], flags=re.ASCII)[:100]
        return f"{self.experiment}/{readable} ({self.key[:8]})"


def tasks(experiments: Iterable[Experiment], *, num_seeds: int | None = None, num_timings: int | None = None, gpu: bool,
          machine: Mapping[str, Any], num_processes: int = 1) -> list[Task]:
    """Every training of every cell, seed by seed, so that an early stop leaves whole tables; then every timing, once
    round all cells after the other, so that what drifts on the machine strikes all alike.

    The numbers override the experiments' own. Tasks with the same key, of several experiments, are one.
    """
    experiments = list(experiments)
    planned = [*_trainings(experiments, num_seeds, gpu, num_processes),
               *_timings(experiments, num_timings, machine, num_processes)]
    return first_of_each(planned, lambda task: task.key)


def first_of_each(planned: Iterable[Task], key: Callable[[Task], Hashable]) -> list[Task]:
    """The tasks without those whose `key` one before them has."""
    found: dict[Hashable, Task] = {}
    for task in planned:
        found.setdefault(key(task), task)
    return list(found.values())


def siblings(task: Task, left: Iterable[Task]) -> list[Task]:
    """The trainings of other seeds of the task's cell: what could be trained as one module with it."""
    found = {other.key: other for other in left if task.seed is not None and other.seed not in (None, task.seed)
             and other.cell.config == task.cell.config and other.timeout_s == task.timeout_s}
    return list(found.values())  # half of one cell's batch may be the whole batch of another


def cells_of(experiment: Experiment, planned: Iterable[Task]) -> list[Cell]:
    """Those of the experiment, then those that follow cells too large for the memory."""
    cells = {canonical_json(cell.config): cell for cell in experiment.cells}
    for task in planned if experiment.launch.halve_batch_after_oom else ():
        if task.experiment == experiment.name:
            cells.setdefault(canonical_json(task.cell.config), task.cell)
    return list(cells.values())


def by_cell(planned: Iterable[Task]) -> Callable[[CellConfig], list[Task]]:
    """What gives the tasks of a cell. A training is of every cell that it trains: cells that differ in their execution
    share it. Linear in the tasks."""
    trainings: dict[bytes, list[Task]] = defaultdict(list)
    timings: dict[bytes, list[Task]] = defaultdict(list)
    trained = lambda config: canonical_json([getattr(config, part) for part in TRAINING_SECTIONS])
    for task in planned:
        if task.seed is None:
            timings[canonical_json(task.cell.config)].append(task)
        else:
            trainings[trained(task.cell.config)].append(task)
    return lambda config: [*trainings.get(trained(config), ()), *timings.get(canonical_json(config), ())]


def due(planned: Iterable[Task], latest: Mapping[str, Known]) -> list[Task]:
    """The tasks, each followed by the smaller ones whose turn has come, as those before them ran out of memory."""
    return first_of_each(_with_smaller(planned, latest), lambda task: task.key)


def missing(planned: Iterable[Task], latest: Mapping[str, Known], outdated: Mapping[str, Known]) -> list[Task]:
    """The tasks that are not done; in the place of one that ran out of memory, the smaller that follows it."""
    left = []
    for task in planned:
        at: Task | None = task
        while at is not None and is_done(at, latest, outdated):
            at = at.smaller if latest[at.key].status == "oom" else None
        if at is not None:
            left.append(at)
    return left


def is_done(task: Task, latest: Mapping[str, Known], outdated: Mapping[str, Known]) -> bool:
    """Whether there is a record, other than an outdated one."""
    record = latest.get(task.key)
    return record is not None and record is not outdated.get(task.key)


def outdated(latest: Mapping[str, Known], *, rerun: bool = False, retry_failed: bool = False,
             kept: Collection[str] = ()) -> dict[str, Known]:
    """The records to be made again, but for those `kept`: with `rerun` all, with `retry_failed` those of failures."""
    return {key: record for key, record in latest.items()
            if key not in kept and (rerun or (retry_failed and record.status != "ok"))}


def _with_smaller(planned: Iterable[Task], latest: Mapping[str, Known]) -> Iterator[Task]:
    for task in planned:
        at: Task | None = task
        while at is not None:
            yield at
            at = at.smaller if at.key in latest and latest[at.key].status == "oom" else None


def _trainings(experiments: list[Experiment], num_seeds: int | None, gpu: bool, num_processes: int) -> Iterator[Task]:
    for experiment in experiments:
        sharing = _sharing(experiment, num_processes)
        for seed in range(num_seeds or (experiment.seeds.cuda if gpu else experiment.seeds.cpu)):
            for cell in experiment.cells:
                yield _task(experiment, cell, seed, partial(quality_key, seed=seed, num_processes=sharing))


def _timings(experiments: list[Experiment], num_timings: int | None, machine: Mapping[str, Any],
             num_processes: int) -> Iterator[Task]:
    number_of = lambda experiment: experiment.timings if num_timings is None else num_timings
    for repeat in range(max(map(number_of, experiments), default=0)):
        for experiment in (one for one in experiments if repeat < number_of(one)):
            key_of = partial(speed_key, machine=dict(machine), repeat=repeat,
                             num_processes=_sharing(experiment, num_processes))
            for cell in (one for one in experiment.cells if one.has_steps):
                yield _task(experiment, cell, None, key_of, repeat)


def _task(experiment: Experiment, cell: Cell, seed: int | None, key_of: Callable[[CellConfig], str],
          repeat: int = 0) -> Task:
    """The task and, behind it, those with half its batch, as often as the experiment has it halved."""
    chain = [cell]
    for _ in range(experiment.launch.halve_batch_after_oom):
        config = with_half_batch(chain[-1].config)
        if config is None:
            break
        label = f"{cell.label}, " if cell.label != ONLY_CELL else ""
        chain.append(Cell(config=config, label=f"{label}global_batch_size {config.train.global_batch_size}",
                          note=cell.note, axes=cell.axes))
    task: Task | None = None
    for each in reversed(chain):
        task = Task(experiment.name, each, key_of(each.config), seed, experiment.launch.timeout_s, task, repeat)
    assert task is not None
    return task


def with_half_batch(config: CellConfig) -> CellConfig | None:
    """None where there is no such cell: accumulation needs an image for each of its parts."""
    half = config.train.global_batch_size // 2
    if isinstance(config.model, Baseline) or half < config.train.gradient_accumulation:
        return None
    return replace(config, train=replace(config.train, global_batch_size=half))


def _sharing(experiment: Experiment, num_processes: int) -> int:
    """Processes that share one cell."""
    return num_processes if experiment.launch.mode == "ddp" else 1
