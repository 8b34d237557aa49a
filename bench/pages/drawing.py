"""What the figures share: colours, numbers, titles, and labels that do not cover each other. No torch."""

import itertools
import math
import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from scipy.optimize import isotonic_regression

from bench.formatting import plural
from bench.records.rows import Row

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito 2008, without the yellow that white paper swallows."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", "-", "--", "-.")

WIDTH = 8.6
"""Inches: what GitHub shows of a page, so that no text is scaled down there."""
TITLE_WIDTH = 100
"""Characters above a figure of that width; a panel of two has room for half of them."""
SMALL = 7.5
"""Points: the least size of a text."""
_AROUND = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
_LINE = 0.045
"""Height of a line of text, as a share of that of the axes."""
Place = npt.NDArray[np.float64]
"""On the page, in points."""
End = tuple[float, float, str, str]
"""Of a line: x, y, label, colour."""
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


def number(value: float) -> str:
    """Thousands set apart by commas; from a million on `1 M`, which an axis has room for."""
    for unit, letter in ((1e9, "G"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:g} {letter}"
    return f"{value:,g}"


def number_axis(axis: Axis, *, logarithmic: bool = False) -> None:
    """Numbers written out, never powers of ten; a logarithmic axis has its limits already."""
    if logarithmic:
        low, high = axis.get_view_interval()
        subs = (1, 2, 5) if high < 15 * low else (1, 3) if high < 100 * low else (1,)
        # Within a factor of 3 it would find too few places, and then take as many as a linear axis has.
        axis.set_major_locator(LogLocator(subs=subs) if high > 3 * low else MaxNLocator(nbins=3))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(lambda value, _: number(value))


def seeds_of(rows: Iterable[Row]) -> str:
    """e.g. `n = 3 seeds`, `n = 1 to 5 seeds`."""
    counts = sorted({len(row.trained) for row in rows if row.trained})
    return f"n = {counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"n = {plural(counts[0], 'seed')}"


def means_of(rows: Sequence[Row]) -> str:
    several = any(len(row.trained) > 1 for row in rows)
    return f"means and 95 % intervals, {seeds_of(rows)}" if several else f"{seeds_of(rows)}, no intervals"


def coverage(num: int, of: int, noun: str, what: str = "records") -> str:
    """e.g. `6 of 7 trials have records`; nothing where all have."""
    return "" if num == of else f"{num} of {plural(of, noun)} {'has' if num == 1 else 'have'} {what}"


def epoch_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    axes.set_xlabel("epoch", labelpad=1)


def title_of(*parts: str, width: int = TITLE_WIDTH) -> str:
    """In as many lines as it takes."""
    return textwrap.fill("; ".join(part for part in parts if part), width)


def legend_below(figure: Figure, *, ncols: int = 4) -> None:
    """One for all panels, never on the data."""
    handles = {label: handle for axes in figure.axes
               for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=ncols)


def say_waiting(axes: Axes, text: str = "waiting for records") -> None:
    """In the place of an empty panel with an axis that means nothing."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color="#555555")
    axes.set_xticks([])
    if len(axes.get_shared_y_axes().get_siblings(axes)) == 1:  # else another panel's values stand at this axis
        axes.set_yticks([])


def label_points(axes: Axes, labels: Sequence[tuple[float, float, str]], points: Sequence[tuple[float, float]]) -> None:
    """Each label where it covers no point and no other label, if there is such a place near; the limits must stand."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # only then does the layout stand
    scale = 72 / figure.dpi
    anchors = [axes.transData.transform((x, y)) * scale for x, y, _ in labels]
    left, bottom, right, top = scale * np.array(axes.bbox.extents)
    inside = (left, bottom, right, top)
    taken = [_box(axes.transData.transform(point) * scale, (6, 6)) for point in points]
    for i, (x, y, text) in enumerate(labels):
        size = (0.65 * SMALL * len(text), SMALL)
        offsets = [(right * (away + size[0] / 2), up * (away + size[1] / 2))
                   for away, (right, up) in itertools.product((4, 8, 13, 19, 26), _AROUND)]
        boxes = [_box(anchors[i] + offset, size) for offset in offsets]
        costs = [sum(_overlap(box, other) for other in taken) - _overlap(box, inside)
                 + 30 * _is_nearer(anchors[i], offset, anchors) for box, offset in zip(boxes, offsets, strict=True)]
        best = int(np.argmin(costs))
        taken.append(boxes[best])
        axes.annotate(text, (x, y), xytext=offsets[best], textcoords="offset points", ha="center", va="center",
                      fontsize=SMALL, in_layout=False,
                      arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "#555555", "shrinkA": 0, "shrinkB": 0})


def _is_nearer(own: Place, offset: tuple[float, float], anchors: Sequence[Place]) -> bool:
    """Whether a label there would be taken for that of another point."""
    away = [float(np.hypot(*(own + offset - other))) for other in anchors if other is not own]
    return min(away, default=math.inf) < 1.2 * math.hypot(*offset)


def label_ends(axes: Axes, ends: Sequence[End]) -> None:
    """At the right of the axes, in the order of the ends and a line of text apart."""
    ordered = sorted(ends, key=lambda end: end[1])
    low, high = axes.get_ylim()
    apart = _LINE * (high - low) * np.arange(len(ordered))
    places = isotonic_regression([y for _, y, _, _ in ordered] - apart).x + apart if ordered else []
    for (x, y, text, colour), place in zip(ordered, places, strict=True):
        axes.annotate(text, (x, y), xytext=(1.06, place), textcoords=axes.get_yaxis_transform(), va="center",
                      fontsize=SMALL, annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "linewidth": 0.8, "color": colour, "relpos": (0, 0.5),
                                  "shrinkA": 0, "shrinkB": 0})


def _box(middle: Place, size: Sequence[float] | Place) -> Box:
    (x, y), (width, height) = middle, size
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
