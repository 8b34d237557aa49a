"""What a running sweep shows."""

import fcntl
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from bench.record import TrainRecord
from bench.store import Store
from bench.sweep import progress
from fmnist_core.config import CellConfig, KernelDepthCNN, TrainConfig
from fmnist_core.evaluation import History
from tests.swept import timed, trained, two_depths

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def planned():
    return two_depths()


def test_a_record_in_few_words(planned):
    _, plan = planned
    assert progress.outcome(trained(plan[0], 0.9051)) == "test accuracy 90.51%, 90.0 s"
    assert progress.outcome(timed(plan[-1])) == "5,000 images/s"
    assert progress.outcome(trained(plan[0], 0.9051, wall_s=249.8)) == "test accuracy 90.51%, 4 min"
    failure = TrainRecord(experiment="mine", quality_key="k", seed=0, cell={}, status="diverged", reason="at step 3")
    assert progress.outcome(failure) == "diverged: at step 3"


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


def test_a_sweep_goes_on_when_nobody_reads_how_far_it_is(planned, monkeypatch):
    """As after `| head -1`, or where Ctrl-C ends what a sweep's output is piped into."""
    now, (read, write) = Now(monkeypatch), os.pipe()
    os.close(read)
    with open(write, "w") as pipe, progress.Progress(4, 0, quiet=False) as bar:
        monkeypatch.setattr("sys.stdout", pipe)
        bar.start("long")
        now.seconds += 60
        bar.training(now)
        bar.finish("long", trained(planned[1][0], 0.5), 1)
        with progress.to_whoever_reads():
            print("said to nobody")


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
    experiment_.write_text('question = "?"\ntimings = 0\nbase.data.dataset = "synthetic"\nbase.model.name = "cnn"')
    command = [sys.executable, "-m", "tests.pretend_sweep", str(experiment_), "--store", str(tmp_path / "runs")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PRETEND_S": "1.5", "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, cwd=tmp_path, text=True) as process:
        first = process.stdout.readline()
        assert len(Store(tmp_path / "runs").latest()) < 3  # it came before the others were done
        process.stdout.read()
    assert first.startswith("[1/3] mine: cell, seed 0: ")
