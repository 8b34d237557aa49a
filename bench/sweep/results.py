"""What a sweep found, in a terminal: a row per cell, the foremost cells, and what failed. No torch.

Nothing is called the best that is not told apart from others: by the digits that are printed, and undisturbed.
"""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tabulate import tabulate

from bench.formatting import NOISY, NOTHING, SHARED, plural
from bench.record import Record, SpeedRecord, TrainRecord
from bench.stats import summarize, throughput

MAX_WIDTH = 160
"""Characters of a line about a failure."""


class Line(NamedTuple):
    """One cell, as it is printed; an empty text: not known."""

    cell: str
    accuracy: str = ""
    """Mean over seeds, in per cent."""
    sd: str = ""
    num_seeds: int = 0
    images_per_s: str = ""
    mark: str = ""
    """Of the timing."""
    parameters: str = ""
    failures: Sequence[str] = ()
    """Status and reason of each record that is not ok."""

    @classmethod
    def of(cls, cell: str, records: Sequence[Record]) -> "Line":
        good = [record for record in records if record.status == "ok"]
        trained = [record for record in good if isinstance(record, TrainRecord)]
        timed = [record for record in good if isinstance(record, SpeedRecord)]
        accuracy = summarize([100 * record.epochs.test_accuracy[-1] for record in trained]) if trained else None
        rate = throughput(timed[0].images_per_step, timed[0].step_s) if timed else None
        disturbed = bool(timed) and (timed[0].labels.machine_shared or bool(timed[0].warnings))
        return cls(
            cell=cell, accuracy=f"{accuracy.mean:.2f}" if accuracy else "",
            sd=f"{accuracy.sd:.2f}" if accuracy and accuracy.n > 1 else "", num_seeds=len(trained),
            images_per_s=f"{rate.images_per_s:,.0f}" if rate else "",
            mark=(NOISY if rate and rate.noisy else "") + (SHARED if disturbed else ""),
            parameters=f"{good[0].num_parameters:,}" if good and good[0].num_parameters else "",
            failures=[f"{record.status}: {record.reason}" for record in records if record.status != "ok"])


def paragraphs(lines: Sequence[Line]) -> Iterator[str]:
    yield _table(lines)
    marks = "".join(line.mark for line in lines)
    meanings = {NOISY: "the steps vary by more than 10 % (IQR / median)",
                SHARED: "other work ran meanwhile, or the record has a warning: no measurement of speed"}
    legend = "; ".join(f"{mark} {meaning}" for mark, meaning in meanings.items() if mark in marks)
    sentences = " ".join([*_highest(lines), *_fastest(lines)])
    if told := "\n".join(text for text in (legend, sentences) if text):
        yield told
    if failures := list(_failures(lines)):
        yield "\n".join(["Failed:", *failures])


def _table(lines: Sequence[Line]) -> str:
    headers = ["cell", "test accuracy %", "sd", "n", "images/s", "parameters", "failed"]
    rows = [[line.cell, line.accuracy or NOTHING, line.sd or NOTHING, line.num_seeds,
             line.images_per_s + line.mark or NOTHING, line.parameters or NOTHING,
             ", ".join(sorted({failure.partition(":")[0] for failure in line.failures}))] for line in lines]
    return str(tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 5, "left")))


def _highest(lines: Sequence[Line]) -> Iterator[str]:
    known = [line for line in lines if line.accuracy]
    if len(known) > 1:
        best = max((line.accuracy for line in known), key=float)
        winners = [line for line in known if line.accuracy == best]
        alone = " (n = 1)" if any(line.num_seeds == 1 for line in winners) else ""
        yield f"Highest mean accuracy: {_named(winners, known, f'{best} %{alone}')}."


def _fastest(lines: Sequence[Line]) -> Iterator[str]:
    timed = [line for line in lines if line.images_per_s]
    quiet = [line for line in timed if SHARED not in line.mark]
    if len(quiet) > 1:
        best = max((line.images_per_s for line in quiet), key=lambda text: float(text.replace(",", "")))
        winners = [line for line in quiet if line.images_per_s == best]
        what = "Fastest" if len(quiet) == len(timed) else f"Fastest of those without {SHARED}"
        yield f"{what}: {_named(winners, quiet, f'{best}{winners[0].mark} images/s')}."
    elif len(timed) > 1:
        yield f"Fastest: not told apart, since timings were disturbed ({SHARED})."


def _named(winners: Sequence[Line], known: Sequence[Line], value: str) -> str:
    return f"{winners[0].cell}, {value}" if len(winners) == 1 else f"{value}, by {len(winners)} of {len(known)} cells"


def _failures(lines: Sequence[Line]) -> Iterator[str]:
    """A line for each cell and reason."""
    for line in lines:
        for failure, number in Counter(line.failures).items():
            times = f" ({plural(number, 'record')})" if number > 1 else ""
            yield "  " + textwrap.shorten(f"{line.cell}: {failure}", MAX_WIDTH, placeholder=" ...") + times
