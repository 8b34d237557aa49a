"""Fused seeds: the R seeds of a cell trained as one module, each as if it were alone.

R replicas, N images of a batch each, T training images, K classes. A replica has the initialisation and the data order
of its seed; what it learns differs from a training of that seed alone by rounding, and where there is dropout or
augmentation by their draws: all replicas share one generator, so each still gets masks of its own.
"""

import copy
import functools
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fmnist_core import objective
from fmnist_core.accelerator import accelerator_for, be_deterministic
from fmnist_core.average import averaged
from fmnist_core.config import CellConfig, check_capture
from fmnist_core.data import Dataset
from fmnist_core.evaluation import History
from fmnist_core.fused.evaluation import fused_evaluate_epoch
from fmnist_core.fused.layers import FusedSequential, is_fusible
from fmnist_core.fused.tuning import tune
from fmnist_core.initialization import initialize
from fmnist_core.mix import mix
from fmnist_core.models.build import build
from fmnist_core.seeds import set_seed, stream
from fmnist_core.steps import Diverged, Steps

OnFusedStep = Callable[["FusedTraining"], None]


class FusedTraining(Steps):
    """The models of several seeds, their optimizer, and where they are in the run: all at the same step."""

    network: FusedSequential

    def __init__(self, cell: CellConfig, seeds: Sequence[int], dataset: Dataset) -> None:
        """Raises ValueError for a cell that cannot be fused."""
        self.seeds = tuple(seeds)
        super().__init__(cell, dataset, accelerator_for(cell.train.precision))
        be_deterministic(cell.execution.deterministic)
        singles = [_single(cell, seed, dataset) for seed in self.seeds]
        check_fusible(cell, singles[0], self.num_processes)
        check_capture(cell, self.device.type, self.num_processes)

        self._template = singles[0]
        network = FusedSequential(singles).to(self.device)
        self._choose_methods(network)
        self._prepare(network)
        set_seed(stream(self.seeds[0], "step", 0, *self.seeds[1:]))

        num = len(self.seeds)
        self.losses = torch.zeros(self.steps_per_epoch, num, device=self.device)
        self.bad = torch.zeros(num, dtype=torch.bool, device=self.device)
        alternating = cell.data.flip == "alternating"
        starts = [self.flip_start(seed) for seed in self.seeds] if alternating else []
        self.flip_start_TR = torch.stack(starts, dim=1).to(self.device) if starts else None
        self.histories = [History() for _ in self.seeds]
        self.diverged: dict[int, Diverged] = {}
        """By replica."""
        self.running = list(range(num))
        """Replicas that have neither diverged nor stopped early."""
        self.test_logits_NK: list[Tensor | None] = [None] * num
        """Of each replica after its last epoch, on the CPU."""

    @property
    def history(self) -> History:
        """Of one replica that still runs, for displays."""
        return self.histories[self.running[0] if self.running else 0]

    def single(self, replica: int) -> nn.Module:
        """A model of its own with what one replica has learnt, on the CPU."""
        with averaged(self.average):
            return self.network.unfuse(replica, copy.deepcopy(self._template))

    def order(self) -> Tensor:
        """The permutations of this epoch (T, R): of each replica that of its seed alone."""
        return torch.stack([self.permutation(seed) for seed in self.seeds], dim=1).to(self.device)

    def batch(self, index_NR: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, R, C, H, W), augmented, and labels (N, R) (mixed: (N, R, K))."""
        flip = None
        if self.flip_start_TR is not None:
            flip = (self.flip_start_TR.gather(0, index_NR) ^ self.odd_epoch).flatten()
        images, labels = self.dataset.train_batch(index_NR.flatten(), flip)
        images_NRCHW, labels_NR = images.unflatten(0, tuple(index_NR.shape)), labels.view(index_NR.shape)
        data = self.cell.data
        return mix(images_NRCHW, labels_NR, data) if data.mixup or data.cutmix else (images_NRCHW, labels_NR)

    def step_on(self, index_NR: Tensor) -> Tensor:
        """One training step, from index to optimizer; each replica's mean loss."""
        images_NRCHW, labels_NR = self.batch(index_NR)
        return fused_step(self, images_NRCHW, labels_NR)

    def _choose_methods(self, network: FusedSequential) -> None:
        """By timing; where runs must be equal to the bit, timing may not choose."""
        if not self.cell.execution.deterministic:
            tune(network, self.dataset.images(self.dataset.train, self.largest_part()),
                 precision=self.cell.train.precision, captured=self.captured)


