"""From the values of cells to a finding: pairs of cells, a figure, a count, a trend, a rise of loss, factors. No torch.

Every judge says `waiting` while records that it needs are missing, unless those at hand already contradict the claim.
Levels: 5 % for a whole judgement, shared among its comparisons by Holm's or Bonferroni's correction.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench import stats
from bench.formatting import count, escape, mean_with_interval, p_value, percent, plural, points
from bench.judging.evidence import (
    ALPHA,
    MINIMUM_EFFECT,
    WAITING,
    Finding,
    Verdict,
    one_way_p,
    pooled_sd,
    seeds_for,
    seeds_for_mean,
    seeds_for_one_way,
)
from bench.records.outcomes import Outcome, test_last, validation_loss_rise
from bench.records.rows import Row

MOST_TOLD, FEW = 4, 2
"""Comparisons that the evidence tells; so few are told in short, too."""
NEGLIGIBLE = 0.003
"""A factor whose largest difference is surely below 0.3 points is said not to affect accuracy."""


class Scale(NamedTuple):
    """What values are differences of."""

    unit: str
    show: Callable[[float], str]
    minimum_effect: float
    """Smaller differences are called no effect."""


ACCURACY = Scale(" points", points, MINIMUM_EFFECT)
LOSS = Scale("", lambda difference: f"{difference:+.4f}", 0.001)


class Contrast(NamedTuple):
    """The claim says that the values of `high` lie above those of `low`."""

    name: str
    low: Sequence[float]
    high: Sequence[float]


def contrasts(pairs: Sequence[Contrast], scale: Scale = ACCURACY) -> Finding:
    """Welch's test for each pair, Holm over all: supported if every pair is as claimed, contradicted if any is not.

    A pair is against the claim when it is resolved the other way round, or surely differs by less than the minimum.
    """
    tested = [pair for pair in pairs if min(len(pair.low), len(pair.high)) > 1]
    missing = sum(not pair.low or not pair.high for pair in pairs)
    if not pairs or missing == len(pairs):
        return WAITING
    if not tested:
        return Finding("waiting" if missing else "not resolved", "one seed a cell: no spread, no test", 2)
    results = [stats.compare(pair.low, pair.high) for pair in tested]
    adjusted = stats.holm([result.p for result in results])
    verdicts = [stats.verdict(result, scale.minimum_effect, p=p) for result, p in zip(results, adjusted, strict=True)]
    as_claimed, against = verdicts.count("greater"), verdicts.count("less") + verdicts.count("equivalent")
    verdict: Verdict = ("contradicted" if against else "waiting" if missing else
                        "supported" if as_claimed == len(pairs) else "not resolved")
    texts = _contrast_texts(tested, results, adjusted, verdicts, scale)
    evidence = lead = "; ".join(texts[:MOST_TOLD])
    if len(pairs) > 1:
        counts = (f"{as_claimed} of {len(pairs)} comparisons resolved as claimed, {against} reversed or equal, "
                  f"{len(pairs) - missing - as_claimed - against} not resolved"
                  f"{f', {missing} waiting for seeds of equal arithmetic' if missing else ''}")
        evidence, lead = f"{evidence}; {counts}", lead if len(pairs) <= FEW else counts
    open_ = [result for result, one in zip(results, verdicts, strict=True) if one == "not resolved"]
    seeds = _seeds(open_, tested, scale.minimum_effect) if verdict == "not resolved" else None
    return Finding(verdict, evidence, seeds, lead)


def above(rows: Sequence[Row], outcome: Outcome, figure: float) -> Finding:
    """Whether the mean over seeds lies above a figure: by its 95 % interval, in all readings or in none."""
    measured = [(row.label, values) for row in rows if (values := row.values(outcome))]
    if not measured:
        return WAITING
    intervals = [stats.mean_interval(values) for _, values in measured]
    evidence = "; ".join(f"{mean_with_interval(values)} %, {points(stats.mean(values) - figure)} points "
                         f"({escape(label)}, n = {len(values)})" for label, values in measured)
    lead = ", ".join(f"{points(stats.mean(values) - figure)} points ({escape(label)})" for label, values in measured)
    if any(row.waits for row in rows):
        return Finding("waiting", evidence, lead=lead)
    if any(len(values) < 2 for _, values in measured):
        return Finding("not resolved", evidence, 2, lead)
    if all(high < figure for _, high in intervals):
        return Finding("contradicted", evidence, lead=lead)
    if all(low > figure for low, _ in intervals):
        return Finding("supported", evidence, lead=lead)
    if all(not low <= figure <= high for low, high in intervals):
        depends = ": it depends on the reading, not on seeds"
        return Finding("not resolved", evidence + depends, lead=lead + depends)
    summaries = [stats.summarize(values) for _, values in measured]
    seeds = max(seeds_for_mean(one.sd, one.mean - figure, ALPHA) for one in summaries)
    return Finding("not resolved", evidence, seeds, lead)


def counts_rise(sequences: Sequence[Sequence[Row]], attribute: Callable[[Row], int]) -> Finding:
    """Whether an exact count rises from row to row in every sequence. No seeds, no test: one exception decides."""
    texts, falls = [], False
    known = True
    for rows in sequences:
        values = [attribute(row) for row in rows]
        known &= all(values)
        seen = [value for value in values if value]
        falls |= any(b <= a for a, b in itertools.pairwise(seen))
        texts.append(", ".join(count(value) for value in values))
    if not any(any(attribute(row) for row in rows) for rows in sequences):
        return WAITING
    verdict: Verdict = "contradicted" if falls else "supported" if known else "waiting"
    shown = texts if len(texts) < 3 else [texts[0], "...", texts[-1]]
    return Finding(verdict, f"exact counts, smallest kernel first: {'; '.join(shown)}")


def rises(rows: Sequence[tuple[float, Row]], outcome: Outcome, unit: str) -> Finding:
    """Whether an outcome rises with a number, of equal arithmetic: Spearman's test by permutation over all seeds."""
    by_number = {at: values for at, row in sorted(rows, key=lambda one: one[0]) if (values := row.values(outcome))}
    waiting = sum(row.waits for _, row in rows)
    if not by_number:
        return WAITING
    means = ", ".join(f"{percent(stats.mean(values))} at {at:g}" for at, values in by_number.items())
    pairs = [(at, value) for at, values in by_number.items() for value in values]
    if len(by_number) < 3 or len(pairs) == len(by_number):
        return Finding("waiting" if waiting else "not resolved", f"{means} {unit}: too few seeds for a test", 2)
    slope, p = stats.trend([at for at, _ in pairs], [value for _, value in pairs])
    seeds = ", ".join(str(len(values)) for values in by_number.values())
    evidence = f"{means} {unit}, n = {seeds}, {p_value(p)}{f', {waiting} waiting' if waiting else ''}"
    first, last = (stats.mean(by_number[at]) for at in (min(by_number), max(by_number)))
    if p < ALPHA and slope < 0:
        return Finding("contradicted", evidence)
    if waiting:
        return Finding("waiting", evidence)
    if p >= ALPHA or last - first < MINIMUM_EFFECT:
        needed = seeds_for(pooled_sd([*by_number.values()]), abs(last - first), ALPHA, MINIMUM_EFFECT)
        return Finding("not resolved", evidence, max(needed, 1 + min(map(len, by_number.values()))))
    return Finding("supported", evidence)


