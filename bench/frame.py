"""Results as a pandas DataFrame: `load("experiments/results")`. No torch.

One row per cell and machine: a cell that was timed on two machines has two rows, one that was timed on none has one.
Cells without records are rows too, with 0 seeds. So are records of cells that no experiment has (made with --set or
with a TOML file of one's own): their experiment is called `NAME, other cells`, after the one that ran them, with the
data set in brackets where it is not Fashion-MNIST. `COLUMNS` says what each column holds.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench import experiment, stats
from bench.experiment import Experiment
from bench.inputs.dotted import flatten
from bench.record import Record, SpeedRecord
from bench.records import outcomes, timings, unlisted
from bench.records.machines import Machine
from bench.records.rows import Results, Row, collect
from bench.store import read
from fmnist_core.config import to_dict

OUTCOMES = {
    "validation_last": (outcomes.validation_last, "validation accuracy after the last epoch"),
    "validation_best": (outcomes.validation_best, "highest validation accuracy over the epochs"),
    "test_last": (outcomes.test_last, "test accuracy after the last epoch"),
    "test_selected": (outcomes.test_selected, "test accuracy at the epoch with the highest validation accuracy"),
    "test_best": (outcomes.test_best, "highest test accuracy over the epochs: chosen by the test set, no result"),
    "train_last": (outcomes.train_last, "accuracy on the first 10,000 training images after the last epoch"),
    "gap_last": (outcomes.gap_last, "train_last less validation_last"),
}
"""To the outcome and its meaning: four columns each."""
COLUMNS = {
    "experiment": "name of the experiment; `NAME, other cells` where no experiment has the cell",
    "cell": "its label",
    "config": "the settings that are not the defaults, by dotted key",
    "dataset": "name of the data set",
    "arithmetic": "what the seeds computed in, as observed; empty without records",
    "seeds": "finished seeds",
    "seeds_failed": "seeds that failed",
    "seeds_missing": "seeds that the experiment asks for and that have no record",
    "reported_validation": "validation accuracy that the report gives, fraction",
    "reported_test": "test accuracy that the report gives, fraction",
    **{f"{name}_{part}": f"{text}, {what}"
       for name, (_, text) in OUTCOMES.items()
       for part, what in {"mean": "mean over seeds, fraction", "sd": "standard deviation over seeds, fraction",
                          "low": "lower end of the mean's 95 % interval",
                          "high": "upper end of the mean's 95 % interval"}.items()},
    "train_s": "median over seeds of the seconds spent training, evaluation excluded; NaN where seeds differ in the "
               "machine or in how many were trained as one module",
    "train_fused_seeds": "seeds that were trained as one module: `train_s` is of all of them together",
    "train_machine": "the machine of those trainings; empty where `train_s` has no median",
    "train_s_shared": "whether other work disturbed any of those trainings, or one was taken up again after a stop",
    "num_parameters": "trainable parameters; 0 where unknown",
    "multiply_adds": "of one image's forward pass; 0 where unknown",
    "machine": "the machine that the times below come from; empty without any",
    "train_images_per_s": "training throughput: images per step by the median time of a step and its batch; of "
                          "several timings the geometric mean",
    "train_images_per_s_low": "lower end of its 95 % interval over timings; NaN for fewer than three",
    "train_images_per_s_high": "upper end of its 95 % interval",
    "timings": "timings that it is the mean of",
    "train_noisy": "whether IQR / median of these times is above 10 %",
    "machine_shared": "whether other work ran beside the timing, or it has a warning",
    "step_s": "median training step, seconds; this and what follows of the middle timing",
    "first_step_s": "the first training step, seconds",
    "inference_images_per_s": "highest inference throughput over the batch sizes above one image",
    "inference_batch_size": "the batch size with that throughput",
    "latency_s": "median forward pass of one image, seconds",
    "peak_memory_bytes": "most bytes of tensors alive at once in training",
    "reserved_memory_bytes": "what the allocator took from the system for them",
    "times_limit": "median step over the least time that the machine's ceilings allow",
}


def load(folder: str | Path, experiments: Sequence[str] | None = None) -> pd.DataFrame:
    """The records of a store, joined to experiments: to those named (or paths of TOML files), and to no others.

    By default to those of the project that were run, with rows for the records of other cells too. Raises ValueError
    for an unknown experiment or a store that is not there or cannot be read.
    """
    records = read(folder)
    if experiments is not None:
        return rows(records, experiment.load_all(experiments))
    were_run = {record.experiment for record in records}
    ours = [experiment.load(name) for name in experiment.names() if name in were_run]
    return of(with_others(records, ours).every_row)


def with_others(records: Sequence[Record], experiments: Sequence[Experiment]) -> Results:
    """Records joined to the experiments, and after them to the cells that none of them has."""
    others = unlisted.experiments(collect(records, experiments), most=None)
    return collect(records, [*experiments, *others])


def rows(records: Iterable[Record], experiments: Sequence[Experiment]) -> pd.DataFrame:
    """One row per cell and machine, with the columns of `COLUMNS`; what is not known is NaN."""
    return of(collect(records, experiments).every_row)


def of(cells: Iterable[Row]) -> pd.DataFrame:
    """The same, of cells that are joined to their records already."""
    return pd.DataFrame([_entry(row, machine) for row in cells for machine in row.timed_on], columns=list(COLUMNS))


def _entry(row: Row, machine: Machine | None) -> dict[str, Any]:
    reported = row.cell.reported
    entry: dict[str, Any] = {
        "experiment": row.experiment.name, "cell": row.label, "config": flatten(to_dict(row.cell.config)),
        "dataset": row.cell.config.data.dataset, "arithmetic": str(row.numerics) if row.numerics else "",
        "seeds": len(row.trained), "seeds_failed": len(row.failed), "seeds_missing": row.num_missing,
        "reported_validation": _or_nan(reported.validation_accuracy), "reported_test": _or_nan(reported.test_accuracy),
        "num_parameters": row.num_parameters, "multiply_adds": row.multiply_adds,
        "machine": str(machine) if machine else "",
    }
    for name, (outcome, _) in OUTCOMES.items():
        if values := row.values(outcome):
            summary, (low, high) = stats.summarize(values), stats.mean_interval(values)
            entry |= {f"{name}_mean": summary.mean, f"{name}_sd": summary.sd, f"{name}_low": low, f"{name}_high": high}
    entry["train_machine"] = ""
    if conditions := row.trained_in:
        entry |= {"train_machine": str(conditions.machine), "train_fused_seeds": conditions.fused_seeds}
        if seconds := row.values(outcomes.train_s):
            entry |= {"train_s": stats.median(seconds), "train_s_shared": conditions.disturbed}
    speed = row.timed(machine) if machine else None
    return entry | (_times(speed, timings.training(row.timings(machine))) if speed and machine else {})


def _times(speed: SpeedRecord, rate: stats.Throughput) -> dict[str, Any]:
    median = stats.median(speed.step_s)
    rates = [(rate.images_per_s, size) for size, rate in timings.inference(speed).items()]
    best, batch_size = max(rates, default=(math.nan, math.nan))
    latency = timings.latency_s(speed)
    return {
        "train_images_per_s": rate.images_per_s, "train_images_per_s_low": rate.low,
        "train_images_per_s_high": rate.high, "timings": rate.n, "train_noisy": rate.noisy,
        "machine_shared": timings.was_disturbed(speed), "step_s": median,
        "first_step_s": speed.first_step_s or math.nan,
        "inference_images_per_s": best, "inference_batch_size": batch_size,
        "latency_s": stats.median(latency) if latency else math.nan,
        "peak_memory_bytes": speed.peak_memory_bytes or math.nan,
        "reserved_memory_bytes": speed.reserved_memory_bytes or math.nan,
        "times_limit": timings.over_limit(speed),
    }


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
