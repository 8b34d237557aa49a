"""The peers: each does the work that it is timed for, and what is counted is what was done."""

import contextlib
import importlib.util
import json
import os
import time

import pytest
import torch

from bench import peers
from bench.peers import System
from bench.records import side_records
from bench.timing import peer_systems, workers
from bench.timing.peer_systems import SYSTEMS
from bench.timing.peer_work import Work
from bench.timing.workers import WorkerFailed
from fmnist_core import data
from fmnist_core.config import CellConfig, DataConfig, Network2, TrainConfig, to_dict
from fmnist_core.models import layers as spec
from tests.small import small_dataset

CELL = CellConfig(model=Network2(), data=DataConfig(dataset="synthetic", validation_size=40),
                  train=TrainConfig(global_batch_size=30, epochs=4))
REQUEST = {"cell": to_dict(CELL), "epochs": 3, "images": 100, "batch_size": CELL.train.global_batch_size,
           "data_dir": None}


@pytest.fixture
def work(monkeypatch):
    monkeypatch.setattr(data, "load", lambda *arguments: small_dataset(num_train=400, num_test=200))
    return Work(CELL, 395, 0, None)


def here(name):
    return name not in ("lightning", "keras") or importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_does_the_work(work, name, monkeypatch):
    if not here(name):
        pytest.skip(f"{name} is not installed")
    monkeypatch.setattr(peer_systems, "NUM_FUSED", 2)
    peer = SYSTEMS[name](work)
    assert peer.num_parameters == 313_346
    spans = peer.train(4)
    assert len(spans) == 4
    assert sorted(spans) == spans
    assert all(start < end for start, end in spans)
    accuracies = peer.test_accuracies()
    assert len(accuracies) == (2 if name == "fused" else 1)
    assert min(accuracies) > 0.8  # the synthetic classes are far apart; 0.1 is chance


@pytest.mark.parametrize("name", ["tutorial", "raw"])
def test_every_image_is_trained_on_once_an_epoch(work, name):
    peer = SYSTEMS[name](work)
    seen = []
    peer.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    peer.train(1)
    assert [len(batch) for batch in seen] == [30] * 13 + [5]
    rows = lambda images: sorted(map(tuple, images.flatten(1).round(decimals=4).tolist()))
    assert rows(torch.cat(seen)) == rows(work.floats()[0])


def test_images_are_the_first_ones(work):
    assert len(work.dataset.train) == 395
    assert torch.equal(work.dataset.train.images_NCHW, small_dataset(num_train=400).train.images_NCHW[:395])


def test_what_is_counted_by_hand():
    # two processes, three epochs of 100 images in 4 batches; the first epoch does not count
    answers = [{"epochs_at": [(0.0, 9.0), (9.0, 10.0), (10.0, 12.0)], "test_accuracies": [0.5]},
               {"epochs_at": [(0.0, 9.0), (9.0, 11.0), (11.0, 13.0)], "test_accuracies": [0.7]}]
    run = peers.to_run(answers, REQUEST)
    assert run == side_records.PeerRun(images=400, train_s=4.0, num_steps=12, test_accuracy=[0.5, 0.7])
    once = peers.to_run([{"epochs_at": [(1.0, 10.0)], "test_accuracies": [0.5]}], REQUEST | {"epochs": 1})
    assert (once.images, once.train_s) == (100, 9.0)
    fused = peers.to_run([{**answers[0], "test_accuracies": [0.5] * 16}], REQUEST)
    assert fused.images == 16 * 200


def test_processes_that_do_not_train_at_the_same_time_share_no_time():
    """Each trains for 2 s after its first epoch, the second as the first is done: 400 images in 5 s, not in 2 s."""
    answers = [{"epochs_at": [(0.0, 9.0), (9.0, 10.0), (10.0, 11.0)], "test_accuracies": [0.5]},
               {"epochs_at": [(3.0, 12.0), (12.0, 13.0), (13.0, 14.0)], "test_accuracies": [0.7]}]
    run = peers.to_run(answers, REQUEST)
    assert (run.images, run.train_s) == (400, 5.0)


def test_systems_take_turns_with_new_seeds_and_leave_when_they_fail(monkeypatch):
    started, seen, calls = [], [], []

    class Ready:
        def __init__(self, *asked):
            started.append(asked)
            self.asked = asked

        def wait_until_ready(self):
            pass

    def train(crew):
        calls.append(crew[0].asked)
        seen.append(len(started))
        if crew[0].asked == ("fails", 1):
            raise WorkerFailed("out of luck")
        return [{"epochs_at": [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)], "num_parameters": 7, "libraries": {"lib": "1"},
                 "test_accuracies": [0.5]}]

    monkeypatch.setattr(peers, "start", lambda stack, system, request: [Ready(system.name, request["round"])])
    monkeypatch.setattr(peers, "train", train)
    chosen = [System("works", "", "raw"), System("fails", "", "raw"),
              System("absent", "", "raw", package="no_such_package"),
              System("not here", "", "raw", missing="CUDA only")]
    works, fails, absent, not_here = peers.run(chosen, REQUEST, 3)
    assert calls == [("works", 0), ("fails", 0), ("fails", 1), ("works", 1), ("works", 2)]
    assert seen == [2, 2, 4, 4, 5]  # all of a round are ready before the first of them trains
    assert (len(works.runs), works.num_parameters, works.libraries) == (3, 7, {"lib": "1"})
    assert (fails.runs, fails.skipped) == ([], "out of luck")
    assert (absent.skipped, not_here.skipped) == ("not installed", "CUDA only")


