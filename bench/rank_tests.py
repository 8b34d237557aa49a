"""Tests by ranks and random permutation: they keep their level at two or three seeds a cell. No torch.

Floats in, p-values out: fractions 0..1, two-sided. Part of `bench.stats`.
"""

import bisect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from bench.samples import Samples, checked

NUM_PERMUTATIONS = 9_999
"""Random permutations of a permutation test: the smallest p is 1e-4, the error of a p near 0.05 is 0.002 (1 sd)."""
NUM_NULL, NUM_DRAWN = 4_000, 1_000
"""Simulated experiments without a difference and with one: a power of 0.8 is known to 0.013 (1 sd)."""
MOST_SEEDS = 96
"""A question that needs more seeds in every group is not simulated."""
MAX_AT_ONCE = 1 << 20
"""Values permuted at once, which bounds the memory: 8 MB for each array that the statistic makes of them."""


class Trend(NamedTuple):
    slope: float
    """Units of y per unit of x."""
    p: float


def one_way(groups: Sequence[Samples]) -> float:
    """The p-value of "all groups have one distribution": does accuracy depend on the activation?

    Kruskal and Wallis's rank statistic (1952) by random permutation with a fixed seed, which keeps its level at two or
    three seeds per group, where Welch's analysis of variance can alarm too often. ValueError for fewer than two groups.
    """
    samples = [checked(f"groups[{i}]", group) for i, group in enumerate(groups)]
    if len(samples) < 2:
        raise ValueError(f"groups: {len(samples)} given, expected at least 2")
    sizes = np.array([len(sample) for sample in samples])
    starts = sizes.cumsum() - sizes
    ranks = stats.rankdata(np.concatenate(samples))
    between_groups = lambda rows: (np.add.reduceat(rows, starts, axis=1) ** 2 / sizes).sum(axis=1)
    return _permutation_p(ranks - ranks.mean(), between_groups)


def trend(x: Samples, y: Samples) -> Trend:
    """Does y rise or fall with x, over the whole range: does accuracy fall with the kernel size?

    p: Spearman's rank correlation by random permutation with a fixed seed, which keeps its level with few values and
    with ties in x (several seeds per size). Slope: the median over all pairs (Theil 1950, Sen 1968).
    ValueError for unequal lengths or a constant x.
    """
    x, y = checked("x", x), checked("y", y)
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} values and y has {len(y)}: expected pairs")
    if x.min() == x.max():
        raise ValueError(f"x = {x[0]} throughout: a trend needs at least two different values")
    if y.min() == y.max():
        return Trend(0.0, 1.0)
    x_ranks = stats.rankdata(x) - (len(x) + 1) / 2
    rank_products = lambda rows: abs(rows @ x_ranks)
    return Trend(float(stats.theilslopes(y, x).slope), _permutation_p(stats.rankdata(y), rank_products))


def one_way_seeds_needed(means: Samples, sd: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Seeds per group, at least 3, so that `one_way` finds normal groups of these means at `alpha` with this power.

    `sd` is that of one seed, in the unit of the means. By simulation with a fixed seed; inf for more than
    `MOST_SEEDS`. ValueError for fewer than two means.
    """
    means = checked("means", means)
    if len(means) < 2:
        raise ValueError(f"means: {len(means)} given, expected at least 2")
    rng = np.random.default_rng(0)

    def enough(n: int) -> bool:
        alike = _between_groups(rng.normal(size=(NUM_NULL, len(means), n)))
        apart = _between_groups(rng.normal(means[:, None], sd, (NUM_DRAWN, len(means), n)))
        return bool((apart > np.quantile(alike, 1 - alpha)).mean() >= power)

    high = 3
    while not enough(high):
        high *= 2
        if high > MOST_SEEDS:
            return math.inf
    return bisect.bisect_left(range(high), True, lo=max(3, high // 2), key=enough)


def _between_groups(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Kruskal and Wallis's statistic, up to constants, of each of `values` (draws, groups, seeds)."""
    ranks = values.reshape(len(values), -1).argsort(axis=1).argsort(axis=1).reshape(values.shape)
    squares: npt.NDArray[np.float64] = (ranks.sum(axis=2).astype(float) ** 2).sum(axis=1)
    return squares


def _permutation_p(values: npt.NDArray[np.float64], statistic: Callable[[Any], Any]) -> float:
    """The share of random orders of `values`, its own counted, whose statistic (one per row) is at least its own."""
    rng, own = np.random.default_rng(0), statistic(values[None])[0]
    at_once = max(1, MAX_AT_ONCE // len(values))
    as_large = 0
    for start in range(0, NUM_PERMUTATIONS, at_once):
        orders = np.tile(values, (min(at_once, NUM_PERMUTATIONS - start), 1))
        rng.permuted(orders, axis=1, out=orders)
        as_large += int((statistic(orders) >= own * (1 - 1e-9)).sum())  # ties despite rounding
    return (1 + as_large) / (1 + NUM_PERMUTATIONS)
