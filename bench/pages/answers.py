"""The generated sentences that open each section: what the seeds answer, by which test. No torch."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence

from bench import stats
from bench.evidence import (
    ALPHA,
    HALF_A_DIGIT,
    MAX_PERMUTED,
    MINIMUM_EFFECT,
    can_judge,
    holds,
    one_way_p,
    pooled_sd,
)
from bench.formatting import NOISY, count, escape, mean_with_interval, p_value, percent, plural, significant
from bench.record import SpeedRecord
from bench.records import outcomes
from bench.records.identity import Numerics
from bench.records.machines import Machine
from bench.records.rows import Row, comparable, memory_formats, one_per_cell
from bench.records.side_records import Pairs, record_ratio


def answer(rows: Sequence[Row]) -> str:
    """Whether the cells differ in test accuracy at the last epoch, and which are best and worst.

    That accuracy, because no choice of epoch or cell was made by it.
    """
    with_values = [(row, values) for row in comparable(rows) if (values := row.values(outcomes.test_last))]
    waiting = sum(not row.trained and not row.failed for row in rows)
    rest = f" Waiting: {waiting} of {plural(len(rows), 'cell')}." if waiting else ""
    if left_out := len(rows) - len(comparable(rows)):
        rest += f" Left out, because their arithmetic differs from the others': {plural(left_out, 'row')}."
    if not with_values and any(row.speeds for row in rows) and not any(row.failed for row in rows):
        return "No answer: timed, not trained."
    if not with_values:
        return f"No answer yet: {plural(len(rows), 'cell')} waiting or failed."
    if len(rows) == 1:
        row, values = with_values[0]
        seeds = plural(len(values), "seed")
        return (f"{escape(row.label)} reaches a test accuracy of {mean_with_interval(values)} % ({seeds})."
                f"{reproduced(rows)}")
    tested = [(row, values) for row, values in with_values if len(values) > 1]
    if len(tested) < 2:
        best, values = max(with_values, key=lambda pair: stats.summarize(pair[1]).mean)
        if all(row.seeds_wanted == 1 for row in rows):
            return (f"The highest test accuracy is {percent(stats.summarize(values).mean)} % ({escape(best.label)}). "
                    f"One seed a cell is asked for: no test.{rest}")
        return (f"Not resolved: a test needs two seeds in at least two cells of equal arithmetic. So far the highest "
                f"test accuracy of these is {percent(stats.summarize(values).mean)} % ({escape(best.label)}).{rest}")
    if single := len(with_values) - len(tested):
        rest += f" One seed, no test: {plural(single, 'cell')}."
    return f"{_differences(tested)}{rest}{_trends([row for row, _ in tested])}{reproduced(rows)}"


def reproduced(rows: Sequence[Row]) -> str:
    """How many of the reported accuracies, one run each, a run of ours would give: by a cell's row of most seeds."""
    cells = one_per_cell(rows)
    where = "last epoch" if len(cells) == len(rows) else "last epoch, each cell by its arithmetic of most seeds"
    return "".join([
        _reproduced("validation", where, [(row.cell.reported.validation_accuracy, row.values(outcomes.validation_last))
                                          for row in cells]),
        _reproduced("test", where, [(row.cell.reported.test_accuracy, row.values(outcomes.test_last))
                                    for row in cells]),
    ])


def _reproduced(name: str, where: str, pairs: Sequence[tuple[float | None, Sequence[float]]]) -> str:
    reports = [(reported, len(values), *stats.prediction_interval(values)) for reported, values in pairs
               if reported is not None and len(values) > 1]
    judged = [(reported, (low, high)) for reported, num, low, high in reports if can_judge(num, low, high)]
    unclear = len(reports) - len(judged)
    rest = f"; too few seeds or too wide a spread to say for {unclear}" if unclear else ""
    if not judged:
        return ""
    inside = sum(holds(low, high, reported) for reported, (low, high) in judged)
    above = sum(low >= reported + HALF_A_DIGIT for reported, (low, _) in judged)
    total = len(judged)
    return (f" Reported {name} accuracies that one run of ours would give (95 % prediction interval, {where}): "
            f"{inside} of {total}; ours is higher for {above} and lower for {total - inside - above}{rest}.")


def speed_answer(rows: Sequence[Row], machine: Machine, noise: Pairs | None) -> str:
    """The fastest and the slowest cell in training, and whether they differ by more than two runs of one cell.

    Of rows that had the machine alone, and were timed at the commit at which most were: another may have made the code
    faster or slower. `noise`: the machine's calibration, if it has one.
    """
    timed = [(row, speed) for row in rows if (speed := row.timed(machine)) and not speed.labels.machine_shared]
    commits = Counter(speed.environment.commit for _, speed in timed)
    commit = max(commits, key=lambda one: (commits[one], one), default="")
    speeds = [(row, speed) for row, speed in timed if speed.environment.commit == commit]
    left_out = [escape(row.label) for row, speed in timed if speed.environment.commit != commit]
    others = f" Left out, timed at another commit: {', '.join(left_out)}." if left_out else ""
    if len(speeds) < 2:
        return ""
    if _differ_unasked(speeds):
        return "training is not compared: precision or memory format differ where the settings do not."
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


