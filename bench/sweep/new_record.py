"""What becomes of a task, as a record: what it learnt, or why it gave nothing."""

import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench import environment
from bench.record import Epochs, Labels, Record, SpeedRecord, Status, TestDetail, TrainRecord
from bench.sweep.plan import Task
from bench.sweep.watch import TimeoutExceeded
from fmnist_core.config import TrainConfig, to_dict
from fmnist_core.data import Dataset
from fmnist_core.evaluation import History
from fmnist_core.memory import ran_out
from fmnist_core.models.own import OwnNetworkError
from fmnist_core.objective import sign_argmax_accuracy
from fmnist_core.steps import Diverged

NUM_MISTAKES = 20
"""The most confident mistakes on the test set that a record keeps."""
NUM_EXAMPLES = 20
"""Of the first test images, what they were taken for."""
MAX_REASON = 400
"""Characters of an exception that a record keeps."""


def trained(task: Task, dataset: Dataset, history: History, **found: Any) -> TrainRecord:
    """The record of a task that trained to its end. `found`: whatever else of the record is known."""
    assert task.seed is not None
    return TrainRecord(experiment=task.experiment, quality_key=task.key, seed=task.seed, cell=to_dict(task.cell.config),
                       **learnt(dataset, history), **found)


def learnt(dataset: Dataset, history: History) -> dict[str, Any]:
    """What a record says of its epochs, and of the images that they were of."""
    return {"epochs": Epochs(**asdict(history)), "num_train": len(dataset.train),
            "num_validation": len(dataset.validation), "num_test": len(dataset.test)}


def failed(task: Task, status: Status, reason: str, num_processes: int = 1, **found: Any) -> Record:
    """The record of a task that gave no result, as of now and of this machine. `num_processes`: that share it.

    `found`: what is known of a training all the same, as the epochs before it failed.
    """
    about: dict[str, Any] = {"cell": to_dict(task.cell.config), "status": status, "reason": reason,
                             "labels": Labels(num_processes=num_processes),
                             "started_at": environment.now(), "environment": environment.collect()}
    if task.seed is None:
        return SpeedRecord(experiment=task.experiment, speed_key=task.key, repeat=task.repeat, **about)
    return TrainRecord(experiment=task.experiment, quality_key=task.key, seed=task.seed, **{**about, **found})


def details(logits_NK: torch.Tensor, labels_N: torch.Tensor,
            config: TrainConfig) -> tuple[TestDetail, dict[str, float]]:
    """Confusion, worst mistakes, and what else the logits of the test set give; logits and labels on the CPU."""
    num_classes = logits_NK.shape[1]
    confidence_N, predicted_N = logits_NK.softmax(1).max(1)
    confusion = torch.bincount(labels_N * num_classes + predicted_N, minlength=num_classes**2).view(num_classes, -1)
    wrong = (predicted_N != labels_N).nonzero().flatten()
    worst = wrong[confidence_N[wrong].argsort(descending=True, stable=True)][:NUM_MISTAKES]
    about = lambda i: (int(i), int(labels_N[i]), int(predicted_N[i]), round(float(confidence_N[i]), 4))
    is_svm = config.loss == "squared_hinge"
    extra = {"sign_argmax_accuracy": sign_argmax_accuracy(logits_NK, labels_N)} if is_svm else {}
    examples = range(min(NUM_EXAMPLES, len(labels_N)))
    return TestDetail(confusion=confusion.tolist(), mistakes=[about(i) for i in worst],
                      examples=[about(i) for i in examples]), extra


def explain(error: Exception, task: Task) -> tuple[Status, str]:
    """What an exception that ended the task is called in its record, and its reason."""
    if isinstance(error, Diverged):
        return "diverged", str(error)
    if isinstance(error, TimeoutExceeded):
        return "timeout", str(error)
    text = f"{type(error).__name__}: {error}".strip()
    if ran_out(error):
        return "oom", f"{text.splitlines()[0]} (train.global_batch_size = {task.cell.config.train.global_batch_size})"
    if isinstance(error, OwnNetworkError):
        return "error", str(error)
    frame, what = traceback.extract_tb(error.__traceback__)[-1], " ".join(text.split())[:MAX_REASON]
    return "error", f"{what} ({Path(frame.filename).name}, line {frame.lineno}, in {frame.name})"
