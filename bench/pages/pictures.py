"""Test images as the final network sees them: the first ones, and its most confident mistakes. No torch.

Records hold indices, not pixels: the pictures need the data set.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.judging.final_network import readings
from bench.pages.classes import CLASSES, common_mistakes
from bench.pages.drawing import WIDTH
from bench.records.rows import Results
from fmnist_core.files import Bytes, find, load_arrays

COLUMNS, ROWS = 10, 2
Seen = tuple[int, int, int]
"""Index in the test set, true class, predicted class."""


def figure(results: Results) -> Figure | None:
    """Of the first reading that has examples, by its first seed. Raises DataError without the data set."""
    row, record = next(((row, record) for row in readings(results) for record in row.trained if record.test.examples),
                       (None, None))
    if row is None or record is None:
        return None
    folder = find(download=False)
    images_NCHW = load_arrays("fashion-mnist", str(folder)).test_images_NCHW
    drawn = Figure(figsize=(WIDTH, 5.8), layout="constrained")
    grid = drawn.add_gridspec(2, 1)
    first = [one[:3] for one in record.test.examples]
    wrong = sum(true != predicted for _, true, predicted in first)
    for place, title, seen in [
        (grid[0], f"The first {len(first)} test images, {row.label}, seed {record.seed}: {wrong} wrong", first),
        (grid[1], "The mistakes that are most often among a seed's most confident: true class, \N{MULTIPLICATION X} "
                  "predicted class", list(common_mistakes(row))),
    ]:
        part = drawn.add_subfigure(place)
        part.suptitle(title, fontsize=10)
        for axes, one in zip(part.subplots(ROWS, COLUMNS).flat, _padded(seen), strict=True):
            axes.axis("off")
            if one is not None:
                _show(axes, images_NCHW[one[0], 0], one)
    return drawn


def _show(axes: Axes, image_HW: Bytes, seen: Seen) -> None:
    _, true, predicted = seen
    # Dark clothes on white paper, as everywhere else on the page; 28 x 28 pixels are embedded as they are.
    axes.imshow(image_HW, cmap="gray_r", vmin=0, vmax=255, interpolation="none")
    right = true == predicted
    text = CLASSES[true] if right else f"{CLASSES[true]}\n\N{MULTIPLICATION X} {CLASSES[predicted]}"
    axes.set_title(text, fontsize=7, fontweight="normal" if right else "bold", pad=2)


def _padded(seen: Sequence[Seen]) -> list[Seen | None]:
    num = ROWS * COLUMNS
    return [*seen[:num], *[None] * (num - len(seen))]
