"""Figures over epochs. No torch."""

import math
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import stats
from bench.judging.final_network import readings
from bench.pages.drawing import (
    COLOURS,
    LINES,
    WIDTH,
    End,
    coverage,
    epoch_axis,
    label_ends,
    legend_below,
    number_axis,
    say_waiting,
    seeds_of,
    title_of,
)
from bench.record import Epochs, TrainRecord
from bench.records.outcomes import LEARNT, validation_last
from bench.records.rows import Results, Row

LOWEST_SHOWN, HIGHEST_LOSS = 60.0, 3.0
"""Accuracy in per cent at which the axis of the trials begins, loss at which it ends: some trials only guess (2.3)."""
COLUMNS = 3
Series = Callable[[Epochs], Sequence[float]]

LOSSES: dict[str, Series] = {
    "training images": lambda e: e.train_subset_loss,
    "validation": lambda e: e.validation_loss,
}
ACCURACIES: dict[str, Series] = {
    "training images": lambda e: [100 * value for value in e.train_subset_accuracy],
    "validation": lambda e: [100 * value for value in e.validation_accuracy],
}


def final(results: Results) -> Figure | None:
    """Figure 1.2 of the report, one row of panels per reading, with the spread over seeds."""
    every = readings(results)
    rows = [row for row in every if row.trained]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, 2.6 * len(rows) + 0.6), layout="constrained")
    panels = figure.subplots(len(rows), 2, squeeze=False, sharex=True, sharey="col")
    for (left, right), row in zip(panels, rows, strict=True):
        _panel(left, row.trained, LOSSES)
        _panel(right, row.trained, ACCURACIES)
        _mark_reported(right, row)
        left.set(ylabel="loss", title=f"{row.label}, {seeds_of([row])}: loss")
        right.set(ylabel="accuracy (%)", title=f"{row.label}, {seeds_of([row])}: accuracy")
    for panel in panels[-1]:
        epoch_axis(panel)
    figure.suptitle(title_of("Mean, and one sd either way", coverage(len(rows), len(every), "reading")))
    legend_below(figure)
    return figure


def trials(results: Results, experiment: str) -> Figure | None:
    """The same for every trial of a table. What does not learn is written, not drawn to scale."""
    every = results.of(experiment)
    rows = [row for row in every if row.trained]
    if not rows:
        return None
    columns, blocks = min(COLUMNS, len(rows)), math.ceil(len(rows) / COLUMNS)
    # Columns as wide as those of a full table, and room for the legend.
    figure = Figure(figsize=(max(4.0, WIDTH * columns / COLUMNS), 2.7 * blocks + 0.6), layout="constrained")
    panels = figure.subplots(2 * blocks, columns, squeeze=False, sharex=True)
    losses, accuracies = panels[::2].ravel(), panels[1::2].ravel()
    for i, (above, below) in enumerate(zip(losses, accuracies, strict=True)):
        if i:
            above.sharey(losses[0])
            below.sharey(accuracies[0])
        if i < len(rows):
            _trial(above, below, rows[i], is_first=i % columns == 0)
        else:
            above.remove()
            below.remove()
    _limits(losses[0], accuracies[0])
    figure.suptitle(title_of("Mean, and one sd either way" if any(len(row.trained) > 1 for row in rows) else "",
                             coverage(len(rows), len(every), "trial")))
    legend_below(figure)
    return figure


def _trial(above: Axes, below: Axes, row: Row, *, is_first: bool) -> None:
    """Loss above accuracy; the values beside the first of a row alone."""
    _panel(above, row.trained, LOSSES)
    _panel(below, row.trained, ACCURACIES)
    _mark_reported(below, row)
    above.set_title(f"{row.label}, {seeds_of([row])}")
    last = row.values(validation_last)
    if last and 100 * (mean := stats.mean(last)) < LOWEST_SHOWN:
        below.text(0.5, 0.5, f"validation:\n{100 * mean:.1f} %", transform=below.transAxes, ha="center", va="center",
                   bbox={"facecolor": "white", "edgecolor": "none"})
    epoch_axis(below)
    if is_first:
        above.set_ylabel("loss (log)")
        below.set_ylabel("accuracy (%)")
    for panel in (above, below):
        panel.grid(visible=False, axis="x")
        panel.tick_params(which="both", left=False, bottom=False, labelleft=is_first, labelbottom=panel is below)