def test_without_the_reference_nothing_is_stored(tmp_path, capsys, monkeypatch):
    class Failing:
        def wait_until_ready(self):
            raise WorkerFailed("out of luck")

        def stop(self):
            pass

    monkeypatch.setattr(peers, "start", lambda stack, system, request: [Failing()])
    assert peers.main(["--dataset", "synthetic", "--store", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "bench.peers: tutorial, the reference, failed: out of luck; nothing is stored\n"
    assert side_records.load_all(tmp_path, side_records.Peers) == []


def test_processes_start_together_and_failures_say_why():
    with contextlib.ExitStack() as stack:
        start = lambda worker, **asked: peers.start(stack, System("x", "", worker, 1, 1), REQUEST | asked)
        crew, told_at = start("raw", round=0, images=60, epochs=1), time.monotonic()
        (run,) = peers.train(crew)
        [(began, ended)] = run["epochs_at"]
        assert told_at < began < ended < time.monotonic()  # the clock is that of this process, too
        assert run["num_parameters"] == 313_346
        crew = start("no such system", round=0)
        for wait in (crew[0].wait_until_ready, lambda: peers.train(crew)):  # it fails again when its turn comes
            with pytest.raises(WorkerFailed, match="KeyError: 'no such system'"):
                wait()


def test_a_worker_that_dies_while_it_waits_costs_its_own_turn_alone(tmp_path):
    (tmp_path / "dies.py").write_text("print('ready', flush=True)")
    with contextlib.ExitStack() as stack:
        worker = workers.start(stack, "dies", [], {**os.environ, "PYTHONPATH": str(tmp_path)})
        worker.wait_until_ready()
        worker._process.wait()
        with pytest.raises(WorkerFailed, match="exit code 0"):
            peers.train([worker])


def test_the_reference_is_the_tutorial_and_cells_mode_has_a_process_per_core(monkeypatch):
    monkeypatch.setattr(peers.environment, "num_cpus", lambda: 4)
    monkeypatch.setattr(peers.environment, "uses_gpu", lambda: False)
    by_name = {system.name: system for system in peers.systems(4)}
    assert next(iter(by_name)) == "tutorial"
    cells = by_name["ours, cells mode"]
    assert (cells.num_processes, cells.num_threads, cells.missing) == (4, 1, "")
    assert by_name["ours, fused seeds"].missing.startswith("CUDA only")


def test_a_cell_that_not_all_train_alike_is_refused(tmp_path, capsys):
    toml = tmp_path / "sgd.toml"
    toml.write_text('question = "?"\n[[cells]]\nmodel.name = "network2"\ntrain.optimizer = "sgd"\n')
    assert peers.main(["--experiment", str(toml), "--dataset", "synthetic", "--store", str(tmp_path)]) == 2
    assert "more than every system does alike" in capsys.readouterr().err
    assert peers.main(["--dataset", "synthetic", "--images", "60001", "--store", str(tmp_path)]) == 2
    assert "only 50000 are there" in capsys.readouterr().err


def test_keras_gets_each_layer_or_an_error():
    class Layers:
        def __getattr__(self, name):
            return lambda *arguments, **options: (name, arguments, options)

    from bench.timing.peer_frameworks import _keras_layer

    conv = spec.Conv(name="c", channels=4, kernel_size=3, padding=1)
    assert _keras_layer(Layers(), conv)[1:] == ((4, 3, 1, "same"), {"use_bias": True})
    pad = spec.Pad(name="p", padding=(0, 1, 2, 3))
    assert _keras_layer(Layers(), pad) == ("ZeroPadding2D", (((2, 3), (0, 1)),), {})
    leaky = _keras_layer(Layers(), spec.Activate(name="a", kind="leaky_relu"))
    assert leaky == ("LeakyReLU", (torch.nn.LeakyReLU().negative_slope,), {})
    with pytest.raises(ValueError, match="no Keras layer"):
        _keras_layer(Layers(), spec.Conv(name="c", channels=4, kernel_size=3, padding=1, stride=2))


def test_a_worker_waits_for_the_word(monkeypatch, capsys):
    order = []
    monkeypatch.setattr(data, "load", lambda *arguments: small_dataset())
    listen = lambda self: order.append(capsys.readouterr().out)
    monkeypatch.setattr(peer_systems.sys, "stdin", type("In", (), {"readline": listen})())
    peer_systems.main("raw", json.dumps(REQUEST | {"seed": 0, "threads": 1, "epochs": 1}))
    assert order == ["ready\n"]
    assert set(json.loads(capsys.readouterr().out)) == {"epochs_at", "num_parameters", "libraries", "test_accuracies"}
