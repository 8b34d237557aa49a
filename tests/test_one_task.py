"""Whatever happens to a cell, its record says so: failures, time-outs, divergence, interruption and resume."""

import os
import re
import signal
import warnings

import msgspec
import pytest
import torch

from bench import experiment
from bench.record import Epochs, SpeedRecord, TestDetail, TrainRecord
from bench.sweep import device, one_task, watch
from bench.sweep.attempts import Attempt
from bench.sweep.conditions import Conditions
from bench.sweep.notice import Notice, Stopped
from bench.sweep.plan import Task
from bench.timing.other_processes import Usage
from fmnist_core import checkpoint
from fmnist_core.config import (
    Baseline,
    CellConfig,
    CustomModel,
    ExecutionConfig,
    KernelDepthCNN,
    TrainConfig,
    quality_key,
)
from fmnist_core.steps import Diverged
from fmnist_core.train import Training, fit, train_epoch
from tests.small import small_dataset

pytestmark = pytest.mark.usefixtures("small_data")


def misbehaving(how="", after=3, timeout_s=0.0, seed=0, optimizer="adam", global_batch_size=48, **train) -> Task:
    config = CellConfig(model=CustomModel(factory="tests.misbehaving:linear", options={"how": how, "after": after}),
                        train=TrainConfig(epochs=2, global_batch_size=global_batch_size, optimizer=optimizer, **train),
                        data=small_dataset().config, execution=ExecutionConfig(memory_format="contiguous"))
    return Task("e", experiment.Cell(config=config), quality_key(config, 0), seed, timeout_s)


def run(task, store, **options):
    attempt = Attempt(store, task.key)
    attempt.begin()
    return one_task.run(task, attempt, Conditions(num_threads=1, **options))


@pytest.mark.parametrize("when", [0, 1, 2, 3, None])
def test_who_trained_beside_it_is_recorded(when, tmp_path, monkeypatch):
    """At its start, after one of its two epochs, at its end, or never."""
    monkeypatch.setattr(one_task, "kept_waiting", lambda before, after: False)
    answers, told = iter([i == when for i in range(4)]), []
    record = run(misbehaving(), tmp_path, shared=lambda: next(answers), on_epoch=told.append)
    assert record.labels.machine_shared is (when is not None)
    assert len(told) == 2
    assert next(answers, "all asked") == "all asked"


@pytest.mark.parametrize(("how", "seed", "status", "reason"), [
    ("raise", 0, "error", r"RuntimeError: a fault of its own \(misbehaving\.py, line \d+, in _misbehave\)"),
    ("raise", None, "error", r"RuntimeError: a fault of its own \(misbehaving\.py, line \d+, in _misbehave\)"),
    ("oom", 0, "oom", r"MemoryError: no room \(train.global_batch_size = 48\)"),
    ("oom", None, "oom", r"MemoryError: no room \(train.global_batch_size = 48\)"),
    ("cuda-oom", 0, "oom", r"OutOfMemoryError: CUDA out of memory. Tried .* MiB \(train.global_batch_size = 48\)"),
    ("nan", 0, "diverged", r"the loss was nan at step 4 of 10"),
])
def test_a_failure_is_a_record_with_its_reason(how, seed, status, reason, tmp_path):
    task = misbehaving(how, seed=seed)
    record = run(task, tmp_path)
    assert isinstance(record, SpeedRecord if seed is None else TrainRecord)
    assert record.status == status
    assert msgspec.structs.asdict(record)["speed_key" if seed is None else "quality_key"] == task.key
    assert re.fullmatch(reason, record.reason), record.reason
    assert record.environment.num_threads == 1
    assert record.started_at


@pytest.mark.parametrize(("how", "status"), [("nan", "diverged"), ("raise", "error"), ("oom", "oom")])
def test_a_failure_keeps_the_epochs_before_it(how, status, tmp_path):
    failed, whole = run(misbehaving(how, after=7), tmp_path), run(misbehaving(), tmp_path)
    assert failed.status == status
    assert len(failed.epochs.train_s) == 1
    for name, values in msgspec.structs.asdict(whole.epochs).items():
        assert len(values) == 2
        if name != "train_s":
            assert getattr(failed.epochs, name) == values[:1], name
    assert failed.test == TestDetail()
    for name in ("num_parameters", "multiply_adds", "num_train", "num_validation", "num_test", "labels"):
        assert getattr(failed, name) == getattr(whole, name), name


def test_an_epoch_whose_losses_are_not_finite_is_not_kept(tmp_path):
    record = run(misbehaving(optimizer="sgd", learning_rate=1e39, global_batch_size=230), tmp_path)
    assert re.fullmatch("the loss on the training images was (nan|inf) after epoch 1", record.reason)
    assert (record.status, record.epochs) == ("diverged", Epochs())


