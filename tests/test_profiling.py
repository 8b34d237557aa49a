"""Profiles: a trace that Perfetto opens, a table of operators, and nothing in the store."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import experiment
from bench.run import main
from bench.store import Store
from bench.sweep import device, launch, profiling, ranks
from bench.sweep.conditions import Conditions
from bench.sweep.plan import Task
from fmnist_core.config import Baseline, CellConfig
from tests.small import small_dataset

EXPERIMENT = """
question = "?"
base.data = { dataset = "synthetic", validation_size = 40 }
base.model = { name = "cnn", depth = 1, width = 2 }
base.train.global_batch_size = 50
grid.model.kernel_size = [2, 3]
"""


@pytest.fixture
def profiled(tmp_path, monkeypatch, capsys):
    """The folder and the output of `--profile` on an experiment of two cells."""
    for variable in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    dataset = small_dataset()
    monkeypatch.setattr(device, "dataset_of", lambda task, data_dir: dataset)
    (tmp_path / "mine.toml").write_text(EXPERIMENT)
    threads = torch.get_num_threads()
    assert main([str(tmp_path / "mine.toml"), "--profile", "--store", str(tmp_path / "runs")]) == 0
    torch.set_num_threads(threads)
    return tmp_path / "runs", capsys.readouterr().out


def test_a_trace_in_chromes_format_holds_the_steady_steps(profiled):
    traces = sorted((profiled[0] / "profiles" / "mine").glob("*/profile_0.json"))
    assert [trace.parent.name.partition(",")[0] for trace in traces] == ["kernel_size 2", "kernel_size 3"]
    for trace in traces:
        content = json.loads(trace.read_text())
        whole = [event for event in content["traceEvents"] if event["ph"] == "X"]
        assert all({"name", "ts", "dur", "pid", "tid"} <= set(event) for event in whole)
        assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in whole)
        steps = sorted((event for event in whole if event["name"] == profiling.MARK), key=lambda event: event["ts"])
        assert len(steps) == profiling.NUM_STEPS
        products = [event for event in whole if event["name"] == "aten::addmm"]  # of the Linear layer
        assert len(products) == profiling.NUM_STEPS
        for step, product in zip(steps, sorted(products, key=lambda event: event["ts"]), strict=True):
            assert step["ts"] <= product["ts"] < step["ts"] + step["dur"]


def test_the_ten_dearest_operators_are_printed_and_written_beside_it(profiled):
    folder, printed = profiled
    for path in (folder / "profiles" / "mine").glob("*/operators.md"):
        text = path.read_text()
        assert text in printed
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
        assert rows[0] == ["operator", "calls a step", "CPU ms a step", "share"]
        assert len(rows) == 2 + 10
        shares = [float(row[3].rstrip("%")) for row in rows[2:]]
        assert shares == sorted(shares, reverse=True)
        assert 20 < sum(shares) <= 100.5
        assert all(0 < float(row[1]) < 100 for row in rows[2:])
        assert profiling.MARK not in {row[0] for row in rows}


def test_the_table_counts_calls_and_own_time_per_step_of_the_dearest():
    """By events whose time is known: on a busy machine any operator may take its turn among the dearest."""
    own_ms = {"small": 0.5, profiling.MARK: 900.0, "large": 6.0, "middle": 2.5} | {f"none {i}": 0.0 for i in range(9)}
    steps = profiling.NUM_STEPS
    events = [SimpleNamespace(key=key, count=3 * steps, self_cpu_time_total=1000 * ms * steps)
              for key, ms in own_ms.items()]
    rows = [line.split("|")[1:-1] for line in profiling._table(events, torch.device("cpu")).splitlines()[2:]]
    assert len(rows) == profiling.NUM_OPERATORS
    assert [[cell.strip() for cell in row] for row in rows[:3]] == [
        ["large", "3", "6.000", "66.7%"], ["middle", "3", "2.500", "27.8%"], ["small", "3", "0.500", "5.6%"]]


def test_a_profile_is_no_measurement(profiled):
    assert Store(profiled[0]).latest() == {}
    assert list(profiled[0].glob("*.jsonl")) == []


def test_a_model_that_takes_no_steps_is_refused(tmp_path):
    cell = CellConfig(model=Baseline(estimator="gaussian_nb"))
    with pytest.raises(ValueError, match="takes no training steps that could be profiled"):
        profiling.profile(cell, small_dataset(), tmp_path)


@pytest.mark.parametrize(("alike", "rank"), [(True, 0), (True, 1), (False, 0)])
def test_a_cell_that_fails_in_processes_that_share_it_gives_no_traceback(alike, rank, monkeypatch, capsys):
    """All of them alike, and one of them alone."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(ranks, "fail_alike", lambda reason: alike)
    monkeypatch.setattr(torch, "set_num_threads", lambda num: None)
    task = Task("mine", experiment.Cell(config=CellConfig(model=Baseline(estimator="gaussian_nb")), label="naive"), "k",
                0, 0.0)
    monkeypatch.setattr(device, "dataset_of", lambda task, data_dir: None)
    ask = lambda: profiling.show(task, Path("store"), Conditions(num_threads=1))
    if alike:
        assert ask() is False
        assert capsys.readouterr().err.startswith("mine: naive: error: ") is (rank == 0)
    else:
        with pytest.raises(launch.GroupBroken, match="takes no training steps"):
            ask()


def test_a_cell_that_fails_is_named_and_the_others_are_profiled(tmp_path, monkeypatch, capsys):
    asked = []

    def fail_first(cell, dataset, folder):
        asked.append(folder)
        if len(asked) == 1:
            raise MemoryError("no room")
        return profiling.Profile(folder / "profile_0.json", "| table |")

    monkeypatch.setattr(profiling, "profile", fail_first)
    monkeypatch.setattr(device, "dataset_of", lambda task, data_dir: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda num: None)
    (tmp_path / "mine.toml").write_text(EXPERIMENT)
    assert main([str(tmp_path / "mine.toml"), "--profile", "--store", str(tmp_path / "runs")]) == 1
    said = capsys.readouterr()
    assert "mine: kernel_size 2: oom: MemoryError: no room" in said.err
    assert "| table |" in said.out
