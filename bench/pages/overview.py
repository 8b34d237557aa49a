"""The opening of RESULTS.md: what was measured, on what, how to read it, and what is missing. No torch."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from bench import stats
from bench.experiment import Experiment
from bench.formatting import NOTHING, anchor, code, count, escape, percent, plural, points, table
from bench.pages import scaling_tables
from bench.pages.shown import Shown
from bench.pages.side_tables import headers_and_rows
from bench.pages.tables import SHORT_COMMIT
from bench.record import Record, SpeedRecord, TrainRecord
from bench.records import outcomes
from bench.records.identity import Numerics
from bench.records.machines import Machine
from bench.records.rows import Results, Row, one_per_cell
from bench.records.side_records import Calibration, Ledger, Peers, Scaling, SideRecord, Turns

FEWEST_CELLS = 5
"""With seeds of two kinds of arithmetic, for a sentence on their difference."""

HOW_TO_READ = """\
- **Accuracies** are in per cent: mean ± standard deviation over seeds [95 % Student interval of the mean]. A cell with
  one seed shows its value alone: it has no spread, and nothing follows from it. Of two accuracies or times no interval
  is shown: it would reach nine standard deviations either way.
- **seeds**: finished seeds; how many more the experiment asks for (`waiting`); how many failed, and as what. Reasons
  stand below the table.
- **last epoch** is the result. **Best epoch** is the highest validation accuracy over the epochs, and **test,
  validation-selected** the test accuracy at that epoch. **Best on test** is chosen by the test set itself: it is what
  some publications print, and no result.
- **training time**: seconds spent training, evaluation excluded; median over seeds.
- **training images**: accuracy on the first 10,000 training images, in evaluation mode.
- **Throughput** is images per step by the median time of a step and its batch, which a captured step holds.
  **timings**: how often it was measured, once round all cells after the other, and but for the first, and for processes
  that share a batch, in a process of its own. Of several: geometric mean [95 % Student interval of the logarithms];
  steps, memory and what else cannot be averaged are those of the middle one. Of one and of two no interval is shown:
  the steps of one timing do not tell how far the next one, on a warmer or busier machine, would lie from it.
- **†**: IQR / median above 10 %, a noisy timing. **‡**: other work was seen on the machine meanwhile, the clocks of a
  timing disagree, a GPU lowered its own against heat, the seconds of a training's epochs vary by more than 10 % (IQR /
  median), or it was taken up again after a stop, of whose first part its record does not know: no measurement of
  speed. **§**: timed at another commit than most of this table; the code may have become faster or slower in between.
- **step**: forward, loss, backward, optimizer step, zeroed gradients; **batch**: gathering and augmenting the images,
  beside it. **step / least possible**: the median step over the least time that the machine's own ceilings, measured
  beside, allow. **first step**: with compilation and allocation. **memory**: most bytes of tensors alive at once, and
  in brackets what the allocator took from the system for them; on a CPU without the data set. **operators a step**:
  calls that the dispatcher saw, and in brackets those that made the host wait for the device.
- **Training time to a target**: the training seconds of the epochs up to and including the first whose validation
  accuracy reaches it, mean ± standard deviation over seeds [95 % interval]; never a mean over the seeds that reached it
  without saying how many. ¶: no validation set, judged by the last epoch's test accuracy. What the first epoch takes
  beyond the others (first step, compilation) counts, and is told of GPUs. Set-up, evaluation and checkpoints do not:
  **off the clock**, over the whole training. Seconds of different machines, and of disturbed trainings, are rows of
  their own.
- Times are compared within one machine only, with the same driver, torch, threads and processes. Rows whose
  arithmetic or memory format differ from what their settings ask for are marked and not compared.
- **p** values are two-sided. Where many are compared, Holm's correction is in them; the intervals beside them are of
  one comparison, without it; those of speeds are widened for the number of comparisons in answers and claims, not in
  tables. A section's answer corrects for its own cells alone; the claims, for all comparisons of theirs, and so may
  leave open what a section calls different. Differences below 0.1 points, and of losses below 0.001, are never called
  effects.
- **Not told apart from the highest**: by Tukey's test of all pairs, since the highest was picked. **What a part of a
  recipe brings**, and **against** a control: t-tests, Holm. By the one spread of all cells; a cell whose own is unlike
  that by its own; each by its own where Bartlett's test finds them to differ (Games and Howell's test, Welch's).
