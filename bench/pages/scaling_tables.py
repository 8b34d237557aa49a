"""What processes that share a batch gain: measured beside predicted, and predicted for many GPUs. No torch."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from bench import experiment, stats
from bench.formatting import NOTHING, escape, significant, table
from bench.pages.drawing import COLOURS, LINES, MARKERS, WIDTH, number, number_axis, say_waiting
from bench.pages.side_tables import images_per_s
from bench.records.machines import Machine
from bench.records.rows import Results
from bench.records.side_records import AXES, Axis, Point, Scaling
from bench.timing.scaling_model import (
    StepCost,
    break_even_s,
    fit_link,
    fit_step,
    least_compute_s,
    link_between,
    shared_step_s,
)
from fmnist_core.config import input_shape
from fmnist_core.models.layers import multiply_adds, num_parameters
from fmnist_core.models.networks import layers_of

GPU_COUNTS = (2, 8, 64)
NETWORKS = (("final", 0), ("table_1_1", 0), ("table_1_1", -1), ("table_1_2", -1))
"""Experiment, and which of its cells: the final network, and the smallest and largest of the tables."""
PANELS: dict[Axis, tuple[str, str, bool]] = {
    "global_batch_size": ("Batch size", "images of a batch", True),
    "width": ("Width of the network", "width (channels)", True),
    "fused seeds": ("Fused seeds: sum over seeds", "fused seeds", False),
    "processes, cells": ("Processes, a thread or GPU each: sum over them", "processes", False)}
"""To title, label of the axis, and whether a line is drawn: not between counts."""

WHAT_IS_PREDICTED = """\
**Processes that share a batch.** A step is modelled as a fixed part, a part in proportion to the images of a process,
and an all-reduce of the gradient, nothing overlapping; the parts are fitted to the batch sizes and all-reduces measured
above, so that the steps of DDP below are predictions, set beside what was measured."""

WHAT_IS_ASSUMED = """\
**GPUs: a prediction, not a measurement.** All-reduces by NCCL's own cost model of a ring, with the bandwidths of data
sheets: NVLink 4 within 8 GPUs, InfiniBand NDR beyond. A step gains by sharing its batch only if the part of it that
shrinks with the batch computes longer than the *break-even*; *peak* is the least that the multiply-adds of the step
take at an H100's float32 peak, and the last columns say below which share of that peak the network must compute for
n GPUs to pay at all. More than 100 %: they pay at any speed."""


def render(scaling: Scaling) -> str:
    parts = []
    if shared := _shared(scaling):
        headers = ["processes", "images a step", "measured, median (ms)", "predicted (ms)", "measured / predicted",
                   "one process, median (ms)", "gain"]
        rows = [[str(one.point.num_processes), f"{one.point.images_per_step:,}", significant(1000 * one.measured_s),
                 significant(1000 * one.predicted_s), f"{one.times_predicted:.2f}", significant(1000 * one.alone_s),
                 NOTHING if math.isnan(one.alone_s) else f"{one.alone_s / one.measured_s:.2f}"] for one in shared]
        parts.append(f"{WHAT_IS_PREDICTED}\n\n{table(headers, rows, text_columns=0)}\n\n{_verdict(shared)}")
    headers = ["network", "batch", "gradient (MB)", "peak (µs)",
               *[f"break-even, {n} GPUs (µs)" for n in GPU_COUNTS], *[f"pays below, {n} GPUs" for n in GPU_COUNTS]]
    parts.append(f"{WHAT_IS_ASSUMED}\n\n{table(headers, _predicted())}")
    return "\n\n".join(parts)


def figure(results: Results) -> Figure | None:
    """Throughput against batch, width, fused seeds and processes, machine by machine."""
    scalings = [side for side in results.sides if isinstance(side, Scaling)]
    if not scalings:
        return None
    drawing = Figure(figsize=(WIDTH, 6), layout="constrained")
    for panel, (axis, (title, label, joined)) in zip(drawing.subplots(2, 2).flat, PANELS.items(), strict=True):
        lines = [line for scaling in scalings for line in _lines(scaling, axis, named=len(scalings) > 1)]
        panel.set(xlabel=label, ylabel="training (images/s)", title=title, xscale="log")
        for i, (name, points) in enumerate(lines):
            rates = [stats.summarize(images_per_s(point)) for point in points.values()]
            spread = [rate.sd if rate.n > 1 else 0.0 for rate in rates]
            apart = 1 if joined else 1.02 ** (2 * i - len(lines) + 1)  # so that no interval covers another
            panel.errorbar([apart * place for place in points], [rate.mean for rate in rates], spread, label=name,
                           color=COLOURS[i % 7], marker=MARKERS[i % 7], linestyle=LINES[i % 7] if joined else "none",
                           markersize=4, capsize=2)
        ticks = sorted({place for _, points in lines for place in points})
        panel.set_ylim(bottom=0)
        number_axis(panel.yaxis)
        panel.set_xticks(ticks, [number(tick) for tick in ticks])
        panel.minorticks_off()
        panel.margins(x=0.15)
        if not ticks:
            say_waiting(panel, "not measured")
        elif len(lines) > 1:
            panel.legend()
    where = f"; {Machine.at(scalings[0].environment).hardware}" if len(scalings) == 1 else ""
    drawing.suptitle(f"Means over rounds, and one sd either way{where}")
    return drawing


def _lines(scaling: Scaling, axis: Axis, *, named: bool) -> list[tuple[str, dict[int, Point]]]:
    """Label, with the machine where there are several, and points by their place on the axis."""
    where = Machine.at(scaling.environment).hardware
    lines = [(where, {point.value: point for point in _measured(scaling, axis)})]
    if axis == "processes, cells":
        prefix = f"{where}: " if named else ""
        lines = [(f"{prefix}a cell each", lines[0][1])]
        shared = _measured(scaling, "processes, ddp")
        for batch in sorted({point.images_per_step for point in shared}):
            several = [point for point in shared if point.images_per_step == batch]
            lines.append((f"{prefix}one cell, DDP, batch {batch:,}",
                          {point.num_processes: point for point in [*_alone(scaling, batch), *several]}))
    return lines


class _Shared(NamedTuple):
    """A step that processes shared, beside what the model says of it and what one process takes."""

    point: Point
    measured_s: float
    predicted_s: float
    alone_s: float
    """nan where it was not measured."""

    @property
    def times_predicted(self) -> float:
        return self.measured_s / self.predicted_s


def _shared(scaling: Scaling) -> list[_Shared]:
    """Every point of DDP."""
    batches, steps = _measured(scaling, "global_batch_size"), []
    if len(batches) < 2 or not scaling.reductions:
        return []
    cost = _cost(batches)
    for point in _measured(scaling, "processes, ddp"):
        timed = [each for each in scaling.reductions if each.num_processes == point.num_processes]
        if len(timed) < 2:  # one of its processes died
            continue
        link = fit_link("measured", point.num_processes, [each.num_bytes for each in timed],
                        [stats.median(each.seconds) for each in timed])
        predicted = shared_step_s(cost, link, point.images_per_step, 4 * point.num_parameters, point.num_processes)
        measured, alone = stats.median(point.step_s), _alone(scaling, point.images_per_step)
        alone_s = stats.median(alone[0].step_s) if alone else math.nan
        steps.append(_Shared(point, measured, predicted, alone_s))
    return steps


def _verdict(shared: Sequence[_Shared]) -> str:
    """How far the model is off."""
    ratios = [one.times_predicted for one in shared]
    text = f"Measured steps took {min(ratios):.2f} to {max(ratios):.2f} times as long as predicted"
    if min(ratios) > 1:
        return (f"{text}: the model leaves out DDP's own work and the wait for the slower process, and is too hopeful "
                "here, as it may be for GPUs.")
    return f"{text}."


def _predicted() -> list[list[str]]:
    rows = []
    for name, index in NETWORKS:
        cell = experiment.load(name).cells[index]
        layers, shape = layers_of(cell.config.model), input_shape(cell.config.data)
        assert layers is not None
        batch, num_bytes = cell.config.train.global_batch_size, 4 * num_parameters(layers, shape)
        peak_s = least_compute_s(multiply_adds(layers, shape), batch)
        needed = [break_even_s(link_between(n), num_bytes, n) for n in GPU_COUNTS]
        rows.append([escape(f"{name}: {cell.label}"), str(batch), f"{num_bytes / 1e6:.2f}", significant(1e6 * peak_s),
                     *[significant(1e6 * seconds) for seconds in needed],
                     *[f"{significant(100 * peak_s / seconds, 2)} %" for seconds in needed]])
    return rows


def _measured(scaling: Scaling, axis: Axis) -> list[Point]:
    assert axis in AXES
    return [point for point in scaling.points if point.axis == axis and point.step_s]


def _alone(scaling: Scaling, batch: int) -> list[Point]:
    """One process at this batch."""
    return [point for point in _measured(scaling, "global_batch_size") if point.value == batch]


def _cost(batches: Sequence[Point]) -> StepCost:
    return fit_step([point.images_per_step for point in batches],
                    [stats.median(point.step_s) for point in batches])
