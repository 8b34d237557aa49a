"""Figures over kernel size and depth. No torch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import stats
from bench.formatting import FEWEST_SPREAD, significant
from bench.pages.drawing import (
    COLOURS,
    LINES,
    MARKERS,
    TITLE_WIDTH,
    WIDTH,
    coverage,
    label_points,
    legend_below,
    means_of,
    number_axis,
    say_waiting,
    seeds_of,
    title_of,
)
from bench.pages.pareto import front
from bench.record import SpeedRecord
from bench.records import outcomes, timings
from bench.records.machines import Machine, machines
from bench.records.rows import Results, Row

At = tuple[int, int]
"""Kernel size and depth."""
Grid = dict[At, Row]
Speeds = Mapping[At, SpeedRecord]
Point = tuple[float, float, float]
"""A value, and the ends of its interval."""


def accuracy(results: Results) -> Figure | None:
    grid = _grid(results)
    measured = {at: values for at, row in grid.items() if (values := row.values(outcomes.test_last))}
    if not measured:
        return None
    kernels, depths = _axes(grid)
    figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
    heat, lines = figure.subplots(1, 2)
    means = np.array([[_mean(measured.get((k, d))) for d in depths] for k in kernels])
    # Without a colour bar: the numbers are in the cells.
    heat.imshow(100 * means, cmap="cividis", aspect="auto", origin="lower")
    middle = 50 * (np.nanmin(means) + np.nanmax(means))
    for i, j in np.ndindex(means.shape):
        text = "waiting" if np.isnan(means[i, j]) else f"{100 * means[i, j]:.2f}"
        dark = 100 * means[i, j] < middle
        heat.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
    heat.set_xticks(range(len(depths)), [str(d) for d in depths])
    heat.set_yticks(range(len(kernels)), [str(k) for k in kernels])
    rows = list(grid.values())
    heat.set(xlabel="depth (convolutions)", ylabel="kernel size (pixels)",
             title=f"Mean test accuracy (%), {seeds_of(rows)}")
    heat.grid(visible=False)
    _lines(lines, kernels, depths, lambda at: _percent_interval(measured.get(at)))
    lines.set(xlabel="depth (convolutions)", ylabel="test accuracy (%), last epoch",
              title=f"Test accuracy, {means_of(rows)}")
    legend_below(figure)
    return figure


def cost(results: Results) -> Figure | None:
    grid = _grid(results)
    if not any(row.has_records for row in grid.values()):
        return None
    machine, timed = _timed(results)
    figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, 3)
    exact = lambda value: (value, value, value) if value else None
    drawn: list[tuple[str, str, Callable[[At], Point | Literal[False] | None]]] = [
        ("Size", "trainable parameters", lambda at: at in grid and exact(grid[at].num_parameters)),
        ("Arithmetic", "multiply-adds per image", lambda at: at in grid and exact(grid[at].multiply_adds)),
        ("Speed", "training (images/s)", lambda at: at in timed and _rate(grid[at], machine))]
    for panel, (title, label, value) in zip(panels, drawn, strict=True):
        _lines(panel, *_axes(grid), value)
        panel.set(xlabel="depth (convolutions)", ylabel=label, title=title)
        panel.set_ylim(bottom=0)
        number_axis(panel.yaxis)
    if not timed:
        say_waiting(panels[2])
    several = machine is not None and any(len(grid[at].timings(machine)) >= FEWEST_SPREAD for at in timed)
    speed = f"Speed: {_machine_title(machine)}{', with 95 % intervals' if several else ''}" if timed else ""
    figure.suptitle(title_of(speed, _share(grid, timed)))
    legend_below(figure)
    return figure


def pareto(results: Results) -> Figure | None:
    machine, timed = _timed(results)
    grid, cells = _grid(results), []
    for at, row in grid.items():
        rate = _rate(row, machine) if at in timed else None
        interval = _percent_interval(row.values(outcomes.test_last))
        if rate and interval:
            cells.append((at, rate, interval))
    if not cells:
        return None
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    axes = figure.subplots()
    for i, kernel in enumerate(sorted({k for (k, _), _, _ in cells})):
        mine = [cell for cell in cells if cell[0][0] == kernel]
        x, x_error = _error_bars([rate for _, rate, _ in mine])
        y, y_error = _error_bars([interval for _, _, interval in mine])
        axes.errorbar(x, y, yerr=y_error, xerr=x_error, fmt=MARKERS[i % 7], color=COLOURS[i % 7], capsize=2,
                      label=f"kernel size {kernel}", markersize=5, linewidth=1)
    best = [(-cost, accuracy) for cost, accuracy in front([(-rate[0], interval[0]) for _, rate, interval in cells])]
    axes.plot(*zip(*best, strict=True), color="#888888", linestyle=":", drawstyle="steps-post", zorder=0,
              label="not beaten in both")
    axes.set(xlabel="training throughput (images/s)", ylabel="test accuracy (%), last epoch",
             title=title_of(f"Numbers: depth; {means_of(list(grid.values()))}; {_both_machines(grid, machine)}",
                            coverage(len(cells), len(grid), "cell", "both")))
    number_axis(axes.xaxis)
    legend_below(figure, ncols=5)
    label_points(axes, [(rate[0], interval[0], str(depth)) for (_, depth), rate, interval in cells],
                 [(rate[0], interval[0]) for _, rate, interval in cells])
    return figure


def step_times(results: Results) -> Figure | None:
    machine, timed = _timed(results)
    if not timed:
        return None
    boxes = []
    for speed in timed.values():
        low, q1, median, q3, high = (1000 * np.quantile(speed.step_s, [0.01, 0.25, 0.5, 0.75, 0.99])).tolist()
        boxes.append({"whislo": low, "q1": q1, "med": median, "q3": q3, "whishi": high})
    figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
    axes = figure.subplots()
    axes.bxp(boxes, _places(axes, list(timed)), widths=0.6, showfliers=False, patch_artist=True, manage_ticks=False,
             boxprops={"facecolor": "#56B4E9"}, medianprops={"color": "black"})
    axes.set(ylabel="training step (ms)",
             title=title_of(f"Median, quartiles, 1st and 99th percentile of {_steps(timed)}. {_machine_title(machine)}",
                            _share(_grid(results), timed)))
    axes.set_ylim(bottom=0)
    return figure


def limit(results: Results) -> Figure | None:
    machine, timed = _timed(results)
    known = {at: speed for at, speed in timed.items() if speed.floor_s}
    if not known:
        return None
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    heights = [timings.over_limit(speed) for speed in known.values()]
    bars = axes.bar(_places(axes, list(known)), heights, color=COLOURS[0])
    axes.bar_label(bars, [significant(height, 2) for height in heights], fontsize=8, padding=1)
    axes.margins(x=0.02, y=0.12)
    axes.axhline(1, color="black", linewidth=1, zorder=0.9)  # behind the bars
    axes.text(1.01, 1, "1: the machine's\nceiling", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.set(ylabel="median step / least possible",
             title=title_of(f"Medians of {_steps(known)}. {_machine_title(machine)}", _share(_grid(results), known)))
    return figure


def kernel_sizes(results: Results) -> Figure | None:
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, 2)
    drawn = False
    for panel, (name, title) in zip(panels, (("kernel_size_network1", "Network 1"),
                                             ("kernel_size_network2", "The final network")), strict=True):
        rows = results.of(name)
        points = {i: interval for i, row in enumerate(rows)
                  if (interval := _percent_interval(row.values(outcomes.test_last)))}
        panel.set(xlabel="kernel size (pixels)", ylabel="test accuracy (%), last epoch", title=title)
        if not points:
            say_waiting(panel)
            continue
        drawn = True
        y, error = _error_bars(list(points.values()))
        panel.errorbar(list(points), y, yerr=error, fmt="o", color=COLOURS[0], capsize=3)
        panel.set_xticks(range(len(rows)), [_sizes(row) for row in rows])
        panel.set_xlim(-0.5, len(rows) - 0.5)
        for i in set(range(len(rows))) - set(points):
            panel.text(i, 0.5, "no record", transform=panel.get_xaxis_transform(), ha="center", rotation=90)
        train = rows[0].cell.config.train
        panel.set_title(title_of(f"{title}, {train.epochs} epochs at a learning rate of {train.learning_rate:g}: "
                                 f"{means_of(rows)}", width=TITLE_WIDTH // 2))
    return figure if drawn else None


def main_machine(results: Results, rows: Sequence[Row]) -> Machine | None:
    """The machine that timed most of these rows with nothing else to do."""
    is_alone = lambda speed: speed is not None and not timings.was_disturbed(speed)
    alone = lambda machine: sum(is_alone(row.timed(machine)) for row in rows)
    best = max(machines(results.records), key=alone, default=None)
    return best if best is not None and alone(best) else None


def _grid(results: Results) -> Grid:
    return {(row.setting("model.kernel_size"), row.setting("model.depth")): row for row in results.of("kernel_depth")}


def _axes(grid: Grid) -> tuple[list[int], list[int]]:
    return sorted({kernel for kernel, _ in grid}), sorted({depth for _, depth in grid})


def _timed(results: Results) -> tuple[Machine | None, dict[At, SpeedRecord]]:
    """The cells that the main machine timed alone, in the order of their depth."""
    grid = _grid(results)
    machine = main_machine(results, list(grid.values()))
    if machine is None:
        return None, {}
    speeds = {at: grid[at].timed(machine) for at in sorted(grid, key=lambda at: at[::-1])}
    return machine, {at: speed for at, speed in speeds.items() if speed and not timings.was_disturbed(speed)}


def _share(grid: Grid, timed: Speeds) -> str:
    return coverage(len(timed), len(grid), "cell", "timings")


def _steps(timed: Speeds) -> str:
    counts = sorted(len(speed.step_s) for speed in timed.values())
    return f"{counts[0]:,} to {counts[-1]:,} steps each" if counts[0] < counts[-1] else f"{counts[0]:,} steps each"


def _places(axes: Axes, cells: Sequence[At]) -> list[int]:
    """Of each cell on the x axis: a group for each depth, with a gap between them and its name below."""
    depths = sorted({depth for _, depth in cells})
    places = [i + depths.index(depth) for i, (_, depth) in enumerate(cells)]
    middles = [np.mean([place for place, at in zip(places, cells, strict=True) if at[1] == depth]) for depth in depths]
    axes.set_xticks(places, [str(kernel) for kernel, _ in cells], minor=True)
    axes.set_xticks(middles, [f"depth {depth}" for depth in depths])
    axes.xaxis.remove_overlapping_locs = False  # a group's name stands below a kernel size, not in its place
    axes.tick_params(axis="x", which="both", length=0)
    axes.tick_params(axis="x", which="major", pad=17)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("kernel size (pixels), by depth (convolutions)")
    return places


def _sizes(row: Row) -> str:
    first, second = row.setting("model.conv1_kernel_size"), row.setting("model.conv2_kernel_size")
    sizes = str(first) if first == second else f"{first} and {second}"
    return f"{sizes}\n{row.cell.note.partition(',')[0]}" if row.cell.note else sizes


def _lines(axes: Axes, kernels: Sequence[int], depths: Sequence[int],
           value: Callable[[At], Point | Literal[False] | None]) -> None:
    """One line per kernel size over depth, a little apart so that their intervals do not cover each other."""
    for i, kernel in enumerate(kernels):
        found = [(depth, point) for depth in depths if (point := value((kernel, depth)))]
        if found:
            y, error = _error_bars([point for _, point in found])
            x = [depth + 0.06 * (i - (len(kernels) - 1) / 2) for depth, _ in found]
            axes.errorbar(x, y, yerr=error, label=f"kernel size {kernel}", color=COLOURS[i % 7], marker=MARKERS[i % 7],
                          linestyle=LINES[i % 7], capsize=2, markersize=4, linewidth=1)
    axes.set_xticks(list(depths))
    axes.set_xlim(depths[0] - 0.3, depths[-1] + 0.3)  # the same with few records


def _error_bars(points: Sequence[Point]) -> tuple[list[float], list[list[float]]]:
    """Values, and how far the ends of their intervals lie below and above; 0 where there is no interval."""
    below = [0.0 if np.isnan(low) else max(0.0, value - low) for value, low, _ in points]
    above = [0.0 if np.isnan(high) else max(0.0, high - value) for value, _, high in points]
    return [value for value, _, _ in points], [below, above]


def _percent_interval(values: Sequence[float] | None) -> Point | None:
    if not values:
        return None
    low, high = stats.mean_interval(values) if len(values) >= FEWEST_SPREAD else (float("nan"),) * 2
    return 100 * stats.mean(values), 100 * low, 100 * high


def _rate(row: Row, machine: Machine | None) -> Point | None:
    if machine is None:
        return None
    rate = timings.training(row.timings(machine))
    return rate.images_per_s, rate.low, rate.high


def _mean(values: Sequence[float] | None) -> float:
    return stats.mean(values) if values else float("nan")


def _both_machines(grid: Grid, machine: Machine | None) -> str:
    """Accuracy does not ask for the machine that is timed."""
    trained = sorted({Machine.of(record).hardware for row in grid.values() for record in row.trained})
    timed = _machine_title(machine)
    if machine is not None and trained == [machine.hardware]:
        return timed
    return f"accuracy: {', '.join(trained)}; throughput: {timed}"


def _machine_title(machine: Machine | None) -> str:
    return machine.title if machine else "no timings yet"
