"""What a running sweep shows: its plan, its progress with time left, and what was learnt. No torch."""

import contextlib
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from bench.experiment import Cell, Experiment
from bench.record import Record, TrainRecord
from bench.records.cells import TRAINING_SECTIONS
from bench.records.lines import key_of
from bench.sweep.plan import Task
from fmnist_core.config import DATASETS, CellConfig, CustomModel, canonical_json, input_shape, quality_key
from fmnist_core.models import layers
from fmnist_core.models.networks import layers_of

TELL_EVERY_S = 30.0
"""Where there is no terminal, the least time between two lines about a training that goes on."""


class Progress:
    """A bar with the time left in a terminal; elsewhere a line per finished task, and now and then one of a long one.

    Lines are flushed: they come out of a pipe when they are written.
    """

    def __init__(self, total: int, done: int, *, quiet: bool) -> None:
        self._is_terminal = is_terminal(sys.stderr)
        self._bar = tqdm(total=total, initial=done, unit="task", disable=quiet or not self._is_terminal,
                         dynamic_ncols=True)
        self._total, self._done_before = total, done
        self._began = self._told = time.monotonic()
        self._name = ""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def start(self, name: str) -> None:
        self._name = name
        self._bar.set_description(name)

    def training(self, training: Any) -> None:
        """Where the `Training` is: called after each epoch, and now and then within a long one."""
        share = training.step_in_epoch / training.steps_per_epoch
        state = f"epoch {training.epoch + share:.3g} of {training.cell.train.epochs}"
        if training.history.test_accuracy:
            state += f", test {training.history.test_accuracy[-1]:.2%}"
        self._bar.set_postfix_str(state)
        if not self._is_terminal and time.monotonic() - self._told >= TELL_EVERY_S:
            with contextlib.suppress(BrokenPipeError):  # nobody reads any more: no reason for a training to fail
                self._say(f"{self._name}: {state}")

    def finish(self, name: str, record: Record, num_done: int, weights: Path | None = None) -> None:
        """`num_done`: tasks done, this one and those of others too. `weights`: folder of those kept."""
        self._bar.n = num_done
        self._bar.set_postfix_str("")
        self._bar.refresh()
        kept = "" if weights is None else _kept(weights, record)
        self._say(f"[{num_done}/{self._total}] {name}: {outcome(record)}{kept}{self._left(num_done)}")

    def _left(self, num_done: int) -> str:
        """At the pace of this call so far; the bar says it in a terminal."""
        pace_s = (time.monotonic() - self._began) / max(1, num_done - self._done_before)
        left_s = pace_s * (self._total - num_done)
        return "" if self._is_terminal or left_s < TELL_EVERY_S else f"; about {duration(left_s)} left"

    def _say(self, line: str) -> None:
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
        self._told = time.monotonic()


def is_terminal(stream: TextIO) -> bool:
    """Whether a bar can be drawn there: `script` and some CI systems make terminals without rows or columns."""
    try:
        return stream.isatty() and min(os.get_terminal_size(stream.fileno())) > 0
    except (OSError, ValueError):
        return False


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _kept(folder: Path, record: Record) -> str:
    path = folder / f"{key_of(record)}.safetensors"
    return f"; {path}" if record.status == "ok" and path.exists() else ""


def outcome(record: Record) -> str:
    """One record in a few words."""
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    if isinstance(record, TrainRecord):
        time_taken = f"{record.wall_s:.1f} s" if record.wall_s <= 90 else duration(record.wall_s)
        return f"test accuracy {record.epochs.test_accuracy[-1]:.2%}, {time_taken}"
    from bench.stats import throughput

    return f"{throughput(record.images_per_step, record.step_s).images_per_s:,.0f} images/s"


def show_plan(experiments: Iterable[Experiment], planned: Iterable[Task], latest: Mapping[str, Record]) -> None:
    """A table of the cells: what each costs, and how much of it is done."""
    from tabulate import tabulate

    planned = list(planned)
    for experiment in experiments:
        rows = []
        for cell in _cells(experiment, planned):
            mine = [task for task in planned if _is_of(task, cell.config)]
            trained, timed = ([_state(t, latest) for t in mine if (t.seed is None) == speed] for speed in (False, True))
            rows.append({
                "cell": cell.label,
                **_costs(cell.config),
                "trained": f"{trained.count('done')}/{len(trained)}" + (" failed" if "failed" in trained else ""),
                "timed": ", ".join(timed) or "not asked for",
            })
        print(f"\n{experiment.name}: {experiment.question}\n")
        print(tabulate(rows, headers="keys", intfmt=",", floatfmt=",.2f", missingval="-"))
    num_missing = sum(task.key not in latest for task in planned)
    num_timings = sum(task.seed is None for task in planned)
    count = lambda number, noun: f"{number:,} {noun}{'s' * (number != 1)}"
    print(f"\n{count(len(planned) - num_timings, 'training')} and {count(num_timings, 'timing')}, "
          f"{num_missing:,} without a record. Images and teraflops are of one seed.{_estimate(planned, latest)}")
    for factory, number in _of_other_code(planned, latest).items():
        print(f"Not counted: {count(number, 'record')} of other code of {factory} than is here now.")
    for shared_by, number in _of_other_launches(planned, latest).items():
        by = f"{shared_by} processes" if shared_by > 1 else "one process"
        print(f"Not counted: {count(number, 'record')} by {by} to a cell: accuracy belongs to that number.")


