"""The generated sentences that open each section: what the seeds answer, by which test. No torch."""

import itertools
import math
from collections.abc import Mapping, Sequence

from bench import stats
from bench.formatting import (
    NOISY,
    count,
    escape,
    mean_with_interval,
    p_value,
    percent,
    plural,
    points,
    ratio_text,
    significant,
)
from bench.judging.evidence import (
    ALPHA,
    HALF_A_DIGIT,
    MAX_PERMUTED,
    MINIMUM_EFFECT,
    can_judge,
    holds,
    one_way_p,
    pooled_sd,
)
from bench.pages.tables import main_commit
from bench.record import SpeedRecord
from bench.records import outcomes
from bench.records.identity import Numerics
from bench.records.machines import Machine
from bench.records.rows import Row, comparable, memory_formats, one_per_cell
from bench.records.side_records import Pairs, Turns, record_ratio
from fmnist_core.config import ExecutionConfig


def answer(rows: Sequence[Row]) -> list[str]:
    """Whether the cells differ in test accuracy at the last epoch, which are best and worst, and what else is seen.

    That accuracy, because no choice of epoch or cell was made by it.
    """
    with_values = [(row, values) for row in comparable(rows) if (values := row.values(outcomes.test_last))]
    cells = one_per_cell(rows)
    waiting = sum(not row.trained and not row.failed for row in cells)
    rest = [f"Waiting: {waiting} of {plural(len(cells), 'cell')}."] if waiting else []
    compared = {id(row.cell) for row, _ in with_values}
    absent = {id(row.cell): row.cell.label for row in rows if row.trained and id(row.cell) not in compared}
    if left_out := len(rows) - len(comparable(rows)):
        so = f", so that {', '.join(map(escape, absent.values()))} cannot be compared" if absent else ""
        rest.append(f"Left out, because their arithmetic differs from the others': {plural(left_out, 'row')}{so}.")
    if not with_values and any(row.speeds for row in rows) and not any(row.failed for row in rows):
        return ["No answer: timed, not trained."]
    if not with_values:
        return [f"No answer yet: {plural(len(cells), 'cell')} waiting or failed."]
    if len(rows) == 1:
        row, values = with_values[0]
        seeds = plural(len(values), "seed")
        return [f"Test accuracy of {escape(row.label)}: {mean_with_interval(values)} % ({seeds}).",
                *reproduced(rows)]
    tested = [(row, values) for row, values in with_values if len(values) > 1]
    if len(tested) < 2:
        best, values = max(with_values, key=lambda pair: stats.summarize(pair[1]).mean)
        if all(row.seeds_wanted == 1 for row in rows):
            return [f"The highest test accuracy is {percent(stats.summarize(values).mean)} % ({escape(best.label)}). "
                    "One seed a cell is asked for: no test.", *rest]
        return [f"Not resolved: a test needs two seeds in at least two cells of equal arithmetic. So far the highest "
                f"test accuracy of these is {percent(stats.summarize(values).mean)} % ({escape(best.label)}).",
                *rest, *reproduced(rows)]
    rest += _of_one_seed([(row, values[0]) for row, values in with_values if len(values) == 1])
    above_all = "every other" if len(tested) == len(with_values) else "every other of two seeds or more"
    above_all += " that is compared" if absent else ""
    return [*_differences(tested, above_all), *_against_control(tested), *_trends(tested), *rest, *_by_sign(rows),
            *reproduced(rows)]


def _of_one_seed(cells: Sequence[tuple[Row, float]]) -> list[str]:
    if not cells:
        return []
    best, value = max(cells, key=lambda pair: pair[1])
    return [f"One seed, no test: {plural(len(cells), 'cell')}, the highest of them {escape(best.label)} with "
            f"{percent(value)} %."]


def _by_sign(rows: Sequence[Row]) -> list[str]:
    counted = [f"{escape(row.label)} {mean_with_interval(values)} %" for row in comparable(rows)
               if (values := row.values(outcomes.test_by_sign))]
    return [f"Counted as right by the sign of the logits alone: {', '.join(counted)}."] if counted else []


