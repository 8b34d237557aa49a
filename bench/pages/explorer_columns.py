"""The columns of the explorer's table, each a JSON object with one value per line. No torch.

Values are in the units of the titles: percent, points, milliseconds, MiB; null where unknown.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bench import frame, stats
from bench.formatting import NOISY, SHARED
from bench.inputs.decoding import tag_of
from bench.inputs.dotted import as_text
from bench.inputs.settings import every_setting
from bench.record import Record, SpeedRecord
from bench.records.identity import Numerics
from bench.records.machines import Machine
from bench.records.rows import Row
from fmnist_core.config import CellConfig, CitedModel, CustomModel, KernelDepthCNN, Network1, Network2

FILTERS = ("experiment", "model", "kernel_size", "depth", "precision", "status", "timing", "machine", "train_machine")
"""Columns with a list to choose from above the table."""


class Line(NamedTuple):
    """A cell on one machine; a cell that was not timed is a line too."""

    row: Row
    machine: Machine | None

    @property
    def timed(self) -> SpeedRecord | None:
        """What is shown of its timings on this machine."""
        return self.row.timed(self.machine) if self.machine else None


class Figure(NamedTuple):
    """A column of numbers, from one of `bench.frame`."""

    key: str
    title: str
    source: str
    factor: float = 1.0
    """From the frame's unit to the title's."""
    kind: str = "number"
    """How the page rounds it: `count`, `percent` (2 decimals), `number` (3 significant digits) or `plain`."""
    shown: bool = False
    """In the table before the reader chooses."""
    descends: bool = False
    """More is better: a first click sorts from the highest down."""
    clock: str = ""
    """The column of the machine that the figure was timed on; empty for what no machine decides."""


RESULTS = (
    Figure("test", "test, last epoch (%)", "test_last_mean", 100, "percent", shown=True, descends=True),
    Figure("validation", "validation, last epoch (%)", "validation_last_mean", 100, "percent", shown=True,
           descends=True),
    Figure("validation_best", "validation, best epoch (%)", "validation_best_mean", 100, "percent", descends=True),
    Figure("test_selected", "test, validation-selected (%)", "test_selected_mean", 100, "percent", descends=True),
    Figure("test_best", "best on test, no result (%)", "test_best_mean", 100, "percent", descends=True),
    Figure("train", "training images (%)", "train_last_mean", 100, "percent", descends=True),
    Figure("gap", "training less validation (points)", "gap_last_mean", 100, "percent"),
    Figure("reported_validation", "reported validation (%)", "reported_validation", 100, "percent", descends=True),
    Figure("reported_test", "reported test (%)", "reported_test", 100, "percent", descends=True),
    Figure("seeds", "seeds", "seeds", kind="count", shown=True, descends=True),
    Figure("failed", "seeds failed", "seeds_failed", kind="count", descends=True),
    Figure("missing", "seeds missing", "seeds_missing", kind="count", descends=True),
    Figure("parameters", "parameters", "num_parameters", kind="count", shown=True),
    Figure("multiply_adds", "multiply-adds per image", "multiply_adds", kind="count"),
)
TIMES = (
    Figure("images_per_s", "training (images/s)", "train_images_per_s", shown=True, descends=True, clock="machine"),
    Figure("step_ms", "median step (ms)", "step_s", 1e3, clock="machine"),
    Figure("first_step_s", "first step (s)", "first_step_s", clock="machine"),
    Figure("times_limit", "step / least possible", "times_limit", clock="machine"),
    Figure("inference_images_per_s", "inference (images/s)", "inference_images_per_s", descends=True, clock="machine"),
    Figure("inference_batch_size", "inference batch size", "inference_batch_size", kind="count"),
    Figure("latency_ms", "latency of one image (ms)", "latency_s", 1e3, clock="machine"),
    Figure("memory_mib", "peak memory (MiB)", "peak_memory_bytes", 2**-20),
    Figure("train_s", "training time (s)", "train_s", shown=True, clock="train_machine"),
)
SEVERAL = "several"
"""In the place of the machine that trained: seeds of several, or as one module and alone, have no time in common."""
STEP_TIMES = ("images_per_s", "step_ms", "times_limit")
"""The figures that noisy steps make noisy."""
MAX_TEXT = 2_000
"""Characters of a failure's reason."""
ZERO_IS_UNKNOWN = ("num_parameters", "multiply_adds")


