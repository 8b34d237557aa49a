"""Timings in processes of their own: the record that comes back, and what is left of a process that fails or dies."""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

import msgspec
import psutil
import pytest

from bench import experiment
from bench.record import SpeedRecord
from bench.sweep import apart
from bench.sweep.conditions import Conditions
from bench.sweep.notice import Notice, Stopped
from bench.sweep.plan import Task, tasks
from bench.timing import workers


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


def test_a_notice_ends_it_at_once(tmp_path, handlers):
    """As Ctrl-C does, which a terminal sends to both."""
    task = second_timing(tmp_path, "stall", after=3)
    before = set(psutil.Process().children())
    threading.Timer(8.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with Notice() as notice, pytest.raises(Stopped):
        apart.run(task, Conditions(num_threads=1, notice=notice))
    assert set(psutil.Process().children()) <= before


TALKING = """
import json
from torch import nn

class Talking(nn.Sequential):
    def forward(self, images_NCHW):
        print(json.dumps({"kind": "chatter"}))
        print(".", end="")
        return super().forward(images_NCHW)

def make():
    return Talking(nn.Flatten(), nn.Linear(784, 10))
"""


@pytest.fixture
def own_timing(tmp_path, monkeypatch):
    (tmp_path / "talking.py").write_text(TALKING)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text("""
        question = "?"
        timings = 2
        base.data = { dataset = "synthetic", validation_size = 500 }
        base.model.name = "talking:make"
    """)
    return tasks([experiment.load(str(path))], gpu=False, machine={})[-1]


def test_a_network_may_print_what_it_likes(own_timing):
    record = apart.run(own_timing, Conditions(num_threads=1))
    assert (record.status, record.reason) == ("ok", "")


def test_code_that_was_changed_during_the_sweep_is_not_timed(own_timing, tmp_path):
    (tmp_path / "talking.py").write_text(TALKING.replace("784, 10", "784, 10, bias=False"))
    record = apart.run(own_timing, Conditions(num_threads=1))
    assert (record.status, record.reason) == ("error", "the code of talking:make was changed during the sweep")


def test_it_ends_with_a_caller_that_is_killed(tmp_path):
    task = second_timing(tmp_path, "stall", after=3)
    with contextlib.ExitStack() as stack:
        worker = workers.start(stack, "bench.sweep.apart", [], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        worker.tell(msgspec.json.encode(apart._Asked(task._replace(smaller=None), 1, None)).decode())
        process = worker._process
        process.stdin.close()  # as the system does it
        assert process.wait(60) == 1
