"""Accuracy against cost, over everything that the project trains. No torch."""

import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import outcomes, stats
from bench.pages.drawing import SMALL, WIDTH, coverage, label_points, legend_below, number_axis, seeds_of, title_of
from bench.rows import Results, Row
from fmnist_core.config import Baseline, CitedModel, KernelDepthCNN, Network1, Network2, quality_key
from fmnist_core.model_config import Config

KINDS: dict[str, tuple[str, str]] = {
    "the report's networks": ("#D55E00", "s"), "kernel x depth": ("#56B4E9", "o"), "cited systems": ("#009E73", "^"),
    "no networks": ("#CC79A7", "v"), "beyond": ("#000000", "D"),
}
"""To colour and marker."""
LEAST = 0.70
"""Accuracies below are left out, so that the others can be told apart; the title says how many."""
FIRST_LOOK = "quick"
"""An experiment of one epoch, no measure of what its networks reach."""


class Point(NamedTuple):
    kind: str
    name: str
    accuracy: float
    num_parameters: float
    multiply_adds: float
    seconds: float | None
    """Of training; None on another machine than the one that trained most."""


Cost = Callable[[Point], float | None]


def figure(results: Results) -> Figure | None:
    """Mean test accuracy at the last epoch over parameters, multiply-adds and training time; a line joins the front."""
    rows = _rows(results)
    main, points = _main_machine(rows), points_of(results)
    shown = [point for point in points if point.accuracy >= LEAST]
    if not shown:
        return None
    drawing = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    panels: Sequence[Axes] = drawing.subplots(1, 3, sharey=True)
    costs: list[tuple[str, str, Cost]] = [
        ("Size", "trainable parameters", lambda point: point.num_parameters),
        ("Arithmetic", "multiply-adds per image", lambda point: point.multiply_adds),
        (f"Time on {main}", "training (s)", lambda point: point.seconds)]
    named = []
    for panel, (title, name, cost) in zip(panels, costs, strict=True):
        panel.set_title("\n".join(textwrap.wrap(title, 38)))
        panel.set_xlabel(name)
        named.append(_panel(panel, [(point, value) for point in shown if (value := cost(point))]))
    panels[0].set_ylabel("test accuracy (%), last epoch")
    legend_below(drawing, ncols=6)
    left_out = len(points) - len(shown)
    drawing.suptitle(title_of(f"Means of {seeds_of(rows)}", coverage(len(rows), _num_cells(results), "cell"),
                              f"{left_out} below {100 * LEAST:g} % are left out" if left_out else ""))
    for panel, (labels, places) in zip(panels, named, strict=True):
        label_points(panel, labels, places)
    return drawing


def points_of(results: Results) -> list[Point]:
    """One for each cell with records; a cell of several experiments counts once."""
    rows = _rows(results)
    main = _main_machine(rows)
    return [_point(row, timed=_machine_of(row) == main) for row in rows]


def _rows(results: Results) -> list[Row]:
    rows: dict[str, Row] = {}
    for experiment in results.experiments:
        for row in results.of(experiment.name) if experiment.name != FIRST_LOOK else ():
            if row.trained and row.cell.config.data.dataset == "fashion-mnist" and row.values(outcomes.test_last):
                rows.setdefault(row.trained[0].quality_key, row)
    return list(rows.values())


def _num_cells(results: Results) -> int:
    """With records or without."""
    return len({quality_key(cell.config, 0) for experiment in results.experiments if experiment.name != FIRST_LOOK
                for cell in experiment.cells if cell.config.data.dataset == "fashion-mnist"})


def _machine_of(row: Row) -> str:
    where = row.trained[0].environment
    return where.cpu if where.device == "cpu" else f"{where.device}, {where.cpu}"


def _main_machine(rows: Sequence[Row]) -> str:
    """The one that trained most."""
    counts = Counter(map(_machine_of, rows))
    return max(counts, key=lambda machine: (counts[machine], machine), default="")


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, accuracy): those that none beats with less or equal cost, from the cheapest on."""
    best: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or accuracy > best[-1][1]:
            best.append((cost, accuracy))
    return best


def _point(row: Row, *, timed: bool) -> Point:
    seconds = row.values(outcomes.train_s) if timed else []
    name = f"{row.experiment.name}: {row.label}"
    return Point(kind_of(row.cell.config.model), name, stats.summarize(row.values(outcomes.test_last)).mean,
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


def _panel(panel: Axes, costs: Sequence[tuple[Point, float]]) -> tuple[list[tuple[float, float, str]],
                                                                       list[tuple[float, float]]]:
    """The points and their front, whose names stand below. Gives what is to be written beside which points."""
    for kind, (colour, marker) in KINDS.items():
        mine = [(cost, 100 * point.accuracy) for point, cost in costs if point.kind == kind]
        if mine:
            is_reports = kind == "the report's networks"
            panel.plot(*zip(*mine, strict=True), marker, color=colour, label=kind, markersize=5 if is_reports else 4,
                       markeredgecolor="white", markeredgewidth=0.5, linestyle="none", zorder=3 if is_reports else 2)
    if not costs:
        return [], []
    names = {(cost, 100 * point.accuracy): point.name for point, cost in costs}
    best = front(list(names))
    panel.plot(*zip(*best, strict=True), color="#888888", linestyle=":", drawstyle="steps-post", zorder=1,
               label="not beaten at its cost")
    panel.set_xscale("log")
    panel.margins(x=0.08, y=0.08)
    number_axis(panel.xaxis, logarithmic=True)
    lines = [textwrap.fill(f"{i} {names[at]}", 42) for i, at in enumerate(best, start=1)]
    panel.text(0, -0.2, "\n".join(lines), transform=panel.transAxes, va="top", fontsize=SMALL)
    return [(*at, str(i)) for i, at in enumerate(best, start=1)], list(names)
