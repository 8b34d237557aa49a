"""The columns of the explorer's table, each a JSON object with one value per line. No torch.

Values are in the units of the titles: percent, points, milliseconds, MiB; null where unknown.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bench import frame, stats
from bench.dotted import as_written
from bench.record import Record
from bench.reproduce import records_of
from bench.rows import Machine, Numerics, Row
from fmnist_core.config import CellConfig, CitedModel, CustomModel, KernelDepthCNN, Network1, Network2

FILTERS = ("experiment", "model", "kernel_size", "depth", "precision", "status", "timing", "machine")
"""Columns with a list to choose from above the table."""


class Line(NamedTuple):
    """A cell on one machine; a cell that was not timed is a line too."""

    row: Row
    machine: Machine | None


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


FIGURES = (
    Figure("seeds", "seeds", "seeds", kind="count", shown=True),
    Figure("failed", "seeds failed", "seeds_failed", kind="count"),
    Figure("missing", "seeds missing", "seeds_missing", kind="count"),
    Figure("test", "test, last epoch (%)", "test_last_mean", 100, "percent", shown=True),
    Figure("validation", "validation, last epoch (%)", "validation_last_mean", 100, "percent", shown=True),
    Figure("validation_best", "validation, best epoch (%)", "validation_best_mean", 100, "percent"),
    Figure("test_selected", "test, validation-selected (%)", "test_selected_mean", 100, "percent"),
    Figure("test_best", "best on test, no result (%)", "test_best_mean", 100, "percent"),
    Figure("train", "training images (%)", "train_last_mean", 100, "percent"),
    Figure("gap", "training less validation (points)", "gap_last_mean", 100, "percent"),
    Figure("reported_validation", "reported validation (%)", "reported_validation", 100, "percent"),
    Figure("reported_test", "reported test (%)", "reported_test", 100, "percent"),
    Figure("parameters", "parameters", "num_parameters", kind="count", shown=True),
    Figure("multiply_adds", "multiply-adds per image", "multiply_adds", kind="count"),
    Figure("images_per_s", "training (images/s)", "train_images_per_s", shown=True),
    Figure("step_ms", "median step (ms)", "step_s", 1e3, shown=True),
    Figure("first_step_s", "first step (s)", "first_step_s"),
    Figure("times_limit", "times the limit", "times_limit"),
    Figure("inference_images_per_s", "inference (images/s)", "inference_images_per_s"),
    Figure("inference_batch_size", "inference batch size", "inference_batch_size", kind="count"),
    Figure("latency_ms", "latency of one image (ms)", "latency_s", 1e3),
    Figure("memory_mib", "peak memory (MiB)", "peak_memory_bytes", 2**-20),
    Figure("train_s", "training time (s)", "train_s"),
)
MAX_TEXT = 2_000
"""Characters of a failure's reason."""
ZERO_IS_UNKNOWN = ("num_parameters", "multiply_adds")


