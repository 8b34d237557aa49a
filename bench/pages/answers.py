"""The generated sentences that open each section: what the seeds answer, by which test. No torch."""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from bench import stats
from bench.experiment import OutcomeName
from bench.formatting import count, escape, first_of, mean_with_interval, named, p_value, percent, plural, points
from bench.judging.evidence import ALPHA, MAX_PERMUTED, MINIMUM_EFFECT, one_way_p, pooled_sd
from bench.judging.one_run import Standing, standing
from bench.records import outcomes
from bench.records.rows import Row, comparable, one_per_cell

MOST_NAMED, FEW = 6, 2
"""Cells that are named of those level with the highest, and of those of other arithmetic; of more, the number."""


class Measure(NamedTuple):
    """What cells are compared by: no choice of an epoch was made by it."""

    name: str
    of: outcomes.Outcome
    unit: str
    low_end: float

    def text(self, values: Sequence[float]) -> str:
        return f"{mean_with_interval(values, self.low_end)} {self.unit}"


MEASURES: Mapping[OutcomeName, Measure] = {
    "test": Measure("test accuracy", outcomes.test_last, "%", 0.0),
    "validation": Measure("validation accuracy", outcomes.validation_last, "%", 0.0),
    "gap": Measure("training less validation accuracy", outcomes.gap_last, "points", -1.0),
    "early": Measure(f"mean validation accuracy of the first {outcomes.EARLY_EPOCHS} epochs", outcomes.early_validation,
                     "%", 0.0)}
Tested = Sequence[tuple[Row, Sequence[float]]]
"""Cells with their values."""


def answer(rows: Sequence[Row]) -> list[str]:
    """Whether the cells differ in what the experiment asks for, which are highest and lowest, and what else is seen."""
    measure = MEASURES[rows[0].experiment.outcome]
    kept = comparable(rows)
    with_values = [(row, values) for row in kept if (values := row.values(measure.of))]
    cells = one_per_cell(rows)
    waiting = sum(row.waits for row in cells)
    rest = [f"Waiting: {waiting} of {plural(len(cells), 'cell')}."] if waiting else []
    compared = {id(row.cell) for row, _ in with_values}
    absent = any(row.trained and id(row.cell) not in compared for row in rows)
    rest += _not_compared([row for row in rows if row not in kept], compared)
    if not with_values and any(row.speeds for row in rows) and not any(row.failed for row in rows):
        return ["No answer: timed, not trained."]
    if not with_values:
        return [f"No answer yet: {plural(len(cells), 'cell')} waiting or failed."]
    if len(rows) == 1:
        row, values = with_values[0]
        seeds = plural(len(values), "seed")
        return [f"{_upper(measure.name)}, {named(row.label)}: {measure.text(values)} ({seeds}).",
                *reproduced(rows)]
    tested = [(row, values) for row, values in with_values if len(values) > 1]
    if len(tested) < 2:
        best, values = max(with_values, key=lambda pair: stats.mean(pair[1]))
        highest = f"{percent(stats.mean(values))} {measure.unit} ({named(best.label)})"
        if all(row.seeds_wanted == 1 for row in rows):
            return [f"The highest {measure.name} is {highest}. One seed a cell is asked for: no test.", *rest]
        return [f"Not resolved: a test needs two seeds in at least two cells of equal arithmetic. So far the highest "
                f"{measure.name} of these is {highest}.", *rest, *reproduced(rows)]
    rest += _of_one_seed([(row, values) for row, values in with_values if len(values) == 1], measure)
    above_all = "every other" if len(tested) == len(with_values) else "every other of two seeds or more"
    above_all += " that is compared" if absent else ""
    learnt = [(row, values) for row, values in tested if row.learnt]
    if len(learnt) < 2:
        return ["Not resolved: fewer than two cells with two seeds learnt.", *_lost(tested), *rest, *reproduced(rows)]
    return [*_differences(learnt, measure, above_all), *_lost(tested), *_against_control(learnt),
            *_trends(learnt, measure), *rest, *_by_sign(rows), *reproduced(rows)]


