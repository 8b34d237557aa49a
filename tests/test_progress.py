"""What a sweep shows."""

import pytest

from bench import experiment, progress
from bench.plan import tasks
from bench.record import Epochs, SpeedRecord, TrainRecord
from fmnist_core.config import to_dict

CONTENT = {"question": "Which?", "seeds": {"cpu": 2, "cuda": 2}, "base": {"model": {"name": "cnn"}},
           "grid": {"model.depth": [1, 2]}}


@pytest.fixture
def planned():
    chosen = experiment.parse(CONTENT, name="mine")
    return [chosen], tasks([chosen], num_seeds=None, gpu=False, machine={})


def trained(task, accuracy, **options):
    return TrainRecord(experiment="mine", quality_key=task.key, seed=task.seed, cell=to_dict(task.cell.config),
                       epochs=Epochs(test_accuracy=[0.1, accuracy]), num_parameters=1234, wall_s=90.0, **options)


def timed(task):
    return SpeedRecord(experiment="mine", speed_key=task.key, cell=to_dict(task.cell.config), step_s=[0.01, 0.02, 0.03],
                       images_per_step=100, num_parameters=1234)


def test_a_record_in_few_words(planned):
    _, plan = planned
    assert progress.outcome(trained(plan[0], 0.9051)) == "test accuracy 90.51%, 90.0 s"
    assert progress.outcome(timed(plan[-1])) == "5,000 images/s"
    failure = TrainRecord(experiment="mine", quality_key="k", seed=0, cell={}, status="diverged", reason="at step 3")
    assert progress.outcome(failure) == "diverged: at step 3"


def test_the_plan_tells_what_is_done_and_the_time_left(planned, capsys):
    experiments, plan = planned
    latest = {task.key: trained(task, 0.9) for task in plan if task.seed == 0}
    progress.show_plan(experiments, plan, latest)
    printed = capsys.readouterr().out
    assert "mine: Which?" in printed
    assert printed.count("1/2") == 2
    assert "6 tasks, 4 without a record" in printed
    assert "About 3 minutes of one process are left" in printed  # two trainings of 90 s


def test_the_summary_has_mean_spread_and_speed(planned, capsys, tmp_path):
    experiments, plan = planned
    latest = {task.key: trained(task, 0.90 + 0.01 * task.seed) for task in plan if task.seed is not None}
    latest |= {task.key: timed(task) for task in plan if task.seed is None}
    progress.show_summary(experiments, plan, latest, tmp_path)
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("depth 1"))
    assert row.split() == ["depth", "1", "90.50", "0.71", "2", "5,000", "1,234"]


def test_a_line_per_task_where_there_is_no_terminal(planned, capsys):
    _, plan = planned
    with progress.Progress(4, 1, quiet=False) as bar:
        bar.start(plan[0].name)
        bar.finish(plan[0].name, trained(plan[0], 0.5), 1)
    assert capsys.readouterr().out == "[2/4] mine: depth 1, seed 0: test accuracy 50.00%, 90.0 s\n"