def reproduced(rows: Sequence[Row]) -> list[str]:
    """How many of the reported accuracies, one run each, a run of ours would give: by a cell's row of most seeds."""
    cells = one_per_cell(rows)
    where = "last epoch" if len(cells) == len(rows) else "last epoch, each cell by its arithmetic of most seeds"
    return [
        *_reproduced("validation", where, [(row.cell.reported.validation_accuracy, row.values(outcomes.validation_last))
                                          for row in cells]),
        *_reproduced("test", where, [
            (reported.test_accuracy, row.values(outcomes.test_by_sign if reported.by_sign else outcomes.test_last))
            for row in cells for reported in (row.cell.reported,)]),
    ]


def _reproduced(name: str, where: str, pairs: Sequence[tuple[float | None, Sequence[float]]]) -> list[str]:
    reports = [(reported, len(values), *stats.prediction_interval(values)) for reported, values in pairs
               if reported is not None and len(values) > 1]
    judged = [(reported, (low, high)) for reported, num, low, high in reports if can_judge(num, low, high)]
    unclear = len(reports) - len(judged)
    rest = f"; too few seeds or too wide a spread to say for {unclear}" if unclear else ""
    if not judged:
        return []
    inside = sum(holds(low, high, reported) for reported, (low, high) in judged)
    above = sum(low >= reported + HALF_A_DIGIT for reported, (low, _) in judged)
    total = len(judged)
    return [f"Reported {name} accuracies that one run of ours may give (95 % prediction interval, {where}): "
            f"{inside} of {total}; ours is higher for {above} and lower for {total - inside - above}{rest}."]


def speed_answer(rows: Sequence[Row], machine: Machine, noise: Pairs | None) -> str:
    """The fastest and the slowest cell in training, and whether they differ by more than two runs of one cell.

    Of rows that had the machine alone, and were timed at the commit at which most were: another may have made the code
    faster or slower. `noise`: the machine's calibration, if it has one.
    """
    timed = [(row, speed) for row in rows if (speed := row.timed(machine)) and not speed.labels.machine_shared]
    commit = main_commit([speed for _, speed in timed])
    speeds = [(row, speed) for row, speed in timed if speed.environment.commit == commit]
    left_out = [escape(row.label) for row, speed in timed if speed.environment.commit != commit]
    others = f" Left out, timed at another commit: {', '.join(left_out)}." if left_out else ""
    if len(speeds) < 2:
        return ""
    if _differ_unasked(speeds):
        return "training is not compared: precision, execution or memory format differ where the settings do not."
    rated = [(stats.throughput(speed.images_per_step, speed.step_s), row) for row, speed in speeds]
    (fast, fast_row), (slow, slow_row) = (pick(rated, key=lambda pair: pair[0].images_per_s) for pick in (max, min))
    named = [f"{escape(row.label)} with {significant(rate.images_per_s)}{NOISY if rate.noisy else ''} images/s"
             for rate, row in ((fast, fast_row), (slow, slow_row))]
    factor = significant(fast.images_per_s / slow.images_per_s)
    if noise is None:
        return (f"fastest in training is {named[0]}, slowest {named[1]}, a factor of {factor}; the machine was not "
                f"calibrated, so that two runs of one cell may differ as much.{others}")
    num_pairs = math.comb(len(speeds), 2)
    ratio = record_ratio(1 / slow.images_per_s, 1 / fast.images_per_s, noise, ALPHA / num_pairs)
    interval = f"a factor of {factor} [{significant(ratio.low)}, {significant(ratio.high)}] between runs"
    if ratio.low <= 1:
        return f"training speeds are not resolved: highest {named[0]}, lowest {named[1]}, {interval}.{others}"
    return f"fastest in training is {named[0]}, slowest {named[1]}, {interval}.{others}"


def turns_answer(turns: Turns) -> str:
    """Which cell has the shortest and which the longest training step, by blocks in turns."""
    seconds = {one.label: one.step_s for one in turns.cells}
    by_median = sorted(seconds, key=lambda label: stats.summarize(seconds[label]).median)
    if len(by_median) < 2:
        return ""
    fast, slow = by_median[0], by_median[-1]
    ratio = stats.paired_ratio(seconds[slow], seconds[fast], 1 - ALPHA / math.comb(len(by_median), 2))
    steps = f"shortest {escape(fast)}, longest {escape(slow)} with {ratio_text(ratio)} times its time"
    return f"{steps}." if ratio.low > 1 else f"training steps are not told apart: {steps}."


