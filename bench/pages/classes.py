"""What is taken for what: accuracy per class, confusion, and the most confident mistakes. No torch."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from bench import stats
from bench.formatting import NOTHING, escape, estimate, table
from bench.judging.final_network import readings
from bench.pages.drawing import seeds_of
from bench.records.rows import Results, Row
from fmnist_core.config import DATASETS

CLASSES = DATASETS["fashion-mnist"].classes
MAX_MISTAKES = 20


def per_class(rows: Sequence[Row], names: Sequence[str] = CLASSES) -> str:
    """A row per class, a column per cell."""
    body = []
    for label, name in enumerate(names):
        cells = []
        for row in rows:
            matrices = [record.test.confusion for record in row.trained if len(record.test.confusion) == len(names)]
            cells.append(estimate([matrix[label][label] / max(1, sum(matrix[label])) for matrix in matrices]))
        body.append([str(label), escape(name), *cells])
    totals = dict.fromkeys(f"{matrix.sum():,.0f}" for row in rows if (matrix := mean_confusion(row)) is not None)
    return (table(["class", "name", *(escape(row.label) for row in rows)], body, text_columns=2)
            + f"\n\nImages per seed: {', '.join(totals) or NOTHING}.")


def mistakes(row: Row) -> str:
    """The most confident ones, as a table."""
    made = common_mistakes(row)
    if not made:
        return "Waiting: no record lists mistakes yet."
    body = [[str(index), _class(true), _class(predicted), f"{stats.mean(values):.4f}",
             f"{len(values)} of {len(row.trained)}"] for (index, true, predicted), values in made.items()]
    return table(["test image", "true class", "predicted class", "probability (mean)", "listed by (seeds)"], body)


def common_mistakes(row: Row) -> dict[tuple[int, int, int], list[float]]:
    """Most often among the most confident of a seed: (index, true class, predicted class) to probabilities."""
    made: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for record in row.trained:
        for index, true, predicted, probability in record.test.mistakes:
            made[index, true, predicted].append(probability)
    order = lambda one: (-len(made[one]), -stats.mean(made[one]), one)
    return {one: made[one] for one in sorted(made, key=order)[:MAX_MISTAKES]}


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
             title=f"{row.label}: % of each true class, mean of {seeds_of([row])}")
    axes.grid(visible=False)
    return figure


def mean_confusion(row: Row) -> npt.NDArray[np.float64] | None:
    """(10, 10): images by true and predicted class, mean over the seeds that have a matrix."""
    matrices = [np.array(record.test.confusion, dtype=np.float64) for record in row.trained if record.test.confusion]
    square = [matrix for matrix in matrices if matrix.shape == (len(CLASSES), len(CLASSES))]
    return np.mean(square, axis=0) if square else None


def _class(label: int) -> str:
    return CLASSES[label] if 0 <= label < len(CLASSES) else str(label)
