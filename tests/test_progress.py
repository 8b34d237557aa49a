"""What a sweep shows."""

import fcntl
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench import experiment
from bench.record import Epochs, Labels, SpeedRecord, TrainRecord
from bench.store import Store
from bench.sweep import progress
from bench.sweep import results as sweep_results
from bench.sweep.plan import tasks
from bench.sweep.results import Line
from fmnist_core.config import CellConfig, KernelDepthCNN, TrainConfig, quality_key, to_dict
from fmnist_core.evaluation import History

ROOT = Path(__file__).resolve().parent.parent

CONTENT = {"question": "Which?", "seeds": {"cpu": 2, "cuda": 2}, "base": {"model": {"name": "cnn"}},
           "grid": {"model.depth": [1, 2]}}


@pytest.fixture
def planned():
    chosen = experiment.parse(CONTENT, name="mine")
    return [chosen], tasks([chosen], num_seeds=None, gpu=False, machine={})


def trained(task, accuracy, **options):
    return TrainRecord(experiment="mine", quality_key=task.key, seed=task.seed, cell=to_dict(task.cell.config),
                       epochs=Epochs(test_accuracy=[0.1, accuracy]), num_parameters=1234,
                       **{"wall_s": 90.0, **options})


def timed(task, step_s=0.02, **options):
    return SpeedRecord(experiment="mine", speed_key=task.key, cell=to_dict(task.cell.config), step_s=[step_s] * 3,
                       images_per_step=100, num_parameters=1234, **options)


def test_a_record_in_few_words(planned):
    _, plan = planned
    assert progress.outcome(trained(plan[0], 0.9051)) == "test accuracy 90.51%, 90.0 s"
    assert progress.outcome(timed(plan[-1])) == "5,000 images/s"
    assert progress.outcome(trained(plan[0], 0.9051, wall_s=249.8)) == "test accuracy 90.51%, 4 min"
    failure = TrainRecord(experiment="mine", quality_key="k", seed=0, cell={}, status="diverged", reason="at step 3")
    assert progress.outcome(failure) == "diverged: at step 3"


def test_the_plan_tells_what_is_done_and_the_time_left(planned, capsys):
    experiments, plan = planned
    latest = {task.key: trained(task, 0.9) for task in plan if task.seed == 0}
    progress.show_plan(experiments, plan, latest)
    printed = capsys.readouterr().out
    assert "mine: Which?" in printed
    assert printed.count("1/2") == 2
    assert "\n4 trainings and 2 timings, 4 without a record." in printed
    assert "About 3 min of one process are left" in printed  # two trainings of 90 s


def test_the_time_left_is_that_of_seeds_and_not_of_modules(planned, capsys):
    """Seeds that were trained together have the seconds of all of them."""
    experiments, plan = planned
    latest = {task.key: trained(task, 0.9, labels=Labels(fused_seeds=3)) for task in plan if task.seed == 0}
    progress.show_plan(experiments, plan, latest)
    assert "About 60 s of one process are left" in capsys.readouterr().out  # two trainings of 90 s / 3


def test_how_many_images_data_of_ones_own_has_shows_when_they_are_read(planned, capsys):
    experiments, plan = planned
    config = plan[0].cell.config
    data = replace(config.data, dataset="idx", validation_size=70_000)
    cell = replace(plan[0].cell, config=replace(config, data=data))
    progress.show_plan([replace(experiments[0], cells=[cell])], [plan[0]._replace(cell=cell)], {})
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(cell.label)]
    assert line.split()[-6:-3] == ["-", "-", "0/1"]  # images, teraflops, trained; timed: not asked for


