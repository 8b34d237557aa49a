"""When seeds decide a question, for the answers of RESULTS.md and for the verdicts on claims. No torch."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import scipy.stats

from bench import stats
from bench.samples import half_width

Verdict = Literal["supported", "contradicted", "not resolved", "waiting"]

ALPHA = 0.05
HALF_A_DIGIT = 0.0005
"""The report prints tenths of a per cent: its 90.8 % is anything from 90.75 to 90.85."""
HALF_A_CITED_DIGIT = 0.00005
"""Other authors print hundredths."""
MINIMUM_EFFECT = 0.001
"""Differences of accuracy below 0.1 points, 10 of the 10,000 test images, are never called an effect."""
WIDEST_PREDICTION = 0.01
"""A prediction interval wider than 1 point either way agrees with nearly any figure, and so with none."""
MAX_SEEDS = 10_000
"""More are out of reach."""
MAX_PERMUTED = 2_000
"""Values that a permutation test is given at most: its time grows with them, the memory of a slope with their square.
"""


class Finding(NamedTuple):
    verdict: Verdict
    evidence: str
    seeds: float | None = None
    """Per cell, to resolve it if the differences are as seen; infinite where that is beyond reach. None: no need."""
    lead: str = ""
    """What of the evidence tells most; empty: all of it does."""

    @property
    def in_short(self) -> str:
        return self.lead or self.evidence


WAITING = Finding("waiting", "no records yet")


def one_way_p(groups: Sequence[Sequence[float]]) -> float:
    """Whether groups of two values or more differ: `stats.one_way`, of the first seeds where they are very many.

    Of two groups Welch's test: three seeds a group have only 20 permutations, too few for a p below 0.1.
    """
    if len(groups) == 2:
        return stats.compare(groups[0], groups[1]).p
    limit = max(2, MAX_PERMUTED // len(groups))
    return stats.one_way([group[:limit] for group in groups])


def pooled_sd(groups: Sequence[Sequence[float]]) -> float:
    """The spread of one seed: root of the groups' mean variance. nan where no group has two seeds."""
    variances = [sd**2 for group in groups if not math.isnan(sd := stats.sd(group))]
    return math.sqrt(sum(variances) / len(variances)) if variances else math.nan


def seeds_for_one_way(groups: Sequence[Sequence[float]], alpha: float) -> float:
    """Per group, for `one_way_p` to find differences as they look now four times in five."""
    means, sd = [stats.mean(group) for group in groups], pooled_sd(groups)
    if len(means) == 2:
        return seeds_for(sd, abs(means[1] - means[0]), alpha, MINIMUM_EFFECT)
    return stats.one_way_seeds_needed(means, sd, alpha=alpha)


def seeds_for(sd: float, difference: float, alpha: float, minimum_effect: float) -> float:
    """Per cell, for Welch's test; infinite beyond `MAX_SEEDS`."""
    return _within_reach(sd, difference, minimum_effect, lambda: stats.seeds_needed(
        sd, difference, alpha=alpha, minimum_effect=minimum_effect))


def seeds_for_mean(sd: float, distance: float, alpha: float) -> float:
    """For a mean's interval to leave out what lies `distance` away.

    `pairs_needed` plans for a mean of logarithms of ratios; the exponential hands it a plain distance.
    """
    return _within_reach(sd, abs(distance), 0.0, lambda: stats.pairs_needed(
        sd, math.expm1(abs(distance)), power=0.8, alpha=alpha))


def seeds_to_predict(sd: float) -> float:
    """The fewest seeds whose prediction interval is narrow enough to judge by."""
    if math.isnan(sd):
        return 3
    width = lambda n: half_width(sd * math.sqrt(1 + 1 / n), n - 1, 1 - ALPHA)
    return next((n for n in range(3, 1000) if width(n) <= WIDEST_PREDICTION), math.inf)


def seeds_to_reach(values: Sequence[float], figure: float) -> float:
    """Runs until one in 19 of 20 such sets has reached the nearer end of what was rounded to `figure`."""
    seen = stats.summarize(values)
    distance = max(0.0, abs(figure - seen.mean) - HALF_A_DIGIT) / (seen.sd * math.sqrt(1 + 1 / seen.n))
    p = float(scipy.stats.t.sf(distance, seen.n - 1))
    return math.ceil(math.log(ALPHA) / math.log1p(-p))


def _within_reach(sd: float, difference: float, minimum_effect: float, needed: Callable[[], int]) -> float:
    if math.isnan(sd):
        return 2
    if difference <= minimum_effect:
        return math.inf
    try:
        seeds = needed()
    except ValueError:  # more than a billion
        return math.inf
    return seeds if seeds <= MAX_SEEDS else math.inf
