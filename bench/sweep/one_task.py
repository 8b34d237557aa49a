"""One task to one record, whatever happens: a failure is a result with a reason."""

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import torch

from bench import environment
from bench.measure import measure
from bench.record import Labels, Record, TestDetail, TrainRecord
from bench.sweep import device, new_record, ranks
from bench.sweep.attempts import Attempt
from bench.sweep.conditions import Conditions
from bench.sweep.plan import Task
from bench.sweep.watch import SharedMachineWatch, TrainingWatch
from bench.timing.other_processes import kept_waiting, usage
from fmnist_core import baselines, weights
from fmnist_core.config import Baseline
from fmnist_core.data import Dataset
from fmnist_core.evaluation import evaluate
from fmnist_core.memory import free_memory
from fmnist_core.observe import observe
from fmnist_core.summary import multiply_adds, num_parameters, summarize
from fmnist_core.train import OnStep, Training, fit


def run(task: Task, attempt: Attempt, conditions: Conditions) -> Record:
    """Train, from the attempt's checkpoint if there is one, or time the task's cell.

    Every failure becomes a record. Raises Stopped on notice, and GroupBroken where processes share the cell and one of
    them failed: then the record is made of what they reported, when they have been started again.
    """
    started_at, watch = environment.now(), TrainingWatch(task, attempt, conditions)
    device.set_up(task, conditions.num_threads)
    before, others = usage(), SharedMachineWatch(conditions)
    so_far: dict[str, Any] = {}
    try:
        dataset = device.dataset_of(task, conditions.data_dir)
        if task.seed is None:
            record: Record = measure(task.cell.config, dataset, experiment=task.experiment, speed_key=task.key,
                                     repeat=task.repeat)
        else:
            record = _train(task, dataset, watch, others.after_epoch, conditions.keep_weights, so_far)
            on_cpu = dataset.train.labels_N.device.type == "cpu" and attempt.num_processes == 1
            others.seen |= on_cpu and kept_waiting(before, usage())
    except Exception as error:
        record = new_record.failed(task, *new_record.explain(error, task), attempt.num_processes, **so_far)
        if attempt.num_processes > 1:
            ranks.fail(attempt, error, record.status, record.reason)
    if record.status == "oom" or torch.cuda.is_available():
        free_memory()
    labels = msgspec.structs.replace(record.labels, machine_shared=others.check())
    record = msgspec.structs.replace(record, started_at=started_at, labels=labels,
                                     environment=environment.collect(conditions.num_threads))
    if isinstance(record, TrainRecord):
        record = msgspec.structs.replace(record, wall_s=watch.wall_s)
    return record


def _train(task: Task, dataset: Dataset, watch: TrainingWatch, on_epoch: OnStep | None,
           keep_weights: Path | None, so_far: dict[str, Any]) -> TrainRecord:
    """`so_far` is given what a record says of the training even if it fails."""
    assert task.seed is not None
    if isinstance(task.cell.config.model, Baseline):
        return _fit_baseline(task, task.seed, dataset, watch.num_processes)
    training = Training(task.cell.config, task.seed, dataset)
    labels = Labels(**asdict(observe(training)))
    model = training.network
    rows = summarize(model, dataset.input_shape)
    watch.resume(training)
    labels = msgspec.structs.replace(labels, num_resumes=training.num_resumes)
    so_far |= {"labels": labels, "num_parameters": num_parameters(model), "multiply_adds": multiply_adds(rows)}
    try:
        history = fit(training, on_step=watch, on_epoch=on_epoch)
    finally:
        so_far |= new_record.learnt(dataset, training.history.finished())
    if keep_weights is not None and training.rank == 0:
        _save_weights(keep_weights / f"{task.key}.safetensors", training)
    test, extra = _details(training)
    return new_record.trained(task, dataset, history, labels=labels, test=test, extra=extra,
                              num_parameters=so_far["num_parameters"], multiply_adds=so_far["multiply_adds"])


def _save_weights(path: Path, training: Training) -> None:
    """A file that cannot be written is no reason to lose what was learnt: the record has its accuracies without it."""
    try:
        weights.save(path, training)
    except OSError as error:
        warnings.warn(f"no weights could be written: {error}", stacklevel=2)


def _fit_baseline(task: Task, seed: int, dataset: Dataset, num_processes: int) -> TrainRecord:
    """One uninterrupted fit: neither checkpoints nor the cell's time limit apply."""
    fitted = baselines.fit(task.cell.config, seed, dataset)
    labels = Labels(precision=fitted.precision, num_processes=num_processes)
    return new_record.trained(task, dataset, fitted.history, labels=labels, extra=fitted.extra,
                              test=TestDetail(confusion=fitted.confusion_KK))


def _details(training: Training) -> tuple[TestDetail, dict[str, float]]:
    """Nothing under DDP: no process has all logits."""
    if training.num_processes > 1:
        return TestDetail(), {}
    test = training.dataset.test
    logits_NK = training.test_logits_NK
    if logits_NK is None:  # taken up where nothing was left to train
        logits_NK = evaluate(training, test, keep_logits=True).logits_NK
    assert logits_NK is not None
    return new_record.details(logits_NK, test.labels_N.cpu(), training.cell.train)
