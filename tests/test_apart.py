"""Timings in processes of their own: the record that comes back, and what is left of a process that fails or dies."""

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from bench import experiment
from bench.record import SpeedRecord
from bench.sweep import apart
from bench.sweep.conditions import Conditions
from bench.sweep.notice import Notice, Stopped
from bench.sweep.plan import Task, tasks


def second_timing(folder: Path, how: str = "raise", after: int = 1_000_000) -> Task:
    """Of a network that misbehaves after so many steps."""
    path = folder / "small.toml"
    path.write_text(f"""
        question = "?"
        timings = 2
        [base]
        data = {{ dataset = "synthetic", validation_size = 500 }}
        train.global_batch_size = 50
        [base.model]
        name = "tests.misbehaving:linear"
        how = "{how}"
        after = {after}
        rank = -1
    """)
    return tasks([experiment.load(str(path))], gpu=False, machine={})[-1]


def test_the_record_of_another_process_comes_back(tmp_path):
    task = second_timing(tmp_path)
    record = apart.run(task, Conditions(num_threads=1, shared=lambda: True))
    assert isinstance(record, SpeedRecord)
    assert (record.status, record.reason, record.repeat, record.speed_key) == ("ok", "", 1, task.key)
    assert len(record.step_s) >= 40
    assert record.environment.num_threads == 1
    assert record.labels.machine_shared, "as the sweep saw"
    assert not apart.run(task, Conditions(num_threads=1)).labels.machine_shared


def test_what_fails_there_is_a_record_with_its_reason(tmp_path):
    record = apart.run(second_timing(tmp_path, "raise", after=3), Conditions(num_threads=1))
    assert (record.status, record.repeat) == ("error", 1)
    assert record.reason.startswith("RuntimeError: a fault of its own (misbehaving.py, line ")


def test_a_process_that_dies_is_a_failure_of_its_cell(tmp_path):
    task = second_timing(tmp_path, "kill", after=3)
    record = apart.run(task, Conditions(num_threads=1))
    assert (record.status, record.repeat, record.speed_key) == ("error", 1, task.key)
    assert record.reason == "the process that timed it ended: exit code -9"


def test_a_notice_ends_it_at_once(tmp_path):
    """As Ctrl-C does, which a terminal sends to both."""
    task = second_timing(tmp_path, "stall", after=3)
    before = set(psutil.Process().children())
    threading.Timer(8.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with Notice() as notice, pytest.raises(Stopped):
        apart.run(task, Conditions(num_threads=1, notice=notice))
    assert set(psutil.Process().children()) <= before
