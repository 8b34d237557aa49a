"""Figures over kernel size and depth. No torch."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench import outcomes, stats
from bench.formatting import significant
from bench.record import SpeedRecord
from bench.rows import Machine, Results, Row, machines

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito 2008, without the yellow that white paper swallows."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", "-", "--", "-.")

Grid = dict[tuple[int, int], Row]
Point = tuple[float, float, float]
"""A value, and the ends of its interval."""


def accuracy(results: Results) -> Figure | None:
    grid = _grid(results)
    measured = {at: values for at, row in grid.items() if (values := row.values(outcomes.test_last))}
    if not measured:
        return None
    kernels, depths = _axes(grid)
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    heat, lines = figure.subplots(1, 2)
    means = np.array([[_mean(measured.get((k, d))) for d in depths] for k in kernels])
    image = heat.imshow(100 * means, cmap="cividis", aspect="auto", origin="lower")
    middle = 50 * (np.nanmin(means) + np.nanmax(means))
    for i, j in np.ndindex(means.shape):
        text = "waiting" if np.isnan(means[i, j]) else f"{100 * means[i, j]:.2f}"
        dark = 100 * means[i, j] < middle
        heat.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
    heat.set_xticks(range(len(depths)), [str(d) for d in depths])
    heat.set_yticks(range(len(kernels)), [str(k) for k in kernels])
    heat.set(xlabel="depth (convolutions)", ylabel="kernel size (pixels)", title="Mean test accuracy (%), last epoch")
    heat.grid(visible=False)
    figure.colorbar(image, ax=heat)
    _lines(lines, kernels, depths, lambda k, d: _percent_interval(measured.get((k, d))))
    lines.set(xlabel="depth (convolutions)", ylabel="test accuracy (%)", title="With 95 % intervals over seeds")
    return figure


def cost(results: Results) -> Figure | None:
    grid = _grid(results)
    if not any(row.num_parameters for row in grid.values()):
        return None
    kernels, depths = _axes(grid)
    machine, timed = _timed(results)
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, 3)
    exact = lambda value: (value, value, value) if value else None
    _lines(panels[0], kernels, depths, lambda k, d: (k, d) in grid and exact(grid[k, d].num_parameters), legend=False)
    _lines(panels[1], kernels, depths, lambda k, d: (k, d) in grid and exact(grid[k, d].multiply_adds),
           legend=not timed)
    _lines(panels[2], kernels, depths, lambda k, d: _rate(timed.get((k, d))))
    labels = ("trainable parameters", "multiply-adds per image", "training (images/s)")
    for panel, label in zip(panels, labels, strict=True):
        panel.set(xlabel="depth (convolutions)", ylabel=label, yscale="log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value, 2)))
        panel.yaxis.set_minor_formatter(NullFormatter())
    panels[2].set_title(_machine_title(machine), fontsize=8)
    return figure


def pareto(results: Results) -> Figure | None:
    machine, timed = _timed(results)
    cells = []
    for at, row in _grid(results).items():
        rate, interval = _rate(timed.get(at)), _percent_interval(row.values(outcomes.test_last))
        if rate and interval:
            cells.append((at, rate, interval))
    if not cells:
        return None
    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    axes = figure.subplots()
    kernels = sorted({k for (k, _), _, _ in cells})
    for i, kernel in enumerate(kernels):
        mine = [cell for cell in cells if cell[0][0] == kernel]
        x, x_error = _error_bars([rate for _, rate, _ in mine])
        y, y_error = _error_bars([interval for _, _, interval in mine])
        axes.errorbar(x, y, yerr=y_error, xerr=x_error, fmt=MARKERS[i % 7], color=COLOURS[i % 7], capsize=2,
                      label=f"kernel size {kernel}", markersize=5, linewidth=1)
        for (_, depth), rate, interval in mine:
            axes.annotate(str(depth), (rate[0], interval[0]), xytext=(4, 4), textcoords="offset points", fontsize=8)
    front = _front([(rate[0], interval[0]) for _, rate, interval in cells])
    axes.plot(*zip(*front, strict=True), color="#888888", linestyle=":", zorder=0, label="not beaten in both")
    axes.set(xlabel="training throughput (images/s)", ylabel="test accuracy (%), last epoch",
             title=f"Numbers: depth. {_machine_title(machine)}")
    axes.title.set_fontsize(8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    legend_beside(axes)
    return figure


def step_times(results: Results) -> Figure | None:
    machine, timed = _timed(results)
    if not timed:
        return None
    boxes = []
    for (kernel, depth), speed in sorted(timed.items()):
        low, q1, median, q3, high = (1000 * np.quantile(speed.step_s, [0.01, 0.25, 0.5, 0.75, 0.99])).tolist()
        boxes.append({"label": f"{kernel}\n{depth}", "whislo": low, "q1": q1, "med": median, "q3": q3, "whishi": high})
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.bxp(boxes, showfliers=False, patch_artist=True, boxprops={"facecolor": "#56B4E9"},
             medianprops={"color": "black"})
    axes.set(xlabel="kernel size (above) and depth (below)", ylabel="training step (ms)",
             title=f"Median, quartiles, 1st and 99th percentile. {_machine_title(machine)}")
    axes.title.set_fontsize(8)
    axes.set_ylim(bottom=0)
    return figure


def limit(results: Results) -> Figure | None:
    machine, timed = _timed(results)
    cells = [(at, speed) for at, speed in sorted(timed.items()) if speed.floor_s]
    if not cells:
        return None
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    heights = [stats.summarize(speed.step_s).median / speed.floor_s for _, speed in cells]
    bars = axes.bar([f"{kernel}\n{depth}" for (kernel, depth), _ in cells], heights, color=COLOURS[0])
    axes.bar_label(bars, [significant(height, 2) for height in heights], fontsize=8)
    axes.axhline(1, color="black", linewidth=1)
    axes.set(xlabel="kernel size (above) and depth (below)", ylabel="median step / least possible",
             title=f"1: the machine's ceiling. {_machine_title(machine)}")
    axes.title.set_fontsize(8)
    return figure


def kernel_sizes(results: Results) -> Figure | None:
    figure = Figure(figsize=(8, 3.3), layout="constrained")
    panels = figure.subplots(1, 2)
    drawn = False
    for panel, (name, title) in zip(panels, (("kernel_size_network1", "Network 1, as printed"),
                                             ("kernel_size_network2", "The final network")), strict=True):
        points = []
        for row in results.of(name):
            sizes = (row.setting("model.conv1_kernel_size"), row.setting("model.conv2_kernel_size"))
            interval = _percent_interval(row.values(outcomes.test_last))
            if interval:
                points.append((str(sizes[0]) if sizes[0] == sizes[1] else f"{sizes[0]} and {sizes[1]}", interval))
        if points:
            drawn = True
            y, error = _error_bars([interval for _, interval in points])
            panel.errorbar([label for label, _ in points], y, yerr=error, fmt="o", color=COLOURS[0], capsize=3)
            panel.margins(x=0.15)
        else:
            say_waiting(panel)
        panel.set(xlabel="kernel size (pixels)", ylabel="test accuracy (%), last epoch", title=title)
    return figure if drawn else None


def main_machine(results: Results, rows: Sequence[Row]) -> Machine | None:
    """The machine that timed most of these rows with nothing else to do."""
    is_alone = lambda speed: speed is not None and not speed.labels.machine_shared
    alone = lambda machine: sum(is_alone(row.timed(machine)) for row in rows)
    best = max(machines(results.records), key=alone, default=None)
    return best if best is not None and alone(best) else None


def _grid(results: Results) -> Grid:
    return {(row.setting("model.kernel_size"), row.setting("model.depth")): row for row in results.of("kernel_depth")}


def _axes(grid: Grid) -> tuple[list[int], list[int]]:
    return sorted({kernel for kernel, _ in grid}), sorted({depth for _, depth in grid})


def _timed(results: Results) -> tuple[Machine | None, dict[tuple[int, int], SpeedRecord]]:
    """The cells that the main machine timed alone."""
    grid = _grid(results)
    machine = main_machine(results, list(grid.values()))
    if machine is None:
        return None, {}
    speeds = {at: row.timed(machine) for at, row in grid.items()}
    return machine, {at: speed for at, speed in speeds.items() if speed and not speed.labels.machine_shared}


def _lines(
    axes: Axes, kernels: Sequence[int], depths: Sequence[int],
    value: Callable[[int, int], Point | Literal[False] | None], *, legend: bool = True,
) -> None:
    """One line per kernel size over depth, a little apart so that their intervals do not cover each other."""
    for i, kernel in enumerate(kernels):
        found = [(depth, point) for depth in depths if (point := value(kernel, depth))]
        if found:
            y, error = _error_bars([point for _, point in found])
            x = [depth + 0.06 * (i - (len(kernels) - 1) / 2) for depth, _ in found]
            axes.errorbar(x, y, yerr=error, label=f"kernel size {kernel}", color=COLOURS[i % 7], marker=MARKERS[i % 7],
                          linestyle=LINES[i % 7], capsize=2, markersize=4, linewidth=1)
    axes.set_xticks(list(depths))
    if legend and axes.get_legend_handles_labels()[0]:
        legend_beside(axes)


def legend_beside(axes: Axes) -> None:
    """Never on the data."""
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def say_waiting(axes: Axes) -> None:
    """In the place of an empty panel with an axis that means nothing."""
    axes.text(0.5, 0.5, "waiting for records", transform=axes.transAxes, ha="center", color="#555555")
    axes.set_xticks([])
    if len(axes.get_shared_y_axes().get_siblings(axes)) == 1:  # else another panel's values stand at this axis
        axes.set_yticks([])


def _error_bars(points: Sequence[Point]) -> tuple[list[float], list[list[float]]]:
    """Values, and how far the ends of their intervals lie below and above; 0 where there is no interval."""
    below = [0.0 if np.isnan(low) else max(0.0, value - low) for value, low, _ in points]
    above = [0.0 if np.isnan(high) else max(0.0, high - value) for value, _, high in points]
    return [value for value, _, _ in points], [below, above]


def _percent_interval(values: Sequence[float] | None) -> Point | None:
    if not values:
        return None
    low, high = stats.mean_interval(values)
    return 100 * stats.summarize(values).mean, 100 * low, 100 * high


def _rate(speed: SpeedRecord | None) -> Point | None:
    if speed is None:
        return None
    rate = stats.throughput(speed.images_per_step, speed.step_s)
    return rate.images_per_s, rate.low, rate.high


def _mean(values: Sequence[float] | None) -> float:
    return stats.summarize(values).mean if values else float("nan")


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in both coordinates, from left to right."""
    front: list[tuple[float, float]] = []
    for point in sorted(points, reverse=True):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front[::-1]


def _machine_title(machine: Machine | None) -> str:
    if machine is None:
        return "no timings yet"
    name = machine.cpu if machine.device == "cpu" else machine.device
    return f"{name}, {machine.num_threads} threads" if machine.device == "cpu" else name
