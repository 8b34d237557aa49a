"""The goals beyond the cited systems, how the result of each is chosen, and whether it reaches its goal. No torch.

Choices are made by validation accuracy alone; the cell that is chosen has a twin, trained on all 60,000 images, whose
test accuracy at the last epoch is the result.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from bench import stats
from bench.formatting import code, escape, percent, plural
from bench.records import outcomes
from bench.records.machines import Machine, is_undisturbed, most_frequent
from bench.records.rows import Results, Row

RESULT = "the recipe, all 60,000 images"
"""Label of the cell that is the result."""
FAST = "beyond_fast", "beyond_fast_gpu"
"""Experiments of least time to an accuracy."""


class Goal(NamedTuple):
    title: str
    experiment: str
    device: Literal["cpu", "cuda"]
    accuracy: float
    """Mean test accuracy at the last epoch, a fraction."""
    within_s: float = math.inf
    """Mean training time, with the machine to itself."""
    num_seeds: int = 2
    """At least."""

    def __str__(self) -> str:
        time = f" within {self.within_s:g} s" if math.isfinite(self.within_s) else ""
        return f"{self.title}: {percent(self.accuracy, 1)} %{time}"


GOALS = (
    Goal("Under 100,000 parameters, on a CPU", "beyond_small", "cpu", 0.935),
    Goal("Under 100,000 parameters, with a GPU", "beyond_small_gpu", "cuda", 0.95),
    Goal("The best single model, with a GPU", "beyond_best", "cuda", 0.966),
    Goal("Least time on a CPU", "beyond_fast", "cpu", 0.92),
    Goal("Least time on a CPU", "beyond_fast", "cpu", 0.93),
    Goal("Least time on one GPU, 30 seeds", "beyond_fast_gpu", "cuda", 0.94, 3.0, 30),
    Goal("Least time on one GPU, 30 seeds", "beyond_fast_gpu", "cuda", 0.95, 15.0, 30),
)


def result_of(results: Results, goal: Goal) -> tuple[Row | None, str]:
    """The row that is the result for a goal; or None and why there is none."""
    rows = [row for row in results.rows.get(goal.experiment, ()) if row.trained
            and (row.trained[0].environment.device == "cpu") == (goal.device == "cpu")]
    if goal.experiment not in FAST:
        return next((row for row in rows if row.cell.label == RESULT), None), "waiting"
    chosen = choose(rows, goal.accuracy)
    if chosen is None:
        if not rows:
            return None, "waiting"
        reached = any(_is_reached(row, goal.accuracy) for row in rows)
        return None, "waiting for undisturbed times" if reached else "none reaches it on validation"
    twin = twin_of(chosen, results.of(goal.experiment))
    return (twin, "") if twin.trained else (None, f"{code(goal.experiment)}, {escape(twin.label)}: waiting")


def verdict(row: Row, goal: Goal) -> str:
    """Whether the result reaches its goal, in words."""
    values, seconds = row.values(outcomes.test_last), _undisturbed_s(row)
    if stats.mean(values) < goal.accuracy:
        return "no" if len(values) > 1 else "no, by one seed"
    if math.isfinite(goal.within_s):
        if not seconds:
            return "waiting for undisturbed times"
        if stats.mean(seconds) > goal.within_s:
            return "no, it takes longer"
    if len(values) < goal.num_seeds:
        return f"yes, by {plural(len(values), 'seed')} of {goal.num_seeds}" if len(values) > 1 else "yes, by one seed"
    return "yes" if stats.mean_interval(values)[0] >= goal.accuracy else "the mean does, its interval does not"


def choose(rows: Sequence[Row], goal: float) -> Row | None:
    """The fastest of the rows whose validation accuracy at the last epoch is surely at least `goal`: its 95 % interval.

    Where that is true of none, of those whose mean is. On the machine that trained most of them undisturbed: only what
    had it to itself says how fast.
    """
    machine = most_frequent(Machine.of(record) for row in rows for record in row.trained if is_undisturbed(record))
    seconds = {row: _undisturbed_s(row, machine) for row in rows}
    good = [row for row in rows if seconds[row] and _is_reached(row, goal)]
    sure = [row for row in good if stats.mean_interval(row.values(outcomes.validation_last)).low >= goal]
    return min(sure or good, key=lambda row: stats.mean(seconds[row]), default=None)


def _is_reached(row: Row, goal: float) -> bool:
    values = row.values(outcomes.validation_last)
    return bool(values) and stats.mean(values) >= goal


def _undisturbed_s(row: Row, machine: Machine | None = None) -> list[float]:
    """Training seconds of the seeds that had their machine to themselves; `machine`: of this one alone."""
    return [total for record in row.trained if is_undisturbed(record) and machine in (None, Machine.of(record))
            and (total := outcomes.train_s(record)) is not None]


def twin_of(chosen: Row, rows: Sequence[Row]) -> Row:
    """The row, one of `rows`, that differs in holding out no images."""
    config = chosen.cell.config
    on_all = msgspec.structs.replace(config, data=msgspec.structs.replace(config.data, validation_size=0))
    return next(row for row in rows if row.cell.config == on_all)
