"""Figures over epochs and classes. No torch."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench import stats
from bench.claims import readings
from bench.formatting import significant
from bench.grids import COLOURS, LINES, say_waiting
from bench.outcomes import validation_last
from bench.record import Epochs, TrainRecord
from bench.rows import Results, Row
from fmnist_core.config import DATASETS

CLASSES = DATASETS["fashion-mnist"].classes
LOWEST_SHOWN, HIGHEST_LOSS = 75.0, 3.0
"""Accuracy in per cent at which the axis of the trials begins, loss at which it ends: some trials only guess (2.3)."""
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
    rows = [row for row in readings(results) if row.trained]
    if not rows:
        return None
    figure = Figure(figsize=(8.5, 3 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 2, squeeze=False)
    for (left, right), row in zip(panels, rows, strict=True):
        _panel(left, row.trained, LOSSES)
        _panel(right, row.trained, ACCURACIES)
        left.set(xlabel="epoch", ylabel="loss", title=f"{row.label}, n = {len(row.trained)}")
        right.set(xlabel="epoch", ylabel="accuracy (%)", title="mean, and one sd either way")
        left.legend()
    return figure


def trials(results: Results, experiment: str) -> Figure | None:
    """The same for every trial of a table, one column each. What does not learn is written, not drawn to scale."""
    rows = [row for row in results.of(experiment) if row.trained]
    if not rows:
        return None
    figure = Figure(figsize=(1.9 * len(rows) + 0.8, 4.2), layout="constrained")
    panels = figure.subplots(2, len(rows), squeeze=False, sharey="row")
    for i, row in enumerate(rows):
        _panel(panels[0, i], row.trained, LOSSES)
        _panel(panels[1, i], row.trained, ACCURACIES)
        panels[0, i].set_title(f"{row.label}\nn = {len(row.trained)}", fontsize=8)
        last = row.values(validation_last)
        if last and 100 * (mean := stats.summarize(last).mean) < LOWEST_SHOWN:
            panels[1, i].text(0.5, 0.5, f"validation:\n{100 * mean:.1f} %", transform=panels[1, i].transAxes,
                              ha="center")
        panels[1, i].set_xlabel("epoch")
    for panel in panels.flat:
        panel.locator_params(axis="x", nbins=4)
        panel.grid(visible=False, axis="x")
        panel.tick_params(which="both", left=False, bottom=False)
    panels[1, 0].locator_params(axis="y", nbins=5)
    panels[0, 0].set_yscale("log")
    panels[0, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0, 0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value, 1)))
    panels[0, 0].yaxis.set_minor_formatter(NullFormatter())
    panels[0, 0].set_ylim(top=min(HIGHEST_LOSS, panels[0, 0].get_ylim()[1]))
    low, high = panels[1, 0].get_ylim()
    panels[1, 0].set_ylim(bottom=LOWEST_SHOWN if low < LOWEST_SHOWN < high else low)
    panels[0, 0].set_ylabel("loss (logarithmic)")
    panels[1, 0].set_ylabel("accuracy (%)")
    panels[0, 0].legend(fontsize=7)
    return figure


def gaps(results: Results) -> Figure | None:
    """Training accuracy less validation accuracy by epoch, mean over seeds: Network 1 left, Network 2 right."""
    networks = {"Network 1": ("network1_printed", "table_1_1"), "Network 2": ("network2_printed", "table_1_2")}
    rows = {name: [row for one in experiments for row in results.of(one) if row.trained]
            for name, experiments in networks.items()}
    if not any(rows.values()):
        return None
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (name, own) in zip(panels, rows.items(), strict=True):
        for i, row in enumerate(own):
            mean, _ = mean_and_sd([_gap(record.epochs) for record in row.trained])
            printed = row.experiment.name.endswith("_printed") and "printed" not in row.label
            panel.plot(range(1, len(mean) + 1), mean, label=f"printed, {row.label}" if printed else row.label,
                       color=COLOURS[i % 7], linestyle=LINES[(i + i // 7) % 7], linewidth=1.2)
        panel.set(xlabel="epoch", title=name)
        if own:
            panel.axhline(0, color="black", linewidth=0.8)
            panel.legend(fontsize=7, ncols=2)
        else:
            say_waiting(panel)
    panels[0].set_ylabel("training less validation accuracy (points)")
    return figure


def confusion(results: Results) -> Figure | None:
    """Of the first reading that has one: each row in per cent of its true class, mean over seeds."""
    row, matrix = next(((row, matrix) for row in readings(results) if (matrix := mean_confusion(row)) is not None),
                       (None, None))
    if row is None or matrix is None:
        return None
    shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-12)
    figure = Figure(figsize=(6.6, 5.6), layout="constrained")
    axes = figure.subplots()
    # The square root lets the mistakes be seen beside the diagonal.
    axes.imshow(np.sqrt(shares), cmap="cividis", vmin=0, vmax=10)
    for i, j in np.ndindex(shares.shape):
        if shares[i, j] >= 0.05:
            axes.text(j, i, f"{shares[i, j]:.1f}", ha="center", va="center", fontsize=7,
                      color="black" if shares[i, j] > 25 else "white")
    axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=45, ha="right")
    axes.set_yticks(range(len(CLASSES)), CLASSES)
    axes.set(xlabel="predicted class", ylabel="true class",
             title=f"{row.label}: % of each true class, n = {len(row.trained)}")
    axes.grid(visible=False)
    return figure


def mean_confusion(row: Row) -> npt.NDArray[np.float64] | None:
    """(10, 10): images by true and predicted class, mean over the seeds that have a matrix."""
    matrices = [np.array(record.test.confusion, dtype=np.float64) for record in row.trained if record.test.confusion]
    square = [matrix for matrix in matrices if matrix.shape == (len(CLASSES), len(CLASSES))]
    return np.mean(square, axis=0) if square else None


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
        axes.fill_between(epochs, mean - sd, mean + sd, color=COLOURS[i], alpha=0.25, linewidth=0)


def _gap(epochs: Epochs) -> list[float]:
    pairs = zip(epochs.train_subset_accuracy, epochs.validation_accuracy, strict=False)
    return [100 * (train - validation) for train, validation in pairs]
