"""Accuracy against cost, over everything that the project trains. No torch."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench import outcomes, stats
from bench.rows import Results, Row
from fmnist_core.config import Baseline, CitedModel, KernelDepthCNN, Network1, Network2
from fmnist_core.model_config import Config

KINDS: dict[str, tuple[str, str]] = {
    "the report's networks": ("#D55E00", "s"), "kernel x depth": ("#56B4E9", "o"), "cited systems": ("#009E73", "^"),
    "no networks": ("#CC79A7", "v"), "beyond": ("#000000", "D"),
}
"""To colour and marker."""
LEAST = 0.70
"""Accuracies below are left out, so that the others can be told apart; the title says how many."""


class Point(NamedTuple):
    kind: str
    label: str
    accuracy: float
    num_parameters: float
    multiply_adds: float
    seconds: float | None
    """Of training; None on another machine than the one that trained most."""


def figure(results: Results) -> Figure | None:
    """Mean test accuracy at the last epoch over parameters, multiply-adds and training time; a line joins the front."""
    points = points_of(results)
    shown = [point for point in points if point.accuracy >= LEAST]
    if not shown:
        return None
    drawing = Figure(figsize=(11, 4.2), layout="constrained")
    panels: Sequence[Axes] = drawing.subplots(1, 3, sharey=True)
    costs: list[tuple[str, Callable[[Point], float | None]]] = [
        ("trainable parameters", lambda point: point.num_parameters),
        ("multiply-adds per image", lambda point: point.multiply_adds),
        ("training (s), one machine", lambda point: point.seconds)]
    for panel, (name, cost) in zip(panels, costs, strict=True):
        _panel(panel, [(point, value) for point in shown if (value := cost(point))])
        panel.set_xlabel(name)
    panels[0].set_ylabel("test accuracy (%), last epoch")
    handles = {label: handle for panel in panels
               for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    drawing.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=8)
    left_out = len(points) - len(shown)
    drawing.suptitle("Means over seeds" + (f"; {left_out} below {LEAST:.0%} are left out" if left_out else ""),
                     fontsize=8)
    return drawing


def points_of(results: Results) -> list[Point]:
    """One for each cell with records; a cell of several experiments counts once."""
    rows: dict[str, Row] = {}
    for experiment in results.experiments:
        for row in results.of(experiment.name):
            if row.trained and row.cell.config.data.dataset == "fashion-mnist" and row.values(outcomes.test_last):
                rows.setdefault(row.trained[0].quality_key, row)
    machine_of = lambda row: (row.trained[0].environment.cpu, row.trained[0].environment.device)
    machines = Counter(map(machine_of, rows.values()))
    main = max(machines, key=lambda machine: (machines[machine], machine), default=None)
    return [_point(row, timed=machine_of(row) == main) for row in rows.values()]


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, accuracy): those that none beats with less or equal cost, from the cheapest on."""
    best: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or accuracy > best[-1][1]:
            best.append((cost, accuracy))
    return best


def _point(row: Row, *, timed: bool) -> Point:
    seconds = row.values(outcomes.train_s) if timed else []
    return Point(kind_of(row.cell.config.model), row.label, stats.summarize(row.values(outcomes.test_last)).mean,
                 row.num_parameters, row.multiply_adds, stats.summarize(seconds).median if seconds else None)


def kind_of(model: Config) -> str:
    match model:
        case Network1() | Network2():
            return "the report's networks"
        case KernelDepthCNN():
            return "kernel x depth"
        case CitedModel():
            return "cited systems"
        case Baseline():
            return "no networks"
        case _:
            return "beyond"


def _panel(panel: Axes, costs: Sequence[tuple[Point, float]]) -> None:
    for kind, (colour, marker) in KINDS.items():
        mine = [(cost, 100 * point.accuracy) for point, cost in costs if point.kind == kind]
        if mine:
            is_reports = kind == "the report's networks"
            panel.plot(*zip(*mine, strict=True), marker, color=colour, label=kind, markersize=6 if is_reports else 4,
                       markeredgecolor="white", markeredgewidth=0.5, linestyle="none", zorder=3 if is_reports else 2)
    if costs:
        line = front([(cost, 100 * point.accuracy) for point, cost in costs])
        panel.plot(*zip(*line, strict=True), color="#888888", linestyle=":", drawstyle="steps-post", zorder=1,
                   label="not beaten at its cost")
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        panel.xaxis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    for unit, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