def _mark_reported(accuracy: Axes, row: Row) -> None:
    if (reported := row.cell.reported.validation_accuracy) is not None:
        accuracy.axhline(100 * reported, color=COLOURS[-1], linewidth=1, linestyle=":", label="the report, validation")


def _limits(loss: Axes, accuracy: Axes) -> None:
    """Of the axes that all panels share."""
    accuracy.locator_params(axis="y", nbins=5)
    low, high = accuracy.get_ylim()
    accuracy.set_ylim(bottom=LOWEST_SHOWN if low < LOWEST_SHOWN < high else low)
    loss.set_yscale("log")
    loss.set_ylim(top=min(HIGHEST_LOSS, loss.get_ylim()[1]))
    number_axis(loss.yaxis, logarithmic=True)


def gaps(results: Results) -> Figure | None:
    """Training accuracy less validation accuracy by epoch, mean over seeds: Network 1 left, Network 2 right."""
    networks = {"Network 1": ("network1_printed", "table_1_1"), "Network 2": ("network2_printed", "table_1_2")}
    rows = {name: [row for one in experiments for row in results.of(one)] for name, experiments in networks.items()}
    if not any(row.trained for own in rows.values() for row in own):
        return None
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
    ends = [_gaps(panel, name, own) for panel, (name, own) in zip(panels, rows.items(), strict=True)]
    panels[0].set_ylabel("training less validation accuracy (points)")
    for panel, own_ends in zip(panels, ends, strict=True):  # when the axis that they share has its limits
        label_ends(panel, own_ends)
    return figure


def _gaps(panel: Axes, name: str, every: Sequence[Row]) -> list[End]:
    """Gives the ends of the lines."""
    rows = [row for row in every if row.trained]
    lost = [row for row in rows if not row.learnt]
    ends: list[End] = []
    for i, row in enumerate(row for row in rows if row not in lost):
        mean, _ = mean_and_sd([_gap(record.epochs) for record in row.trained])
        panel.plot(range(1, len(mean) + 1), mean, color=COLOURS[i % 7], linestyle=LINES[(i + i // 7) % 7],
                   linewidth=1.2)
        printed = row.experiment.name.endswith("_printed") and "printed" not in row.label
        ends += [(len(mean), mean[-1], f"printed, {row.label}" if printed else row.label, COLOURS[i % 7])]
    parts = [f"{name}, mean of {seeds_of(rows)}" if rows else name, coverage(len(rows), len(every), "training")]
    if lost:
        parts += textwrap.wrap(f"left out, as a seed's test accuracy ends below {100 * LEARNT:g} %: "
                               + "; ".join(row.label for row in lost), 48)
    panel.set_title("\n".join(part for part in parts if part))
    epoch_axis(panel)
    if rows:
        panel.axhline(0, color="black", linewidth=0.8)
    else:
        say_waiting(panel)
    return ends


def mean_and_sd(series: Sequence[Sequence[float]]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """By epoch, over the seeds that reached it; the sd of a single seed is 0."""
    longest = max((len(one) for one in series), default=0)
    padded = np.full((len(series), longest), np.nan)
    for i, one in enumerate(series):
        padded[i, : len(one)] = one
    counts = np.sum(~np.isnan(padded), axis=0)
    mean = np.nansum(padded, axis=0) / np.maximum(counts, 1)
    variance = np.nansum((padded - mean) ** 2, axis=0) / np.maximum(counts - 1, 1)
    return mean, np.sqrt(variance)


def _panel(axes: Axes, records: Sequence[TrainRecord], series: dict[str, Series]) -> None:
    for i, (label, of) in enumerate(series.items()):
        mean, sd = mean_and_sd([of(record.epochs) for record in records])
        epochs = np.arange(1, len(mean) + 1)
        axes.plot(epochs, mean, label=label, color=COLOURS[i], linestyle=LINES[i], linewidth=1.3)
        if len(records) > 1:
            axes.fill_between(epochs, mean - sd, mean + sd, color=COLOURS[i], alpha=0.25, linewidth=0)


def _gap(epochs: Epochs) -> list[float]:
    pairs = zip(epochs.train_subset_accuracy, epochs.validation_accuracy, strict=False)
    return [100 * (train - validation) for train, validation in pairs]
