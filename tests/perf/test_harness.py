"""What the harness itself takes, with 100,000 records. Without --benchmark-enable each runs once, with a thousand."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import experiment
from bench.record import Epochs, TestDetail, TrainRecord
from bench.records.lines import encode
from bench.report import render
from bench.store import Store
from bench.sweep import plan
from fmnist_core.config import to_dict

ROOT = Path(__file__).resolve().parents[2]
ROUNDS, EPOCHS, NUM_CELLS = 3, 10, 10
LIST_S, RESUME_S, REPORT_S = 1.0, 1.0, 10.0
"""Bounds on the fastest round: of `--list`, of reading the store and planning what is left, and of RESULTS.md.

Measured on two processors of an AMD EPYC, family 25, beside other work: 0.25, 0.74 and 4.7 seconds."""


def time_at_most(benchmark: Any, work: Any, bound_s: float) -> None:
    benchmark.pedantic(work, rounds=ROUNDS)
    if not benchmark.disabled:
        assert benchmark.stats.stats.min < bound_s


@pytest.fixture
def chosen(benchmark: Any) -> experiment.Experiment:
    num_seeds = 100 if benchmark.disabled else 10_000
    return experiment.parse({"question": "?", "base": {"model": {"name": "cnn"}}, "timings": 0,
                             "seeds": {"cpu": num_seeds, "cuda": 1},
                             "grid": {"model.width": list(range(1, NUM_CELLS + 1))}}, name="quick")


@pytest.fixture
def planned(chosen: experiment.Experiment) -> list[plan.Task]:
    return plan.tasks([chosen], num_seeds=None, gpu=False, machine={})


@pytest.fixture
def records(planned: list[plan.Task]) -> list[TrainRecord]:
    """As a sweep writes them: some 3,000 bytes each."""
    epochs = Epochs(**{name: [0.5 + i / 97 for i in range(EPOCHS)] for name in Epochs.__struct_fields__})
    test = TestDetail(confusion=[[100] * 10] * 10, mistakes=[(i, 1, 2, 0.987654321) for i in range(16)])
    return [TrainRecord(experiment="quick", quality_key=task.key, seed=task.seed, cell=to_dict(task.cell.config),
                        epochs=epochs, test=test, num_parameters=1000, wall_s=1.5) for task in planned]


def test_list_starts_at_once(benchmark: Any) -> None:
    command = [sys.executable, str(ROOT / "bench" / "run.py"), "kernel_depth", "--list"]
    time_at_most(benchmark, lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True), LIST_S)


def test_resume(benchmark: Any, planned: list[plan.Task], records: list[TrainRecord], tmp_path: Path) -> None:
    (tmp_path / "quick.jsonl").write_bytes(b"".join(encode(each) for each in records[1:]))

    def resume() -> None:
        assert plan.missing(planned, Store(tmp_path).heads(), {}) == planned[:1]

    time_at_most(benchmark, resume, RESUME_S)


def test_report(benchmark: Any, chosen: experiment.Experiment, records: list[TrainRecord]) -> None:
    def report() -> None:
        assert "# Results" in render(records, [chosen]).text

    time_at_most(benchmark, report, REPORT_S)