def _of_other_code(planned: Iterable[Task], latest: Mapping[str, Record]) -> Counter[str]:
    """Records of one's own networks, by factory, that were made before an edit."""
    models = [task.cell.config.model for task in planned]
    code = {model.factory: model.source for model in models if isinstance(model, CustomModel)}
    made_of = [record.cell.get("model", {}) for record in latest.values()] if code else []
    return Counter(model["factory"] for model in made_of
                   if model.get("factory") in code and model.get("source") != code[model["factory"]])


def _of_other_launches(planned: Iterable[Task], latest: Mapping[str, Record]) -> Counter[int]:
    """Records of trainings that are asked for, but by so many processes that shared them."""
    key_of = lambda task, size: quality_key(task.cell.config, task.seed or 0, num_processes=size)
    left = [task for task in planned if task.seed is not None and task.key not in latest]
    sizes = {record.labels.num_processes for record in latest.values() if isinstance(record, TrainRecord)}
    others = [size for size in sizes if left and key_of(left[0], size) != left[0].key]
    return Counter(size for task in left for size in others if key_of(task, size) in latest)


def _costs(config: CellConfig) -> dict[str, float | None]:
    """What one seed costs; None where only building the model, or reading its data, would tell."""
    plain, shape, num_train = layers_of(config.model), input_shape(config.data), DATASETS[config.data.dataset].num_train
    by_layer = [row.multiply_adds for row in layers.trace(plain, shape)] if plain else []
    images = None if num_train is None else config.train.epochs * (num_train - config.data.validation_size)
    return {
        "parameters": layers.num_parameters(plain, shape) if plain else None,
        "multiply-adds": sum(by_layer) or None,
        "images": images,
        "teraflops": 2 * layers.step_multiply_adds(by_layer) * images / 1e12 if by_layer and images else None,
    }


def _estimate(planned: list[Task], latest: Mapping[str, Record]) -> str:
    """Time left, from the cells that have a record."""
    known: dict[bytes, float] = {}
    for record in latest.values():
        if isinstance(record, TrainRecord) and record.status == "ok":
            known[canonical_json(record.cell)] = record.wall_s / record.labels.fused_seeds
    left = [known.get(canonical_json(task.cell.config)) for task in planned
            if task.key not in latest and task.seed is not None]
    if not left or any(seconds is None for seconds in left):
        return ""
    return f" About {duration(sum(s for s in left if s))} of one process are left."


def show_summary(experiments: Iterable[Experiment], planned: Iterable[Task], latest: Mapping[str, Record],
                 folder: Path, asked: Sequence[str] = ()) -> None:
    """A row per cell: accuracy, speed, size; what failed; then where the records are and what could come next.

    `asked`: the experiments as they were named, of which a report must be told the files.
    """
    from bench.sweep import results  # brings scipy

    planned = list(planned)
    for experiment in experiments:
        lines = []
        for cell in _cells(experiment, planned):
            records = [latest[t.key] for t in planned if _is_of(t, cell.config) and t.key in latest]
            lines.append(results.Line.of(cell.label, records))
        for paragraph in (experiment.title, *results.paragraphs(lines)):
            print(f"\n{paragraph}")
    files = [name for name in asked if name.endswith(".toml")]
    print(f"\nRecords: {folder}. Tables and figures of them:\n"
          f"  {shlex.join(['python', '-m', 'bench.report', '--store', str(folder), *files])}")
    if [each.name for each in experiments] == ["quick"]:
        print("The full sweep, with several seeds and more epochs, is kernel_depth in the place of quick.")


def _is_of(task: Task, config: CellConfig) -> bool:
    """A training is of every cell that it trains: cells that differ in their execution share it."""
    if task.seed is None:
        return task.cell.config == config
    return all(getattr(task.cell.config, part) == getattr(config, part) for part in TRAINING_SECTIONS)


def _cells(experiment: Experiment, planned: Iterable[Task]) -> list[Cell]:
    """Those of the experiment, then those that follow cells too large for the memory."""
    cells = list(experiment.cells)
    for task in planned if experiment.launch.halve_batch_after_oom else ():
        if task.experiment == experiment.name and all(task.cell.config != cell.config for cell in cells):
            cells.append(task.cell)
    return cells


def _state(task: Task, latest: Mapping[str, Record]) -> str:
    record = latest.get(task.key)
    return "missing" if record is None else "done" if record.status == "ok" else "failed"