def over_fits(rows: Sequence[Row], expected: bool) -> Finding:
    """Whether validation loss rises from the middle to the last third of the epochs, in most rows that learnt at all.

    By the interval of the mean rise over seeds, Bonferroni over rows. `expected` False: the claim is that it does not.
    """
    learnt = [(row, values) for row in rows if row.learnt and (values := row.values(validation_loss_rise))]
    if not learnt:
        return WAITING
    intervals = [stats.mean_interval(values, 1 - ALPHA / len(learnt)) for _, values in learnt]
    rising, falling = sum(low > 0 for low, _ in intervals), sum(high < 0 for _, high in intervals)
    evidence = (f"validation loss rises in {rising} of {plural(len(learnt), 'configuration')} that learnt, falls in "
                f"{falling}, is not resolved in {len(learnt) - rising - falling}")
    for_, against = (rising, falling) if expected else (falling, rising)
    if any(row.waits for row in rows):
        return Finding("waiting", evidence)
    half = len(learnt) / 2
    if for_ > half or against > half:
        return Finding("supported" if for_ > half else "contradicted", evidence)
    unclear = [stats.summarize(values) for (_, values), (low, high) in zip(learnt, intervals, strict=True)
               if not (low > 0 or high < 0)]
    needed = {up: sorted(seeds_for_mean(one.sd, one.mean, ALPHA / len(learnt)) for one in unclear
                         if (one.mean > 0) == up) for up in (True, False)}
    missing = {True: math.floor(half) + 1 - rising, False: math.floor(half) + 1 - falling}
    majorities = [own[missing[up] - 1] for up, own in needed.items() if len(own) >= missing[up]]
    if not majorities:
        return Finding("not resolved", f"{evidence}: it depends on the configuration, not on seeds")
    return Finding("not resolved", evidence, min(majorities))


