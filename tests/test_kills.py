"""Sweeps killed at random moments, and several on one store: each cell is done once, whoever dies.

The short form is part of every run of the tests; `--long-faults` kills a real sweep 50 times.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from bench.records.lines import decode, key_of
from bench.store import Store

pytestmark = pytest.mark.faults

ROOT = Path(__file__).resolve().parent.parent
PRETENDED, REAL = ["-m", "tests.pretend_sweep"], [str(ROOT / "bench" / "run.py")]


def stored(folder):
    """How often each key is in the files; every whole line must be readable."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines(keepends=True)]
    return Counter(key_of(decode(line)) for line in lines if line.endswith(b"\n"))


def experiment_of(folder, num_cells):
    path = folder / "mine.toml"
    path.write_text(f"""
        question = "Does it survive?"
        timings = 0
        seeds = {{ cpu = 1, cuda = 1 }}
        base.data = {{ dataset = "synthetic", validation_size = 59000, input_size = 8 }}
        base.model = {{ name = "cnn", depth = 1, width = 1, num_pools = 0 }}
        base.train.epochs = 1
        grid.train.global_batch_size = {list(range(500, 500 + num_cells))}
    """)
    return path


@contextlib.contextmanager
def start(kind, path, **environ):
    """A sweep; killed at the end, if it still runs."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **environ}
    command = [sys.executable, *kind, str(path), "--store", str(path.parent / "store")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environ, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def until_two_records(process):
    """What it said so far, and the seconds from the first record to the second."""
    said, times = "", []
    while len(times) < 2:
        line = process.stdout.readline()
        assert line, said
        said += line
        if "test accuracy" in line:
            times.append(time.monotonic())
    return said, times[1] - times[0]


MAX_DELAY_S = 1.0
"""Before a kill: a machine that paused between two records must not make it come after the last of them."""


def kill_again_and_again(kind, folder, num_kills, survived):
    """Start the sweep and kill it in the two cells after its second, `num_kills` times; then let it end."""
    num_cells, num_said, rng = 8 * num_kills, 0, random.Random(0)
    path, folder = experiment_of(folder, num_cells), folder / "store"
    for number in range(num_kills):
        with start(kind, path) as process:
            said, cell_s = until_two_records(process)
            time.sleep(rng.uniform(0, min(2 * cell_s, MAX_DELAY_S)))
            assert process.poll() is None, f"it ended before kill {number + 1}: {said}{process.stdout.read()}"
            process.send_signal(signal.SIGKILL)
            said += process.stdout.read()
        num_said += said.count("test accuracy")
        found = stored(folder)
        assert set(found.values()) == {1}
        assert num_said <= len(found) <= num_said + number + 1  # a record may be finished and not yet told of
        assert len(Store(folder).latest()) == len(found)
        survived("kills survived")
    with start(kind, path) as process:
        said = process.stdout.read()
        assert process.wait() == 0, said
    assert list(stored(folder).values()) == [1] * num_cells


def test_a_sweep_is_killed_again_and_again(tmp_path, survived, num_kills):
    kill_again_and_again(PRETENDED, tmp_path, num_kills, survived)


def test_a_sweep_that_really_trains_is_killed_again_and_again(tmp_path, survived, num_kills):
    kill_again_and_again(REAL, tmp_path, num_kills, survived)


# Several sweeps on one store


def begun(log):
    return Counter(log.read_text().split())


def test_two_sweeps_on_one_store_do_no_cell_twice(tmp_path):
    path, log = experiment_of(tmp_path, 60), tmp_path / "log"
    environ = {"PRETEND_LOG": str(log), "PRETEND_S": "0.05"}
    with start(PRETENDED, path, **environ) as one, start(PRETENDED, path, **environ) as other:
        said = [one.stdout.read(), other.stdout.read()]
        assert (one.wait(), other.wait()) == (0, 0), said
    assert all("test accuracy" in each for each in said)  # both took part
    assert list(begun(log).values()) == [1] * 60
    assert list(stored(tmp_path / "store").values()) == [1] * 60


def test_the_cell_of_a_dead_sweep_is_done_by_the_other(tmp_path, survived):
    path, log = experiment_of(tmp_path, 3), tmp_path / "log"
    with start(PRETENDED, path, PRETEND_LOG=str(log), PRETEND_S="600") as dead:
        while not log.exists() or not log.read_text():
            time.sleep(0.01)
        with start(PRETENDED, path, PRETEND_LOG=str(log)) as other:
            for _ in range(2):
                other.stdout.readline()
            time.sleep(0.1)
            assert other.poll() is None  # it waits for the cell that the first one holds
            dead.send_signal(signal.SIGKILL)
            assert other.wait(60) == 0
    assert sorted(begun(log).values()) == [1, 1, 2]
    assert len(Store(tmp_path / "store").latest()) == 3
    survived("kills survived")
