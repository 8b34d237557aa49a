"""Seeds trained as one module: a record per seed, as if each had run alone."""

import contextlib
import dataclasses
import signal
import subprocess
import sys

import pytest
import torch

from bench import experiment, run
from bench.inputs import options
from bench.store import Store
from bench.sweep import device, launch, loop, one_task, together
from bench.sweep.attempts import Attempt
from bench.sweep.conditions import Conditions
from bench.sweep.notice import Notice, Stopped
from bench.sweep.plan import siblings, tasks
from bench.sweep.request import Request
from fmnist_core.fused.training import fused_fit
from fmnist_core.steps import Diverged
from tests.small import small_dataset

CONTENT = {"question": "Which?", "seeds": {"cpu": 3, "cuda": 3}, "timings": 0,
           "base": {"model": {"name": "cnn"}, "train": {"epochs": 2, "global_batch_size": 32},
                    "data": {"dataset": "synthetic", "validation_size": 40}},
           "grid": {"model.depth": [1, 2]}}
TOML = """
question = "Which?"
seeds = { cpu = 3, cuda = 3 }
timings = 0
base.data = { dataset = "synthetic", validation_size = 40 }
base.model = { name = "cnn", depth = 1, width = 2 }
base.train = { epochs = 1, global_batch_size = 32 }
"""


@contextlib.contextmanager
def sweep_of(folder, gpu):
    """What runs the experiment in TOML; `gpu`: but for this, seeds are not fused."""
    (folder / "mine.toml").write_text(TOML)
    asked = options.parser(None).parse_args([str(folder / "mine.toml"), "--store", str(folder / "store")])
    with Notice() as notice:
        request = Request.of(asked, launch.World())
        work = run.check(request)
        yield lambda: loop.run(dataclasses.replace(request, gpu=gpu), work, notice)


@pytest.fixture
def planned(monkeypatch):
    monkeypatch.setattr(device, "dataset_of", lambda task, data_dir: small_dataset())
    return tasks([experiment.parse(CONTENT, name="mine")], num_seeds=None, gpu=False, machine={})


def test_siblings_are_the_other_seeds_of_the_cell(planned):
    found = siblings(planned[0], planned)
    assert [task.seed for task in found] == [1, 2]
    assert {task.cell.label for task in found} == {planned[0].cell.label}


def test_a_record_per_seed_that_says_it_was_fused_and_agrees_with_the_seed_alone(planned, tmp_path):
    group = [planned[0], *siblings(planned[0], planned)]
    records = together.run(group, Conditions(num_threads=1))
    assert not any(record.labels.machine_shared for record in records)
    assert [record.seed for record in records] == [0, 1, 2]
    assert [record.quality_key for record in records] == [task.key for task in group]
    assert {record.labels.fused_seeds for record in records} == {3}
    assert len({record.epochs.train_loss[-1] for record in records}) == 3
    alone = one_task.run(group[1], Attempt(tmp_path, group[1].key, 1), Conditions(num_threads=1))
    assert alone.labels.fused_seeds == 1
    assert records[1].epochs.train_loss == pytest.approx(alone.epochs.train_loss, rel=1e-3)
    assert sum(map(sum, records[1].test.confusion)) == 70
    assert records[1].num_parameters == alone.num_parameters


def test_a_failure_of_the_group_keeps_what_each_seed_has_learnt(planned):
    def fail(training):
        if training.epoch == 1:
            raise RuntimeError("a fault")

    group = [planned[0], *siblings(planned[0], planned)]
    whole, failed = (together.run(group, Conditions(num_threads=1, on_epoch=how)) for how in (None, fail))
    for one, other in zip(whole, failed, strict=True):
        assert (other.status, other.num_parameters) == ("error", one.num_parameters)
        assert other.epochs.test_loss == one.epochs.test_loss[:1]
        assert other.labels == one.labels


def test_a_seed_that_diverges_keeps_what_it_has_learnt(planned, monkeypatch):
    def diverge(training, **options):
        outcomes = fused_fit(training, **options)
        return [outcomes[0], Diverged("of its own"), outcomes[2]]

    monkeypatch.setattr(together, "fused_fit", diverge)
    records = together.run([planned[0], *siblings(planned[0], planned)], Conditions(num_threads=1))
    assert [record.status for record in records] == ["ok", "diverged", "ok"]
    assert [len(record.epochs.test_accuracy) for record in records] == [2, 2, 2]


@pytest.mark.parametrize("notice_comes", [False, True])
def test_a_group_without_room_is_trained_seed_by_seed(notice_comes, planned, tmp_path, monkeypatch, handlers):
    def no_room(group, *arguments):
        tried.append([task.seed for task in group])
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def stop_at_seed_1(task, *arguments):
        if notice_comes and task.seed == 1:
            raise Stopped(signal.SIGTERM)
        return alone(task, *arguments)

    tried, alone = [], one_task.run
    monkeypatch.setattr(together, "_train", no_room)
    monkeypatch.setattr(together, "num_replicas", lambda group, data_dir: len(group))
    monkeypatch.setattr(one_task, "run", stop_at_seed_1)
    with sweep_of(tmp_path, gpu=True) as sweep:
        if notice_comes:
            with pytest.raises(Stopped):
                sweep()
        else:
            sweep()
    found = Store(tmp_path / "store").latest()
    assert tried == [[0, 1, 2]]
    assert [(each.seed, each.status, each.labels.fused_seeds) for each in found.values()] == [
        (0, "ok", 1), (1, "ok", 1), (2, "ok", 1)][:1 if notice_comes else 3]
    assert list((tmp_path / "store" / "attempts").iterdir()) == []


@pytest.mark.usefixtures("handlers", "planned")
def test_a_notice_while_the_number_of_seeds_is_chosen_is_no_death(tmp_path, monkeypatch):
    """Which takes its time: networks are compiled, captured and timed."""
    def notice_comes(group, data_dir):
        assert len(group) == 3
        assert len(list((tmp_path / "store" / "attempts").iterdir())) == 3
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(together, "num_replicas", notice_comes)
    with sweep_of(tmp_path, gpu=True) as sweep, pytest.raises(Stopped):
        sweep()
    assert list((tmp_path / "store" / "attempts").iterdir()) == []


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("with_another", [False, True])
@pytest.mark.usefixtures("handlers", "planned")
def test_a_sweep_knows_of_another_on_its_machine_and_store(with_another, fused, tmp_path, monkeypatch):
    monkeypatch.setattr(together, "num_replicas", lambda group, data_dir: len(group))
    monkeypatch.setattr(one_task, "kept_waiting", lambda before, after: False)
    store = tmp_path / "store"
    store.mkdir()
    code = (f"import sys; from bench import environment; from bench.store import Store\n"
            f"with Store({str(store)!r}).machine(environment.collect().host, alone=False):\n"
            f"    print('holds', flush=True); sys.stdin.read()")
    with contextlib.ExitStack() as others:
        if with_another:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            other = others.enter_context(subprocess.Popen([sys.executable, "-c", code], **pipes))
            others.callback(other.kill)
            assert other.stdout.readline() == "holds\n"
        others.enter_context(sweep_of(tmp_path, gpu=fused))()
    labels = [record.labels for record in Store(store).latest().values()]
    assert [(each.machine_shared, each.fused_seeds) for each in labels] == [(with_another, 3 if fused else 1)] * 3


def test_on_a_cpu_seeds_run_one_by_one(planned):
    assert together.num_replicas(planned[:2], data_dir=None) == 1
