"""Samples against each other: differences of their means, their intervals and p-values. No torch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from bench.samples import Samples, checked, fraction, half_width, sd_of, t_test

SPREADS_DIFFER, WILDER, UNLIKE = 0.05, 0.1, 0.25
"""Levels of the tests that say that samples differ in spread: of all of them; of one that is more spread than the rest,
for its own comparison; of the one that all are compared with, which is in every comparison. The last two are lax, since
few values tell a spread badly, and a spread pooled wrongly spoils every comparison. Chosen by simulation: false alarms
in 2 to 10 % of families of 2 to 11 comparisons of 3 to 16 values, sds alike or up to five times as large, where
Welch's test had 1 to 17, and mostly less than half of the power."""
NO_SPREAD = 1e-12
"""Standard deviation, relative to the mean, that is rounding."""
DECIDED = 0.05
"""Level of the tests that a bound may decide."""


class Comparison(NamedTuple):
    """`b` against `a`, in the unit of the samples. Interval and p are nan where a sample has only one value."""

    mean_a: float
    mean_b: float
    difference: float
    """mean_b - mean_a"""
    low: float
    high: float
    """Interval for the difference."""
    p: float


def compare(a: Samples, b: Samples, confidence: float = 0.95) -> Comparison:
    """Two independent samples: the difference of the means, b - a, by Welch's test (1947), unequal sds allowed."""
    a, b = checked("a", a), checked("b", b)
    fraction("confidence", confidence)
    return _comparison(a, b, *_error(_Spread.of(a), len(a), _Spread.of(b), len(b)), confidence)


def compare_with(control: Samples, others: Sequence[Samples], confidence: float = 0.95) -> list[Comparison]:
    """Each of `others` against one sample, by the spread of all of them where that may be the same, else by `compare`.

    The others share one spread unless Bartlett's test (1937) rejects it, left out at most one sample that is far more
    spread than the rest (F-test, Bonferroni). The control has it too, unless its own is unlike it; a sample that is
    more spread than the rest is compared by its own. Two or three seeds a cell hardly know their own spread: Welch's
    test then finds little, and among many cells of which one has far more seeds it finds too much. p is not adjusted.
    """
    first, *rest = (checked("samples", one) for one in (control, *others))
    fraction("confidence", confidence)
    return [_comparison(first, one, *error, confidence)
            for one, error in zip(rest, _errors(first, rest), strict=True)]


def compare_with_best(ordered: Sequence[Samples]) -> list[tuple[Comparison, float]]:
    """Each later sample against the first, which is there because its mean is the highest; p adjusted for that pick.

    As `compare_with`; adjusted by the range of all pairs: Tukey and Kramer, else Games and Howell (1976). Where p, or p
    times the number of pairs, decides already, that bound is given: the range takes long to compute.
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


class _Spread(NamedTuple):
    """What some samples, each about its own mean, tell of the spread of one value."""

    squares: float
    df: int

    @classmethod
    def of(cls, sample: npt.NDArray[np.float64]) -> "_Spread":
        df = len(sample) - 1
        return cls(df * sd_of(sample) ** 2 if df else float("nan"), df)

    @property
    def variance(self) -> float:
        return self.squares / self.df if self.df else float("nan")

    def joined(self, other: "_Spread") -> "_Spread":
        return _Spread(self.squares + other.squares, self.df + other.df)

    def without(self, other: "_Spread") -> "_Spread":
        return _Spread(self.squares - other.squares, self.df - other.df)

    def p_larger(self, than: "_Spread") -> float:
        """F-test of a variance against another that does not share its samples."""
        return float(stats.f.sf(self.variance / than.variance, self.df, than.df)) if than.df and than.squares > 0 else 1


def _errors(first: npt.NDArray[np.float64],
            others: Sequence[npt.NDArray[np.float64]]) -> list[tuple[float, float]]:
    """Of each difference from the first: its standard error and degrees of freedom."""
    control, own = _Spread.of(first), [_Spread.of(one) for one in others]
    shared = _of_one_spread(others, own)
    common = _Spread(sum(own[i].squares for i in shared), sum(own[i].df for i in shared))
    if shared and _has_spread(first) and UNLIKE / 2 <= control.p_larger(common) <= 1 - UNLIKE / 2:
        common = control = common.joined(control)
    spreads = [common if i in shared and one.p_larger(common.without(one)) >= WILDER else one
               for i, one in enumerate(own)]
    return [_error(control, len(first), spread, len(one)) for spread, one in zip(spreads, others, strict=True)]


def _of_one_spread(samples: Sequence[npt.NDArray[np.float64]], spreads: Sequence[_Spread]) -> set[int]:
    """The places of those whose spread may be the same; none where there are fewer than two of them."""
    places = [i for i, one in enumerate(samples) if _has_spread(one)]
    whole = _Spread(sum(spreads[i].squares for i in places), sum(spreads[i].df for i in places))
    if len(places) > 2:
        p_of = {i: spreads[i].p_larger(whole.without(spreads[i])) for i in places}
        wildest = min(places, key=lambda i: p_of[i])
        if p_of[wildest] * len(places) < SPREADS_DIFFER:
            places.remove(wildest)
    if len(places) < 2 or stats.bartlett(*(samples[i] for i in places)).pvalue < SPREADS_DIFFER:
        return set()
    return set(places)


def _has_spread(sample: npt.NDArray[np.float64]) -> bool:
    return len(sample) > 1 and sd_of(sample) > NO_SPREAD * abs(float(sample.mean()))


def _error(a: _Spread, n_a: int, b: _Spread, n_b: int) -> tuple[float, float]:
    """Standard error of the difference of two means, and its degrees of freedom."""
    if a is b:
        return (a.variance * (1 / n_a + 1 / n_b)) ** 0.5, a.df
    variance_a, variance_b = a.variance / n_a, b.variance / n_b
    total = variance_a + variance_b
    # Satterthwaite's degrees of freedom; in shares of the total, since squares of small variances underflow.
    df = 1 / ((variance_a / total) ** 2 / a.df + (variance_b / total) ** 2 / b.df) if total > 0 else 1.0
    return total**0.5, df


def _comparison(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], standard_error: float, df: float,
                confidence: float = 0.95) -> Comparison:
    difference, half = float(b.mean() - a.mean()), half_width(standard_error, df, confidence)
    return Comparison(float(a.mean()), float(b.mean()), difference, low=difference - half, high=difference + half,
                      p=t_test(difference, standard_error, df))
