"""One task to one record, whatever happens: a failure is a result with a reason."""

import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict
from enum import IntEnum
from pathlib import Path
from signal import SIGTERM
from typing import Any

import msgspec
import torch

from bench import environment
from bench.measure import measure
from bench.record import Epochs, Labels, Record, SpeedRecord, Status, TestDetail, TrainRecord
from bench.store import StoreError
from bench.sweep import launch, ranks
from bench.sweep.attempts import Attempt
from bench.sweep.plan import Task
from bench.timing.other_processes import kept_waiting, usage
from fmnist_core import baselines, checkpoint, data, weights
from fmnist_core.accelerator import accelerator_for
from fmnist_core.clock import synchronize
from fmnist_core.config import Baseline, TrainConfig, to_dict
from fmnist_core.evaluation import History, evaluate
from fmnist_core.memory import free_memory, ran_out
from fmnist_core.models.own import OwnNetworkError
from fmnist_core.objective import sign_argmax_accuracy
from fmnist_core.observe import observe, reset_graph_counts
from fmnist_core.steps import Diverged
from fmnist_core.summary import multiply_adds, num_parameters, summarize
from fmnist_core.train import OnStep, Training, fit

NUM_MISTAKES = 20
"""The most confident mistakes on the test set that a record keeps."""
NUM_EXAMPLES = 20
"""Of the first test images, what they were taken for."""
CHECKPOINT_EVERY_S = 60.0
"""Wall time between two checkpoints of a training."""
MAX_REASON = 400
"""Characters of an exception that a record keeps."""
AGREE_EVERY = 10
"""Steps between two agreements of the processes that share a cell."""


class TimeoutExceeded(Exception):
    """The cell ran longer than the experiment allows."""


def run(task: Task, attempt: Attempt, *, data_dir: str | None, num_threads: int, shared: Callable[[], bool],
        notice: launch.Notice, on_epoch: OnStep | None = None, on_save: OnStep | None = None,
        keep_weights: Path | None = None) -> Record:
    """Train, from the attempt's checkpoint if there is one, or time the task's cell.

    `shared` says whether other work runs on the machine; it is asked before, after, and once an epoch.
    `on_save` is called off the training's clock, once in CHECKPOINT_EVERY_S.
    `keep_weights`: the folder for the trained weights, named by their quality key.

    Every failure becomes a record. Raises Stopped on notice, and GroupBroken where processes share the cell and one of
    them failed: then the record is made of what they reported, when they have been started again.
    """
    started_at, watch = environment.now(), _Watch(task, attempt, notice, on_save)
    set_up(task, num_threads)
    before, others = usage(), SharedMachineWatch(shared, on_epoch)
    try:
        dataset = dataset_of(task, data_dir)
        if task.seed is None:
            record: Record = measure(task.cell.config, dataset, experiment=task.experiment, speed_key=task.key)
        else:
            record = _train(task, dataset, watch, others.after_epoch, keep_weights)
            on_cpu = dataset.train.labels_N.device.type == "cpu" and attempt.num_processes == 1
            others.seen |= on_cpu and kept_waiting(before, usage())
    except Exception as error:
        record = failed(task, *explain(error, task), attempt.num_processes)
        if attempt.num_processes > 1:
            ranks.fail(attempt, error, record.status, record.reason)
    if record.status == "oom" or torch.cuda.is_available():
        free_memory()
    labels = msgspec.structs.replace(record.labels, machine_shared=others.check())
    record = msgspec.structs.replace(record, started_at=started_at, environment=environment.collect(num_threads),
                                     labels=labels)
    if isinstance(record, TrainRecord):
        record = msgspec.structs.replace(record, wall_s=watch.wall_s)
    return record