def test_records_of_other_code_of_ones_own_network_are_told(capsys):
    content = {"question": "?", "seeds": {"cpu": 2}, "measure": False, "base": {"model": {"name": "tests.small:make"}}}
    chosen = experiment.parse(content, name="mine")
    plan = tasks([chosen], num_seeds=None, gpu=False, machine={})
    progress.show_plan([chosen], plan, {task.key: trained(task, 0.9) for task in plan})
    assert "Not counted" not in capsys.readouterr().out
    before = [trained(task, 0.9) for task in plan]
    before[0].cell["model"]["source"] = before[1].cell["model"]["source"] = "0" * 16
    progress.show_plan([chosen], plan, {f"old {i}": record for i, record in enumerate(before)})
    printed = capsys.readouterr().out
    assert "0/2" in printed
    assert "\nNot counted: 2 records of other code of tests.small:make than is here now.\n" in printed


def test_the_summary_has_mean_spread_and_speed(planned, capsys, tmp_path):
    experiments, plan = planned
    latest = {task.key: trained(task, (0.90 if task.cell.label == "depth 1" else 0.8) + 0.01 * task.seed)
              for task in plan if task.seed is not None}
    latest |= {task.key: timed(task) for task in plan if task.seed is None}
    progress.show_summary(experiments, plan, latest, tmp_path)
    printed = capsys.readouterr().out
    assert "\nHighest mean accuracy: depth 1, 90.50 %. Fastest: 5,000 images/s, by 2 of 2 cells.\n" in printed
    assert "Failed" not in printed
    row = next(line for line in printed.splitlines() if line.startswith("depth 1"))
    assert row.split() == ["depth", "1", "90.50", "0.71", "2", "5,000", "1,234"]


def test_cells_that_differ_in_their_execution_share_a_training(capsys, tmp_path):
    content = {"question": "?", "seeds": {"cpu": 1}, "base": {"model": {"name": "cnn"}},
               "grid": {"execution.memory_format": ["channels_last", "contiguous"]}}
    chosen = experiment.parse(content, name="mine")
    plan = tasks([chosen], num_seeds=None, gpu=False, machine={})
    latest = {task.key: trained(task, 0.9) if task.seed is not None else timed(task) for task in plan}
    progress.show_plan([chosen], plan, latest)
    assert capsys.readouterr().out.count("1/1        done") == 2, "each with the training"
    progress.show_summary([chosen], plan, latest, tmp_path)
    assert capsys.readouterr().out.count("90.00 ") >= 2


def summary(planned, records, capsys, tmp_path):
    experiments, plan = planned
    progress.show_summary(experiments, plan, {task.key: record for task, record in records}, tmp_path)
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
    table, told = sweep_results.paragraphs(lines)
    assert "5,000† " in table
    assert told == ("† the steps vary by more than 10 % (IQR / median)\nFastest: a, 5,000† images/s.")
    third = Line.of("c", [replace(noisy, warnings=["disturbed"])])
    assert third.mark == "†‡"
    assert "\nFastest of those without ‡: a, 5,000† images/s." in list(sweep_results.paragraphs([*lines, third]))[1]


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


@pytest.mark.parametrize(("rows", "columns", "is_one"), [(24, 80, True), (0, 0, False), (0, 80, False), (24, 0, False)])
def test_a_terminal_without_rows_or_columns_is_none(monkeypatch, capsys, rows, columns, is_one):
    ours, theirs = os.openpty()
    now = Now(monkeypatch)
    with open(theirs, "w") as terminal, open(ours, "rb"):
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress.Progress(4, 0, quiet=False) as bar:
            bar.start("long")
            now.seconds += 60
            bar.training(now)
    assert (capsys.readouterr().out == "") == is_one


def test_a_line_per_task_where_there_is_no_terminal(planned, capsys):
    _, plan = planned
    with progress.Progress(4, 1, quiet=False) as bar:
        bar.start(plan[0].name)
        bar.finish(plan[0].name, trained(plan[0], 0.5), 2)
    assert capsys.readouterr().out == "[2/4] mine: depth 1, seed 0: test accuracy 50.00%, 90.0 s\n"


