"""Summaries, intervals and mistakes. Oracles: figures worked out by hand, closed forms, simulation with fixed seeds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import stats

measurements = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=40)
positive = st.floats(1e-3, 1e3)


def is_nan(*values):
    return all(math.isnan(value) for value in values)


def within(share, target, trials, sds=4):
    """A share of `trials` independent trials differs from its target by chance alone."""
    return abs(share - target) <= sds * math.sqrt(target * (1 - target) / trials)


# Summaries


@pytest.mark.parametrize("size", [1, 2, 3, 5, 29])
def test_noise_is_told_as_by_a_summary(size):
    rng = np.random.default_rng(size)
    told = set()
    for spread in (0.0, 0.02, 0.06, 0.07, 0.08, 0.1, 0.2):
        for _ in range(20):
            values = (1 + spread * rng.standard_normal(size)).tolist()
            assert stats.is_noisy(values) == stats.summarize(values).noisy
            told.add(stats.is_noisy(values))
    assert told == ({False} if size == 1 else {False, True})


def test_summary_by_hand():
    summary = stats.summarize([4.0, 1.0, 3.0, 2.0, 10.0])
    assert summary[:2] == (5, 4.0)
    assert summary.sd == pytest.approx(math.sqrt((0 + 9 + 1 + 4 + 36) / 4))
    assert summary[3:5] == (3.0, 2.0)
    assert summary.p99 == pytest.approx(4 + 0.96 * 6)  # position 0.99 * 4 = 3.96 between the 4th and the 5th


def test_summary_of_one_sample_has_no_sd():
    summary = stats.summarize([7.0])
    assert is_nan(summary.sd)
    assert (summary.median, summary.iqr, summary.p99, summary.noisy) == (7.0, 0.0, 7.0, False)


def test_noisy_above_a_tenth_of_the_median():
    assert not stats.summarize([95.0, 95.0, 100.0, 105.0, 105.0]).noisy  # IQR / median = 0.10
    assert stats.summarize([94.0, 94.0, 100.0, 105.0, 105.0]).noisy
    assert stats.throughput(1, [94.0, 94.0, 100.0, 105.0, 105.0]).noisy
    assert not stats.throughput(1, [95.0, 95.0, 100.0, 105.0, 105.0]).noisy


@settings(deadline=None)
@given(measurements)
def test_summary_is_ordered(samples):
    s = stats.summarize(samples)
    assert min(samples) <= s.median <= s.p99 <= max(samples)
    assert min(samples) * (1 - 1e-12) <= s.mean <= max(samples) * (1 + 1e-12)
    assert s.sd >= 0
    assert 0 <= s.iqr <= max(samples) - min(samples)


@settings(deadline=None)
@given(measurements, positive)
def test_summary_follows_the_unit(samples, scale):
    one, other = stats.summarize(samples), stats.summarize([scale * value for value in samples])
    assert other[1:] == pytest.approx([scale * value for value in one[1:]], rel=1e-9, abs=1e-9 * scale * max(samples))


# Intervals


def test_mean_interval_by_hand():
    # mean 3, sd sqrt(2.5), t(0.975, 4) = 2.776445
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert stats.mean_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((3 - half, 3 + half), rel=1e-6)


def test_prediction_interval_by_hand():
    # 4.302653 (t at 0.975, 2 degrees) x 0.01 x sqrt(1 + 1/3) = 0.0496828
    low, high = stats.prediction_interval([0.90, 0.91, 0.92])
    assert (low, high) == pytest.approx((0.91 - 0.0496828, 0.91 + 0.0496828), abs=1e-6)


@pytest.mark.parametrize("n", [2, 5])
def test_prediction_interval_covers_the_next_one_as_often_as_it_says(n):
    trials = 3000
    samples = np.random.default_rng(n).normal(0.9, 0.002, (trials, n + 1))
    covered = [low <= row[-1] <= high for row in samples for low, high in [stats.prediction_interval(row[:-1])]]
    assert within(np.mean(covered), 0.95, trials)


def test_too_few_samples_give_nan():
    assert is_nan(*stats.mean_interval([3.0]))
    assert is_nan(*stats.prediction_interval([3.0]))
    assert is_nan(*stats.throughput(10, [1.0, 2.0, 3.0])[1:3])
    assert is_nan(*stats.throughput(10, [1.0], [2.0])[1:3])
    assert is_nan(stats.sd_upper_bound([1.0]))


@pytest.mark.parametrize("n", [2, 3, 16])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_mean_interval_covers_as_often_as_it_says(n, confidence):
    trials = 3000
    samples = np.random.default_rng(n).normal(0.9, 0.002, (trials, n))
    low, high = np.transpose([stats.mean_interval(row, confidence) for row in samples])
    assert within(((low <= 0.9) & (high >= 0.9)).mean(), confidence, trials)


@settings(deadline=None)
@given(measurements, positive, st.floats(-100, 100))
def test_intervals_follow_scale_and_shift(samples, scale, shift):
    low, high = stats.mean_interval(samples)
    moved = stats.mean_interval([scale * value + shift for value in samples])
    size = scale * max(samples) + abs(shift)
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), rel=1e-9, abs=1e-9 * size, nan_ok=True)


@settings(deadline=None)
@given(measurements)
def test_more_confidence_is_wider(samples):
    narrow, wide = stats.mean_interval(samples, 0.8), stats.mean_interval(samples, 0.95)
    assert wide.low <= narrow.low <= narrow.high <= wide.high


@pytest.mark.parametrize("interval", [
    stats.prediction_interval,
    lambda samples, confidence=0.95: stats.throughput(100, *[[s] for s in samples], confidence=confidence)[1:3],
    lambda *given: stats.paired_ratio(given[0], [1.0] * 8, *given[1:])[1:3],
    lambda *given: stats.compare([1.0, 2.0, 4.0], *given)[3:5],
    lambda *given: stats.compare_with([1.0, 2.0, 4.0], [given[0]], *given[1:])[0][3:5]],
    ids=["prediction", "throughput", "ratio", "difference", "of several"])
def test_less_confidence_than_the_usual_is_narrower(interval):
    samples = [3.0, 5.0, 4.0, 7.0, 2.0, 6.0, 9.0, 8.0]
    (low, high), (narrow_low, narrow_high) = interval(samples), interval(samples, 0.5)
    assert low < narrow_low < narrow_high < high
    assert interval(samples, 0.95) == (low, high)


def test_throughput_by_hand():
    rate = stats.throughput(128, [0.5, 0.25, 0.25, 0.25, 1.0, 0.2])
    assert rate.images_per_s == pytest.approx(512)  # 128 / 0.25, whatever the slow steps do
    assert is_nan(rate.low, rate.high)  # how far the next timing lies from this one, its steps do not tell
    assert rate.iqr_ratio == pytest.approx((0.4375 - 0.25) / 0.25)


def test_throughput_of_several_timings_by_hand():
    rate = stats.throughput(100, [0.5, 0.5, 9.0], [2.0, 2.0, 2.0], [1.0, 1.1, 1.0])
    assert rate.images_per_s == pytest.approx(100.0)  # of 200, 50 and 100, whatever the slow step does
    half = 4.30265 * math.log(2) / math.sqrt(3)  # Student's t of two degrees of freedom; log 100 and log 2 either way
    assert (rate.low, rate.high) == pytest.approx((100 * math.exp(-half), 100 * math.exp(half)), rel=1e-4)
    assert rate.n == 3
    assert rate.iqr_ratio == pytest.approx(0.05)
    two = stats.throughput(100, [0.5], [2.0])
    assert (two.images_per_s, two.n) == (pytest.approx(100.0), 2)
    assert is_nan(two.low, two.high)
    assert stats.throughput(100, [0.5]).n == 1


@settings(deadline=None)
@given(st.integers(1, 4096), st.lists(positive, min_size=3, max_size=40))
def test_throughput_lies_in_its_interval(images, steps):
    timings = [[step_s] for step_s in steps]
    rate = stats.throughput(images, *timings)
    assert rate.low * (1 - 1e-9) <= rate.images_per_s <= rate.high * (1 + 1e-9)
    assert stats.throughput(4 * images, *timings).images_per_s == pytest.approx(4 * rate.images_per_s)


def test_sd_upper_bound_covers_as_often_as_it_says():
    samples = np.random.default_rng(5).normal(0, 2.0, (3000, 8))
    assert within(np.mean([stats.sd_upper_bound(row, 0.9) >= 2.0 for row in samples]), 0.9, 3000)


# Mistakes


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [math.inf, 1.0], [[1.0, 2.0]]], ids=["none", "nan", "inf", "2-D"])
@pytest.mark.parametrize(
    "call",
    [
        stats.summarize, stats.mean_interval, stats.holm, stats.sd_upper_bound,
        lambda bad: stats.throughput(1, bad),
        lambda bad: stats.compare(bad, [1.0, 2.0]),
        lambda bad: stats.compare([1.0, 2.0], bad),
        lambda bad: stats.paired_ratio(bad, [1.0, 2.0]),
        lambda bad: stats.paired_ratio([1.0, 2.0], bad),
        lambda bad: stats.one_way([[1.0], bad]),
        lambda bad: stats.trend(bad, [1.0, 2.0]),
        lambda bad: stats.trend([1.0, 2.0], bad),
    ],
)  # fmt: skip
def test_bad_samples_are_refused(call, bad):
    with pytest.raises(ValueError, match="expected a"):
        call(bad)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.summarize([1.0, 2.0, math.nan]), r"samples\[2\] = nan"),
        (lambda: stats.throughput(1, [0.1, 0.0]), r"step_s\[1\] = 0.0: expected a finite number above 0"),
        (lambda: stats.throughput(0, [0.1]), "images_per_step = 0"),
        (lambda: stats.paired_ratio([1.0], [-1.0]), r"b\[0\] = -1.0"),
        (lambda: stats.paired_ratio([1.0, 2.0], [1.0]), "a has 2 values and b has 1"),
        (lambda: stats.mean_interval([1.0], confidence=95), "confidence = 95"),
        (lambda: stats.mean_interval([1.0], confidence=1.0), "confidence = 1.0"),
        (lambda: stats.compare([1.0], [2.0], confidence=0.0), "confidence = 0.0"),
        (lambda: stats.verdict(stats.compare([1.0], [2.0]), -0.1), "minimum_effect = -0.1"),
        (lambda: stats.verdict(stats.compare([1.0], [2.0]), 0.1, alpha=5), "alpha = 5"),
        (lambda: stats.holm([0.1, 1.5]), "expected 0 to 1"),
        (lambda: stats.one_way([[1.0, 2.0]]), "1 given, expected at least 2"),
        (lambda: stats.trend([1, 2], [1.0]), "x has 2 values and y has 1"),
        (lambda: stats.trend([3, 3], [1.0, 2.0]), "x = 3.0 throughout"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
