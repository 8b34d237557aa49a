"""Accuracy against cost, over everything that the project trains. No torch."""

import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import stats
from bench.judging.findings import NEGLIGIBLE
from bench.pages.drawing import SMALL, WIDTH, coverage, label_points, legend_below, number_axis, seeds_of, title_of
from bench.records import outcomes
from bench.records.machines import Machine, is_undisturbed, most_frequent
from bench.records.rows import Results, Row
from fmnist_core.config import Baseline, CitedModel, KernelDepthCNN, Network1, Network2, quality_key
from fmnist_core.model_config import Config

KINDS: dict[str, tuple[str, str]] = {
    "the report's": ("#D55E00", "s"), "variants of them": ("#E69F00", "s"), "kernel x depth": ("#56B4E9", "o"),
    "cited systems": ("#009E73", "^"), "no networks": ("#CC79A7", "v"), "beyond": ("#000000", "D"),
}
"""To colour and marker."""
REPORTS = "final", "table_1_1", "table_1_2", "network1_printed", "network2_printed"
"""Experiments of what the report prints a figure or the layers of."""
NUM_VIEWS = {"one": 1, "flip": 2, "flip_shift": 6}
"""Of an image that is evaluated, each a forward pass, by `data.test_views`."""
HOW_TO_READ = (
    "Mean test accuracy at the last epoch of every cell with records, on 50,000 or all 60,000 training images; hollow: "
    "one seed so far where more are asked for, which may be luck. Multiply-adds are those of all views that a "
    "prediction takes the mean of. Training times are of the machine and threads that trained most cells; k nearest "
    "neighbours, which only store the images, seeds trained as one module and trainings that other work disturbed have "
    "none. The dotted line joins what nothing cheaper beats, the hollow left out: it is read off the test set, and "
    "chooses nothing. Named are those of it that beat the one named before by 0.3 points or more, and the "
    "report's final network.")
LEAST = 0.70
"""Accuracies below are left out, so that the others can be told apart; the title says how many."""
FINAL = "final: ReLU after fc1"
"""The report's final network, which is named whatever lies around it."""
FIRST_LOOK = "quick"
"""An experiment of one epoch, no measure of what its networks reach."""


class Point(NamedTuple):
    kind: str
    name: str
    accuracy: float
    num_parameters: float
    multiply_adds: float
    seconds: float | None
    """Of training one seed; None on another machine than the one that trained most."""
    may_be_luck: bool
    """One seed alone, where several are asked for."""


Cost = Callable[[Point], float | None]


def figure(results: Results) -> Figure | None:
    """Mean test accuracy at the last epoch over parameters, multiply-adds and training time; a line joins the front."""
    rows = _rows(results)
    machine, points = _main_machine(rows), points_of(results)
    shown = [point for point in points if point.accuracy >= LEAST]
    if not shown:
        return None
    drawing = Figure(figsize=(WIDTH, 6.2), layout="constrained")
    panels: Sequence[Axes] = drawing.subplots(1, 3, sharey=True)
    costs: list[tuple[str, str, Cost]] = [
        ("Size", "trainable parameters", lambda point: point.num_parameters),
        ("Arithmetic", "multiply-adds per image", lambda point: point.multiply_adds),
        (f"Time on {machine.title}" if machine else "Time", "training (s)",
         lambda point: point.seconds)]
    named = []
    for panel, (title, name, cost) in zip(panels, costs, strict=True):
        panel.set_title("\n".join(textwrap.wrap(title, 38)))
        panel.set_xlabel(name)
        named.append(_panel(panel, [(point, value) for point in shown if (value := cost(point))]))
    panels[0].set_ylabel("test accuracy (%), last epoch")
    legend_below(drawing, ncols=4)
    left_out = len(points) - len(shown)
    drawing.suptitle(title_of(f"Means of {seeds_of(rows)}", coverage(len(rows), _num_cells(results), "cell"),
                              f"{left_out} below {100 * LEAST:g} % are left out" if left_out else ""))
    for panel, (labels, places) in zip(panels, named, strict=True):
        label_points(panel, labels, places)
    return drawing