def _differ_unasked(speeds: Sequence[tuple[Row, SpeedRecord]]) -> bool:
    asked: dict[tuple[str, ExecutionConfig], list[SpeedRecord]] = {}
    for row, speed in speeds:
        asked.setdefault((row.cell.config.train.precision, row.cell.config.execution), []).append(speed)
    return any(len({(Numerics.of(speed), speed.labels.captured, speed.labels.compiled) for speed in group}) > 1
               or len(memory_formats(speed.labels.weight_memory_format for speed in group)) > 1
               for group in asked.values())


def _differences(tested: Sequence[tuple[Row, Sequence[float]]], above_all: str) -> list[str]:
    groups = [values for _, values in tested]
    p = one_way_p(groups)
    ordered = sorted(tested, key=lambda pair: -stats.summarize(pair[1]).mean)
    (best_row, best), (worst_row, worst) = ordered[0], ordered[-1]
    extremes = (f"highest {escape(best_row.label)} with {mean_with_interval(best)} %, "
                f"lowest {escape(worst_row.label)} with {mean_with_interval(worst)} %")
    name = "Welch's test of" if len(groups) == 2 else "Kruskal and Wallis's test by permutation over"
    test = f"{name} {len(groups)} cells, {p_value(p)}, n = {_n_text(groups)}"
    if p >= ALPHA:
        return [f"Not resolved: test accuracy does not differ beyond the seeds' spread ({test}); {extremes}.",
                *_power(groups)]
    if stats.summarize(best).mean - stats.summarize(worst).mean < MINIMUM_EFFECT:
        return [f"The cells differ ({test}), but by less than 0.1 points, which is called no effect; {extremes}."]
    learnt = [(row, values) for row, values in ordered if row.learnt]
    differs = f"Test accuracy differs between the cells ({test}): {extremes}."
    if len(learnt) < 2:
        return [differs, *_lost(ordered)]
    level = _level_with_best(learnt)
    names = "; ".join(escape(row.label) for row in level[:6]) + ("; ..." if len(level) > 6 else "")
    told = f"Not told apart from the highest: {names}" if level else f"The highest is above {above_all}"
    if len(level) == len(learnt) - 1 > 1:
        told = "By its mean none is told apart from the highest"
    power = _power([values for _, values in learnt]) if level else []
    return [f"{differs} {told}.", *_lost(ordered), *power]


def _lost(ordered: Sequence[tuple[Row, Sequence[float]]]) -> list[str]:
    """The cells with seeds that did not learn: their spread is another's, and they are compared with none."""
    cells = [f"{escape(row.label)} ({count(num)} of {count(len(values))} seeds)" for row, values in ordered
             if (num := sum(value <= outcomes.LEARNT for value in values))]
    return [f"Not learnt, and so not compared: {', '.join(cells)}."] if cells else []


def _level_with_best(ordered: Sequence[tuple[Row, Sequence[float]]]) -> list[Row]:
    """The cells that are not resolved to be below the first."""
    verdicts = [stats.verdict(one, MINIMUM_EFFECT, p=p)
                for one, p in stats.compare_with_best([values for _, values in ordered])]
    return [row for (row, _), verdict in zip(ordered[1:], verdicts, strict=True) if verdict != "less"]


def _against_control(tested: Sequence[tuple[Row, Sequence[float]]]) -> list[str]:
    """Each other cell that learnt against the one that the experiment names for it; Holm over them."""
    name = tested[0][0].experiment.control
    if not name:
        return []
    learnt = [(row, values) for row, values in tested if row.learnt]
    control = next((values for row, values in learnt if row.cell.label == name), None)
    others = [(row, values) for row, values in learnt if row.cell.label != name]
    if control is None:
        return [f"Nothing is compared with {escape(name)}: it has not two seeds of this arithmetic that all learnt."]
    if not others:
        return []
    compared = stats.compare_with(control, [values for _, values in others])
    adjusted = stats.holm([one.p for one in compared])
    told = "; ".join(f"{escape(row.label)} {points(one.difference)} points [{points(one.low)}, {points(one.high)}], "
                     f"{p_value(p)}" for (row, _), one, p in zip(others, compared, adjusted, strict=True))
    return [f"Against {escape(name)} (t-tests by the spread of all, Holm): {told}."]