- **Arithmetic**: `float32 with TF32`, on a GPU: products round their factors to 10 bits. Seeds of different arithmetic
  are rows of their own. `captured`: a step ran as a CUDA graph, on a CPU as a tape; `16 seeds as one module`: they were
  trained together, and their seconds are those of all."""

HOW_CLAIMS_ARE_JUDGED = """\
Each verdict is computed from the records by the test that is named, never typed. A claim is contradicted if any of its
parts is, and supported only if all are; what is told beside, of networks that the report does not have or of more than
it claims, decides nothing and is marked `beside`. `not resolved`: the seeds at hand allow neither; `waiting`: records
are missing. Seeds to resolve it: per cell, for a power of 80 %, if the differences are as large as they look now; for a
figure of one run, the runs of which one will have reached it in 19 of 20 cases; out of reach: beyond 10,000, or a
difference below 0.1 points. Cells are compared by seeds of equal arithmetic: one that has many on a GPU and few on a
CPU may count with the few. A figure of the report is one run's, and `supported` if a run of ours gave it, too, as it is
printed: 91.6 % is 91.55 or more. It may be a rare one: how many of all runs do stands beside it, where their means lie
in the table of parts. The final network's runs are of two readings, since the report does not say whether a ReLU
follows fc1, and of three draws of the validation images."""

SIDES: dict[type[SideRecord], tuple[str, str]] = {
    Calibration: ("Noise of the machine", "One cell timed against itself, block by block in turns: every difference is "
                  "noise, and says how small a change can be found."),
    Ledger: ("What Accelerate costs", "One training step done in several ways, in turns; mean over blocks [95 % "
             "interval]."),
    Scaling: ("How speed grows", "One thread, or one GPU, to a process; the points of an axis in turns; mean over "
              "rounds [95 % interval]. Widths are of the family, kernel size 3 and depth 2; the rest is of the final "
              "network."),
    Turns: ("Cells in turns", "Training steps of an experiment's cells, block by block in turns, so that the machine's "
            "drift strikes all alike: geometric mean over pairs of blocks [95 % interval]. All are of one process: "
            "what two differ in is not in the interval."),
    Peers: ("Beside other systems",
            "The same training by other systems, in turns; geometric mean over rounds [95 % interval]."),
}
"""Title and meaning of each."""

IN_SHORT = """\
Accuracies are of the last epoch, in per cent, mean ± standard deviation over seeds [95 % interval of the mean];
`waiting` is what nobody has run yet; M1, M2 and so on are machines; † is a noisy time, ‡ one that is no measurement,
mostly since other work ran beside: [how to read the tables](#how-to-read-the-tables)."""

WHAT_THIS_IS = """\
Convolutional networks on Fashion-MNIST: accuracy with its spread over seeds, speed with its spread over timings, and
cost, for every configuration of [the class report](docs/the-report.md) that this project reproduces. This file is
generated from records; do not edit it. To get it again:

```
make results                                # tables and figures from the records, in seconds
python -m bench.report --check              # is this file what the records give?
accelerate launch bench/run.py EXPERIMENT   # runs what is missing of an experiment; --list says how long
```"""


OF_ONES_OWN = """\
Networks trained and timed: accuracy with its spread over seeds, speed with its spread over timings, and cost. This file
is generated from records; do not edit it. To get it again: `{command}`"""


def introduction(results: Results, others: Results, own: str = "") -> str:
    """What this is, how to get it again, and what is left out.

    `own`: the command that writes it, where the records are not the published ones.
    """
    return f"{OF_ONES_OWN.format(command=own) if own else WHAT_THIS_IS}\n\n{IN_SHORT}\n\n{_counts(results, others)}"


def legend(shown: Shown, others: Results) -> str:
    """How the tables are to be read, and where their figures were measured."""
    parts, records = [HOW_TO_READ], [*shown.results.records, *others.records]
    if records:
        machines = f"**Machines**\n\n{_machines_table(records, shown)}"
        parts += [machines, _versions(records), *_arithmetics(shown.results)]
    return "\n\n".join(parts)


def experiments_table(results: Results, shown: Sequence[Experiment]) -> str:
    """One row per experiment, linked to its section: what is there, and what waits."""
    body = []
    for one in shown:
        rows = results.rows[one.name]
        cells = one_per_cell(rows)
        timed = sum(any(speed.status == "ok" for speed in row.speeds) for row in cells)
        totals = [sum(len(row.trained) for row in rows), sum(row.num_missing for row in rows),
                  sum(len(row.failed) for row in rows)]
        to_time = sum(one.timings > 0 and cell.has_steps for cell in one.cells)
        link = f"[{escape(one.title)}](#{anchor(one.title)})"
        body.append([code(one.name), link, count(len(cells)), *map(str, totals),
                     f"{timed} of {to_time}" if to_time else NOTHING])
    return table(["experiment", "title", "cells", "seeds done", "seeds waiting", "seeds failed", "cells timed"], body,
                 text_columns=2)


def beside(sides: Sequence[SideRecord], names: Mapping[Machine, str]) -> str:
    """What is known of a machine beside its cells, the newest first: noise, the price of Accelerate, peers."""
    if not sides:
        return "Waiting: no machine has been calibrated."
    parts = []
    for side in sorted(sides, key=lambda side: side.started_at, reverse=True):
        title, meaning = SIDES[type(side)]
        headers, body = headers_and_rows(side)
        told = list(side.warnings)
        if isinstance(side, Calibration) and side.reason_against:
            told.append(f"It decides nothing: {side.reason_against}")
        warnings = "".join(f"\n- {escape(text)}" for text in told)
        when = f"Measured on {escape(side.started_at[:10])} at commit {code(side.environment.commit[:SHORT_COMMIT])}."
        if isinstance(side, Peers):
            when += f" An epoch is {side.images_per_epoch:,} images; {plural(side.epochs, 'epoch')}."
        of = f" of {code(side.experiment)}" if isinstance(side, Turns) else ""
        parts.append(f"### {title}{of}, {names[Machine.at(side.environment)]}\n\n{meaning} {when}\n\n"
                     + table(headers, [[escape(text) for text in row] for row in body], text_columns=2)
                     + (f"\n{warnings}" if warnings else ""))
        if isinstance(side, Scaling):
            parts.append(scaling_tables.render(side))
    return "\n\n".join(parts)


def _arithmetics(results: Results) -> list[str]:
    """For each two kinds of arithmetic that several cells have two seeds of: whether their accuracies differ."""
    of_cell: dict[str, dict[Numerics, Row]] = defaultdict(dict)
    for row in results.every_row:
        values = row.values(outcomes.test_last)
        if row.numerics and len(values) > 1 and row.learnt:
            of_cell[row.trained[0].quality_key][row.numerics] = row  # once, in however many experiments it stands
    pairs: dict[tuple[Numerics, Numerics], list[tuple[Row, Row]]] = defaultdict(list)
    for kinds in of_cell.values():
        for one, other in itertools.combinations(sorted(kinds), 2):
            pairs[one, other].append((kinds[one], kinds[other]))
    return [_difference(*kinds, found) for kinds, found in pairs.items() if len(found) >= FEWEST_CELLS]


def _difference(one: Numerics, other: Numerics, pairs: Sequence[tuple[Row, Row]]) -> str:
    texts = []
    for name, outcome in (("test", outcomes.test_last), ("validation", outcomes.validation_last)):
        changes = [stats.mean(b) - stats.mean(a) for row_a, row_b in pairs
                   if (a := row_a.values(outcome)) and (b := row_b.values(outcome))]
        if changes:
            low, high = stats.mean_interval(changes)
            texts.append(f"{name} {points(stats.mean(changes))} points [{points(low)}, {points(high)}]")
    return (f"**{other} less {one}**, mean over the {plural(len(pairs), 'cell')} with two seeds or more of both that "
            f"learnt, last epoch: {'; '.join(texts)}. Machines differ too, and some of these seeds were trained as one "
            "module.")


def _counts(results: Results, others: Results) -> str:
    trains = sum(isinstance(record, TrainRecord) for record in results.records)
    speeds = sum(isinstance(record, SpeedRecord) for record in results.records)
    text = (f"{plural(trains, 'training')} and {plural(speeds, 'timing')} belong to experiments, some to several, each "
            "of which counts them.")
    if results.repeats:
        text += _repeats(results.repeats)
    if others.records:
        number = len(others.records)
        text += f" {plural(number, 'record')} {'is' if number == 1 else 'are'} of configurations that none of them has."
    if results.num_stale:
        text += (f" Left out: {plural(results.num_stale, 'stale record')}, of another version of the training code or "
                 "of a configuration that can no longer be read.")
    return text


def _repeats(repeats: Sequence[Sequence[TrainRecord]]) -> str:
    changes = [abs(last - one) for *before, latest in repeats if (last := outcomes.test_last(latest)) is not None
               for record in before if (one := outcomes.test_last(record)) is not None]
    other = [change for change in changes if change]
    text = f" Repeated later, so that the later result counts: {plural(len(changes), 'training')}"
    if not other:
        return f"{text}, with the same test accuracy."
    return (f"{text}, {len(other)} of them with another test accuracy, by up to {percent(max(other))} points, since a "
            "seed repeats its numbers only on one kind of processor, with one number of threads and one way of "
            "computing.")


def _machines_table(records: Sequence[Record], shown: Shown) -> str:
    trainings = Counter(Machine.of(record) for record in records if isinstance(record, TrainRecord))
    timings = Counter(Machine.of(record) for record in records if isinstance(record, SpeedRecord))
    beside = Counter(Machine.at(side.environment) for side in shown.results.sides)
    body = [[name, escape(machine), *(count(counted[machine]) for counted in (trainings, timings, beside))]
            for machine, name in shown.names.items()]
    return table(["name", "machine", "trainings", "timings", "other measurements"], body, text_columns=2)


def _versions(records: Sequence[Record]) -> str:
    commits = {record.environment.commit for record in records}
    dirty = sum(record.environment.dirty for record in records)
    pythons = sorted({record.environment.python for record in records if record.environment.python})
    libraries = sorted({" ".join(one) for record in records for one in record.environment.libraries.items()})
    days = sorted(record.started_at[:10] for record in records if record.started_at)
    lines = [f"- Commits: {len(commits)}; each record names its own"
             + (f", {plural(dirty, 'record')} with local changes" if dirty else "")]
    lines += [f"- Python: {escape(', '.join(pythons))}"] if pythons else []
    lines += [f"- Libraries: {escape(', '.join(libraries))}"] if libraries else []
    lines += [f"- Measured: {escape(days[0])} to {escape(days[-1])}"] if days else []
    return "\n".join(lines)