class Now:
    """A training between two epochs, and a clock."""

    epoch, step_in_epoch, steps_per_epoch = 3, 25, 100
    cell = CellConfig(model=KernelDepthCNN(), train=TrainConfig(epochs=8))
    history = History(test_accuracy=[0.5, 0.875])

    def __init__(self, monkeypatch):
        self.seconds = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.seconds)


def test_a_long_training_shows_now_and_then_where_it_is(planned, capsys, monkeypatch):
    now = Now(monkeypatch)
    with progress.Progress(4, 0, quiet=False) as bar:
        bar.start("long")
        for now.seconds in (1010, 1029, 1030, 1040, 1059.9, 1061):
            bar.training(now)
    assert capsys.readouterr().out == "long: epoch 3.25 of 8, test 87.50%\n" * 2


def test_the_first_epoch_has_no_accuracy_yet(capsys, monkeypatch):
    now = Now(monkeypatch)
    now.epoch, now.history = 0, History()
    with progress.Progress(4, 0, quiet=False) as bar:
        bar.start("long")
        now.seconds += 60
        bar.training(now)
    assert capsys.readouterr().out == "long: epoch 0.25 of 8\n"


def test_records_of_another_number_of_processes_are_not_counted_and_told(planned, capsys):
    experiments, plan = planned
    config = plan[0].cell.config
    shared = replace(trained(plan[0], 0.9), labels=Labels(num_processes=2),
                     quality_key=quality_key(config, 0, num_processes=2))
    progress.show_plan(experiments, plan, {shared.quality_key: shared})
    told = "\nNot counted: 1 record by 2 processes to a cell: accuracy belongs to that number.\n"
    assert told in capsys.readouterr().out
    progress.show_plan(experiments, plan, {plan[0].key: trained(plan[0], 0.9)})
    assert "Not counted" not in capsys.readouterr().out


def test_a_training_goes_on_when_nobody_reads_how_far_it_is(monkeypatch):
    """As where Ctrl-C ends what a sweep's output is piped into: the checkpoint is still to be saved."""
    def broken(line, file):
        raise BrokenPipeError

    now = Now(monkeypatch)
    monkeypatch.setattr(progress.tqdm, "write", broken)
    with progress.Progress(4, 0, quiet=False) as bar:
        bar.start("long")
        now.seconds += 60
        bar.training(now)


def test_lines_say_the_time_left_at_the_pace_of_this_call(planned, capsys, monkeypatch):
    now = Now(monkeypatch)
    with progress.Progress(24, 4, quiet=False) as bar:  # four were done before
        now.seconds += 120
        bar.finish("a", trained(planned[1][0], 0.5), 5)
        now.seconds += 120
        bar.finish("b", trained(planned[1][0], 0.5), 8)  # others did two meanwhile
        bar.finish("c", trained(planned[1][0], 0.5), 24)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("90.0 s")[2] for line in lines] == ["; about 38 min left", "; about 16 min left", ""]


@pytest.mark.parametrize(("seconds", "words"), [(31, "31 s"), (150, "2 min"), (5399, "90 min"), (9000, "2.5 h")])
def test_durations(seconds, words):
    assert progress.duration(seconds) == words


def test_lines_leave_a_pipe_when_they_are_written(tmp_path):
    experiment_ = tmp_path / "mine.toml"
    experiment_.write_text('question = "?"\nmeasure = false\nbase.data.dataset = "synthetic"\nbase.model.name = "cnn"')
    command = [sys.executable, "-m", "tests.pretend_sweep", str(experiment_), "--store", str(tmp_path / "runs")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PRETEND_S": "1.5", "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, cwd=tmp_path, text=True) as process:
        first = process.stdout.readline()
        assert len(Store(tmp_path / "runs").latest()) < 3  # it came before the others were done
        process.stdout.read()
    assert first.startswith("[1/3] mine: cell, seed 0: ")
