"""Several timings of a cell: which of them count together, what they come to, and when they may be compared."""

import math

import msgspec
import numpy as np
import pytest

from bench.judging.step_times import steps_slow_down
from bench.pages.document import render
from bench.pages.speed_answers import speed_answer
from bench.pages.tables import speed_table
from bench.record import SpeedRecord
from bench.records import timings
from bench.records.machines import Machine
from bench.records.rows import Results, Row, collect
from tests.made import CPU, experiment_of, timed

MADE = experiment_of()
K2, K3 = MADE.cells
M1 = Machine.at(CPU)
STEP_S = lambda one: one.step_s


def at(second: int) -> str:
    return f"2026-01-01T00:00:{second:02}+00:00"


def rounds(cell, *step_s: float, first: int = 0, every: int = 2, **fields) -> list[SpeedRecord]:
    """A timing every so many seconds, whose steps all take as long."""
    return [timed(MADE, cell, [seconds] * 10, repeat=i, started_at=at(first + every * i), **fields)
            for i, seconds in enumerate(step_s)]


def results_of(*records: SpeedRecord) -> Results:
    return collect(records, [MADE])


def row_of(*records: SpeedRecord) -> Row:
    return results_of(*records).rows["made"][0]


def test_timings_of_a_cell_are_told_apart_and_their_middle_one_is_shown():
    records = rounds(K2, 0.03, 0.01, 0.02)
    row = row_of(*records)
    assert row.timings(M1) == [records[1], records[2], records[0]]
    assert row.timed(M1) == records[2]
    rate = timings.training(row.timings(M1))
    assert rate.n == 3
    assert rate.images_per_s == pytest.approx(100 / (0.01 * 0.02 * 0.03) ** (1 / 3))


@pytest.mark.parametrize("change", [
    lambda one: msgspec.structs.replace(one, environment=msgspec.structs.replace(CPU, commit="d" * 40)),
    lambda one: msgspec.structs.replace(one, environment=msgspec.structs.replace(CPU, dirty=True)),
    lambda one: msgspec.structs.replace(one, labels=msgspec.structs.replace(one.labels, native_layers=True)),
])
def test_a_mean_is_of_timings_under_the_conditions_of_the_last(change):
    first, second, third = rounds(K2, 0.01, 0.02, 0.03)
    assert row_of(first, second, change(third)).timings(M1) == [change(third)]
    # One of three was timed anew, and the others are of before.
    again = msgspec.structs.replace(change(first), started_at=at(50))
    assert row_of(first, second, third, again).timings(M1) == [again]


def test_disturbed_timings_leave_the_others_their_mean():
    first, second, third = rounds(K2, 0.01, 0.02, 0.03)
    disturbed = msgspec.structs.replace(third, warnings=["other work"])
    assert row_of(first, second, disturbed).timings(M1) == [first, second]
    assert row_of(disturbed).timings(M1) == [disturbed]
    assert row_of(msgspec.structs.replace(first, status="oom", step_s=[])).timed(M1) is None


def test_the_ratio_of_two_cells_by_hand():
    a, b = rounds(K2, 0.01, 0.02, 0.04), rounds(K3, 0.02, 0.04, 0.08, first=1)
    ratio = timings.ratio(b, a, [a, b], 0.05, STEP_S)
    assert ratio is not None
    assert ratio.ratio == pytest.approx(2.0)
    assert ratio.n == 6
    # Student's t of four degrees of freedom; both logarithms have the standard deviation log 2.
    assert math.log(ratio.high / ratio.ratio) == pytest.approx(2.77645 * math.log(2) * math.sqrt(2 / 3), rel=1e-4)


def test_wild_timings_have_an_interval_without_end():
    """Of one cell far more than of the rest, at the level that is left of many comparisons."""
    wild = rounds(K2, 0.01, 1.0, 100.0)
    ratio = timings.ratio(wild, rounds(K3, 0.02, 0.02, 0.02, first=1), [], 1e-9, STEP_S)
    assert (ratio.low, ratio.high) == (0, math.inf)


