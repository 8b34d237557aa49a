"""Samples against each other: differences of their means, their intervals and p-values. No torch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from bench.samples import Samples, checked, fraction, half_width, sd_of, t_test

SPREADS_DIFFER = 0.05
"""Level of the tests that say that samples differ in spread."""
DECIDED = 0.05
"""Level of the tests that a bound may decide."""


class Comparison(NamedTuple):
    """`b` against `a`, in the unit of the samples. Interval and p are nan where a sample has only one value."""

    n_a: int
    n_b: int
    mean_a: float
    mean_b: float
    difference: float
    """mean_b - mean_a"""
    low: float
    high: float
    """Interval for the difference."""
    p: float
    mann_whitney_p: float
    """A second opinion that does not depend on the shape of the distributions."""


def compare(a: Samples, b: Samples, confidence: float = 0.95) -> Comparison:
    """Two independent samples: the difference of the means, b - a, by Welch's test (Welch 1947), unequal sds allowed.

    The Mann-Whitney p is exact without ties where one sample has 8 values or fewer, else asymptotic.
    """
    a, b = checked("a", a), checked("b", b)
    fraction("confidence", confidence)
    return _comparison(a, b, *_welch(a, b), confidence)


def compare_with(control: Samples, others: Sequence[Samples], confidence: float = 0.95) -> list[Comparison]:
    """Each of `others` against one sample, by the spread of all of them where that may be the same, else by `compare`.

    "May be": without the samples that are far more spread than the rest together (F-test, Bonferroni), which are
    compared by `compare`, and by Bartlett's test (1937) of those left; both at 5 %. Two or three seeds a cell hardly
    know their own spread: Welch's test then finds little, and among many cells of which one has far more seeds it finds
    too much. p is not adjusted.
    """
    first, *rest = (checked("samples", one) for one in (control, *others))
    fraction("confidence", confidence)
    return [_comparison(first, one, *error, confidence)
            for one, error in zip(rest, _errors(first, rest), strict=True)]


def compare_with_best(ordered: Sequence[Samples]) -> list[tuple[Comparison, float]]:
    """Each later sample against the first, which is there because its mean is the highest; p adjusted for that pick.

    As `compare_with`; adjusted by the range of all pairs: Tukey and Kramer, else Games and Howell (1976). Where p, or p
    times the number of pairs, decides already, that bound is given: the range takes its time.
    """
    best, *rest = (checked("samples", one) for one in ordered)
    num_pairs, found = len(ordered) * (len(ordered) - 1) / 2, []
    for other, (error, df) in zip(rest, _errors(best, rest), strict=True):
        comparison = _comparison(best, other, error, df)
        p = comparison.p
        if p * num_pairs < DECIDED:
            p *= num_pairs
        elif p < DECIDED:
            p = float(stats.studentized_range.sf(2**0.5 * abs(comparison.difference) / error, len(ordered), df))
        found.append((comparison, p))
    return found


def holm(p_values: Samples) -> list[float]:
    """Adjusted p-values, in the order given: the chance of any false alarm among them all is then at most alpha.

    Holm 1979, step down: the i-th smallest of m times m + 1 - i, never below the one before, at most 1.
    """
    p = checked("p_values", p_values)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"p_values from {p.min()} to {p.max()}: expected 0 to 1")
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in adjusted]


def _errors(first: npt.NDArray[np.float64],
            others: Sequence[npt.NDArray[np.float64]]) -> list[tuple[float, float]]:
    """Of each difference from the first: its standard error and degrees of freedom."""
    samples = [first, *others]
    even = _of_one_spread(samples)
    df = sum(len(samples[i]) - 1 for i in even)
    variance = _pooled([samples[i] for i in even]) if even else 0.0
    return [((variance * (1 / len(first) + 1 / len(one))) ** 0.5, df) if {0, i} <= even else _welch(first, one)
            for i, one in enumerate(others, start=1)]


def _of_one_spread(samples: Sequence[npt.NDArray[np.float64]]) -> set[int]:
    """The places of the samples whose spread may be the same; none where that of the others differs, too."""
    even = dict(enumerate(samples))
    if min(map(len, samples)) < 2:
        return set()
    while len(even) > 2:
        chance = {i: _chance_of_spread(one, [other for j, other in even.items() if j != i]) for i, one in even.items()}
        wildest = min(chance, key=lambda i: chance[i])
        if chance[wildest] * len(even) >= SPREADS_DIFFER:
            break
        del even[wildest]
    spread = [one for one in even.values() if sd_of(one) > 0]
    differ = len(spread) > 1 and stats.bartlett(*spread).pvalue < SPREADS_DIFFER
    return set() if differ or not spread else set(even)


def _chance_of_spread(one: npt.NDArray[np.float64], others: Sequence[npt.NDArray[np.float64]]) -> float:
    """p of a sample at least so much more spread than others that have one spread; 1 where these have none."""
    variance = _pooled(others)
    df = sum(len(other) - 1 for other in others)
    return float(stats.f.sf(sd_of(one) ** 2 / variance, len(one) - 1, df)) if variance > 0 else 1.0


def _pooled(samples: Sequence[npt.NDArray[np.float64]]) -> float:
    """Their variance about their own means."""
    return sum((len(one) - 1) * sd_of(one) ** 2 for one in samples) / sum(len(one) - 1 for one in samples)


def _welch(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Standard error of the difference of the means, and its degrees of freedom."""
    variance_a, variance_b = sd_of(a) ** 2 / len(a), sd_of(b) ** 2 / len(b)
    total = variance_a + variance_b
    # Satterthwaite's degrees of freedom; in shares of the total, since squares of small variances underflow.
    df = 1 / ((variance_a / total) ** 2 / (len(a) - 1) + (variance_b / total) ** 2 / (len(b) - 1)) if total > 0 else 1.0
    return total**0.5, df


def _comparison(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], standard_error: float, df: float,
                confidence: float = 0.95) -> Comparison:
    difference, half = float(b.mean() - a.mean()), half_width(standard_error, df, confidence)
    return Comparison(len(a), len(b), float(a.mean()), float(b.mean()), difference, low=difference - half,
                      high=difference + half, p=t_test(difference, standard_error, df),
                      mann_whitney_p=float(stats.mannwhitneyu(a, b, method="auto").pvalue))