def _differ_unasked(speeds: Sequence[tuple[Row, SpeedRecord]]) -> bool:
    asked: dict[tuple[str, str], list[SpeedRecord]] = {}
    for row, speed in speeds:
        asked.setdefault((row.cell.config.train.precision, row.cell.config.execution.memory_format), []).append(speed)
    return any(len({str(Numerics.of(speed)) for speed in group}) > 1
               or len(memory_formats(speed.labels.weight_memory_format for speed in group)) > 1
               for group in asked.values())


def _differences(tested: Sequence[tuple[Row, Sequence[float]]]) -> str:
    groups = [values for _, values in tested]
    p = one_way_p(groups)
    ordered = sorted(tested, key=lambda pair: -stats.summarize(pair[1]).mean)
    (best_row, best), (worst_row, worst) = ordered[0], ordered[-1]
    extremes = (f"highest {escape(best_row.label)} with {mean_with_interval(best)} %, "
                f"lowest {escape(worst_row.label)} with {mean_with_interval(worst)} %")
    name = "Welch's test of" if len(groups) == 2 else "Kruskal and Wallis's test by permutation over"
    test = f"{name} {len(groups)} cells, {p_value(p)}, n = {_n_text(groups)}"
    if p >= ALPHA:
        return (f"Not resolved: test accuracy does not differ beyond the seeds' spread ({test}); {extremes}."
                f"{_power(groups)}")
    if stats.summarize(best).mean - stats.summarize(worst).mean < MINIMUM_EFFECT:
        return f"The cells differ ({test}), but by less than 0.1 points, which is called no effect; {extremes}."
    level = _level_with_best(ordered)
    names = "; ".join(escape(row.label) for row in level[:6]) + ("; ..." if len(level) > 6 else "")
    tied = f"Not told apart from the highest: {names}" if level else "It is above every other"
    return f"Test accuracy differs between the cells ({test}): {extremes}. {tied} (Welch, Holm)."


def _level_with_best(ordered: Sequence[tuple[Row, Sequence[float]]]) -> list[Row]:
    """The cells that are not resolved to be below the first."""
    comparisons = [stats.compare(ordered[0][1], values) for _, values in ordered[1:]]
    adjusted = stats.holm([comparison.welch_p for comparison in comparisons])
    verdicts = [stats.verdict(one, MINIMUM_EFFECT, p=p) for one, p in zip(comparisons, adjusted, strict=True)]
    return [row for (row, _), verdict in zip(ordered[1:], verdicts, strict=True) if verdict != "less"]


def _trends(rows: Sequence[Row]) -> str:
    """Rise or fall of test accuracy along each axis of a grid that has at least three numbers."""
    sentences = []
    for axis in _grid_axes(rows):
        pairs = [(row.cell.axes[axis], value) for row in rows for value in row.values(outcomes.test_last)]
        if not all(type(x) in (int, float) for x, _ in pairs):
            continue
        if len({x for x, _ in pairs}) < 3 or len({y for _, y in pairs}) < 2:
            continue
        every = -(-len(pairs) // MAX_PERMUTED)
        slope, p = stats.trend([x for x, _ in pairs[::every]], [y for _, y in pairs[::every]])
        name = axis.rpartition(".")[2].replace("_", " ")
        if p >= ALPHA:
            sentences.append(f" No trend with {escape(name)} is resolved ({p_value(p)}).")
            continue
        throughout = "" if _is_monotonic(pairs) else ", on the whole but not from each value to the next,"
        sentences.append(f" Test accuracy {'rises' if slope > 0 else 'falls'}{throughout} with {escape(name)} "
                         f"(Spearman by permutation, {p_value(p)}).")
    return "".join(sentences)


def _is_monotonic(pairs: Sequence[tuple[float, float]]) -> bool:
    """Whether the means of y all rise or all fall with x."""
    means = [stats.summarize([y for x, y in pairs if x == at]).mean for at in sorted({x for x, _ in pairs})]
    rises = [a < b for a, b in itertools.pairwise(means)]
    return all(rises) or not any(rises)


def _grid_axes(rows: Sequence[Row]) -> list[str]:
    """The axes along which the cells are a full product; none where several settings change together."""
    axes = list(rows[0].cell.axes)
    if any(list(row.cell.axes) != axes for row in rows):
        return []
    sizes = [len({repr(row.cell.axes[axis]) for row in rows}) for axis in axes]
    return axes if math.prod(sizes) == len({id(row.cell) for row in rows}) else []


def _power(groups: Sequence[Sequence[float]]) -> str:
    sd, n = pooled_sd(groups), min(len(group) for group in groups)
    if math.isnan(sd) or not sd:
        return ""
    found = stats.resolvable_difference(sd, n, minimum_effect=MINIMUM_EFFECT)
    return (f" With this spread (sd {percent(sd)} points), {n} seeds a cell find a difference of {percent(found)} "
            "points between two cells four times in five.")


def _n_text(groups: Sequence[Sequence[float]]) -> str:
    sizes = sorted({len(group) for group in groups})
    return f"{count(sizes[0])} a cell" if len(sizes) == 1 else f"{count(sizes[0])} to {count(sizes[-1])} a cell"