@pytest.mark.parametrize(("text", "status"), [
    ("CUDA error: out of memory", "oom"),
    ("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to get 9 bytes", "oom"),
    ("index out of range", "error"),
])
def test_memory_that_cannot_be_had_goes_by_several_names(text, status, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError(text)

    monkeypatch.setattr(one_task, "Training", fail)
    assert run(misbehaving(), tmp_path).status == status


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("after", [1, 4])
def test_parameters_are_those_before_the_step_that_diverged(optimizer, after, small_data):
    options = {"optimizer": optimizer, "momentum": 0.9 if optimizer == "sgd" else 0.0, "weight_decay": 0.1}
    bad = Training(misbehaving("nan", after, **options).cell.config, 0, small_data)
    with pytest.raises(Diverged, match=rf"the loss was nan at step {after + 1} of 10"):
        train_epoch(bad)

    class Enough(Exception):
        pass

    def stop(training: Training) -> None:
        if training.step == after:
            raise Enough

    good = Training(misbehaving("", **options).cell.config, 0, small_data)
    initial = [parameter.clone() for parameter in good.model.parameters()]
    with pytest.raises(Enough):
        train_epoch(good, stop)
    for start, one, other in zip(initial, bad.model.parameters(), good.model.parameters(), strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, start)


def test_a_cell_stops_when_its_time_is_up(tmp_path):
    record = run(misbehaving("slow", after=0, timeout_s=0.2), tmp_path)
    assert record.status == "timeout"
    step = int(record.reason.split()[3])
    assert record.reason == f"stopped at step {step} of 10 after 0.2 s"
    assert 1 <= step <= 6  # 0.05 s each, on a machine that may be busy
    assert 0.2 < record.wall_s < 10
    assert run(misbehaving("slow", after=0, timeout_s=60.0), tmp_path).status == "ok"


def stop_at(step: int, notice: Notice):
    """An `on_step` of `fit` that hears a notice while the given step is taken."""
    def hear(training: Training) -> None:
        if training.step == step:
            notice.number = signal.SIGTERM
    return hear


@pytest.fixture
def at_step(monkeypatch):
    """`at_step(3, notice)`: the notice comes during that step."""
    def arrange(step: int, notice: Notice) -> None:
        hear, look = stop_at(step, notice), watch.TrainingWatch.__call__

        def call(self, training: Training) -> None:
            hear(training)
            look(self, training)

        monkeypatch.setattr(watch.TrainingWatch, "__call__", call)
    return arrange


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def learnt(record: TrainRecord):
    return msgspec.structs.replace(record.epochs, train_s=[]), record.test, record.num_parameters


@pytest.mark.parametrize("step", [2, 5, 7])
def test_a_notice_leaves_a_checkpoint_and_the_next_attempt_the_same_record(step, tmp_path, at_step, handlers):
    task, notice = misbehaving(), Notice()
    alone = run(task, tmp_path / "alone")
    at_step(step, notice)
    with pytest.raises(Stopped):
        run(task, tmp_path, notice=notice)
    assert list((tmp_path / "attempts").iterdir()) == []
    assert Attempt(tmp_path, task.key).checkpoint.exists()
    steps = []
    resumed = run(task, tmp_path, on_epoch=lambda training: steps.append(training.step))
    assert steps == ([5, 10] if step <= 5 else [10])
    assert resumed.status == "ok"
    assert learnt(resumed) == learnt(alone)
    assert resumed.wall_s > 0
    assert (alone.labels.num_resumes, resumed.labels.num_resumes) == (0, 1)


def test_resumes_are_counted(tmp_path, at_step, handlers):
    task = misbehaving()
    for step in (2, 4, 8):
        notice = Notice()
        at_step(step, notice)
        with pytest.raises(Stopped):
            run(task, tmp_path, notice=notice)
    assert run(task, tmp_path).labels.num_resumes == 3


def test_a_damaged_checkpoint_is_reported_and_the_record_is_the_same(tmp_path, at_step, handlers):
    task, notice = misbehaving(), Notice()
    alone = run(task, tmp_path / "alone")
    at_step(7, notice)
    with pytest.raises(Stopped):
        run(task, tmp_path, notice=notice)
    path = Attempt(tmp_path, task.key).checkpoint
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="is not used"):
        again = run(task, tmp_path)
    assert learnt(again) == learnt(alone)


def test_time_before_a_resume_counts(tmp_path):
    task = misbehaving(timeout_s=50.0)
    training = Training(task.cell.config, 0, small_dataset())
    with pytest.raises(ZeroDivisionError):
        fit(training, on_step=lambda training: 1 / (training.step - 2))
    path = Attempt(tmp_path, task.key).checkpoint
    checkpoint.save(training, path, wall_s=40.0)
    assert run(task, tmp_path).wall_s > 40
    checkpoint.save(training, path, wall_s=60.0)
    record = run(task, tmp_path)
    assert (record.status, record.reason) == ("timeout", "stopped at step 3 of 10 after 50 s")


