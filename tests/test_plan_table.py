"""The plan of a sweep, as `--list` shows it."""

import sys

import pytest
from msgspec.structs import replace

from bench import experiment
from bench.record import Labels
from bench.sweep import plan_table
from bench.sweep.plan import tasks
from fmnist_core.config import quality_key
from tests.swept import sweep_of, timed, trained, two_depths, two_executions


@pytest.fixture
def planned():
    return two_depths()


def test_the_plan_tells_what_is_done_and_the_time_left(planned, capsys):
    experiments, plan = planned
    latest = {task.key: trained(task, 0.9) for task in plan if task.seed == 0}
    plan_table.show(experiments, plan, latest)
    printed = capsys.readouterr().out
    assert "mine: Which?" in printed
    assert printed.count("1/2") == 2
    assert "\n4 trainings and 2 timings, 4 without a record." in printed
    assert "About 3 min of one process are left" in printed  # two trainings of 90 s


def test_the_time_left_is_that_of_seeds_and_not_of_modules(planned, capsys):
    """Seeds that were trained together have the seconds of all of them."""
    experiments, plan = planned
    latest = {task.key: trained(task, 0.9, labels=Labels(fused_seeds=3)) for task in plan if task.seed == 0}
    plan_table.show(experiments, plan, latest)
    assert "About 60 s of one process are left" in capsys.readouterr().out  # two trainings of 90 s / 3


def test_how_many_images_data_of_ones_own_has_shows_when_they_are_read(planned, capsys):
    experiments, plan = planned
    config = plan[0].cell.config
    data = replace(config.data, dataset="idx", validation_size=70_000)
    cell = replace(plan[0].cell, config=replace(config, data=data))
    plan_table.show([replace(experiments[0], cells=[cell])], [plan[0]._replace(cell=cell)], {})
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(cell.label)]
    assert line.split()[-6:-3] == ["-", "-", "0/1"]  # images, teraflops, trained; timed: not asked for


def test_records_of_other_code_of_ones_own_network_are_told(capsys):
    content = {"question": "?", "seeds": {"cpu": 2}, "timings": 0, "base": {"model": {"name": "tests.small:make"}}}
    chosen = experiment.parse(content, name="mine")
    plan = tasks([chosen], num_seeds=None, gpu=False, machine={})
    plan_table.show([chosen], plan, {task.key: trained(task, 0.9) for task in plan})
    assert "Not counted" not in capsys.readouterr().out
    before = [trained(task, 0.9) for task in plan]
    before[0].cell["model"]["source"] = before[1].cell["model"]["source"] = "0" * 16
    plan_table.show([chosen], plan, {f"old {i}": record for i, record in enumerate(before)})
    printed = capsys.readouterr().out
    assert "0/2" in printed
    assert "\nNot counted: 2 records of other code of tests.small:make than is here now.\n" in printed


def test_records_of_another_number_of_processes_are_not_counted_and_told(planned, capsys):
    experiments, plan = planned
    config = plan[0].cell.config
    shared = replace(trained(plan[0], 0.9), labels=Labels(num_processes=2),
                     quality_key=quality_key(config, 0, num_processes=2))
    plan_table.show(experiments, plan, {shared.quality_key: shared})
    told = "\nNot counted: 1 record by 2 processes to a cell: accuracy belongs to that number.\n"
    assert told in capsys.readouterr().out
    plan_table.show(experiments, plan, {plan[0].key: trained(plan[0], 0.9)})
    assert "Not counted" not in capsys.readouterr().out


def test_cells_that_differ_in_their_execution_share_a_training(capsys):
    experiments, plan = two_executions()
    latest = {task.key: trained(task, 0.9) if task.seed is not None else timed(task) for task in plan}
    plan_table.show(experiments, plan, latest)
    assert capsys.readouterr().out.count("1/1        1/1") == 2, "each with the training"


def test_what_is_no_network_sees_each_image_once(capsys):
    experiments, plan = sweep_of(base={"model": {"name": "baseline", "estimator": "gaussian_nb"}}, seeds={"cpu": 1})
    plan_table.show(experiments, plan, {})
    assert " 50,000 " in capsys.readouterr().out  # of 60,000 those that are not for validation


def test_the_time_of_a_plan_grows_with_its_tasks_and_not_with_their_square(monkeypatch, capsys):
    """Counted, not timed: each task's cell is looked at a fixed number of times."""
    looks = []
    of_plan = sys.modules["bench.sweep.plan"]
    original = of_plan.canonical_json
    monkeypatch.setattr(of_plan, "canonical_json", lambda content: looks.append(1) or original(content))
    numbers = []
    for depths in (4, 16):
        experiments, planned = sweep_of(seeds={"cpu": 2}, grid={"train.epochs": list(range(1, depths + 1))})
        looks.clear()
        plan_table.show(experiments, planned, {})
        numbers.append(len(looks))
    assert numbers[1] == 4 * numbers[0] > 0


def test_a_half_batch_is_to_be_run_again_only_where_the_whole_one_fails_again(capsys):
    experiments, planned = sweep_of(seeds={"cpu": 1}, timings=0, launch={"halve_batch_after_oom": 1})
    [task] = planned
    latest = {task.key: trained(task, 0.1, status="oom"), task.smaller.key: trained(task.smaller, 0.9)}
    plan_table.show(experiments, planned, latest)
    assert "\n2 trainings and 0 timings, 0 without a record." in capsys.readouterr().out
    plan_table.show(experiments, planned, latest, latest)
    assert "\n2 trainings and 0 timings, 0 without a record, 1 to be run again." in capsys.readouterr().out
