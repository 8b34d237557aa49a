"""What a sweep found, in a terminal: a row per cell, the foremost cells, and what failed. No torch.

A cell is called the best only where the printed digits set it apart and, of timings, nothing disturbed its own.
"""

import shlex
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from bench.experiment import Experiment
from bench.formatting import NOISY, NOTHING, SHARED, percent, plural
from bench.record import Record, SpeedRecord, TrainRecord
from bench.records.identity import Numerics
from bench.records.timings import last_alike, training, was_disturbed
from bench.stats import summarize
from bench.sweep.plan import Task, by_cell, cells_of

MAX_WIDTH = 160
"""Characters of a line about a failure."""


class Line(NamedTuple):
    """One cell; None: not known."""

    cell: str
    accuracy: float | None = None
    """Mean over seeds, in per cent, rounded to two places: what looks alike is alike."""
    sd: float | None = None
    num_seeds: int = 0
    num_others: int = 0
    """Finished seeds of another arithmetic, which have no mean in common with these."""
    images_per_s: int | None = None
    mark: str = ""
    """Of the timing."""
    parameters: int = 0
    failures: Sequence[str] = ()
    """Status and reason of each record that is not ok."""

    @classmethod
    def of(cls, cell: str, records: Sequence[Record]) -> "Line":
        good = [record for record in records if record.status == "ok"]
        alike: dict[Numerics, list[TrainRecord]] = defaultdict(list)
        for record in good:
            if isinstance(record, TrainRecord):
                alike[Numerics.of(record)].append(record)
        trained = max(alike.values(), key=len, default=[])
        timed = last_alike([record for record in good if isinstance(record, SpeedRecord)])
        accuracy = summarize([record.epochs.test_accuracy[-1] for record in trained]) if trained else None
        rate = training(timed) if timed else None
        disturbed = any(map(was_disturbed, timed))
        return cls(
            cell=cell, accuracy=float(percent(accuracy.mean)) if accuracy else None,
            sd=100 * accuracy.sd if accuracy and accuracy.n > 1 else None, num_seeds=len(trained),
            num_others=sum(map(len, alike.values())) - len(trained),
            images_per_s=round(rate.images_per_s) if rate else None,
            mark=(NOISY if rate and rate.noisy else "") + (SHARED if disturbed else ""),
            parameters=good[0].num_parameters if good else 0,
            failures=[f"{record.status}: {record.reason}" for record in records if record.status != "ok"])


def show(experiments: Iterable[Experiment], planned: Iterable[Task], latest: Mapping[str, Record],
         folder: Path, asked: Sequence[str] = ()) -> None:
    """A row per cell: accuracy, speed, size; what failed; then where the records are and what could come next.

    `asked`: the experiments as they were named, of which a report must be told the files.
    """
    planned = list(planned)
    tasks_of = by_cell(planned)
    for experiment in experiments:
        lines = []
        for cell in cells_of(experiment, planned):
            records = [latest[task.key] for task in tasks_of(cell.config) if task.key in latest]
            lines.append(Line.of(cell.label, records))
        for paragraph in (experiment.title, *paragraphs(lines)):
            print(f"\n{paragraph}")
    files = [name for name in asked if name.endswith(".toml")]
    print(f"\nRecords: {folder}. Tables and figures of them:\n"
          f"  {shlex.join(['python', '-m', 'bench.report', '--store', str(folder), *files])}")
    if [each.name for each in experiments] == ["quick"]:
        print("The full sweep, with several seeds and more epochs, is kernel_depth in the place of quick.")


def paragraphs(lines: Sequence[Line]) -> Iterator[str]:
    yield _table(lines)
    marks = "".join(line.mark for line in lines)
    meanings = {NOISY: "the steps vary by more than 10 % (IQR / median)",
                SHARED: "other work ran meanwhile, or the record has a warning: no measurement of speed"}
    legend = "; ".join(f"{mark} {meaning}" for mark, meaning in meanings.items() if mark in marks)
    others = sum(line.num_others for line in lines)
    left_out = others and f"Left out: {plural(others, 'seed')} of another arithmetic, which a report shows apart."
    sentences = " ".join([*_highest(lines), *_fastest(lines)])
    if told := "\n".join(text for text in (legend, left_out, sentences) if text):
        yield told
    if failures := list(_failures(lines)):
        yield "\n".join(["Failed:", *failures])


def _table(lines: Sequence[Line]) -> str:
    headers = ["cell", "test accuracy %", "sd", "n", "images/s", "parameters", "failed"]
    text = lambda value, form: NOTHING if value is None else format(value, form)
    rows = [[line.cell, text(line.accuracy, ".2f"), text(line.sd, ".2f"), line.num_seeds,
             text(line.images_per_s, ",") + line.mark, text(line.parameters or None, ","),
             ", ".join(sorted({failure.partition(":")[0] for failure in line.failures}))] for line in lines]
    return str(tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 5, "left")))


def _highest(lines: Sequence[Line]) -> Iterator[str]:
    known = [(line.accuracy, line) for line in lines if line.accuracy is not None]
    if len(known) > 1:
        best = max(accuracy for accuracy, _ in known)
        winners = [line for accuracy, line in known if accuracy == best]
        alone = " (n = 1)" if any(line.num_seeds == 1 for line in winners) else ""
        yield f"Highest mean accuracy: {_named(winners, len(known), f'{best:.2f} %{alone}')}."


def _fastest(lines: Sequence[Line]) -> Iterator[str]:
    timed = [(line.images_per_s, line) for line in lines if line.images_per_s is not None]
    quiet = [(rate, line) for rate, line in timed if SHARED not in line.mark]
    if len(quiet) > 1:
        best = max(rate for rate, _ in quiet)
        winners = [line for rate, line in quiet if rate == best]
        what = "Fastest" if len(quiet) == len(timed) else f"Fastest of those without {SHARED}"
        yield f"{what}: {_named(winners, len(quiet), f'{best:,}{winners[0].mark} images/s')}."
    elif len(timed) > 1:
        yield f"Fastest: not told apart, since timings were disturbed ({SHARED})."


def _named(winners: Sequence[Line], num_known: int, value: str) -> str:
    return f"{winners[0].cell}, {value}" if len(winners) == 1 else f"{value}, by {len(winners)} of {num_known} cells"


def _failures(lines: Sequence[Line]) -> Iterator[str]:
    """A line for each cell and reason."""
    for line in lines:
        for failure, number in Counter(line.failures).items():
            times = f" ({plural(number, 'record')})" if number > 1 else ""
            yield "  " + textwrap.shorten(f"{line.cell}: {failure}", MAX_WIDTH, placeholder=" ...") + times