def _not_compared(rows: Sequence[Row], compared: Collection[int]) -> list[str]:
    """Of another arithmetic: cells that have no other row are named, as is what there is little of."""
    if not rows:
        return []
    kinds = " and ".join(sorted({str(row.numerics) for row in rows}))
    alone = [row for row in rows if id(row.cell) not in compared]
    told = "; ".join(named(row.label) for row in (rows if len(rows) <= FEW else alone))
    which = f": {told}" if len(rows) <= FEW else f", among them all seeds of {told}" if alone else ""
    return [f"Not compared, because their arithmetic ({kinds}) differs from the others': {plural(len(rows), 'row')}"
            f"{which}."]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _of_one_seed(cells: Tested, measure: Measure) -> list[str]:
    if not cells:
        return []
    best, values = max(cells, key=lambda pair: pair[1][0])
    return [f"One seed, no test: {plural(len(cells), 'cell')}, the highest of them {named(best.label)} with "
            f"{measure.text(values)}."]


def _by_sign(rows: Sequence[Row]) -> list[str]:
    counted = [f"{named(row.label)} {mean_with_interval(values)} %" for row in comparable(rows)
               if (values := row.values(outcomes.test_by_sign))]
    return [f"Counted as right by the sign of the logits alone: {', '.join(counted)}."] if counted else []


def reproduced(rows: Sequence[Row]) -> list[str]:
    """How many of the reported accuracies, one run each, a run of ours would give: by a cell's row of most seeds."""
    cells = one_per_cell(rows)
    where = "last epoch" if len(cells) == len(rows) else "last epoch, each cell by its arithmetic of most seeds"
    return [
        *_reproduced("validation", where, [
            (row.cell.label, row.cell.reported.validation_accuracy, row.values(outcomes.validation_last))
            for row in cells]),
        *_reproduced("test", where, [
            (row.cell.label, reported.test_accuracy,
             row.values(outcomes.test_by_sign if reported.by_sign else outcomes.test_last))
            for row in cells for reported in (row.cell.reported,)]),
    ]


def _reproduced(name: str, where: str, cells: Sequence[tuple[str, float | None, Sequence[float]]]) -> list[str]:
    told: dict[Standing, list[str]] = {"may give it": [], "higher": [], "lower": [], "unclear": []}
    for label, reported, values in cells:
        if reported is not None and len(values) > 1:
            told[standing(values, reported)].append(named(label))
    num, inside = sum(map(len, told.values())), told["may give it"]
    if len(told["unclear"]) == num:
        return []
    which = f" ({'; '.join(inside)})" if 0 < len(inside) < num else ""
    unclear = f"; too few seeds or too wide a spread to say for {len(told['unclear'])}" if told["unclear"] else ""
    return [f"Cells whose reported {name} accuracy one run of ours may give (95 % prediction interval, {where}): "
            f"{len(inside)} of {num}{which}; ours is higher for {len(told['higher'])} and lower for "
            f"{len(told['lower'])}{unclear}."]


def _differences(learnt: Tested, measure: Measure, above_all: str) -> list[str]:
    """Of two cells or more with two seeds or more."""
    groups = [values for _, values in learnt]
    p = one_way_p(groups)
    ordered = sorted(learnt, key=lambda pair: -stats.mean(pair[1]))
    (best_row, best), (worst_row, worst) = ordered[0], ordered[-1]
    extremes = (f"highest {named(best_row.label)} with {measure.text(best)}, "
                f"lowest {named(worst_row.label)} with {measure.text(worst)}")
    name = "Welch's test of" if len(groups) == 2 else "Kruskal and Wallis's test by permutation over"
    test = f"{name} {len(groups)} cells, {p_value(p)}, n = {_n_text(groups)}"
    if p >= ALPHA:
        return [f"Not resolved: {measure.name} does not differ beyond the seeds' spread ({test}); {extremes}.",
                *_power(groups)]
    if stats.mean(best) - stats.mean(worst) < MINIMUM_EFFECT:
        return [f"The cells differ ({test}), but by less than 0.1 points, which is called no effect; {extremes}."]
    differs = f"{_upper(measure.name)} differs between the cells ({test}): {extremes}."
    control = best_row.experiment.control
    if control and any(row.cell.label == control for row, _ in learnt):
        return [differs]  # each other against that one is what is asked for
    level = _level_with_best(ordered)
    names = first_of([named(row.label) for row in level], MOST_NAMED)
    told = f"Not told apart from the highest: {names}." if level else f"The highest is above {above_all}."
    if len(level) == len(learnt) - 1 > 1:
        told = "Yet no single cell is resolved to lie below the highest."
    return [f"{differs} {told}", *(_power(groups) if level else [])]


