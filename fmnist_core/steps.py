"""Where a training stands in its run and how it takes its next step: what one seed and fused seeds have in common.

N images of a batch (with fused seeds the index of a batch is (N, R)), S steps of the run.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fmnist_core.average import Average
from fmnist_core.batches import shares
from fmnist_core.capture import Replay
from fmnist_core.config import CellConfig
from fmnist_core.data import Dataset
from fmnist_core.optimizers import optimizer_for, set_learning_rate
from fmnist_core.schedule import learning_rate
from fmnist_core.seeds import stream


class Diverged(ArithmeticError):
    """The loss was not finite. Fused optimizers have not stepped since."""


class Steps:
    """The base of `Training` and `FusedTraining`, which say what a step is."""

    accelerator: Accelerator
    network: nn.Module
    """The module itself, which trains in place."""
    model: Any
    """The network as Accelerate prepared it, compiled where the cell asks for it."""
    average: Average | None
    replay: Replay | None
    """What takes the steps, where they are captured."""
    losses: Tensor
    """Of the epoch's steps so far: the loss times the images of the batch."""
    bad: Tensor
    """Whether a loss was not finite."""

    def __init__(self, cell: CellConfig, dataset: Dataset, accelerator: Accelerator) -> None:
        """At step 0 of a run of `cell`."""
        self.cell, self.dataset, self.accelerator = cell, dataset, accelerator
        self.device = accelerator.device
        self.rank, self.num_processes = accelerator.process_index, accelerator.num_processes
        self.batch_size = cell.train.global_batch_size
        self.steps_per_epoch = math.ceil(len(dataset.train) / self.batch_size)
        self.num_steps = cell.train.epochs * self.steps_per_epoch
        self.epoch, self.step_in_epoch = 0, 0
        self.captured = cell.execution.capture
        self.odd_epoch = torch.zeros((), dtype=torch.bool, device=self.device)
        """Set before the steps of an epoch; a tensor, since captured steps see no Python number change."""
        self.progress: Tensor | None = None
        """The fraction of the run before the step that is being captured."""

    def _prepare(self, network: nn.Module) -> None:
        """The network, which lies on the device, for training; with its optimizer and what else follows it."""
        self.tf32_before_prepare = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        self.model, self.optimizer = self.accelerator.prepare(network, optimizer_for(network, self.cell.train))
        # Only now: under DDP on CPUs, preparing moves parameters to other memory.
        self.network = self.accelerator.unwrap_model(self.model)
        self.average = Average(self.network, self.cell.train.ema) if self.cell.train.ema else None
        if self.cell.execution.compile != "no":
            self._compile(self.cell.execution.compile)
        self.replay = Replay(self.torch_optimizer, self.rates()) if self.captured else None

    def _compile(self, mode: str) -> None:
        """The model; under DDP the network inside. DDP's own forward cannot be traced, and where the compiler gives up
        there it also leaves an `nn.Sequential` as it is, since it compiles none of PyTorch's own modules by itself."""
        if self.num_processes > 1:
            self.model.module = torch.compile(self.network, mode=mode, dynamic=False)
        else:
            self.model = torch.compile(self.model, mode=mode, dynamic=False)

    @property
    def torch_optimizer(self) -> Any:
        """The optimizer inside Accelerate's."""
        return self.optimizer.optimizer

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.epoch * self.steps_per_epoch + self.step_in_epoch

    def largest_part(self) -> Tensor:
        """The indices of as many training images as a step has at once in this process."""
        share = shares(min(self.batch_size, len(self.dataset.train)), self.num_processes)[1]
        return torch.arange(math.ceil(share / self.cell.train.gradient_accumulation), device=self.device)

    def step_on(self, index_N: Tensor) -> Tensor:
        """One step, from index to optimizer; its loss."""
        raise NotImplementedError

    def order(self) -> Tensor:
        """The indices of this epoch's images, in the order in which they are trained on."""
        raise NotImplementedError

    def permutation(self, seed: int) -> Tensor:
        """Of the training set for this epoch: the same in every process and on every device."""
        generator = torch.Generator().manual_seed(stream(seed, "order", self.epoch))
        return torch.randperm(len(self.dataset.train), generator=generator)

    def flip_start(self, seed: int) -> Tensor:
        """Which images are flipped in the epochs of even number, where flips alternate."""
        generator = torch.Generator().manual_seed(stream(seed, "flip"))
        return torch.rand(len(self.dataset.train), generator=generator) < 0.5

    def diverged_at(self, losses_S: Tensor, batches: Sequence[Tensor]) -> Diverged:
        """In the epoch of these losses, one of which is not finite."""
        step = int((~losses_S.isfinite()).nonzero()[0])
        return Diverged(f"the loss was {losses_S[step].item() / len(batches[step])} at step "
                        f"{self.epoch * self.steps_per_epoch + step + 1} of {self.num_steps}")

    def finish_steps(self, on_step: Callable[[Any], None] | None) -> Sequence[Tensor]:
        """Take the steps that are left of the epoch; the indices of all its batches."""
        self.model.train()
        if self.step_in_epoch == 0:
            self.losses.zero_()
        self.odd_epoch.fill_(bool(self.epoch % 2))
        batches: Sequence[Tensor] = self.order().split(self.batch_size)
        while self.step_in_epoch < len(batches):
            self.advance(batches)
            if on_step is not None:
                on_step(self)
        return batches

    def advance(self, batches: Sequence[Tensor]) -> None:
        """Take the next of `batches`, the indices of an epoch."""
        if self.replay is not None:
            self.replay.advance(self, batches)
            return
        index_N = batches[self.step_in_epoch]
        self.set_learning_rate()
        self.losses[self.step_in_epoch] = self.step_on(index_N) * len(index_N)
        self.step_in_epoch += 1

    def set_learning_rate(self) -> None:
        set_learning_rate(self.optimizer, learning_rate(self.step, self.num_steps, self.cell.train))

    def rates(self) -> Tensor:
        """The learning rate of every step (S,), on the device."""
        rates = [learning_rate(step, self.num_steps, self.cell.train) for step in range(self.num_steps)]
        return torch.tensor(rates, dtype=torch.float32, device=self.device)