class SharedMachineWatch:
    """Whether other work was `seen` beside a training, at any of the times when `shared` was asked for it."""

    def __init__(self, shared: Callable[[], bool], on_epoch: Callable[[Any], None] | None) -> None:
        self._shared, self._on_epoch, self.seen = shared, on_epoch, shared()

    def check(self) -> bool:
        self.seen |= self._shared()
        return self.seen

    def after_epoch(self, training: Any) -> None:
        self.check()
        if self._on_epoch is not None:
            self._on_epoch(training)


def set_up(task: Task, num_threads: int) -> None:
    """The process for a task. A compiler counts what it did for earlier ones, and at its limit would stop compiling."""
    torch.set_num_threads(num_threads)
    if task.cell.config.execution.compile != "no":
        reset_graph_counts()


def trained(task: Task, dataset: data.Dataset, history: History, **found: Any) -> TrainRecord:
    """The record of a task that trained to its end. `found`: whatever else of the record is known."""
    assert task.seed is not None
    return TrainRecord(
        experiment=task.experiment, quality_key=task.key, seed=task.seed, cell=to_dict(task.cell.config),
        epochs=Epochs(**asdict(history)), num_train=len(dataset.train), num_validation=len(dataset.validation),
        num_test=len(dataset.test), **found)


def failed(task: Task, status: Status, reason: str, num_processes: int = 1) -> Record:
    """The record of a task that gave no result, found out now and here. `num_processes`: that share it."""
    about: dict[str, Any] = {"cell": to_dict(task.cell.config), "status": status, "reason": reason,
                             "labels": Labels(num_processes=num_processes),
                             "started_at": environment.now(), "environment": environment.collect()}
    if task.seed is None:
        return SpeedRecord(experiment=task.experiment, speed_key=task.key, **about)
    return TrainRecord(experiment=task.experiment, quality_key=task.key, seed=task.seed, **about)


def check_device(*, gpu: bool) -> None:
    """Raise ValueError where torch trains elsewhere than the driver's tool says."""
    found = torch.cuda.is_available() and not environment.is_told_to_use_cpu()
    if gpu and not found:
        raise ValueError(f"nvidia-smi lists a GPU, but torch {torch.__version__} finds none: install a torch for GPUs "
                         "that fits the driver, or train on the CPU with CUDA_VISIBLE_DEVICES=''")
    if found and not gpu:
        raise ValueError(f"torch {torch.__version__} finds a GPU, but nvidia-smi lists none, and records would name "
                         "the wrong device: install nvidia-smi, or train on the CPU with CUDA_VISIBLE_DEVICES=''")


def _train(task: Task, dataset: data.Dataset, watch: "_Watch", on_epoch: OnStep | None,
           keep_weights: Path | None) -> TrainRecord:
    assert task.seed is not None
    if isinstance(task.cell.config.model, Baseline):
        return _fit_baseline(task, task.seed, dataset, watch.num_processes)
    training = Training(task.cell.config, task.seed, dataset)
    labels = Labels(**asdict(observe(training)))
    model = training.network
    rows = summarize(model, dataset.input_shape)
    watch.resume(training)
    labels = msgspec.structs.replace(labels, num_resumes=training.num_resumes)
    history = fit(training, on_step=watch, on_epoch=on_epoch)
    if keep_weights is not None and training.rank == 0:
        _save_weights(keep_weights / f"{task.key}.safetensors", training)
    test, extra = _details(training)
    return trained(task, dataset, history, labels=labels, test=test, extra=extra,
                   num_parameters=num_parameters(model), multiply_adds=multiply_adds(rows))


def _save_weights(path: Path, training: Training) -> None:
    """A file that cannot be written is no reason to lose what was learnt: the record has its accuracies without it."""
    try:
        weights.save(path, training)
    except OSError as error:
        warnings.warn(f"no weights could be written: {error}", stacklevel=2)


