"""How many measurements a question needs, and what a given number of them can resolve.

Floats in, floats out. Power is the chance that `bench.stats.verdict` rightly says "greater" or "less" of a true effect,
both its gates passed. Computed for the very tests that `bench.stats` makes, for normal samples.
"""

import bisect
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.optimize
from scipy import stats

Floats = npt.NDArray[np.float64]
MAX_NEEDED = 10**9
"""A question that needs more samples than this is refused."""


def seeds_needed(
    sd: float, difference: float, power: float = 0.8, alpha: float = 0.05, minimum_effect: float = 0.0
) -> int:
    """Seeds per arm, at least 2, so that `verdict(compare(...))` finds a true `difference` with chance `power`.

    `sd` is that of one arm, in the unit of `difference` and of the verdict's `minimum_effect`. Holds for Welch's test
    and equal sds: one to three more than 2 (z + z)^2 (sd / difference)^2, the usual approximation for a known sd.
    Raises ValueError where minimum_effect reaches the difference: a true effect of exactly the minimum is estimated
    below it half the time, however many seeds there are. A minimum of half the difference costs next to nothing.
    """
    _check_plan(power, alpha, sd=sd, minimum_effect=minimum_effect)
    _check_effect("difference", difference, minimum_effect)
    power_at = lambda n: _power(difference, minimum_effect, sd * (2 / n) ** 0.5, sd * _welch_width(n, alpha))
    return _smallest_n(power, power_at)


def resolvable_difference(
    sd: float, n: int, power: float = 0.8, alpha: float = 0.05, minimum_effect: float = 0.0, df: int | None = None
) -> float:
    """The smallest true difference that n seeds per arm find with chance `power`; undoes `seeds_needed`.

    `df`: degrees of freedom of a spread that is known from more than the two arms, as in `compare_with`.
    """
    _check_plan(power, alpha, sd=sd, minimum_effect=minimum_effect)
    width = _welch_width(n, alpha) if df is None else _width(df, 2 / n, alpha)
    return _smallest_effect(power, minimum_effect, sd * (2 / n) ** 0.5, sd * width)


def pairs_needed(
    log_ratio_sd: float, effect: float, power: float = 0.9, alpha: float = 0.05, minimum_effect: float = 0.0
) -> int:
    """Pairs, at least 2, so that `verdict(paired_ratio(...))` finds a true ratio of 1 + effect with chance `power`.

    `log_ratio_sd` is the sd of log(a[i] / b[i]); `effect` and `minimum_effect` are relative, 0.05 for 5 %.
    Raises ValueError where minimum_effect reaches the effect, as `seeds_needed` does.
    """
    _check_plan(power, alpha, log_ratio_sd=log_ratio_sd, minimum_effect=minimum_effect)
    _check_effect("effect", effect, minimum_effect)
    shift, gate = np.log1p([effect, minimum_effect])
    power_at = lambda n: _power(shift, gate, log_ratio_sd / n**0.5, log_ratio_sd * _width(n - 1, 1 / n, alpha))
    return _smallest_n(power, power_at)


def resolvable_ratio(
    log_ratio_sd: float, n: int, power: float = 0.9, alpha: float = 0.05, minimum_effect: float = 0.0
) -> float:
    """The smallest effect (0.05: a ratio of 1.05) that n pairs find with chance `power`; undoes `pairs_needed`."""
    _check_plan(power, alpha, log_ratio_sd=log_ratio_sd, minimum_effect=minimum_effect)
    gate = float(np.log1p(minimum_effect))
    width = log_ratio_sd * _width(n - 1, 1 / n, alpha)
    return float(np.expm1(_smallest_effect(power, gate, log_ratio_sd / n**0.5, width)))


def _variances(df: int) -> Floats:
    """The sample variances of normal values of variance 1, at 100 evenly spaced probabilities."""
    if df < 1:
        raise ValueError(f"n = {df + 1}: expected at least 2")
    variances: Floats = stats.chi2.ppf((np.arange(100) + 0.5) / 100, df) / df
    return variances


def _width(df: int, share: float, alpha: float) -> Floats:
    """Half widths of a t interval, in sds of one value, over the sample variances that may occur.

    `share`: the estimate's variance, in variances of one value: 1 / n of a mean, 2 / n of a difference of two.
    """
    width: Floats = np.sqrt(_variances(df) * share) * stats.t.ppf(1 - alpha / 2, df)
    return width


def _welch_width(n: int, alpha: float) -> Floats:
    """The same for Welch's interval, n values in each arm."""
    a, b = _variances(n - 1)[:, None], _variances(n - 1)[None, :]
    width: Floats = np.sqrt((a + b) / n) * stats.t.ppf(1 - alpha / 2, (n - 1) * (a + b) ** 2 / (a**2 + b**2))
    return width


def _power(effect: float, minimum: float, standard_error: float, widths: Floats) -> float:
    """The chance that the estimate passes both gates: half the interval's width, and the minimum effect.

    Normal samples have independent means and variances, so it is the mean over the variances of a normal tail.
    """
    if standard_error == 0:
        return 1.0
    return float(stats.norm.cdf((effect - np.maximum(widths, minimum)) / standard_error).mean())


def _smallest_n(power: float, power_at: Callable[[int], float]) -> int:
    high = 2
    while power_at(high) < power:
        high *= 2
        if high > MAX_NEEDED:
            raise ValueError(f"more than {MAX_NEEDED} samples needed: the effect is too small against the sd")
    return bisect.bisect_left(range(high + 1), power, lo=max(2, high // 2), hi=high, key=power_at)


def _smallest_effect(power: float, minimum: float, standard_error: float, widths: Floats) -> float:
    if standard_error == 0:
        return minimum
    surely_found = max(minimum, float(widths.max())) + 10 * standard_error
    missing = lambda effect: _power(effect, minimum, standard_error, widths) - power
    return float(scipy.optimize.brentq(missing, 0.0, surely_found, xtol=1e-12 * surely_found))


def _check_plan(power: float, alpha: float, **not_negative: float) -> None:
    if not 0 < alpha < power < 1:
        raise ValueError(f"alpha = {alpha}, power = {power}: expected 0 < alpha < power < 1")
    for name, value in not_negative.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} = {value}: expected 0 or more")


def _check_effect(name: str, effect: float, minimum_effect: float) -> None:
    if not minimum_effect < effect < float("inf"):
        raise ValueError(f"{name} = {effect}: expected more than minimum_effect = {minimum_effect}")