def columns(lines: Sequence[Line], entries: Sequence[Mapping[str, Any]],
            names: Mapping[Machine, str]) -> list[dict[str, Any]]:
    """`entries` are the lines of `bench.frame.rows`, in the same order; `names`: of the machines, as in RESULTS.md."""
    used = {Machine.of(record) for line in lines for record in line.row.records}
    names = {machine: name for machine, name in names.items() if machine in used}
    return [*_head(lines), *_figures(RESULTS, entries), *_machines(lines, names), *_times(lines, entries, names),
            *_about(lines), *_circumstances(lines, entries), *_settings(lines)]


def failures(row: Row) -> list[str]:
    """What failed of a row and why, one text each."""
    trainings = [f"seed {one.seed}: {_status_and_reason(one)}" for one in row.failed]
    return trainings + [f"timing on {one.environment.device}: {_status_and_reason(one)}"
                        for one in row.speeds if one.status != "ok"]


def rounded(value: float, digits: int = 5) -> float | None:
    """To significant digits, which is all that a screen can show; None where it is no number."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def _head(lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
    yield _text("experiment", "experiment", [line.row.experiment.name for line in lines], shown=True)
    yield _text("cell", "cell", [line.row.label for line in lines], shown=True)


def _about(lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
    configs = [line.row.cell.config for line in lines]
    reasons = ["; ".join(failures(line.row)) for line in lines]
    yield _text("status", "status", [_status(line) for line in lines], shown=any(reasons), meaning=(
        "ok; waiting: no records; incomplete: seeds or the timing are missing; else what failed"))
    yield _text("reason", "reason", reasons, shown=any(reasons), meaning="why something failed")
    yield _text("model", "model", [_model(config) for config in configs])
    yield _text("kernel_size", "kernel size", [_kernel_size(config) for config in configs])
    yield {"key": "depth", "title": "depth", "kind": "count", "shown": False, "meaning": "number of convolutions",
           "values": [_depth(config) for config in configs]}


def _circumstances(lines: Sequence[Line], entries: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    yield _text("precision", "precision", [_precision(line.row) for line in lines],
                meaning="what was computed in, as observed")
    yield _text("device", "device timed", [_device(line.machine) for line in lines],
                meaning="that the times come from, the training time excepted")
    yield _text("timing", "timing", [_timing(entry) for entry in entries], meaning=(
        f"† IQR / median of the steps above {stats.NOISY:.0%}; ‡ other work ran beside, or it has a warning: no "
        "measurement of speed"))
    yield _text("dataset", "data set", [line.row.cell.config.data.dataset for line in lines])


def _machines(lines: Sequence[Line], names: Mapping[Machine, str]) -> Iterator[dict[str, Any]]:
    timed = [f"{names[line.machine]}: {line.machine}" if line.machine else "" for line in lines]
    yield _text("machine", "timed on", timed, shown=len(names) > 1 and any(timed), meaning=(
        "the machine that the throughput, steps, latency and memory come from"))
    texts = {machine: f"{name}: {machine}" for machine, name in names.items()}
    yield _text("train_machine", "trained on", [_trained_on(line.row, texts) for line in lines], meaning=(
        f"the machine that the training time comes from; {SEVERAL}: the seeds differ in it, or in how many were "
        "trained as one module, and have none in common"))


def _times(
    lines: Sequence[Line], entries: Sequence[Mapping[str, Any]], names: Mapping[Machine, str]
) -> Iterator[dict[str, Any]]:
    """With the marks that stand behind the values: † and ‡, and at a training time, where there are several machines,
    the one that it was taken on, since it need not be the one of the other times."""
    for column in _figures(TIMES, entries):
        if column["key"] == "train_s":
            marks = [_training_marks(line.row, entry, names) for line, entry in zip(lines, entries, strict=True)]
        else:
            marks = [_timing_marks(entry, column["key"]) if column["clock"] else "" for entry in entries]
        yield {**column, "marks": marks} if any(marks) else column


def _training_marks(row: Row, entry: Mapping[str, Any], names: Mapping[Machine, str]) -> str:
    where = _trained_on(row, names) if len(names) > 1 else ""
    conditions = row.trained_in
    together = f" for {conditions.fused_seeds} seeds" if conditions and conditions.fused_seeds > 1 else ""
    return (SHARED if entry["train_s_shared"] is True else "") + together + (f" on {where}" if where else "")


def _timing_marks(entry: Mapping[str, Any], key: str) -> str:
    noisy = key in STEP_TIMES and entry["train_noisy"] is True
    return (NOISY if noisy else "") + (SHARED if entry["machine_shared"] is True else "")


def _figures(figures: Sequence[Figure], entries: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for figure in figures:
        column = {"key": figure.key, "title": figure.title, "kind": figure.kind, "shown": figure.shown,
                  "descends": figure.descends, "clock": figure.clock, "meaning": frame.COLUMNS[figure.source]}
        stem = figure.source.removesuffix("_mean")
        parts = {"values": figure.source, "sd": f"{stem}_sd", "low": f"{stem}_low", "high": f"{stem}_high"}
        for part, name in parts.items():
            if name in frame.COLUMNS:
                digits = 17 if figure.kind == "count" else 8
                scaled = [rounded(figure.factor * entry[name], digits) for entry in entries]
                column[part] = [value or None for value in scaled] if figure.source in ZERO_IS_UNKNOWN else scaled
        yield column


def _settings(lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
    """The settings in which cells differ, by dotted key; nothing where a cell's model has no such setting."""
    settings = [every_setting(line.row.cell.config) for line in lines]
    for key in dict.fromkeys(key for one in settings for key in one if key != "model.name"):  # the column `model`
        values = [one.get(key) for one in settings]
        if len({repr(value) for value in values if value is not None}) < 2:
            continue
        if all(value is None or type(value) in (int, float) for value in values):
            yield {"key": key, "title": key, "kind": "plain", "shown": False, "meaning": "setting", "values": values}
        else:
            yield _text(key, key, ["" if value is None else as_text(value) for value in values], meaning="setting")