def test_other_cells_tell_of_the_spread_each_once():
    cells = [rounds(K2, *(0.01 * i * spread for spread in (0.98, 1.0, 1.02)), first=i) for i in range(1, 7)]
    width = lambda others: math.log((ratio := timings.ratio(cells[0], cells[1], others, 0.05, STEP_S)).high / ratio.low)
    assert width(cells) < width([])
    assert width(cells) == width([*cells, *cells, cells[0], cells[1]]) == width(cells[2:])


def test_timings_that_took_no_turns_are_not_compared():
    a, later = rounds(K2, 0.01, 0.02, 0.03), rounds(K3, 0.02, 0.04, 0.03, first=30)
    assert timings.ratio(a, later, [], 0.05, STEP_S) is None
    assert timings.ratio(later, a, [], 0.05, STEP_S) is None
    two = rounds(K3, 0.02, 0.03, first=1)
    assert timings.ratio(a, two, [], 0.05, STEP_S) is None, "of two the spread is hardly known"


def test_one_speed_rarely_differs_and_other_speeds_are_found():
    """Rounds of six cells, of which two are compared; the whole machine is faster or slower in each round."""
    rng = np.random.default_rng(0)
    alarms, found = [], []
    for _ in range(200):
        seconds = np.exp(0.02 * rng.standard_normal((6, 3)) + 0.01 * rng.standard_normal(3))
        cells = [rounds(K2, *own, first=i) for i, own in enumerate(seconds)]
        alarms.append(timings.ratio(cells[0], cells[1], cells, 0.05, STEP_S).p < 0.05)
        cells[0] = rounds(K2, *(1.1 * seconds[0]))
        found.append(timings.ratio(cells[0], cells[1], cells, 0.05, STEP_S).low > 1)
    assert np.mean(alarms) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    assert np.mean(found) > 0.9


def test_several_timings_answer_without_a_calibration():
    told_apart = results_of(*rounds(K2, 0.0100, 0.0101, 0.0102), *rounds(K3, 0.0200, 0.0201, 0.0199, first=1))
    assert "a factor of 1.98 [1.9" in speed_answer(told_apart.rows["made"], M1, None)
    assert ", 6 timings in turns." in speed_answer(told_apart.rows["made"], M1, None)
    alike = results_of(*rounds(K2, 0.010, 0.012, 0.011), *rounds(K3, 0.011, 0.012, 0.010, first=1))
    assert speed_answer(alike.rows["made"], M1, None).startswith("training speeds are not resolved: ")
    once = results_of(*rounds(K2, 0.010), *rounds(K3, 0.011, first=1))
    said = "neither timings in turns nor a calibration tells how far two runs of one cell differ."
    assert said in speed_answer(once.rows["made"], M1, None)


@pytest.mark.parametrize(("other", "verdict", "said"), [
    ((0.0200, 0.0201, 0.0199), "supported", "times the step time, slower"),
    ((0.0100, 0.0101, 0.0102), "contradicted", "times the step time, within 5 %"),
    ((0.0100, 0.0150, 0.0130), "not resolved", "times the step time, not resolved"),
])
def test_a_claim_of_slower_steps_is_judged_by_the_spread_of_timings(other, verdict, said):
    results = results_of(*rounds(K2, 0.0101, 0.0100, 0.0102), *rounds(K3, *other, first=1))
    found = steps_slow_down([("larger", *results.rows["made"])], results)
    assert found.verdict == verdict
    assert "larger on Test CPU, 1 thread, 6 timings: " in found.evidence
    assert said in found.evidence


def test_timings_that_do_not_count_are_told_of():
    first, second, third = rounds(K2, 0.01, 0.02, 0.03)
    later = msgspec.structs.replace(third, environment=msgspec.structs.replace(CPU, commit="d" * 40))
    assert "- kernel_size 2: 1 of 3 timings count; the others" in render([first, second, later], [MADE]).text
    assert "timings count" not in render([first, second, third], [MADE]).text


def test_the_table_says_how_many_timings_a_mean_is_of():
    lines = speed_table(results_of(*rounds(K2, 0.01, 0.01, 0.01), *rounds(K3, 0.02)).rows["made"], M1).splitlines()
    cells = [[each.strip() for each in line.strip("|").split("|")] for line in lines]
    assert [row[cells[0].index("timings")] for row in cells[2:]] == ["3", "1"]
    assert cells[2][3] == "10,000 [10,000, 10,000]"