def check_fusible(cell: CellConfig, model: nn.Module, num_processes: int = 1) -> None:
    """Raise ValueError for a cell whose seeds cannot be trained as one module; `model` is one of its networks."""
    if cell.train.precision == "fp16":
        raise ValueError("seeds cannot be fused with train.precision = 'fp16': the gradient scaler would let one "
                         "seed's overflow skip the step of all; allowed: 'no', 'bf16'")
    if cell.train.optimizer == "muon" or cell.train.whitening == "frozen":
        option = "optimizer = 'muon'" if cell.train.optimizer == "muon" else "whitening = 'frozen'"
        raise ValueError(f"seeds cannot be fused with train.{option}: fused parameters are one matrix, which hides "
                         "from the optimizer what is a convolution")
    if not is_fusible(model):
        raise ValueError(f"seeds cannot be fused: {type(model).__name__} is no plain sequence of known layers, each of "
                         "them trained")
    if cell.execution.compile == "auto":
        raise ValueError("seeds cannot be fused with execution.compile = 'auto', which times them alone; allowed: "
                         "'no', 'default'")
    if num_processes > 1:
        raise ValueError(f"seeds cannot be fused over {num_processes} processes; allowed: launch.mode = 'cells'")


def fused_step(training: FusedTraining, images_NRCHW: Tensor, labels_NR: Tensor) -> Tensor:
    """Forward, loss, backward, optimizer step, zeroed gradients: `train_step` for R replicas. Their losses (R,)."""
    config = training.cell.train
    loss = torch.vmap(functools.partial(objective.loss, config=config))
    total_R: Tensor | None = None
    for images, labels in zip(images_NRCHW.chunk(config.gradient_accumulation),
                              labels_NR.chunk(config.gradient_accumulation), strict=True):
        losses_R = loss(training.model(images), labels.transpose(0, 1)) * (len(labels) / len(labels_NR))
        training.accelerator.backward(losses_R.sum())  # a replica's loss has no gradient in another's parameters
        total_R = losses_R.detach() if total_R is None else total_R + losses_R.detach()
    assert total_R is not None
    if config.gradient_clip_norm:
        _clip(training.network.parameters_RP, config.gradient_clip_norm)
    training.optimizer.step()
    training.optimizer.zero_grad()
    _hold(training, total_R)
    if training.average is not None:
        training.average.update()
    return total_R


def fused_epoch(training: FusedTraining, on_step: OnFusedStep | None = None) -> list[float]:
    """Train the rest of the current epoch; returns each replica's mean loss. Who diverged no longer runs."""
    batches = training.finish_steps(on_step)
    mean_losses = (training.losses.sum(0) / len(training.dataset.train)).tolist()
    for replica in [r for r in training.running if not math.isfinite(mean_losses[r])]:
        training.running.remove(replica)
        training.diverged[replica] = training.diverged_at(training.losses[:, replica], batches)
    training.epoch, training.step_in_epoch = training.epoch + 1, 0
    return mean_losses


def fused_fit(training: FusedTraining, *, on_step: OnFusedStep | None = None,
              on_epoch: OnFusedStep | None = None) -> list[History | Diverged]:
    """Train to the last epoch, evaluating after each; for every seed what `fit` would return, or raise.

    `train_s` is the time of the epoch for all replicas together. Early stopping ends the history of one replica, and
    the run when none is left. `on_step` and `on_epoch` may raise to stop the run.
    """
    patience = training.cell.train.early_stopping_patience
    while training.epoch < training.cell.train.epochs and training.running:
        start = time.perf_counter()
        mean_losses = fused_epoch(training, on_step)
        train_s = time.perf_counter() - start
        fused_evaluate_epoch(training)
        for replica in training.running:
            training.histories[replica].train_s.append(train_s)
            training.histories[replica].train_loss.append(mean_losses[replica])
        for replica in list(training.running):
            if reason := training.histories[replica].divergence():
                training.running.remove(replica)
                training.diverged[replica] = Diverged(reason)
        if on_epoch is not None and training.running:
            on_epoch(training)
        training.running = [r for r in training.running if not training.histories[r].has_stalled(patience)]
    return [training.diverged.get(replica, training.histories[replica]) for replica in range(len(training.seeds))]


def _single(cell: CellConfig, seed: int, dataset: Dataset) -> nn.Module:
    """The model as `Training` initialises it."""
    set_seed(stream(seed, "init"))
    model = build(cell.model, dataset.input_shape)
    initialize(model, dataset, cell.train)
    return model


@torch.no_grad()
def _clip(parameters_RP: nn.Parameter, max_norm: float) -> None:
    """`torch.nn.utils.clip_grad_norm_`, each replica by the norm of its own gradient."""
    assert parameters_RP.grad is not None
    norm_R1 = parameters_RP.grad.norm(dim=1, keepdim=True)
    parameters_RP.grad.mul_((max_norm / (norm_R1 + 1e-6)).clamp(max=1.0))


@torch.no_grad()
def _hold(training: FusedTraining, losses_R: Tensor) -> None:
    """From a replica's first loss that is not finite on, its parameters are zero.

    So nothing is left in it that is not finite and that a kernel shared by all replicas could spread.
    """
    training.bad |= ~losses_R.isfinite()
    training.network.parameters_RP.masked_fill_(training.bad.unsqueeze(1), 0.0)