def _text(key: str, title: str, values: Sequence[str], *, shown: bool = False, meaning: str = "") -> dict[str, Any]:
    """Each text once: `values` are positions in `levels`; null stands for nothing."""
    place = {value: i for i, value in enumerate(dict.fromkeys(value for value in values if value))}
    return {"key": key, "title": title, "kind": "text", "shown": shown, "meaning": meaning, "levels": list(place),
            "values": [place.get(value) for value in values]}


def _status_and_reason(record: Record) -> str:
    return f"{record.status}: {record.reason[:MAX_TEXT]}" if record.reason else record.status


def _status(line: Line) -> str:
    row = line.row
    failed = {str(one.status) for one in row.records} - {"ok"}
    if failed:
        return ", ".join(sorted(failed))
    if not row.trained and not row.speeds:
        return "waiting"
    to_time = row.experiment.timings and row.cell.has_steps
    return "incomplete" if row.num_missing or (to_time and not line.machine) else "ok"


def _timing(entry: Mapping[str, Any]) -> str:
    if not entry["machine"]:
        return ""
    marks = _timing_marks(entry, "step_ms")
    return f"{marks} {', '.join(['noisy'] * (NOISY in marks) + ['shared'] * (SHARED in marks))}" if marks else "quiet"


def _trained_on(row: Row, names: Mapping[Machine, str]) -> str:
    """Of the finished seeds, whose median is the training time."""
    if not row.trained:
        return ""
    return names[row.trained_in.machine] if row.trained_in else SEVERAL


def _device(machine: Machine | None) -> str:
    return "" if machine is None else machine.hardware


def _model(config: CellConfig) -> str:
    model = config.model
    if isinstance(model, CitedModel):
        return model.system
    return model.factory if isinstance(model, CustomModel) else tag_of(type(model))


def _kernel_size(config: CellConfig) -> str:
    model = config.model
    if isinstance(model, Network1 | Network2):
        return " then ".join(map(str, dict.fromkeys((model.conv1_kernel_size, model.conv2_kernel_size))))
    return str(model.kernel_size) if isinstance(model, KernelDepthCNN) else ""


def _depth(config: CellConfig) -> int | None:
    if isinstance(config.model, KernelDepthCNN):
        return config.model.depth
    return 2 if isinstance(config.model, Network1 | Network2) else None


def _precision(row: Row) -> str:
    observed = [Numerics.of(one) for one in row.records if one.status == "ok"]
    return str(observed[0]) if observed else ""
