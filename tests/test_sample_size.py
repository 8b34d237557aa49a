"""Oracles: noncentral t, the textbook formula, a published table, and simulation of the whole procedure."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from bench import stats

sds = st.floats(0.05, 1.0)
effects = st.floats(0.05, 2.0)

# Seeds per arm by sd and difference, in percentage points: 2 (z(0.975) + z(0.8))^2 (sd / difference)^2, within one
TABLE = {
    0.14: {0.05: 124, 0.1: 31, 0.2: 8, 0.3: 4, 0.5: 2},
    0.17: {0.05: 182, 0.1: 46, 0.2: 12, 0.3: 6, 0.5: 2},
    0.20: {0.05: 252, 0.1: 63, 0.2: 16, 0.3: 7, 0.5: 3},
    0.25: {0.05: 393, 0.1: 99, 0.2: 25, 0.3: 11, 0.5: 4},
}


@pytest.mark.parametrize(("sd", "difference"), [(sd, difference) for sd, row in TABLE.items() for difference in row])
def test_seeds_needed_against_the_normal_approximation(sd, difference):
    formula = 2 * (NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)) ** 2 * (sd / difference) ** 2
    assert TABLE[sd][difference] == pytest.approx(formula, abs=1)
    assert formula <= stats.seeds_needed(sd, difference) <= formula + 3


def student_power(ncp, df, alpha=0.05):
    return scipy_stats.nct.sf(scipy_stats.t.ppf(1 - alpha / 2, df), df, ncp)


@settings(max_examples=30, deadline=None)
@given(sds, effects, st.sampled_from([0.5, 0.8, 0.9]))
def test_pairs_needed_is_the_smallest_n_by_noncentral_t(sd, effect, power):
    n = stats.pairs_needed(sd, effect, power)
    reached = lambda n: student_power(math.log1p(effect) / sd * math.sqrt(n), n - 1)
    assert reached(n) >= power - 0.002
    assert n == 2 or reached(n - 1) < power + 0.002


@pytest.mark.parametrize(("n", "difference"), [(2, 8.0), (3, 3.0), (5, 2.0), (17, 1.0)])
@pytest.mark.parametrize("share", [0.0, 0.8])  # the minimum effect as a share of the difference
def test_resolvable_difference_by_simulating_welch(n, difference, share):
    """The chance that the formula gives for a difference is the chance with which it is found."""
    rng = np.random.default_rng(n)
    trials = 40_000
    a, b = rng.normal(0, 1, (trials, n)), rng.normal(difference, 1, (trials, n))
    test = scipy_stats.ttest_ind(b, a, axis=1, equal_var=False)
    estimate = b.mean(axis=1) - a.mean(axis=1)
    found = ((test.pvalue < 0.05) & (estimate >= share * difference)).mean()
    assert 0.5 < found < 0.99
    resolvable = stats.resolvable_difference(1.0, n, found, minimum_effect=share * difference)
    assert resolvable == pytest.approx(difference, rel=0.02)


@pytest.mark.parametrize("log_ratio_sd", [0.01, 0.05, 0.10])
def test_a_five_percent_slowdown_is_found_nine_times_in_ten(log_ratio_sd):
    """At the recommended number of pairs, with both gates; and code as fast as before is seldom called slower."""
    trials, rng = 1500, np.random.default_rng(4)
    n = stats.pairs_needed(log_ratio_sd, 0.05, minimum_effect=0.02)
    reference = rng.lognormal(math.log(0.005), log_ratio_sd / math.sqrt(2), (trials, n))
    same = rng.lognormal(math.log(0.005), log_ratio_sd / math.sqrt(2), (trials, n))
    pairs = list(zip(same, reference, strict=True))
    verdicts = lambda factor: [stats.verdict(stats.paired_ratio(factor * a, b), 0.02) for a, b in pairs]
    assert verdicts(1.05).count("greater") / trials >= 0.9 - 2 * math.sqrt(0.9 * 0.1 / trials)  # its own error
    assert verdicts(1.0).count("greater") / trials < 0.05


@pytest.mark.parametrize("calibration", [8, 30])
def test_a_slowdown_is_found_when_the_noise_itself_is_measured(calibration):
    """Calibrate on pairs of the same code, take the upper bound of the sd, ask for n, then look for 5 %."""
    rng, found = np.random.default_rng(calibration), 0
    for _ in range(300):
        noise = stats.sd_upper_bound(rng.normal(0, 0.05, calibration))
        n = stats.pairs_needed(noise, 0.05, minimum_effect=0.02)
        logs = rng.normal(math.log(1.05), 0.05, n)
        found += stats.verdict(stats.paired_ratio(np.exp(logs), np.ones(n)), 0.02) == "greater"
    assert found / 300 >= 0.9


def test_a_difference_of_accuracy_is_found_eight_times_in_ten():
    trials, rng = 1500, np.random.default_rng(6)
    n = stats.seeds_needed(0.002, 0.0015, minimum_effect=0.001)
    a, b = rng.normal(0.90, 0.002, (trials, n)), rng.normal(0.9015, 0.002, (trials, n))
    found = [stats.verdict(stats.compare(x, y), 0.001) for x, y in zip(a, b, strict=True)].count("greater")
    assert found / trials == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / trials))


@pytest.mark.parametrize(("needed", "resolvable"), [(stats.seeds_needed, stats.resolvable_difference),
                                                    (stats.pairs_needed, stats.resolvable_ratio)])  # fmt: skip
@settings(max_examples=20, deadline=None)
@given(sds, effects, st.sampled_from([0.0, 0.5]))
def test_resolvable_undoes_needed(needed, resolvable, sd, effect, share):
    n = needed(sd, effect, minimum_effect=share * effect)
    assert resolvable(sd, n, minimum_effect=share * effect) <= effect * (1 + 1e-9)
    if n > 2:
        assert resolvable(sd, n - 1, minimum_effect=share * effect) > effect * (1 - 1e-9)


@settings(max_examples=20, deadline=None)
@given(sds, st.integers(2, 100), st.floats(1e-6, 1e3))
def test_resolvable_difference_follows_the_unit(sd, n, scale):
    assert stats.resolvable_difference(scale * sd, n) == pytest.approx(scale * stats.resolvable_difference(sd, n))


def test_more_is_asked_of_a_harder_question():
    assert stats.seeds_needed(0.2, 0.1, power=0.9) > stats.seeds_needed(0.2, 0.1) > stats.seeds_needed(0.2, 0.2)
    assert stats.seeds_needed(0.2, 0.1, alpha=0.01) > stats.seeds_needed(0.2, 0.1)
    assert stats.seeds_needed(0.2, 0.1, minimum_effect=0.09) > 8 * stats.seeds_needed(0.2, 0.1)
    # (z(0.8) * sqrt(2) sd / (difference - minimum))^2 when the second gate alone decides
    assert stats.seeds_needed(0.2, 0.1, minimum_effect=0.09) == pytest.approx(2 * (0.8416 * 0.2 / 0.01) ** 2, abs=1)
    assert stats.resolvable_ratio(0.05, 10) > stats.resolvable_ratio(0.05, 20) > stats.resolvable_ratio(0.02, 20)


def test_without_noise_two_are_enough():
    assert stats.seeds_needed(0.0, 0.1) == stats.pairs_needed(0.0, 0.05) == 2
    assert stats.resolvable_difference(0.0, 2, minimum_effect=0.1) == pytest.approx(0.1)
    assert stats.resolvable_ratio(0.0, 2, minimum_effect=0.02) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.seeds_needed(-1.0, 0.1), "sd = -1.0"),
        (lambda: stats.seeds_needed(math.nan, 0.1), "sd = nan"),
        (lambda: stats.seeds_needed(0.2, 0.0), "difference = 0.0: expected more than minimum_effect = 0.0"),
        (lambda: stats.seeds_needed(0.2, 0.1, minimum_effect=0.1), "difference = 0.1: expected more than minimum"),
        (lambda: stats.seeds_needed(0.2, math.nan), "difference = nan"),
        (lambda: stats.seeds_needed(0.2, 0.1, power=1.0), "power = 1.0"),
        (lambda: stats.seeds_needed(0.2, 0.1, power=0.01), "power = 0.01"),
        (lambda: stats.seeds_needed(0.2, 0.1, alpha=0.0), "alpha = 0.0"),
        (lambda: stats.seeds_needed(1.0, 1e-9), "more than 1000000000 samples needed"),
        (lambda: stats.pairs_needed(math.inf, 0.05), "log_ratio_sd = inf"),
        (lambda: stats.pairs_needed(0.1, 0.05, minimum_effect=0.06), "effect = 0.05"),
        (lambda: stats.resolvable_difference(0.2, 1), "n = 1: expected at least 2"),
        (lambda: stats.resolvable_ratio(0.2, 1), "n = 1: expected at least 2"),
        (lambda: stats.resolvable_ratio(0.2, 5, minimum_effect=-0.1), "minimum_effect = -0.1"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_spread_known_from_more_cells_resolves_more():
    alone, of_ten = stats.resolvable_difference(0.003, 2), stats.resolvable_difference(0.003, 2, df=10)
    assert of_ten < 0.5 * alone
    # (t of 0.975 + about t of 0.8) standard errors, 10 degrees of freedom: 2.228 + 0.879
    assert of_ten == pytest.approx(0.003 * 3.107, rel=0.02)
    assert stats.resolvable_difference(0.003, 2, df=2) < alone, "Welch's degrees of freedom are at most those of both"
