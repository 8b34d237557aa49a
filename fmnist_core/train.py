"""The training core, on Accelerate: one process or several, in the precision of the cell.

N images of a batch, K classes; `_R` marks one entry per process (rank). One `train_step` serves training,
measuring and the performance tests. Nothing inside an epoch waits for the device.
"""

import contextlib
import math
import time
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from fmnist_core import compile_choice, objective
from fmnist_core.accelerator import accelerator_for, be_deterministic
from fmnist_core.batches import check_batches
from fmnist_core.config import CellConfig, TrainConfig, check_capture
from fmnist_core.cpu.heap import keep_freed_memory
from fmnist_core.cpu.layers import for_cpu
from fmnist_core.data import Dataset
from fmnist_core.evaluation import History, evaluate, parts
from fmnist_core.initialization import initialize
from fmnist_core.mix import mix
from fmnist_core.models.build import build
from fmnist_core.seeds import set_seed, stream
from fmnist_core.steps import Diverged, Steps
from fmnist_core.sync_norm import synchronize_batch_norm

OnStep = Callable[["Training"], None]


class Training(Steps):
    """A model, its optimizer, and where they are in the run."""

    def __init__(self, cell: CellConfig, seed: int, dataset: Dataset, accelerator: Accelerator | None = None) -> None:
        """Raises ValueError where the model does not fit the images or a batch cannot be shared by the processes."""
        self.compile_timings_s: dict[str, float] = {}
        """Of `execution.compile = 'auto'`: seconds of a step, eager (`no`) and compiled; the faster was chosen."""
        if cell.execution.compile == "auto":
            cell, self.compile_timings_s = compile_choice.faster(cell, lambda tried: Training(tried, 0, dataset))
        super().__init__(cell, dataset, accelerator or accelerator_for(cell.train.precision))
        if dataset.train.labels_N.device.type != self.device.type:
            raise ValueError(f"the data set lies on {dataset.train.labels_N.device}, the training on {self.device}; "
                             "expected one device: fmnist_core.data.load(config, device)")
        self.seed = seed
        check_batches(cell.train, len(dataset.train), self.num_processes)

        if self.device.type == "cpu":
            keep_freed_memory()
        be_deterministic(cell.execution.deterministic)
        set_seed(stream(seed, "init"))
        model = build(cell.model, dataset.input_shape).to(self.device)
        model = model.to(memory_format=_memory_format(cell))
        initialize(model, dataset, cell.train)
        if cell.train.sync_batch_norm and self.num_processes > 1:
            model = synchronize_batch_norm(model, self.device)
        if self.device.type == "cpu" and cell.execution.compile == "no":
            model = for_cpu(model, _memory_format(cell) == torch.channels_last)
        check_capture(cell, self.device.type, self.num_processes)
        self.own_loss = getattr(model, "training_loss", None)
        """Of a network with several heads: (its output, labels, progress in [0, 1)) to the mean loss."""
        check_own_loss(cell, self.own_loss)
        self._prepare(model)
        set_seed(stream(seed, "step", self.rank))  # dropout and augmentation differ between processes

        self.epoch_began = 0.0
        """By `time.perf_counter`, less what the epoch took before a resume and plus what was no training, as a save."""
        self.num_resumes = 0
        """How often this training was taken up from a checkpoint."""
        self.losses = torch.zeros(self.steps_per_epoch, device=self.device)
        self.bad = torch.zeros((), dtype=torch.bool, device=self.device)
        self.history = History()
        self.test_logits_NK: Tensor | None = None
        """Of the last evaluation, on the CPU; nothing under DDP, where no process has them all."""
        alternating = cell.data.flip == "alternating"
        self.flip_start_N = self.flip_start(seed).to(self.device) if alternating else None

    def order(self) -> Tensor:
        return self.permutation(self.seed).to(self.device)

    def batch(self, index_N: Tensor) -> tuple[Tensor, Tensor]:
        """This process's part of the global batch `index_N`, augmented: images and labels (mixed: (N, K))."""
        if self.num_processes > 1:
            index_N = index_N.tensor_split(self.num_processes)[self.rank]
        flip_N = None
        if self.flip_start_N is not None:
            flip_N = self.flip_start_N.index_select(0, index_N) ^ self.odd_epoch
        images_NCHW, labels_N = self.dataset.train_batch(index_N, flip_N)
        data = self.cell.data
        return mix(images_NCHW, labels_N, data) if data.mixup or data.cutmix else (images_NCHW, labels_N)

    def step_on(self, index_N: Tensor) -> Tensor:
        """One training step, from index to optimizer; its part of the mean loss."""
        images_NCHW, labels_N = self.batch(index_N)
        return train_step(self, images_NCHW, labels_N, len(index_N))