def _lost(tested: Tested) -> list[str]:
    """The cells with seeds that did not learn: their spread is another's, and they are compared with none."""
    cells = [f"{named(row.label)} ({count(num)} of {count(len(values))} seeds)" for row, values in tested
             if (num := sum(value <= outcomes.LEARNT for value in row.values(outcomes.test_last)))]
    least = f"seeds that end at {100 * outcomes.LEARNT:g} % on test or less"
    return [f"Not learnt ({least}), and so not compared: {', '.join(cells)}."] if cells else []


def _level_with_best(ordered: Tested) -> list[Row]:
    """The cells that are not resolved to be below the first."""
    verdicts = [stats.verdict(one, MINIMUM_EFFECT, p=p)
                for one, p in stats.compare_with_best([values for _, values in ordered])]
    return [row for (row, _), verdict in zip(ordered[1:], verdicts, strict=True) if verdict != "less"]


def _against_control(learnt: Tested) -> list[str]:
    """Each other cell against the one that the experiment names for it; Holm over them."""
    name = learnt[0][0].experiment.control
    if not name:
        return []
    control = next((values for row, values in learnt if row.cell.label == name), None)
    others = [(row, values) for row, values in learnt if row.cell.label != name]
    if control is None:
        return [f"Nothing is compared with {named(name)}: it has not two seeds of this arithmetic that all learnt."]
    compared = stats.compare_with(control, [values for _, values in others])
    adjusted = stats.holm([one.p for one in compared])
    told = "; ".join(f"{named(row.label)} {points(one.difference)} points [{points(one.low)}, {points(one.high)}], "
                     f"{p_value(p)}" for (row, _), one, p in zip(others, compared, adjusted, strict=True))
    return [f"Against {named(name)} (t-tests by the spread of all, Holm): {told}."]


def _trends(learnt: Tested, measure: Measure) -> list[str]:
    """Rise or fall along each axis of a grid that has at least three numbers."""
    sentences = []
    rows = [row for row, _ in learnt]
    for axis in _grid_axes(rows) if rows else ():
        pairs = [(row.cell.axes[axis], value) for row in rows for value in row.values(measure.of)]
        if not all(type(x) in (int, float) for x, _ in pairs):
            continue
        if len({x for x, _ in pairs}) < 3 or len({y for _, y in pairs}) < 2:
            continue
        every = -(-len(pairs) // MAX_PERMUTED)
        slope, p = stats.trend([x for x, _ in pairs[::every]], [y for _, y in pairs[::every]])
        name = escape(axis.rpartition(".")[2].replace("_", " "))
        if p >= ALPHA:
            sentences.append(f"No trend with {name} is resolved ({p_value(p)}).")
            continue
        means = _means(pairs)
        listed = ", ".join(f"{percent(value)} at {x:g}" for x, value in means.items())
        sentences.append(f"{_upper(measure.name)} {'rises' if slope > 0 else 'falls'} with {name}"
                         f"{_course(means, rising=slope > 0)}: {listed} {measure.unit} (Spearman by permutation, "
                         f"{p_value(p)}).")
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
    return {at: stats.mean([y for x, y in pairs if x == at]) for at in sorted({x for x, _ in pairs})}


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
