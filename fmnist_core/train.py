"""The training core: the only file that touches Accelerate.

N images of a batch, K classes; `_R` marks one entry per process (rank). One `train_step` serves training,
measuring and the performance tests. Nothing inside an epoch waits for the device.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from fmnist_core import capture, objective
from fmnist_core.config import CellConfig, Precision, TrainConfig
from fmnist_core.data import Dataset, Split
from fmnist_core.models.build import build
from fmnist_core.schedule import learning_rate
from fmnist_core.seeds import stream
from fmnist_core.sync_norm import synchronize_batch_norm

EVALUATION_BATCH = 1000
TRAIN_SUBSET = 10_000
"""Training images, the first ones, on which the fit itself is evaluated."""

OnStep = Callable[["Training"], None]


class Diverged(ArithmeticError):
    """The loss was not finite. Fused optimizers have not stepped since."""


@dataclass(frozen=True)
class Evaluation:
    loss: float
    """Mean cross-entropy (or the cell's own loss) over the split."""
    accuracy: float
    """Fraction."""
    logits_NK: Tensor | None = None
    """Of the whole split in its order, on the CPU; only where asked for, in one process."""


@dataclass
class History:
    """One entry per finished epoch."""

    train_loss: list[float] = field(default_factory=list)
    train_subset_loss: list[float] = field(default_factory=list)
    train_subset_accuracy: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    train_s: list[float] = field(default_factory=list)


def accelerator_for(precision: Precision) -> Accelerator:
    """An Accelerator that really has this precision.

    Accelerate keeps one precision per process; its state is cleared when another is asked for, so that one command
    can compare precisions. The process group, if there is one, lives on.
    """
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    # Accelerate makes no group of processes on CPUs unless it is told that they are.
    on_cpus = "LOCAL_RANK" in os.environ and not torch.cuda.is_available()
    accelerator = Accelerator(mixed_precision=precision, cpu=on_cpus, kwargs_handlers=[ddp])
    assert accelerator.num_processes == int(os.environ.get("WORLD_SIZE", 1)), accelerator.num_processes
    assert accelerator.mixed_precision == precision, (accelerator.mixed_precision, precision)
    return accelerator


class Training:
    """A model, its optimizer, and where they are in the run."""

    def __init__(self, cell: CellConfig, seed: int, dataset: Dataset, accelerator: Accelerator | None = None) -> None:
        """Raises ValueError where the model does not fit the images or a batch cannot be shared by the processes."""
        self.cell, self.seed, self.dataset = cell, seed, dataset
        self.accelerator = accelerator or accelerator_for(cell.train.precision)
        self.rank, self.num_processes = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device
        self.batch_size = cell.train.global_batch_size
        self.steps_per_epoch = math.ceil(len(dataset.train) / self.batch_size)
        self.num_steps = cell.train.epochs * self.steps_per_epoch
        _check_batches(len(dataset.train), self.batch_size, self.num_processes)

        be_deterministic(cell.execution.deterministic)
        torch.manual_seed(stream(seed, "init"))
        model = build(cell.model, dataset.input_shape).to(self.device)
        model = model.to(memory_format=_memory_format(cell))
        if cell.train.sync_batch_norm and self.num_processes > 1:
            model = synchronize_batch_norm(model, self.device)
        optimizer = optimizer_for(model, cell.train)
        self.tf32_before_prepare = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        self.captured = cell.execution.capture
        if self.captured:
            capture.check(cell, model, self.device, self.num_processes)
        self.own_loss = getattr(model, "training_loss", None)
        """Of a network with several heads: (its output, labels, progress in [0, 1)) to the mean loss."""
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        if cell.execution.compile != "no":
            self.model = torch.compile(self.model, mode=cell.execution.compile, dynamic=False)
        torch.manual_seed(stream(seed, "step", self.rank))  # dropout and augmentation differ between processes

        self.epoch, self.step_in_epoch = 0, 0
        self.epoch_began = 0.0
        """By `time.perf_counter`, less what the epoch took before a resume and plus what was no training, as a save."""
        self.losses = torch.zeros(self.steps_per_epoch, device=self.device)
        self.bad = torch.zeros((), dtype=torch.bool, device=self.device)
        self.history = History()
        self.flip_start_N = self._flip_start()
        self.odd_epoch = torch.zeros((), dtype=torch.bool, device=self.device)
        """For captured steps, which see a tensor change but no Python number."""
        self.replay = capture.Replay(self.optimizer, self._rates()) if self.captured else None

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.epoch * self.steps_per_epoch + self.step_in_epoch

    def order(self) -> Tensor:
        """The permutation of the training set for this epoch: the same in every process and on every device."""
        generator = torch.Generator().manual_seed(stream(self.seed, "order", self.epoch))
        return torch.randperm(len(self.dataset.train), generator=generator).to(self.device)

    def batch(self, index_N: Tensor) -> tuple[Tensor, Tensor]:
        """This process's part of the global batch `index_N`: images and labels, augmented."""
        if self.num_processes > 1:
            index_N = index_N.tensor_split(self.num_processes)[self.rank]
        flip_N = None
        if self.flip_start_N is not None:
            odd_epoch = bool(self.epoch % 2) if self.replay is None else self.odd_epoch
            flip_N = self.flip_start_N.index_select(0, index_N) ^ odd_epoch
        return self.dataset.train_batch(index_N, flip_N)

    def step_on(self, index_N: Tensor) -> Tensor:
        """One training step, from index to optimizer; its part of the mean loss."""
        images_NCHW, labels_N = self.batch(index_N)
        return train_step(self, images_NCHW, labels_N, len(index_N))

    def set_learning_rate(self) -> None:
        rate = learning_rate(self.step, self.num_steps, self.cell.train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _rates(self) -> Tensor:
        """The learning rate of every step."""
        rates = [learning_rate(step, self.num_steps, self.cell.train) for step in range(self.num_steps)]
        return torch.tensor(rates, dtype=torch.float32, device=self.device)

    def _flip_start(self) -> Tensor | None:
        if self.cell.data.flip != "alternating":
            return None
        generator = torch.Generator().manual_seed(stream(self.seed, "flip"))
        return (torch.rand(len(self.dataset.train), generator=generator) < 0.5).to(self.device)


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
    return total


def train_epoch(training: Training, on_step: OnStep | None = None) -> float:
    """Train the rest of the current epoch; returns its mean loss. Raises Diverged."""
    training.model.train()
    if training.step_in_epoch == 0:
        training.losses.zero_()
    training.odd_epoch.fill_(bool(training.epoch % 2))
    batches = training.order().split(training.batch_size)
    while training.step_in_epoch < len(batches):
        if training.replay is not None:
            training.replay.advance(training, batches)
        else:
            index_N = batches[training.step_in_epoch]
            training.set_learning_rate()
            training.losses[training.step_in_epoch] = training.step_on(index_N) * len(index_N)
            training.step_in_epoch += 1
        if on_step is not None:
            on_step(training)
    losses = training.accelerator.reduce(training.losses, "mean")  # each process holds its weighted part
    mean_loss = float(losses.sum()) / len(training.dataset.train)
    if not math.isfinite(mean_loss):
        step = int((~losses.isfinite()).nonzero()[0])
        size = len(batches[step])
        raise Diverged(f"the loss was {losses[step].item() / size} at step "
                       f"{training.epoch * training.steps_per_epoch + step + 1} of {training.num_steps}")
    training.epoch, training.step_in_epoch = training.epoch + 1, 0
    return mean_loss


def evaluate(training: Training, split: Split, *, limit: int | None = None, keep_logits: bool = False) -> Evaluation:
    """Loss and accuracy over all of `split` (or its first `limit` images), in evaluation mode.

    Each process takes every num_processes-th image; that all were seen, each once, is counted and not assumed.
    """
    num = len(split) if limit is None else min(limit, len(split))
    model, device = _model_to_evaluate(training), training.device
    model.eval()
    seen_N = torch.zeros(num, dtype=torch.int32, device=device)
    sums_2 = torch.zeros(2, dtype=torch.float64, device=device)
    mine = torch.arange(training.rank, num, training.num_processes, device=device)
    kept = []
    with torch.inference_mode():
        for index_N in mine.split(EVALUATION_BATCH):
            logits_NK = model(training.dataset.images(split, index_N)).float()
            labels_N = split.labels_N.index_select(0, index_N)
            loss = objective.loss(logits_NK, labels_N, training.cell.train)
            sums_2 += torch.stack([loss * len(index_N), (logits_NK.argmax(1) == labels_N).sum()])
            seen_N.index_add_(0, index_N, torch.ones_like(index_N, dtype=torch.int32))
            if keep_logits:
                kept.append(logits_NK.cpu())
    model.train()
    sums_2, seen_N = training.accelerator.reduce(sums_2, "sum"), training.accelerator.reduce(seen_N, "sum")
    if not bool((seen_N == 1).all()):
        raise AssertionError(f"evaluation saw {int((seen_N == 1).sum())} of {num} images once, "
                             f"{int((seen_N > 1).sum())} more often")
    loss_sum, num_right = sums_2.tolist()
    return Evaluation(loss_sum / num, num_right / num, torch.cat(kept) if keep_logits else None)


def fit(training: Training, *, on_step: OnStep | None = None, on_epoch: OnStep | None = None) -> History:
    """Train to the last epoch, evaluating after each. Resumes where `training` stands. Raises Diverged.

    `on_step` and `on_epoch` may raise to stop the run; the history keeps the epochs that were finished.
    """
    history, dataset, patience = training.history, training.dataset, training.cell.train.early_stopping_patience
    while training.epoch < training.cell.train.epochs:
        if training.step_in_epoch == 0:
            training.epoch_began = time.perf_counter()
        mean_loss = train_epoch(training, on_step)
        history.train_s.append(time.perf_counter() - training.epoch_began)  # the mean loss has waited for the device
        history.train_loss.append(mean_loss)
        _evaluate_epoch(training, dataset)
        if on_epoch is not None:
            on_epoch(training)
        accuracies = history.validation_accuracy
        if patience and len(accuracies) - 1 - accuracies.index(max(accuracies)) >= patience:
            break
    return history


def be_deterministic(wanted: bool) -> None:
    """Deterministic algorithms only, or any. On CUDA cuBLAS must be told before its first use, by the environment."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = False


def optimizer_for(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Fused where torch has it: one kernel for all parameters, on the CPU too."""
    parameters, rate, decay = model.parameters(), config.learning_rate, config.weight_decay
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, rate, weight_decay=decay, fused=True)
        case "adamw":
            return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)
        case "sgd":
            return torch.optim.SGD(parameters, rate, config.momentum, weight_decay=decay, nesterov=config.nesterov,
                                   fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, rate, weight_decay=decay, momentum=config.momentum, foreach=True)