def columns(lines: Sequence[Line], entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`entries` are the lines of `bench.frame.rows`, in the same order."""
    return [*_about(lines), *_figures(entries), *_circumstances(lines), *_settings(lines)]


def failures(row: Row) -> list[str]:
    """What failed of a row and why, one text each."""
    trainings = [f"seed {one.seed}: {_status_and_reason(one)}" for one in row.failed]
    return trainings + [f"timing on {one.environment.device}: {_status_and_reason(one)}"
                        for one in row.speeds if one.status != "ok"]


def rounded(value: float, digits: int = 5) -> float | None:
    """To significant digits, which is all that a screen can show; None where it is no number."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def show(value: Any) -> str:
    """A setting as text."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _about(lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
    configs = [line.row.cell.config for line in lines]
    yield _text("experiment", "experiment", [line.row.experiment.name for line in lines], shown=True)
    yield _text("cell", "cell", [line.row.label or "cell" for line in lines], shown=True)
    yield _text("status", "status", [_status(line) for line in lines], shown=True, meaning=(
        "ok; waiting: no records; incomplete: seeds or the timing are missing; else what failed"))
    reasons = ["; ".join(failures(line.row)) for line in lines]
    yield _text("reason", "reason", reasons, shown=any(reasons), meaning="why something failed")
    yield _text("model", "model", [_model(config) for config in configs])
    yield _text("kernel_size", "kernel size", [_kernel_size(config) for config in configs], shown=True)
    yield {"key": "depth", "title": "depth", "kind": "count", "shown": True, "meaning": "number of convolutions",
           "values": [_depth(config) for config in configs]}


def _circumstances(lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
    yield _text("precision", "precision", [_precision(line.row) for line in lines],
                meaning="what was computed in, as observed")
    devices = [_device(line.machine) for line in lines]
    yield _text("device", "device", devices, shown=len({*devices} - {""}) > 1, meaning="that the times come from")
    yield _text("timing", "timing", [_timing(line) for line in lines], meaning=(
        f"† IQR / median of the steps above {stats.NOISY:.0%}; ‡ other work ran beside: no measurement of speed"))
    yield _text("machine", "machine", [str(line.machine or "") for line in lines], meaning=frame.COLUMNS["machine"])
    yield _text("dataset", "data set", [line.row.cell.config.data.dataset for line in lines])


def _figures(entries: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for figure in FIGURES:
        column = {"key": figure.key, "title": figure.title, "kind": figure.kind, "shown": figure.shown,
                  "meaning": frame.COLUMNS[figure.source]}
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
    settings = [_every_setting(line.row.cell.config) for line in lines]
    for key in dict.fromkeys(key for one in settings for key in one):
        values = [one.get(key) for one in settings]
        if len({repr(value) for value in values if value is not None}) < 2:
            continue
        if all(value is None or type(value) in (int, float) for value in values):
            yield {"key": key, "title": key, "kind": "plain", "shown": False, "meaning": "setting", "values": values}
        else:
            yield _text(key, key, ["" if value is None else show(value) for value in values], meaning="setting")


def _every_setting(config: CellConfig) -> dict[str, Any]:
    """Defaults too, by dotted key; options of a model one by one."""
    flat: dict[str, Any] = {}
    for name in config.__struct_fields__:
        section = getattr(config, name)
        for key in section.__struct_fields__:
            value = getattr(section, key)
            flat |= {f"{name}.{key}.{k}": v for k, v in value.items()} if key == "options" else {f"{name}.{key}": value}
    return as_written(flat)


def _text(key: str, title: str, values: Sequence[str], *, shown: bool = False, meaning: str = "") -> dict[str, Any]:
    """Each text once: `values` are positions in `levels`; null stands for nothing."""
    place = {value: i for i, value in enumerate(dict.fromkeys(value for value in values if value))}
    return {"key": key, "title": title, "kind": "text", "shown": shown, "meaning": meaning, "levels": list(place),
            "values": [place.get(value) for value in values]}


def _status_and_reason(record: Record) -> str:
    return f"{record.status}: {record.reason[:MAX_TEXT]}" if record.reason else record.status


def _status(line: Line) -> str:
    row = line.row
    failed = {str(one.status) for one in records_of(row)} - {"ok"}
    if failed:
        return ", ".join(sorted(failed))
    if not row.trained and not row.speeds:
        return "waiting"
    return "incomplete" if row.num_missing or (row.experiment.measure and not line.machine) else "ok"


def _timing(line: Line) -> str:
    speed = line.row.timed(line.machine) if line.machine else None
    if speed is None:
        return ""
    noisy = stats.throughput(speed.images_per_step, speed.step_s).noisy
    shared = speed.labels.machine_shared
    return {(False, False): "quiet", (True, False): "† noisy", (False, True): "‡ shared",
            (True, True): "†‡ noisy, shared"}[noisy, shared]


def _device(machine: Machine | None) -> str:
    return "" if machine is None else machine.cpu if machine.device == "cpu" else machine.device


def _model(config: CellConfig) -> str:
    model = config.model
    if isinstance(model, CitedModel):
        return model.system
    return model.factory if isinstance(model, CustomModel) else str(type(model).__struct_config__.tag)


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
    observed = [Numerics.of(one) for one in records_of(row) if one.status == "ok"]
    return str(observed[0]) if observed else ""
