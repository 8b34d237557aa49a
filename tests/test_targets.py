"""Training time to a target accuracy, from histories written out by hand."""

import msgspec
import pytest

from bench import stats
from bench.pages import targets
from bench.records.machines import Machine
from bench.records.rows import collect
from bench.report import render
from tests.made import CPU, GPU, LABELS, experiment_of, trained

MADE = experiment_of("targets = [0.8, 0.9]\n" + """
question = "How long?"
[base.model]
name = "cnn"
[grid]
model.kernel_size = [2, 3]
""")
K2, K3 = MADE.cells
NAMES = {Machine.at(CPU): "M1", Machine.at(GPU): "M2"}


def history(seed, validation, train_s, cell=K2, wall_s=0.0, **options):
    record = trained(MADE, cell, seed, validation=validation, test=[0.95] * len(train_s), **options)
    epochs = msgspec.structs.replace(record.epochs, train_s=train_s)
    return msgspec.structs.replace(record, wall_s=wall_s, epochs=epochs)


def lines(*records, of=(0.9,)):
    text = targets.targets_table(collect(records, [MADE]).rows["made"], of, NAMES)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_the_clock_stops_with_the_first_epoch_that_reaches_the_target():
    record = history(0, [0.5, 0.8, 0.7, 0.9], [4.0, 3.0, 2.0, 1.0])
    assert targets.time_to(record, 0.5) == (1, 4.0)
    assert targets.time_to(record, 0.8) == (2, 7.0)
    assert targets.time_to(record, 0.81) == (4, 10.0)
    assert targets.time_to(record, 0.91) is None


def test_the_test_set_chooses_no_epoch():
    record = history(0, [], [4.0, 3.0])
    early = msgspec.structs.replace(record, epochs=msgspec.structs.replace(record.epochs, test_accuracy=[0.95, 0.8]))
    assert targets.time_to(record, 0.9) == (2, 7.0)
    assert targets.time_to(early, 0.9) is None
    assert lines(record)[0][1] == "90.0¶"


def test_mean_and_interval_by_hand():
    records = [history(seed, [0.9], [seconds]) for seed, seconds in enumerate((10.0, 12.0, 14.0))]
    # sd 2, and 4.302653 x 2 / sqrt(3) = 4.968
    assert lines(*records)[0][:6] == ["kernel_size 2", "90.0", "M1", "3 of 3", "12.0 ± 2.00 [7.03, 17.0]", "1"]
    low, high = stats.mean_interval([10.0, 12.0, 14.0])
    assert (low, high) == pytest.approx((7.032, 16.968), abs=1e-3)
    assert targets.seconds_text([1.0, 2.0, 9.0]).split("[")[1].startswith("0, ")  # no time is below 0
    assert targets.seconds_text([1.0, 2.0]) == "1.50 ± 0.707"  # of two no interval


def test_how_many_reached_it_is_always_said():
    never = [history(seed, [0.5, 0.6], [1.0, 1.0]) for seed in range(2)]
    once = history(2, [0.5, 0.9], [1.0, 2.0])
    assert lines(*never)[0][3:6] == ["0 of 2", "-", "-"]
    assert lines(*never, once)[0][3:6] == ["1 of 3", "3.00, of the 1 that reached it", "2"]
    twice = history(3, [0.9, 0.9], [5.0, 2.0])
    assert lines(*never, once, twice)[0][4].endswith(", of the 2 that reached it")
    assert lines(*never, once, twice)[0][5] == "1 to 2"


def test_what_is_off_the_clock_stands_beside():
    records = lambda **more: [history(seed, [0.9] * 3, [5.0, 2.0, 3.0], wall_s=12.0 + 2 * seed, **more)
                              for seed in range(2)]
    assert lines(*records(environment=GPU))[0][6:] == ["2.50", "3.00"]  # 5 - 2.5; the median of 12 - 10 and 14 - 10
    assert lines(*records())[0][6:] == ["3.00"], "nobody knows of a CPU what its first epoch has beyond the others"
    assert lines(history(0, [0.9], [5.0])) == [["kernel_size 2", "90.0", "M1", "1 of 1", "5.00", "1"]]


def test_machines_sharing_and_fused_seeds_are_never_averaged():
    shared, fused = (msgspec.structs.replace(LABELS, **change) for change in ({"machine_shared": True},
                                                                              {"fused_seeds": 16}))
    records = [history(0, [0.9], [1.0]), history(1, [0.9], [2.0], labels=shared),
               history(2, [0.9], [3.0], environment=GPU), history(3, [0.9], [4.0], environment=GPU, labels=fused),
               history(0, [0.9], [5.0], cell=K3)]
    assert [(line[0], line[2], line[4]) for line in lines(*records)] == [
        ("kernel_size 2", "M2", "3.00"), ("kernel_size 2", "M2, 16 seeds as one module", "4.00"),
        ("kernel_size 2", "M1", "1.00"), ("kernel_size 2", "M1‡", "2.00"), ("kernel_size 3", "M1", "5.00")]


def test_records_without_seconds_are_no_times():
    assert lines(history(0, [0.9, 0.9], [])) == []
    assert targets.targets_table(collect([history(0, [0.9], [1.0])], [MADE]).rows["made"], (), NAMES) == ""


def test_the_section_has_the_table_of_its_own_targets():
    text = render([history(0, [0.8, 0.9], [1.0, 2.0])], [MADE]).text
    assert "<summary>Training time to a target validation accuracy</summary>" in text
    assert "| kernel_size 2 | 80.0 | M1 | 1 of 1 | 1.00 | 1 |" in text
    assert "| kernel_size 2 | 90.0 | M1 | 1 of 1 | 3.00 | 2 |" in text