def test_checkpoints_are_made_by_the_clock_and_off_the_clock_of_training(tmp_path, monkeypatch):
    task = misbehaving()
    made, shown, now = [], [], [0.0]
    monkeypatch.setattr(watch.time, "perf_counter", lambda: now[0])
    look = watch.TrainingWatch.__call__

    def one_step(self, training: Training) -> None:
        now[0] += 25.0
        look(self, training)

    def save(training: Training, path, *, wall_s: float) -> None:
        made.append((training.step, wall_s))
        now[0] += 1000.0

    monkeypatch.setattr(watch.TrainingWatch, "__call__", one_step)
    monkeypatch.setattr(checkpoint, "save", save)
    def show(training: Training) -> None:
        shown.append(training.step)
        now[0] += 100_000.0

    record = run(task, tmp_path, on_save=show)
    assert watch.CHECKPOINT_EVERY_S == 60.0
    assert made == [(3, 75.0), (6, 101_150.0), (9, 202_225.0)]
    assert shown == [3, 6, 9]
    assert record.epochs.train_s == [125.0, 125.0]


def test_a_full_disk_stops_no_training(tmp_path, monkeypatch):
    sync = os.fsync

    def full(descriptor):
        if "/checkpoints/" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(watch, "CHECKPOINT_EVERY_S", -1.0)
    monkeypatch.setattr(os, "fsync", full)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record = run(misbehaving(), tmp_path)
    assert record.status == "ok"
    expected = "no checkpoint could be written: [Errno 28] No space left on device"
    assert {str(each.message) for each in caught} == {expected}


def test_weights_that_cannot_be_written_cost_no_record(tmp_path):
    task = misbehaving()
    alone = run(task, tmp_path / "alone", keep_weights=tmp_path / "kept")
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.name == f"{task.key}.safetensors"
    (tmp_path / "weights").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match=r"^no weights could be written: \[Errno 17\] File exists: .*weights"):
        record = run(task, tmp_path, keep_weights=tmp_path / "weights")
    assert record.status == "ok"
    assert learnt(record) == learnt(alone)


def test_a_new_checkpoint_clears_the_deaths_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "CHECKPOINT_EVERY_S", -1.0)
    task = misbehaving()
    for _ in range(2):
        Attempt(tmp_path, task.key).begin()
    seen = []
    note = tmp_path / "attempts" / f"{task.key}.json"
    run(task, tmp_path, on_epoch=lambda training: seen.append(note.read_text()))
    assert '"num_deaths":0' in seen[0]


@pytest.mark.parametrize(("own_s", "shared"), [(5.0, True), (9.9, False)])
def test_a_training_that_was_kept_waiting_says_so(own_s, shared, tmp_path, monkeypatch):
    readings = iter([Usage(0.0, None, 0.0), Usage(10.0, None, own_s)])
    monkeypatch.setattr(one_task, "usage", lambda: next(readings))
    assert run(misbehaving(), tmp_path).labels.machine_shared is shared


@torch._dynamo.config.patch(recompile_limit=4)
def test_every_cell_of_a_sweep_is_compiled(tmp_path, monkeypatch):
    """The compiler counts what it compiled for earlier cells, and at its limit runs the next one as it is."""
    graphs = []
    compile_ = torch.compile

    def note(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model, **options: compile_(model, backend=note, dynamic=False))
    numbers = []
    for width in (4, 5, 6, 7):
        config = CellConfig(model=KernelDepthCNN(width=width), data=small_dataset().config,
                            execution=ExecutionConfig(compile="default"),
                            train=TrainConfig(epochs=1, global_batch_size=115))
        del graphs[:]
        record = run(Task("e", experiment.Cell(config=config), quality_key(config, 0), 0, 0.0), tmp_path)
        assert (record.status, record.labels.compiled) == ("ok", True)
        numbers.append(len(graphs))
    assert numbers[0] > 0
    assert set(numbers) == {numbers[0]}


def test_the_confusion_is_of_the_evaluation_whose_accuracy_is_recorded(tmp_path, monkeypatch):
    """Also where test images are augmented anew each time."""
    dataset = small_dataset(60, shift=4, flip="random", augment_test=True)
    monkeypatch.setattr(device, "dataset_of", lambda task, data_dir: dataset)
    config = CellConfig(model=KernelDepthCNN(), data=dataset.config, train=TrainConfig(epochs=1, global_batch_size=20))
    record = run(Task("e", experiment.Cell(config=config), quality_key(config, 0), 0), tmp_path)
    right = sum(row[i] for i, row in enumerate(record.test.confusion))
    assert right / sum(map(sum, record.test.confusion)) == pytest.approx(record.epochs.test_accuracy[-1])


def test_a_model_that_is_no_network_is_of_the_processes_that_were_started():
    config = CellConfig(model=Baseline(estimator="decision_tree", options={"max_depth": 2}))
    task = Task("e", experiment.Cell(config=config), "k", 0)
    assert one_task._fit_baseline(task, 0, small_dataset(60), 2).labels.num_processes == 2