def _fit_baseline(task: Task, seed: int, dataset: data.Dataset, num_processes: int) -> TrainRecord:
    """One uninterrupted fit: neither checkpoints nor the cell's time limit apply."""
    fitted = baselines.fit(task.cell.config, seed, dataset)
    return trained(task, dataset, fitted.history, test=TestDetail(confusion=fitted.confusion_KK), extra=fitted.extra,
                   labels=Labels(precision=fitted.precision, num_processes=num_processes))


class _Wish(IntEnum):
    """What a process wants after a step. Of several processes, the largest wish is done by all."""

    NOTHING = 0
    SAVE = 1
    STOP = 2
    TIME_IS_UP = 3


class _Watch:
    """Called after each step of a training: saves now and then, and stops on notice or when the cell's time is up."""

    def __init__(self, task: Task, attempt: Attempt, notice: launch.Notice, on_save: OnStep | None) -> None:
        self._timeout_s, self._attempt, self._notice, self._on_save = task.timeout_s, attempt, notice, on_save
        self._began = self._saved = time.perf_counter()
        self.num_processes = attempt.num_processes

    @property
    def wall_s(self) -> float:
        """Since the cell began, what it took before a resume included."""
        return time.perf_counter() - self._began

    def resume(self, training: Training) -> None:
        earlier_s = checkpoint.load(training, self._attempt.checkpoint)
        self._began -= earlier_s or 0.0

    def __call__(self, training: Training) -> None:
        wish = self._wish()
        if training.num_processes > 1:
            if training.step_in_epoch % AGREE_EVERY and training.step_in_epoch < training.steps_per_epoch:
                return
            wish = _Wish(max(ranks.tell(wish, launch.ddp_timeout_s() / 2)))
        if wish in (_Wish.SAVE, _Wish.STOP):
            self._save(training)
        if wish == _Wish.STOP:
            self._attempt.stop()
            raise launch.Stopped(self._notice.number or SIGTERM)
        if wish == _Wish.TIME_IS_UP:
            raise TimeoutExceeded(f"stopped at step {training.step} of {training.num_steps} "
                                  f"after {self._timeout_s:g} s")

    def _wish(self) -> _Wish:
        if self._timeout_s and self.wall_s > self._timeout_s:
            return _Wish.TIME_IS_UP
        if self._notice.number:
            return _Wish.STOP
        return _Wish.SAVE if time.perf_counter() - self._saved > CHECKPOINT_EVERY_S else _Wish.NOTHING

    def _save(self, training: Training) -> None:
        """Off the training's clock. A disk that is full is no reason to stop."""
        synchronize(training.device)
        start = time.perf_counter()
        try:
            checkpoint.save(training, self._attempt.checkpoint, wall_s=self.wall_s)
            if training.accelerator.is_main_process:
                self._attempt.progressed()
        except (OSError, StoreError) as error:
            warnings.warn(f"no checkpoint could be written: {error}", stacklevel=2)
        if self._on_save is not None:
            self._on_save(training)
        self._saved = time.perf_counter()
        training.epoch_began += self._saved - start


def _details(training: Training) -> tuple[TestDetail, dict[str, float]]:
    """Nothing under DDP: no process has all logits."""
    if training.num_processes > 1:
        return TestDetail(), {}
    test = training.dataset.test
    logits_NK = training.test_logits_NK
    if logits_NK is None:  # taken up where nothing was left to train
        logits_NK = evaluate(training, test, keep_logits=True).logits_NK
    assert logits_NK is not None
    return details(logits_NK, test.labels_N.cpu(), training.cell.train)


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


_datasets: dict[Any, data.Dataset] = {}


def dataset_of(task: Task, data_dir: str | None) -> data.Dataset:
    """The last data set is kept on the device: most sweeps have one for all cells."""
    config = task.cell.config.data
    device = accelerator_for(task.cell.config.train.precision).device
    if (config, device) not in _datasets:
        _datasets.clear()
        _datasets[config, device] = data.load(config, device, data_dir)
    return _datasets[config, device]


def explain(error: Exception, task: Task) -> tuple[Status, str]:
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
