"""What a list of measurements supports: summaries, intervals, tests and verdicts.

Floats in, floats out, in the unit of the input unless a docstring says otherwise. A p-value is a fraction 0..1 and
two-sided. `confidence` is a fraction in (0, 1). Every function refuses empty, NaN and infinite input with ValueError.
What too few samples cannot give is nan. Samples count as independent: the steps of one run speak for that run only.
"""

import math
import statistics
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from bench.comparisons import Comparison as Comparison
from bench.comparisons import compare as compare
from bench.comparisons import compare_with as compare_with
from bench.comparisons import compare_with_best as compare_with_best
from bench.comparisons import holm as holm
from bench.rank_tests import Trend as Trend
from bench.rank_tests import one_way as one_way
from bench.rank_tests import one_way_seeds_needed as one_way_seeds_needed
from bench.rank_tests import trend as trend
from bench.sample_size import pairs_needed as pairs_needed
from bench.sample_size import resolvable_difference as resolvable_difference
from bench.sample_size import resolvable_ratio as resolvable_ratio
from bench.sample_size import seeds_needed as seeds_needed
from bench.samples import Samples, checked, fraction, half_width, sd_of, t_test

Direction = Literal["greater", "less", "equivalent", "not resolved"]

NOISY = 0.10
"""IQR / median above which a measurement is marked as noisy."""


class Interval(NamedTuple):
    low: float
    high: float


class Summary(NamedTuple):
    """In the unit of the samples. Quantiles interpolate linearly (type 7 of Hyndman and Fan 1996)."""

    n: int
    mean: float
    sd: float
    """Sample standard deviation, divisor n - 1; nan for one sample."""
    median: float
    iqr: float
    p99: float
    """Close to the maximum below a few hundred samples."""

    @property
    def noisy(self) -> bool:
        return self.iqr > NOISY * abs(self.median)


class Throughput(NamedTuple):
    images_per_s: float
    low: float
    high: float
    iqr_ratio: float
    """IQR / median of the step times; of several timings the middle one."""
    n: int
    """Timings; the interval is nan for fewer than three."""

    @property
    def noisy(self) -> bool:
        return self.iqr_ratio > NOISY


class Ratio(NamedTuple):
    """`a` over `b`: 1.05 is 5 % more. The interval and p are nan for fewer than two pairs."""

    ratio: float
    low: float
    high: float
    n: int
    """What the interval rests on: pairs, or the blocks of a calibration."""
    p: float


def summarize(samples: Samples) -> Summary:
    values = checked("samples", samples)
    q1, median, q3, p99 = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75, 0.99]))
    return Summary(n=len(values), mean=float(values.mean()), sd=sd_of(values), median=median, iqr=q3 - q1,
                   p99=p99)


def mean(samples: Samples) -> float:
    return float(checked("samples", samples).mean())


def median(samples: Samples) -> float:
    return float(np.quantile(checked("samples", samples), 0.5))


def sd(samples: Samples) -> float:
    """`Summary.sd`."""
    return float(sd_of(checked("samples", samples)))


def is_noisy(samples: Samples) -> bool:
    """`summarize(samples).noisy`, without numpy's quantiles, which take long for a few samples: records are many."""
    values: list[float] = checked("samples", samples).tolist()
    if len(values) == 1:
        return False
    q1, median, q3 = statistics.quantiles(values, method="inclusive")
    return q3 - q1 > NOISY * abs(median)


def mean_interval(samples: Samples, confidence: float = 0.95) -> Interval:
    """Student's t interval for the mean, exact for normal samples: accuracy over seeds. (nan, nan) for one sample."""
    values = checked("samples", samples)
    fraction("confidence", confidence)
    half = half_width(sd_of(values) / len(values) ** 0.5, len(values) - 1, confidence)
    return Interval(mean(values) - half, mean(values) + half)


def prediction_interval(samples: Samples, confidence: float = 0.95) -> Interval:
    """Where the next sample falls: the mean's interval, widened from the mean of n to a single value. Normal samples.

    (nan, nan) for one sample.
    """
    middle, (low, high) = mean(samples), mean_interval(samples, confidence)
    widening = (len(samples) + 1) ** 0.5
    return Interval(middle - (middle - low) * widening, middle + (high - middle) * widening)