def points_of(results: Results) -> list[Point]:
    """One for each cell with records; a cell of several experiments counts once."""
    rows = _rows(results)
    machine = _main_machine(rows)
    reports = {row.trained[0].quality_key for name in REPORTS for row in results.of(name) if row.trained}
    return [_point(row, machine, row.trained[0].quality_key in reports) for row in rows]


def _rows(results: Results) -> list[Row]:
    rows: dict[str, Row] = {}
    for experiment in sorted(results.experiments, key=lambda one: one.name not in REPORTS):
        for row in results.of(experiment.name) if experiment.name != FIRST_LOOK else ():
            if row.trained and row.cell.config.data.dataset == "fashion-mnist" and row.values(outcomes.test_last):
                rows.setdefault(row.trained[0].quality_key, row)
    return list(rows.values())


def _num_cells(results: Results) -> int:
    """With records or without."""
    return len({quality_key(cell.config, 0) for experiment in results.experiments if experiment.name != FIRST_LOOK
                for cell in experiment.cells if cell.config.data.dataset == "fashion-mnist"})


def _main_machine(rows: Sequence[Row]) -> Machine | None:
    """The one that trained most cells, seed by seed."""
    return most_frequent(machine for row in rows
                         for machine in {Machine.of(record) for record in row.trained if is_undisturbed(record)})


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, accuracy): those that none beats with less or equal cost, from the cheapest on."""
    best: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or accuracy > best[-1][1]:
            best.append((cost, accuracy))
    return best


def _apart(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of a front, accuracies in per cent: what is worth a name of its own."""
    named: list[tuple[float, float]] = []
    for cost, accuracy in points:
        if not named or accuracy >= named[-1][1] + 100 * NEGLIGIBLE:
            named.append((cost, accuracy))
    return named


def _point(row: Row, machine: Machine | None, is_reports: bool) -> Point:
    config = row.cell.config
    stores_only = isinstance(config.model, Baseline) and config.model.estimator == "k_nearest_neighbors"
    seconds = [total for record in filter(is_undisturbed, row.trained)
               if Machine.of(record) == machine and not stores_only and (total := outcomes.train_s(record)) is not None]
    accuracies = row.values(outcomes.test_last)
    return Point(kind="the report's" if is_reports else kind_of(config.model),
                 name=f"{row.experiment.name}: {row.label}", accuracy=stats.mean(accuracies),
                 num_parameters=row.num_parameters,
                 multiply_adds=row.multiply_adds * NUM_VIEWS[config.data.test_views],
                 seconds=stats.median(seconds) if seconds else None,
                 may_be_luck=len(accuracies) < min(2, row.seeds_wanted))


def kind_of(model: Config) -> str:
    match model:
        case Network1() | Network2():
            return "variants of them"
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
        for is_hollow in (True, False):  # the legend shows the last
            mine = [(cost, 100 * point.accuracy) for point, cost in costs
                    if point.kind == kind and point.may_be_luck == is_hollow]
            if mine:
                is_reports = kind == "the report's"
                panel.plot(*zip(*mine, strict=True), marker, color=colour, label=kind, linestyle="none",
                           markersize=5 if is_reports else 4, zorder=3 if is_reports else 2,
                           markerfacecolor="none" if is_hollow else colour, markeredgewidth=0.8 if is_hollow else 0.5,
                           markeredgecolor=colour if is_hollow else "white")
    if not costs:
        return [], []
    names = {(cost, 100 * point.accuracy): point.name for point, cost in costs}
    best = front([(cost, 100 * point.accuracy) for point, cost in costs if not point.may_be_luck])
    if best:
        panel.plot(*zip(*best, strict=True), color="#888888", linestyle=":", drawstyle="steps-post", zorder=1,
                   label="not beaten at its cost")
    panel.set_xscale("log")
    panel.margins(x=0.08, y=0.08)
    number_axis(panel.xaxis, logarithmic=True)
    best = _apart(best)
    lines = [textwrap.fill(f"{i} {names[at]}", 42) for i, at in enumerate(best, start=1)]
    panel.text(0, -0.26, "\n".join(lines), transform=panel.transAxes, va="top", fontsize=SMALL)
    final = [(cost, 100 * point.accuracy, "final") for point, cost in costs if point.name == FINAL]
    return [*((*at, str(i)) for i, at in enumerate(best, start=1)), *final], list(names)
