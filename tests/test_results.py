"""What a sweep found, as it is told at its end."""

import pytest
from msgspec.structs import replace

from bench.record import Epochs, Labels, SpeedRecord, TrainRecord
from bench.sweep import results
from bench.sweep.results import Line
from tests.swept import timed, trained, two_depths, two_executions


@pytest.fixture
def planned():
    return two_depths()


def test_the_summary_has_mean_spread_and_speed(planned, capsys, tmp_path):
    experiments, plan = planned
    latest = {task.key: trained(task, (0.90 if task.cell.label == "depth 1" else 0.8) + 0.01 * task.seed)
              for task in plan if task.seed is not None}
    latest |= {task.key: timed(task) for task in plan if task.seed is None}
    results.show(experiments, plan, latest, tmp_path)
    printed = capsys.readouterr().out
    assert "\nHighest mean accuracy: depth 1, 90.50 %. Fastest: 5,000 images/s, by 2 of 2 cells.\n" in printed
    assert "Failed" not in printed
    row = next(line for line in printed.splitlines() if line.startswith("depth 1"))
    assert row.split() == ["depth", "1", "90.50", "0.71", "2", "5,000", "1,234"]


def summary(planned, records, capsys, tmp_path):
    experiments, plan = planned
    results.show(experiments, plan, {task.key: record for task, record in records}, tmp_path)
    return capsys.readouterr().out


def test_no_cell_is_named_where_several_share_the_printed_digits(planned, capsys, tmp_path):
    trainings = [task for task in planned[1] if task.seed == 0]
    printed = summary(planned, [(task, trained(task, 0.9 + 1e-6 * i)) for i, task in enumerate(trainings)],
                      capsys, tmp_path)
    assert "\nHighest mean accuracy: 90.00 % (n = 1), by 2 of 2 cells.\n" in printed
    printed = summary(planned, [(task, trained(task, 0.9 + 1e-3 * i)) for i, task in enumerate(trainings)],
                      capsys, tmp_path)
    assert "\nHighest mean accuracy: depth 2, 90.10 % (n = 1).\n" in printed


@pytest.mark.parametrize(("options", "figures", "sentence"), [
    ([{"step_s": 0.01}, {}], ["10,000", "5,000"], "Fastest: depth 1, 10,000 images/s."),
    ([{"labels": Labels(machine_shared=True)}, {}], ["5,000‡", "5,000"], "Fastest: not told apart, since timings were "
                                                                          "disturbed (‡)."),
    ([{}, {"warnings": ["other processes used 0.5 CPUs meanwhile"]}], ["5,000", "5,000‡"], "disturbed (‡)."),
])
def test_timings_are_marked_and_disturbed_ones_win_nothing(planned, capsys, tmp_path, options, figures, sentence):
    timings = [task for task in planned[1] if task.seed is None]
    records = [(task, timed(task, **each)) for task, each in zip(timings, options, strict=True)]
    printed = summary(planned, records, capsys, tmp_path)
    assert [line.split()[5] for line in printed.splitlines() if line.startswith("depth")] == figures
    assert printed.count(sentence) == 1
    assert ("‡ other work ran meanwhile" in printed) == ("‡" in "".join(figures))


def test_a_noisy_timing_is_marked():
    noisy = SpeedRecord(experiment="mine", speed_key="k", cell={}, step_s=[0.01, 0.02, 0.03], images_per_step=100)
    lines = [Line.of("a", [noisy]), Line.of("b", [replace(noisy, step_s=[0.03] * 3)])]
    table, told = results.paragraphs(lines)
    assert "5,000† " in table
    assert told == ("† the steps vary by more than 10 % (IQR / median)\nFastest: a, 5,000† images/s.")
    third = Line.of("c", [replace(noisy, warnings=["disturbed"])])
    assert third.mark == "†‡"
    assert "\nFastest of those without ‡: a, 5,000† images/s." in list(results.paragraphs([*lines, third]))[1]


def test_what_failed_is_named_with_its_reason(planned, capsys, tmp_path):
    failures = [(task, trained(task, 0.1, status="error", reason=f"{'a long story, ' * 20}\nand more"))
                for task in planned[1] if task.cell.label == "depth 2" and task.seed is not None]
    failures.append((planned[1][0], trained(planned[1][0], 0.1, status="oom", reason="no room")))
    printed = summary(planned, failures, capsys, tmp_path)
    head, oom, error = printed[printed.index("Failed:"):].splitlines()[:3]
    assert (head, oom) == ("Failed:", "  depth 1: oom: no room")
    assert error.startswith("  depth 2: error: a long story, a long story")
    assert error.endswith(" ... (2 records)")
    assert len(error) < 180


def test_cells_that_differ_in_their_execution_share_a_training(capsys, tmp_path):
    experiments, plan = two_executions()
    latest = {task.key: trained(task, 0.9) if task.seed is not None else timed(task) for task in plan}
    results.show(experiments, plan, latest, tmp_path)
    assert capsys.readouterr().out.count("90.00 ") >= 2


def test_seeds_of_another_arithmetic_are_left_out_of_a_mean_and_counted():
    of = lambda precision, accuracy: TrainRecord(experiment="mine", quality_key="k", seed=0, cell={}, labels=Labels(
        precision=precision), epochs=Epochs(test_accuracy=[accuracy]))
    few, many = [of("float32", 0.8)] * 2, [of("bfloat16", 0.9)] * 3
    line = Line.of("a", [*few, *many])
    assert (line.accuracy, line.sd, line.num_seeds, line.num_others) == (90.0, pytest.approx(0), 3, 2)
    told = list(results.paragraphs([line, Line.of("b", few[:1])]))[1]
    assert told.splitlines()[0] == "Left out: 2 seeds of another arithmetic, which a report shows apart."
    assert "Left out" not in "".join(results.paragraphs([Line.of("b", few), Line.of("a", many)]))
