"""One task to one record, whatever happens: a failure is a result with a reason."""

import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import msgspec
import torch
from accelerate import PartialState

from bench import environment
from bench.measure import measure
from bench.plan import Task
from bench.record import Epochs, Labels, Record, SpeedRecord, Status, TestDetail, TrainRecord
from fmnist_core import data
from fmnist_core.config import to_dict
from fmnist_core.observe import observe
from fmnist_core.summary import multiply_adds, num_parameters, summarize
from fmnist_core.train import Diverged, OnStep, Training, accelerator_for, evaluate, fit

NUM_MISTAKES = 20
"""The most confident mistakes on the test set that a record keeps."""


class TimeoutExceeded(Exception):
    """The cell ran longer than the experiment allows."""


def agree(task: Task | None, *, ddp: bool) -> Task | None:
    """Under DDP, rank 0's task in every process; otherwise the task itself."""
    if not ddp:
        return task
    PartialState()  # starts the process group
    box = [task]
    torch.distributed.broadcast_object_list(box, 0)
    return box[0]


def run(task: Task, *, data_dir: str | None, num_threads: int, shared: bool, on_epoch: OnStep | None = None) -> Record:
    """Train or time the task's cell. Every failure but an interruption becomes a record."""
    started_at, start = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    torch.set_num_threads(num_threads)
    try:
        dataset = _dataset(task, data_dir)
        if task.seed is None:
            record: Record = measure(task.cell.config, dataset, experiment=task.experiment, speed_key=task.key)
        else:
            record = _train(task, dataset, on_epoch)
    except Exception as error:
        record = failed(task, *_explain(error))
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    record = msgspec.structs.replace(record, started_at=started_at, environment=environment.collect(num_threads),
                                     labels=msgspec.structs.replace(record.labels, machine_shared=shared))
    if isinstance(record, TrainRecord):
        record = msgspec.structs.replace(record, wall_s=time.perf_counter() - start)
    return record


def failed(task: Task, status: Status, reason: str) -> Record:
    """The record of a task that gave no result."""
    cell = to_dict(task.cell.config)
    if task.seed is None:
        return SpeedRecord(experiment=task.experiment, speed_key=task.key, cell=cell, status=status, reason=reason)
    return TrainRecord(experiment=task.experiment, quality_key=task.key, seed=task.seed, cell=cell, status=status,
                       reason=reason)


def _train(task: Task, dataset: data.Dataset, on_epoch: OnStep | None) -> TrainRecord:
    assert task.seed is not None
    training = Training(task.cell.config, task.seed, dataset)
    labels = Labels(**asdict(observe(training)))
    model = training.accelerator.unwrap_model(training.model, keep_torch_compile=False)
    rows = summarize(model, dataset.input_shape)
    history = fit(training, on_step=_deadline(task.timeout_s), on_epoch=on_epoch)
    return TrainRecord(
        experiment=task.experiment, quality_key=task.key, seed=task.seed, cell=to_dict(task.cell.config),
        epochs=Epochs(**asdict(history)), test=_test_detail(training), num_parameters=num_parameters(model),
        multiply_adds=multiply_adds(rows), num_train=len(dataset.train), num_validation=len(dataset.validation),
        num_test=len(dataset.test), labels=labels,
    )


def _test_detail(training: Training) -> TestDetail:
    """Confusion and worst mistakes; left out under DDP, where no process has all logits."""
    if training.num_processes > 1:
        return TestDetail()
    test = training.dataset.test
    logits_NK = evaluate(training, test, keep_logits=True).logits_NK
    assert logits_NK is not None
    labels_N, num_classes = test.labels_N.cpu(), logits_NK.shape[1]
    confidence_N, predicted_N = logits_NK.softmax(1).max(1)
    confusion = torch.bincount(labels_N * num_classes + predicted_N, minlength=num_classes**2).view(num_classes, -1)
    wrong = (predicted_N != labels_N).nonzero().flatten()
    worst = wrong[confidence_N[wrong].argsort(descending=True, stable=True)][:NUM_MISTAKES]
    mistakes = [(int(i), int(labels_N[i]), int(predicted_N[i]), round(float(confidence_N[i]), 4)) for i in worst]
    return TestDetail(confusion=confusion.tolist(), mistakes=mistakes)


def _deadline(timeout_s: float) -> Callable[[Training], None] | None:
    if not timeout_s:
        return None
    end = time.monotonic() + timeout_s

    def check(training: Training) -> None:
        if time.monotonic() > end:
            raise TimeoutExceeded(f"stopped at step {training.step} of {training.num_steps} after {timeout_s:g} s")

    return check


_datasets: dict[Any, data.Dataset] = {}


def _dataset(task: Task, data_dir: str | None) -> data.Dataset:
    """The last data set is kept on the device: most sweeps have one for all cells."""
    config = task.cell.config.data
    device = accelerator_for(task.cell.config.train.precision).device
    if (config, device) not in _datasets:
        _datasets.clear()
        _datasets[config, device] = data.load(config, device, data_dir)
    return _datasets[config, device]


def _explain(error: Exception) -> tuple[Status, str]:
    text = f"{type(error).__name__}: {error}".strip()
    if isinstance(error, Diverged):
        return "diverged", str(error)
    if isinstance(error, TimeoutExceeded):
        return "timeout", str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "out of memory" in text.lower() \
            or "can't allocate memory" in text.lower():
        return "oom", text.splitlines()[0]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return "error", f"{text.splitlines()[0]} ({frame.name}, line {frame.lineno})"