def factors_matter(groups: dict[str, Sequence[Row]]) -> dict[str, Finding]:
    """For each factor, whether test accuracy differs over its cells that learnt: `one_way_p`, Holm over the factors.

    Contradicted where even the extremes are surely less than 0.3 points apart.
    """
    tested = {}
    groups = {name: [row for row in rows if row.learnt or not row.trained] for name, rows in groups.items()}
    for name, rows in groups.items():
        values = [own for row in rows if len(own := row.values(test_last)) > 1]
        if len(values) > 1:
            tested[name] = values
    adjusted = dict(zip(tested, stats.holm([one_way_p(v) for v in tested.values()]) if tested else [], strict=True))
    left = ALPHA / max(1, sum(p >= ALPHA for p in adjusted.values()))  # the level that Holm leaves to the next
    return {name: _factor(rows, tested[name], adjusted[name], left) if name in tested else _untested(rows)
            for name, rows in groups.items()}


def _untested(rows: Sequence[Row]) -> Finding:
    if not any(row.trained for row in rows):
        return WAITING
    missing = sum(row.num_missing for row in rows)
    rest = f", {plural(missing, 'seed')} waiting" if missing else ""
    return Finding("waiting" if missing else "not resolved", f"fewer than two cells with two seeds: no test{rest}",
                   None if missing else 2)


def _factor(rows: Sequence[Row], values: Sequence[Sequence[float]], p: float, level: float) -> Finding:
    """`p`: adjusted; `level`: that of the test without adjustment, for the seeds that it would take."""
    tested = [row for row in rows if len(row.values(test_last)) > 1]
    ordered = sorted(tested, key=lambda row: stats.mean(row.values(test_last)))
    lowest, highest = ordered[0], ordered[-1]
    extremes = stats.compare(lowest.values(test_last), highest.values(test_last))
    waiting = sum(row.waits for row in rows)
    evidence = (f"{len(values)} cells from {percent(extremes.mean_a)} ({escape(lowest.label)}) to "
                f"{percent(extremes.mean_b)} % ({escape(highest.label)}) test accuracy, adjusted {p_value(p)}"
                f"{f', {waiting} waiting' if waiting else ''}")
    if p < ALPHA and extremes.difference >= MINIMUM_EFFECT:
        return Finding("supported", evidence)
    if waiting:
        return Finding("waiting", evidence)
    if extremes.high < NEGLIGIBLE:
        return Finding("contradicted", evidence)
    more = 1 + min(len(own) for own in values)
    return Finding("not resolved", evidence, max(more, seeds_for_one_way(values, level)))


def _contrast_texts(tested: Sequence[Contrast], results: Sequence[stats.Comparison], adjusted: Sequence[float],
                    verdicts: Sequence[stats.Direction], scale: Scale) -> list[str]:
    """What decides first."""
    show = scale.show
    deciding = ["less", "equivalent", "greater", "not resolved"]
    ordered = sorted(range(len(tested)), key=lambda i: (deciding.index(verdicts[i]), -abs(results[i].difference)))
    return [f"{escape(tested[i].name)}: {show(results[i].difference)}{scale.unit} [{show(results[i].low)}, "
            f"{show(results[i].high)}], {p_value(adjusted[i])}, n = {len(tested[i].high)} and "
            f"{len(tested[i].low)}" for i in ordered]


def _seeds(open_: Sequence[stats.Comparison], tested: Sequence[Contrast], minimum_effect: float) -> float:
    """For the hardest of the open comparisons, at the level that the correction leaves to each; more than there are."""
    groups = [values for pair in tested for values in (pair.low, pair.high)]
    sd, alpha, more = pooled_sd(groups), ALPHA / len(tested), 1 + min(map(len, groups))
    return max([more, *(seeds_for(sd, abs(result.difference), alpha, minimum_effect) for result in open_)])
