"""How far two timings of one thing differ by themselves, as a calibration knows it. No torch."""

import math

from bench import stats
from bench.formatting import significant
from bench.records.side_records import METRICS, PAIRS, THRESHOLD, Pairs
from bench.samples import half_width, t_test

POWER = 0.9
"""Chance with which an effect that is called resolvable is found."""
ALPHA_EACH = 0.05 / len(METRICS)
"""The level that Holm's correction leaves to one metric where the others have not changed."""


def paired_noise(pairs: Pairs) -> list[float]:
    """log(a / b) of blocks taken in turns: what remains when slow drift cancels."""
    return [math.log(a / b) for a, b in zip(pairs.a_s, pairs.b_s, strict=True)]


def resolvable(pairs: Pairs, num_pairs: int = PAIRS, threshold: float = THRESHOLD) -> float:
    """The smallest relative change of one metric that `bench.compare` finds 9 times in 10 with so many pairs.

    At a cautious reading of the noise.
    """
    noise = stats.sd_upper_bound(paired_noise(pairs))
    return stats.resolvable_ratio(noise, num_pairs, power=POWER, alpha=ALPHA_EACH, minimum_effect=threshold)


def resolvable_text(pairs: Pairs, num_pairs: int = PAIRS, threshold: float = THRESHOLD) -> str:
    """In per cent. Beyond twice the time, the figure is that of a noise that nothing is found in."""
    change = resolvable(pairs, num_pairs, threshold)
    return significant(100 * change) if change <= 1 else "more than 100"


def pairs_to_find(pairs: Pairs, threshold: float = THRESHOLD) -> int:
    """Pairs with which it finds a change of twice the threshold, 5 %, 9 times in 10; as cautious."""
    noise = stats.sd_upper_bound(paired_noise(pairs))
    return stats.pairs_needed(noise, 2 * threshold, power=POWER, alpha=ALPHA_EACH, minimum_effect=threshold)


def record_ratio(a_s: float, b_s: float, pairs: Pairs, alpha: float = 0.05) -> stats.Ratio:
    """`a_s` over `b_s`, with its interval at 1 - `alpha`: of medians of two single blocks taken at different times.

    The calibration knows their noise, its own drift included; what changed on the machine since then is not in it.
    """
    sd, df = _unpaired_noise(pairs)
    ratio, half = a_s / b_s, half_width(sd, df, 1 - alpha)
    return stats.Ratio(ratio, ratio * math.exp(-half), ratio * math.exp(half), df + 1, t_test(math.log(ratio), sd, df))


def resolvable_unpaired(pairs: Pairs) -> float:
    """The smallest relative change of one metric of one cell that two records show 9 times in 10."""
    sd, df = _unpaired_noise(pairs)
    # The second: as far as all but a share of 1 - POWER of the estimates fall short.
    return math.expm1(half_width(sd, df, 1 - ALPHA_EACH) + half_width(sd, df, 2 * POWER - 1))


def _unpaired_noise(pairs: Pairs) -> tuple[float, int]:
    """Standard deviation of log(a / b) of any two blocks of the calibration, and its degrees of freedom."""
    logs = [math.log(seconds) for seconds in [*pairs.a_s, *pairs.b_s]]
    return math.sqrt(2) * stats.sd(logs), len(logs) - 1