def _trends(tested: Sequence[tuple[Row, Sequence[float]]]) -> list[str]:
    """Rise or fall of test accuracy along each axis of a grid that has at least three numbers, of cells that learnt."""
    sentences = []
    rows = [row for row, _ in tested if row.learnt]
    among = ", of the cells that learnt" if len(rows) < len(tested) else ""
    for axis in _grid_axes(rows) if rows else ():
        pairs = [(row.cell.axes[axis], value) for row in rows for value in row.values(outcomes.test_last)]
        if not all(type(x) in (int, float) for x, _ in pairs):
            continue
        if len({x for x, _ in pairs}) < 3 or len({y for _, y in pairs}) < 2:
            continue
        every = -(-len(pairs) // MAX_PERMUTED)
        slope, p = stats.trend([x for x, _ in pairs[::every]], [y for _, y in pairs[::every]])
        name = escape(axis.rpartition(".")[2].replace("_", " "))
        if p >= ALPHA:
            sentences.append(f"No trend with {name} is resolved ({p_value(p)}{among}).")
            continue
        means = _means(pairs)
        listed = ", ".join(f"{percent(value)} % at {x:g}" for x, value in means.items())
        sentences.append(f"Test accuracy {'rises' if slope > 0 else 'falls'} with {name}"
                         f"{_course(means, rising=slope > 0)}: {listed} (Spearman by permutation, {p_value(p)}"
                         f"{among}).")
    return sentences


def _course(means: Mapping[float, float], rising: bool) -> str:
    """How the means keep to their trend; what is less than the minimum effect is neither rise nor fall."""
    at, signed = list(means), [value if rising else -value for value in means.values()]
    if max(signed) - min(signed) < MINIMUM_EFFECT:
        return ", by less than 0.1 points, which is called no effect"
    peak = max(at, key=lambda x: means[x])
    if means[peak] - max(means[at[0]], means[at[-1]]) >= MINIMUM_EFFECT:
        return f" on the whole, but is highest at {peak:g}"
    steps = [b - a for a, b in itertools.pairwise(signed)]
    if max(signed) - signed[-1] >= MINIMUM_EFFECT or min(steps) <= -MINIMUM_EFFECT:
        return " on the whole, but not from each value to the next"
    reached = next(x for x, value in zip(at, signed, strict=True) if max(signed) - value < MINIMUM_EFFECT)
    return "" if reached == at[-1] else f" up to {reached:g}, beyond it by less than 0.1 points"


def _means(pairs: Sequence[tuple[float, float]]) -> dict[float, float]:
    """The mean of y at each x, in order."""
    return {at: stats.summarize([y for x, y in pairs if x == at]).mean for at in sorted({x for x, _ in pairs})}


def _grid_axes(rows: Sequence[Row]) -> list[str]:
    """The axes along which the cells are a full product; none where several settings change together."""
    axes = list(rows[0].cell.axes)
    if any(list(row.cell.axes) != axes for row in rows):
        return []
    sizes = [len({repr(row.cell.axes[axis]) for row in rows}) for axis in axes]
    return axes if math.prod(sizes) == len({id(row.cell) for row in rows}) else []


def _power(groups: Sequence[Sequence[float]]) -> list[str]:
    sd, n = pooled_sd(groups), min(len(group) for group in groups)
    if math.isnan(sd) or not sd:
        return []
    df = sum(map(len, groups)) - len(groups)
    found = stats.resolvable_difference(sd, n, minimum_effect=MINIMUM_EFFECT, df=df)
    return [f"With this spread (sd {percent(sd)} points), {n} seeds a cell find a difference of {percent(found)} "
            "points between two cells four times in five."]


def _n_text(groups: Sequence[Sequence[float]]) -> str:
    sizes = sorted({len(group) for group in groups})
    return f"{count(sizes[0])} a cell" if len(sizes) == 1 else f"{count(sizes[0])} to {count(sizes[-1])} a cell"