def throughput(images_per_step: int, *timings: Samples, confidence: float = 0.95) -> Throughput:
    """`images_per_step`, over all processes, by the median of the step times in seconds of each timing.

    Of several timings the geometric mean, with Student's interval of the logarithms. Of one and of two there is none,
    (nan, nan): the steps of one do not know how timings differ, and of two it would be nine standard deviations wide
    either way.
    Raises ValueError unless all values are above 0.
    """
    if images_per_step < 1:
        raise ValueError(f"images_per_step = {images_per_step}: expected at least 1")
    steps = [summarize(checked("step_s", step_s, positive=True)) for step_s in timings]
    iqr_ratio = median([one.iqr / one.median for one in steps])
    logs = [math.log(images_per_step / one.median) for one in steps]
    low, high = mean_interval(logs, confidence) if len(logs) > 2 else (math.nan, math.nan)
    return Throughput(math.exp(mean(logs)), math.exp(low), math.exp(high), iqr_ratio, n=len(timings))


def paired_ratio(a: Samples, b: Samples, confidence: float = 0.95) -> Ratio:
    """a[i] / b[i] for measurements taken in turns, which cancels what drifts slowly: clocks, heat, other load.

    Geometric mean, with Student's t interval and test on the logarithms: make each value the median of a block, which
    is near enough to normal. Raises ValueError unless both have one length and all values are above 0.
    """
    a, b = checked("a", a, positive=True), checked("b", b, positive=True)
    fraction("confidence", confidence)
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} values and b has {len(b)}: expected pairs")
    logs = np.log(a) - np.log(b)
    mean, standard_error = float(logs.mean()), sd_of(logs) / len(logs) ** 0.5
    half = half_width(standard_error, len(logs) - 1, confidence)
    with np.errstate(over="ignore", under="ignore"):  # two wild pairs: the interval is then (0, inf)
        ratio, low, high = (float(value) for value in np.exp([mean, mean - half, mean + half]))
    return Ratio(ratio, low, high, len(logs), t_test(mean, standard_error, len(logs) - 1))


def verdict(result: Comparison | Ratio, minimum_effect: float, alpha: float = 0.05,
            p: float | None = None) -> Direction:
    """Two gates: the effect is significant (p < alpha), and the estimate is at least `minimum_effect`.

    `minimum_effect` is a difference in the unit of a Comparison, or a relative change of a Ratio: 0.02 asks for a ratio
    of at least 1.02 or at most 1 / 1.02, so that swapping a and b mirrors it. `p`: the result's own adjusted by `holm`.

    "greater", "less": both gates passed, by mere chance in at most a share `alpha` of cases; said of b against a for a
    Comparison, of a against b for a Ratio.
    "equivalent": the whole interval lies within the minimum effect on either side. "not resolved": anything else.
    """
    fraction("alpha", alpha)
    if not 0 <= minimum_effect < float("inf"):
        raise ValueError(f"minimum_effect = {minimum_effect}: expected 0 or more")
    if isinstance(result, Ratio):
        estimate, least, most = result.ratio, 1 / (1 + minimum_effect), 1 + minimum_effect
    else:
        estimate, least, most = result.difference, -minimum_effect, minimum_effect
    significant = (result.p if p is None else p) < alpha
    if significant and not least < estimate < most:
        return "greater" if estimate >= most else "less"
    return "equivalent" if least < result.low and result.high < most else "not resolved"


def sd_upper_bound(samples: Samples, confidence: float = 0.8) -> float:
    """One-sided bound of the sd (chi-square, normal samples); nan for one sample.

    For planning: a calibration's own sd is too low about half the time, and then so is a sample size made of it.
    """
    values = checked("samples", samples)
    fraction("confidence", confidence)
    df = len(values) - 1
    return sd_of(values) * float((df / stats.chi2.ppf(1 - confidence, df)) ** 0.5) if df else float("nan")
