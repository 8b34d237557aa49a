"""Training time to a target accuracy, from stored histories. No torch.

The clock is the sum of the training seconds of the epochs up to and including the first whose validation accuracy
reaches the target. Evaluation, set-up and checkpoints are off it; what the first epoch has beyond the others (the first
step, compilation, capture) is on it. Both are stated beside. A cell without a validation set is judged by its last
epoch's test accuracy: no epoch is chosen by the test set.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bench import stats
from bench.formatting import NOTHING, SHARED, escape, interval_text, percent, significant, table, without_empty_columns
from bench.record import TrainRecord
from bench.records.machines import Conditions, Machine, by_conditions
from bench.records.rows import Row

BY_TEST = "¶"
"""Marks a target that was judged by the last epoch's test accuracy."""


class Reached(NamedTuple):
    epochs: int
    train_s: float


def time_to(record: TrainRecord, target: float) -> Reached | None:
    """None where the training never reached it. `target`: a fraction."""
    epochs = record.epochs
    by_epoch = epochs.validation_accuracy or [0.0] * (len(epochs.test_accuracy) - 1) + epochs.test_accuracy[-1:]
    first = next((i for i, accuracy in enumerate(by_epoch, start=1) if accuracy >= target), None)
    return None if first is None else Reached(first, sum(epochs.train_s[:first]))


def targets_table(rows: Sequence[Row], targets: Sequence[float], names: Mapping[Machine, str]) -> str:
    """A row for each cell, target, and machine with its conditions; empty without trainings or targets."""
    body = [_line(row, target, conditions, records, names) for row in rows for target in targets
            for conditions, records in by_conditions(_timed(row)).items()]
    headers = ["cell", "target (%)", "on", "reached by", "training time to it (s)", "epochs to it",
               "first epoch beyond the others (s)", "off the clock (s)"]
    return table(*without_empty_columns(headers, body, kept=6), text_columns=4) if body else ""


def _line(row: Row, target: float, conditions: Conditions, records: Sequence[TrainRecord],
          names: Mapping[Machine, str]) -> list[str]:
    reached = [one for record in records if (one := time_to(record, target))]
    by_test = BY_TEST if any(not record.epochs.validation_accuracy for record in records) else ""
    where = names[conditions.machine] + (SHARED if conditions.disturbed else "")
    together = f", {conditions.fused_seeds} seeds as one module" if conditions.fused_seeds > 1 else ""
    seconds = seconds_text([one.train_s for one in reached])
    if 0 < len(reached) < len(records):
        seconds += f", of the {len(reached)} that reached it"
    return [escape(row.label), percent(target, 1) + by_test, where + together, f"{len(reached)} of {len(records)}",
            seconds, _range([one.epochs for one in reached]),
            NOTHING if conditions.disturbed else _median(first_epoch_surplus_s(records)), _median(_off(records))]


def _timed(row: Row) -> Iterator[TrainRecord]:
    """Trainings that have the seconds of each epoch."""
    return (record for record in row.trained if record.epochs.train_s
            and len(record.epochs.train_s) >= max(len(record.epochs.validation_accuracy), 1))


def seconds_text(values: Sequence[float]) -> str:
    """mean ± sd [95 % interval of the mean, which no time below 0 belongs to]; of two values no interval."""
    if len(values) < 2:
        return significant(values[0]) if values else NOTHING
    summary = stats.summarize(values)
    return f"{significant(summary.mean)} ± {significant(summary.sd)}{interval_text(values, significant, 0.0)}"


def _range(values: Sequence[int]) -> str:
    if not values:
        return NOTHING
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def first_epoch_surplus_s(records: Iterable[TrainRecord]) -> list[float]:
    """What the first epoch has beyond the median of the others, of trainings on a GPU that have others.

    There it compiles and captures; on a CPU it is noise.
    """
    seconds = [record.epochs.train_s for record in records if record.environment.device != "cpu"]
    return [one[0] - stats.median(one[1:]) for one in seconds if len(one) > 1]


def _off(records: Sequence[TrainRecord]) -> list[float]:
    """Of the whole training, not only up to the target."""
    return [record.wall_s - sum(record.epochs.train_s) for record in records if record.wall_s]


def _median(values: Sequence[float]) -> str:
    return significant(stats.median(values)) if values else NOTHING
