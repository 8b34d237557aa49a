"""Figures that somebody gives for one run: whether a run of ours would give them. No torch."""

import math
from collections.abc import Sequence
from typing import Literal

from bench import stats
from bench.formatting import FEWEST_SPREAD, escape, percent, plural
from bench.judging.evidence import HALF_A_DIGIT, WAITING, WIDEST_PREDICTION, Finding, seeds_to_predict, seeds_to_reach
from bench.records.outcomes import Outcome
from bench.records.rows import Row, one_per_cell

Standing = Literal["may give it", "higher", "lower", "unclear"]
"""Of runs of ours beside a figure of one run. Unclear: too few seeds, or an interval that holds nearly any figure."""


def standing(values: Sequence[float], figure: float, half_a_digit: float = HALF_A_DIGIT) -> Standing:
    """By the 95 % prediction interval of one run, over the seeds' values: whether it holds the figure as printed."""
    if len(values) < FEWEST_SPREAD:
        return "unclear"
    low, high = stats.prediction_interval(values)
    if low >= figure + half_a_digit:
        return "higher"
    if high <= figure - half_a_digit:
        return "lower"
    return "may give it" if high - low <= 2 * WIDEST_PREDICTION else "unclear"


def reaches(value: float, figure: float) -> bool:
    """Whether a run is at least as high as a figure, as that is printed."""
    return round(value - figure + HALF_A_DIGIT, 9) >= 0  # 0.904 - 0.0005 is above 0.9035, as floats go


def figure_of_one_run(rows: Sequence[Row], outcome: Outcome, figure: float, beside: str = "") -> Finding:
    """Whether a figure that the report gives for one run is one that a run gives.

    Of each cell the arithmetic with most seeds is judged: few seeds would agree with more. Supported if some cell may
    give it and has runs on both sides of it; contradicted if every cell's runs are surely higher or lower. A figure
    inside an interval that no run has reached is left open: more readings give more such intervals. All runs are
    counted beside.

    `beside`: what else is told of these runs, and decides nothing.
    """
    every = [(row.label, values) for row in rows if (values := row.values(outcome))]
    if not every:
        return WAITING
    lead, told = _told(every, figure)
    measured = [(row.label, values) for row in one_per_cell(rows) if (values := row.values(outcome))]
    evidence = f"{told}{beside}; {_intervals(measured, figure)}"
    standings = [standing(values, figure) for _, values in measured]
    giving = [values for (_, values), one in zip(measured, standings, strict=True) if one == "may give it"]
    if any(not reaches(min(own), figure + 2 * HALF_A_DIGIT) and reaches(max(own), figure) for own in giving):
        return Finding("supported", evidence, lead=lead)
    if any(row.waits for row in rows):
        return Finding("waiting", evidence, lead=lead)
    if giving:
        return Finding("not resolved", f"{evidence}; none of them has a run on its other side", min(
            len(own) + seeds_to_reach(own, figure) for own in giving), lead)
    if "unclear" not in standings:
        return Finding("contradicted", evidence, lead=lead)
    sds = [stats.sd(values) for _, values in measured if len(values) > 1]
    return Finding("not resolved", evidence, seeds_to_predict(max(sds, default=math.nan)), lead)


def num_reaching(rows: Sequence[Row], *figures: tuple[Outcome, float]) -> int:
    """How many runs reach all of these figures."""
    return sum(all((value := outcome(record)) is not None and reaches(value, figure) for outcome, figure in figures)
               for row in rows for record in row.trained)


def _told(measured: Sequence[tuple[str, Sequence[float]]], figure: float) -> tuple[str, str]:
    """e.g. `1 of 9 runs gives 91.6 % or more (1 of 5: split 1), the highest 91.57 %`, and the same with means."""
    numbers = {name: sum(reaches(value, figure) for value in own) for name, own in measured}
    where = "; ".join(f"{numbers[name]} of {len(own)}: {escape(name)}" for name, own in measured if numbers[name])
    total, num = sum(len(own) for _, own in measured), sum(numbers.values())
    means = sorted((stats.mean(own), escape(name)) for name, own in measured)
    span = " to ".join(f"{percent(mean)} ({name})" for mean, name in dict.fromkeys([means[0], means[-1]]))
    highest = max(value for _, own in measured for value in own)
    counted = f"{num} of {plural(total, 'run')} {'gives' if num == 1 else 'give'} {percent(figure, 1)} % or more"
    counted += f" ({where})" if where and len(measured) > 1 else ""
    return (f"{counted}, the highest {percent(highest)} %",
            f"{counted}; {'means' if len(measured) > 1 else 'the mean'} {span}, the highest run {percent(highest)} %")


def _intervals(measured: Sequence[tuple[str, Sequence[float]]], figure: float) -> str:
    titles: dict[Standing, str] = {
        "may give it": "one run's intervals that hold it", "lower": "that lie below", "higher": "that lie above",
        "unclear": "too few seeds or too wide to say"}
    parts = []
    for one, title in titles.items():
        shown = [(f"{' to '.join(map(percent, stats.prediction_interval(own)))} ({escape(name)})"
                  if len(own) >= FEWEST_SPREAD else escape(name))
                 for name, own in measured if standing(own, figure) == one]
        parts += [f"{title}: {', '.join(shown)}"] if shown else []
    return "; ".join(parts)
