"""The tables of an experiment: what was learnt, how fast it runs, and which settings differ. No torch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bench import stats
from bench.formatting import (
    ELSEWHEN,
    NOISY,
    NOTHING,
    SHARED,
    as_printed,
    code,
    count,
    escape,
    estimate,
    plural,
    significant,
    table,
    without_empty_columns,
)
from bench.inputs.dotted import as_written, flatten
from bench.inputs.settings import known_keys, varied
from bench.record import SpeedRecord
from bench.records import outcomes, timings
from bench.records.identity import Numerics
from bench.records.machines import Machine, by_conditions, most_frequent
from bench.records.rows import Row, memory_formats
from fmnist_core.model_config import Baseline

MOST_LISTED = 6
"""Members of a setting that is a list; longer ones are cut."""
SHORT_COMMIT = 8
"""Digits."""
MAIN_SETTINGS = ("model.name", "train.epochs", "train.global_batch_size", "train.optimizer", "train.learning_rate")


def accuracy_table(rows: Sequence[Row], names: Mapping[Machine, str]) -> str:
    """One row per cell. Reported figures have columns where any cell of the table has them.

    Training times name their machine, one of `names`: in the head where it is the same for all.
    """
    machines = {Machine.of(record) for row in rows for record in row.trained}
    where = f" on {names[next(iter(machines))]}" if len(machines) == 1 else ""
    reports_validation = any(row.cell.reported.validation_accuracy is not None for row in rows)
    reports_test = any(row.cell.reported.test_accuracy is not None for row in rows)
    headers = ["cell", "seeds", *["reported validation"] * reports_validation, "validation, last epoch",
               "validation, best epoch", *["reported test"] * reports_test, "test, last epoch",
               "test, validation-selected", "best on test (not a result)", "training images",
               f"training time{where} (s)"]
    body = []
    for row in rows:
        reported = row.cell.reported
        measured = [outcomes.validation_last, outcomes.validation_best, outcomes.test_last, outcomes.test_selected,
                    outcomes.test_best, outcomes.train_last]
        figures = [estimate(row.values(outcome)) for outcome in measured]
        body.append([escape(row.label), seeds_text(row),
                     *[as_printed(reported.validation_accuracy)] * reports_validation, *figures[:2],
                     *[as_printed(reported.test_accuracy)] * reports_test, *figures[2:],
                     training_time(row, {} if where else names)])
    return table(headers, body, text_columns=2)


def seeds_text(row: Row) -> str:
    """How many seeds are there, how many more the experiment asks for, and what became of the others."""
    parts = [str(len(row.trained))] if row.trained else []
    if row.waits:
        return f"waiting ({row.num_missing})" if row.num_missing else "0"
    parts += [f"{row.num_missing} waiting"] if row.num_missing else []
    for status in dict.fromkeys(record.status for record in row.failed):
        parts.append(f"{sum(record.status == status for record in row.failed)} {status}")
    return ", ".join(parts)


def failures(rows: Sequence[Row]) -> list[str]:
    """One line for each way in which a cell failed, with the number of seeds and the reason."""
    lines = []
    for row in rows:
        reasons: dict[tuple[str, str], list[int]] = {}
        for record in row.failed:
            reasons.setdefault((record.status, record.reason), []).append(record.seed)
        for (status, reason), seeds in reasons.items():
            lines.append(f"- {escape(row.label)}: {status}, {plural(len(seeds), 'seed')} (first: {seeds[0]}): "
                         f"{escape(reason) or 'no reason recorded'}")
        for speed in row.speeds:
            if speed.status != "ok":
                lines.append(f"- {escape(row.label)}, timing on {escape(Machine.of(speed))}: {speed.status}: "
                             f"{escape(speed.reason) or 'no reason recorded'}")
    return lines


def speed_table(rows: Sequence[Row], machine: Machine) -> str:
    """One row per cell that is timed on one machine; marked where at another commit than `main_commit`."""
    headers = ["cell", "parameters", "multiply-adds", "training (images/s)", "timings", "step (ms)", "step, IQR (ms)",
               "step, p99 (ms)", "batch (ms)", "step / least possible", "first step (s)", "evaluation (s)",
               "inference (images/s)", "latency of one image (ms)", "memory (MB)", "operators a step"]
    timed = [(row, speed) for row in rows if (speed := row.timed(machine))]
    commit = main_commit([speed for _, speed in timed])
    body = [[escape(row.label), count(row.num_parameters), count(row.multiply_adds),
             *_speed_figures(speed, timings.training(row.timings(machine)), commit)] for row, speed in timed]
    return table(*without_empty_columns(headers, body, kept=5))


def main_commit(speeds: Sequence[SpeedRecord]) -> str:
    """The one at which most were timed: another may have made the code faster or slower."""
    return most_frequent(speed.environment.commit for speed in speeds) or ""


def timed_when(speeds: Sequence[SpeedRecord]) -> str:
    """e.g. timed on 2026-11-22 at commit 1a2b3c4d; those of other commits are marked in the table."""
    main = main_commit(speeds)
    days = sorted({speed.started_at[:10] for speed in speeds
                   if speed.started_at and speed.environment.commit == main})
    on = f" on {escape(' to '.join(dict.fromkeys([days[0], days[-1]])))}" if days else ""
    return f"timed{on}" + (f" at commit {code(main[:SHORT_COMMIT])}" if main else "")


def _speed_figures(speed: SpeedRecord, rate: stats.Throughput, commit: str) -> list[str]:
    """`speed`: the middle one of the timings that the rate is of."""
    step = stats.summarize(speed.step_s)
    mark = ((NOISY if rate.noisy else "") + (SHARED if timings.was_disturbed(speed) else "")
            + (ELSEWHEN if speed.environment.commit != commit else ""))
    return [
        f"{significant(rate.images_per_s)}{_interval(rate)}{mark}",
        str(rate.n),
        *(significant(1000 * seconds) for seconds in (step.median, step.iqr, step.p99)),
        _median(speed.batch_s, 1000),
        significant(timings.over_limit(speed)),
        significant(speed.first_step_s) if speed.first_step_s else NOTHING,
        _median(speed.evaluate_s),
        inference_text(speed),
        _median(timings.latency_s(speed), 1000),
        _memory(speed),
        f"{count(speed.operators_per_step)} ({speed.host_syncs_per_step})" if speed.operators_per_step else NOTHING,
    ]


def _interval(rate: stats.Throughput) -> str:
    return "" if math.isnan(rate.low) else f" [{significant(rate.low)}, {significant(rate.high)}]"


def inference_text(speed: SpeedRecord) -> str:
    return "; ".join(f"{significant(rate.images_per_s)}{NOISY if rate.noisy else ''} (batch {batch_size:,})"
                     for batch_size, rate in timings.inference(speed).items()) or NOTHING


def labels_text(speeds: Sequence[SpeedRecord]) -> str:
    """What was in effect; where the rows of a table differ in it, that they do."""
    facts = {
        "precision": {str(Numerics.of(s)) for s in speeds},
        "weights": memory_formats(s.labels.weight_memory_format for s in speeds),
        "activations": memory_formats(s.labels.activation_memory_format for s in speeds),
        "execution": {_execution(s) for s in speeds},
    }
    texts = [f"{name} {escape(values.pop())}" if len(values) == 1 else
             f"**{name} differ: {escape(', '.join(sorted(values)))}; such rows are not comparable**"
             for name, values in facts.items()]
    return "; ".join(texts)


def settings_table(rows: Sequence[Row]) -> str:
    """The keys in which the cells differ, one column each; empty where they differ in none."""
    cells = list({id(row.cell): row for row in rows}.values())
    keys = varied([{key: row.setting(key) for key in known_keys(row.cell.config)} for row in cells])
    body = [[escape(row.cell.label), *(_show(row.setting(key), key) for key in keys)] for row in cells]
    return table(["cell", *map(code, keys)], body) if keys else ""


def shared_settings(rows: Sequence[Row]) -> str:
    """The settings that all cells share, as `key = value`: the main ones, and every other that is not the default."""
    main = [{key: row.setting(key) for key in _main_settings(row)} for row in rows]
    settings = [own | as_written(flatten(msgspec.to_builtins(row.cell.config)))
                for own, row in zip(main, rows, strict=True)]
    return ", ".join(f"{code(key)} = {_show(value, key)}" for key, value in settings[0].items()
                     if all(other.get(key) == value for other in settings))


def _main_settings(row: Row) -> Sequence[str]:
    """A model that is no network is fitted once: it has none of the others."""
    return MAIN_SETTINGS[:1] if isinstance(row.cell.config.model, Baseline) else MAIN_SETTINGS


def training_time(row: Row, names: Mapping[Machine, str]) -> str:
    """Median over seeds, for each machine, disturbed or not, and number of seeds as one module; named by `names`."""
    texts = []
    for (machine, disturbed, fused), records in by_conditions(row.trained).items():
        seconds = [total for record in records if (total := outcomes.train_s(record)) is not None]
        if seconds:
            together = f" for {fused} seeds" if fused > 1 else ""
            where = f" on {names[machine]}" if names else ""
            mark = SHARED if disturbed else ""
            texts.append(f"{significant(stats.median(seconds))}{mark}{together}{where}")
    return "; ".join(texts) or NOTHING


def _median(samples: Sequence[float], scale: float = 1.0) -> str:
    if not samples:
        return NOTHING
    summary = stats.summarize(samples)
    return significant(scale * summary.median) + (NOISY if summary.noisy else "")


def _memory(speed: SpeedRecord) -> str:
    """Allocated (reserved)."""
    megabytes = lambda num_bytes: significant(num_bytes / 1e6) if num_bytes else NOTHING
    reserved = f" ({megabytes(speed.reserved_memory_bytes)})" if speed.reserved_memory_bytes else ""
    return megabytes(speed.peak_memory_bytes) + reserved


def _execution(speed: SpeedRecord) -> str:
    if speed.labels.captured:
        return "compiled, captured" if speed.labels.compiled else "captured"
    return "compiled" if speed.labels.compiled else "eager"


def _show(value: Any, key: str = "") -> str:
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "train.precision" and value == "no":
        return "no (float32)"  # Accelerate's word for it
    if isinstance(value, dict):
        return ", ".join(f"{escape(key)} {_show(one)}" for key, one in value.items()) or "none"
    if not isinstance(value, list | tuple):
        return escape(value)
    rest = f" ... ({len(value)} in all)" if len(value) > MOST_LISTED else ""
    return escape(" ".join(map(str, value[:MOST_LISTED])) or "none") + rest
