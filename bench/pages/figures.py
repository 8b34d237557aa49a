"""Every figure of RESULTS.md, drawn from records. No torch.

SVG without a date: the same records give the same bytes with one version of matplotlib. White background, the colours
of Okabe and Ito, and a marker or line style beside every colour: readable in print and on a dark page.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from bench.pages import classes, curves, grids, pareto, pictures, reported, scaling_tables
from bench.records.rows import Results
from fmnist_core.files import DataError

_ATTRIBUTE = re.compile(rb' (?:d|x|y|transform)="[^"]*"')
_NUMBER = re.compile(rb"-?\d+\.\d{3,}")
_FONT, _FONTS = b"'DejaVu Sans'", b"'DejaVu Sans', Verdana, sans-serif"
"""Matplotlib lays the text out in its own font; Verdana is as wide where that is missing."""

_USE = rb'\n<use xlink:href="#\w+" x="[-\d.]+" y="[-\d.]+"'
_MARKS = re.compile(rb'(<g clip-path="[^"]*")>(%s( style="[^"]*")/>(?:%s\3/>)*)' % (_USE, _USE))
"""The marks of a series, with one style."""
_INDENT = re.compile(rb"\n +")

FOLDER = "docs/figures"
"""Beside RESULTS.md."""
STYLE: Any = {
    "svg.hashsalt": "fmnist-bench",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "figure.titlesize": 9,
    "figure.constrained_layout.w_pad": 0.07,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "legend.frameon": False,
}


class Drawing(NamedTuple):
    name: str
    section: str
    """Name of the experiment, or `reported`, `overfitting`, `cost` or `machine`, under which RESULTS.md shows it."""
    draw: Callable[[Results], Figure | None]
    """None where no record has what it needs. Raises DataError where it needs the data set, which is not here."""
    alt: str
    """What the picture shows, for those who do not see it."""


DRAWINGS: Sequence[Drawing] = (
    Drawing("reported", "reported", reported.figure,
            "Accuracy of each trial and of the final network: the report's run, and the 95 % interval of a run here"),
    Drawing("kernel_depth_accuracy", "kernel_depth", grids.accuracy,
            "Test accuracy by kernel size and depth: heat map of the means, and lines with 95 % intervals over seeds"),
    Drawing("kernel_depth_cost", "kernel_depth", grids.cost,
            "Parameters, multiply-adds and training throughput by kernel size and depth"),
    Drawing("kernel_depth_pareto", "kernel_depth", grids.pareto,
            "Test accuracy against training throughput; a staircase joins the cells that no other beats in both"),
    Drawing("kernel_depth_steps", "kernel_depth", grids.step_times,
            "Training step times by depth and kernel size: median, quartiles, 1st and 99th percentile"),
    Drawing("kernel_depth_limit", "kernel_depth", grids.limit,
            "Median training step by depth and kernel size, as a multiple of the least that the machine allows"),
    Drawing("kernel_sizes", "kernel_size_network2", grids.kernel_sizes,
            "Test accuracy by kernel size in Network 1 and in the final network, 95 % intervals over seeds"),
    Drawing("table_1_1_curves", "table_1_1", lambda results: curves.trials(results, "table_1_1"),
            "Loss and accuracy by epoch of the trials of Table 1.1, training images and validation"),
    Drawing("table_1_2_curves", "table_1_2", lambda results: curves.trials(results, "table_1_2"),
            "Loss and accuracy by epoch of the trials of Table 1.2, training images and validation"),
    Drawing("final_curves", "final", curves.final,
            "Loss and accuracy by epoch of the final network, both readings, mean and standard deviation over seeds"),
    Drawing("final_confusion", "final", classes.confusion,
            "Confusion matrix of the final network on the test set, mean over seeds, in per cent of each true class"),
    Drawing("final_images", "final", pictures.figure,
            "Test images with their true class and, where the final network errs, the predicted one"),
    Drawing("generalisation_gap", "overfitting", curves.gaps,
            "Training accuracy less validation accuracy by epoch, Network 1 and Network 2, of what learned"),
    Drawing("accuracy_cost", "cost", pareto.figure,
            "Test accuracy against parameters, multiply-adds and training time; those not beaten are named"),
    Drawing("scaling", "machine", scaling_tables.figure,
            "Training throughput against batch, width, fused seeds and processes, which share a cell by DDP or not"),
)


def draw(results: Results) -> dict[str, bytes | None]:
    """File name to content, of every figure that the records allow; None: it needs the data set, which is not here."""
    drawn: dict[str, bytes | None] = {}
    with matplotlib.rc_context(STYLE):
        for drawing in DRAWINGS:
            try:
                figure = drawing.draw(results)
            except DataError:
                drawn[f"{drawing.name}.svg"] = None
            else:
                if figure is not None:
                    drawn[f"{drawing.name}.svg"] = svg(figure)
    return drawn


def svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    content = _INDENT.sub(b"\n", buffer.getvalue()).replace(_FONT, _FONTS)
    return _MARKS.sub(_styled_once, _ATTRIBUTE.sub(_rounded, content))


def _styled_once(marks: re.Match[bytes]) -> bytes:
    """The style on the group and not on each mark: a third of the size of a figure of many points."""
    return marks[1] + marks[3] + b">" + marks[2].replace(marks[3], b"")


def _rounded(attribute: re.Match[bytes]) -> bytes:
    """Coordinates to a hundredth of a point: half the size, and no last digits that differ between processors."""
    return _NUMBER.sub(lambda number: b"%.2f" % float(number[0]), attribute[0])