def train_step(training: Training, images_NCHW: Tensor, labels_N: Tensor, global_batch_size: int) -> Tensor:
    """Forward, loss, backward, optimizer step, zeroed gradients. Returns this process's part of the mean loss.

    Each part of the batch weighs what it holds of the global batch, so that accumulation and several processes,
    which DDP averages, give the gradient of the global mean.
    """
    config, accelerator, optimizer = training.cell.train, training.accelerator, training.optimizer
    num_parts = config.gradient_accumulation
    parts = [(images_NCHW, labels_N)] if num_parts == 1 else list(
        zip(images_NCHW.chunk(num_parts), labels_N.chunk(num_parts), strict=True))
    total: Tensor | None = None
    for i, (images, labels) in enumerate(parts):
        last = i == len(parts) - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(training.model):
            loss = _loss(training, training.model(images), labels)
            weight = len(labels) * training.num_processes / global_batch_size
            if weight != 1:
                loss = loss * weight
            accelerator.backward(loss)
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None
    _hold_if_not_finite(training, total)
    if config.gradient_clip_norm:
        accelerator.clip_grad_norm_(training.model.parameters(), config.gradient_clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    if training.average is not None:
        training.average.update()
    return total


def train_epoch(training: Training, on_step: OnStep | None = None) -> float:
    """Train the rest of the current epoch; returns its mean loss. Raises Diverged."""
    batches = training.finish_steps(on_step)
    losses = training.accelerator.reduce(training.losses, "mean")  # each process holds its weighted part
    mean_loss = float(losses.sum()) / len(training.dataset.train)
    if not math.isfinite(mean_loss):
        raise training.diverged_at(losses, batches)
    training.epoch, training.step_in_epoch = training.epoch + 1, 0
    return mean_loss


def fit(training: Training, *, on_step: OnStep | None = None, on_epoch: OnStep | None = None) -> History:
    """Train to the last epoch, evaluating after each. Resumes where `training` stands. Raises Diverged.

    `on_step` and `on_epoch` may raise to stop the run; the history keeps the epochs that were finished.
    """
    history = training.history
    while training.epoch < training.cell.train.epochs:
        if training.step_in_epoch == 0:
            training.epoch_began = time.perf_counter()
        mean_loss = train_epoch(training, on_step)
        history.train_s.append(time.perf_counter() - training.epoch_began)  # the mean loss has waited for the device
        history.train_loss.append(mean_loss)
        evaluate_epoch(training)
        if reason := history.divergence():
            raise Diverged(reason)
        if on_epoch is not None:
            on_epoch(training)
        if history.has_stalled(training.cell.train.early_stopping_patience):
            break
    return history


def evaluate_epoch(training: Training) -> None:
    """All splits, after an epoch, into its history."""
    for part, split, limit in parts(training.dataset):
        keeps = part == "test" and training.num_processes == 1
        evaluation = evaluate(training, split, limit=limit, keep_logits=keeps)
        if keeps:
            training.test_logits_NK = evaluation.logits_NK
        training.history.add(part, evaluation.loss, evaluation.accuracy)


def _loss(training: Training, output: Tensor, labels_N: Tensor) -> Tensor:
    if training.own_loss is None:
        return objective.loss(output, labels_N, training.cell.train)
    progress = training.step / training.num_steps if training.progress is None else training.progress
    loss: Tensor = training.own_loss(output, labels_N, progress)
    return loss


def _hold_if_not_finite(training: Training, loss: Tensor) -> None:
    """From the first loss that is not finite on, fused optimizers skip their step: no wait, nothing spread.

    Under fp16 the gradient scaler owns this switch; RMSprop has none, its epoch is lost.
    """
    training.bad |= ~loss.isfinite()
    if training.cell.train.precision != "fp16":
        training.torch_optimizer.found_inf = training.bad.float()


def check_own_loss(cell: CellConfig, own_loss: object) -> None:
    """What such a network would not heed."""
    if own_loss is None:
        return
    data, train, default = cell.data, cell.train, TrainConfig()
    if data.mixup or data.cutmix:
        raise ValueError(f"data.{'mixup' if data.mixup else 'cutmix'} does not go with a network that has a loss "
                         "of its own, which takes no mixed labels")
    for key in ("loss", "label_smoothing"):
        if (value := getattr(train, key)) != getattr(default, key):
            raise ValueError(f"train.{key} = {value!r} has no effect on a network that has a loss of its own; allowed: "
                             f"{getattr(default, key)!r}")


def _memory_format(cell: CellConfig) -> torch.memory_format:
    channels_last = cell.execution.memory_format == "channels_last"
    return torch.channels_last if channels_last else torch.contiguous_format