def _evaluate_epoch(training: Training, dataset: Dataset) -> None:
    history = training.history
    parts = [(dataset.train, history.train_subset_loss, history.train_subset_accuracy),
             (dataset.test, history.test_loss, history.test_accuracy)]
    if len(dataset.validation):
        parts.append((dataset.validation, history.validation_loss, history.validation_accuracy))
    for split, losses, accuracies in parts:
        evaluation = evaluate(training, split, limit=TRAIN_SUBSET if split is dataset.train else None)
        losses.append(evaluation.loss)
        accuracies.append(evaluation.accuracy)


def _model_to_evaluate(training: Training) -> nn.Module:
    """Under DDP the module inside, with rank 0's batch statistics: DDP's forward would wait for the other processes,
    which may have a batch less to evaluate, and each process's last step left it statistics of its own."""
    if training.num_processes == 1:
        model: nn.Module = training.model
        return model
    model = training.accelerator.unwrap_model(training.model)
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, 0)
    return model


def _loss(training: Training, output: Tensor, labels_N: Tensor) -> Tensor:
    if training.own_loss is None:
        return objective.loss(output, labels_N, training.cell.train)
    loss: Tensor = training.own_loss(output, labels_N, training.step / training.num_steps)
    return loss


def _hold_if_not_finite(training: Training, loss: Tensor) -> None:
    """From the first loss that is not finite on, fused optimizers skip their step: no wait, nothing spread.

    Under fp16 the gradient scaler owns this switch; RMSprop has none, its epoch is lost.
    """
    training.bad |= ~loss.isfinite()
    if training.cell.train.precision != "fp16":
        inner = getattr(training.optimizer, "optimizer", training.optimizer)
        inner.found_inf = training.bad.float()


def _check_batches(num_train: int, batch_size: int, num_processes: int) -> None:
    smallest = num_train % batch_size or batch_size
    if smallest < num_processes:
        raise ValueError(f"train.global_batch_size = {batch_size} leaves a batch of {smallest} images, "
                         f"too few for {num_processes} processes")


def _memory_format(cell: CellConfig) -> torch.memory_format:
    channels_last = cell.execution.memory_format == "channels_last"
    return torch.channels_last if channels_last else torch.contiguous_format
