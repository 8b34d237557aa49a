"""Ways to take one training step of a cell: raw PyTorch, through Accelerate, as this project does, and beyond."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from bench.records.side_records import LedgerLine
from bench.timing.block import Step, Subject
from bench.timing.interleave import interleave
from fmnist_core import objective
from fmnist_core.config import CellConfig, ExecutionConfig
from fmnist_core.cpu.layers import for_cpu
from fmnist_core.data import Dataset
from fmnist_core.models.build import build
from fmnist_core.optimizers import optimizer_for
from fmnist_core.train import Training


class NotHere(Exception):
    """This machine, or this version, cannot do the step this way; or it was not asked for."""


class Way(NamedTuple):
    name: str
    what: str
    prepare: Callable[[], Callable[[], float]]
    """Warms up; returns what times one block and gives its median seconds of a step. Raises NotHere."""


def time_ways(ways: Sequence[Way], rounds: int) -> list[LedgerLine]:
    """Time the ways in turns; one that is not possible here is a line with the reason."""
    blocks: dict[str, Callable[[], float]] = {}
    skipped: dict[str, str] = {}
    for way in ways:
        try:
            blocks[way.name] = way.prepare()
        except NotHere as reason:
            skipped[way.name] = str(reason)
    samples = interleave(blocks, rounds)
    return [LedgerLine(name=way.name, what=way.what, step_s=samples.get(way.name, []),
                       skipped=skipped.get(way.name, "")) for way in ways]


def all_ways(cell: CellConfig, dataset: Dataset, min_block_s: float, *, compiler: bool = True) -> list[Way]:
    """In the order of the ledger. Those after `+ train_step` each add one thing to it, not to the line before."""

    def subject(execution: ExecutionConfig | None = None, step: Callable[[Training], Step] | None = None,
                change: Callable[[Training], None] | None = None) -> Subject:
        training = Training(msgspec.structs.replace(cell, execution=execution or cell.execution), 0, dataset)
        if training.own_loss is not None:
            raise ValueError("the ledger's raw step takes the loss of logits; this network has a training_loss of its "
                             "own")
        if change:
            change(training)
        return Subject(training, step=step(training) if step else None, min_block_s=min_block_s)

    def compiled() -> Callable[[], float]:
        if not compiler:
            raise NotHere("--no-compile")
        try:
            return subject(ExecutionConfig(compile="default")).step_s
        except Exception as error:  # a toolchain that is not there shows itself in many ways
            raise NotHere(": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])) from error

    def captured() -> Callable[[], float]:
        try:
            return subject(ExecutionConfig(capture=True)).step_s
        except (ValueError, RuntimeError) as error:  # refused by this project, or by the GPU
            raise NotHere(next(iter(str(error).strip().splitlines()), type(error).__name__)) from error

    return [
        Way("raw PyTorch", "forward, loss, backward, optimizer step, zeroed gradients",
            lambda: subject(step=raw_step).step_s),
        Way("+ Accelerate", "the same, by Accelerator.prepare and Accelerator.backward",
            lambda: subject(step=accelerated_step).step_s),
        Way("+ train_step", "this project's step: weighted parts, no step after an infinite loss",
            lambda: subject().step_s),
        Way("+ DDP", "train_step, the model in DistributedDataParallel in a world of one",
            lambda: subject(change=_distribute).step_s),
        Way("+ compile", "train_step, the model compiled", compiled),
        Way("+ graph", "train_step and its batch, replayed as one CUDA graph, or on a CPU as a tape", captured),
    ]


def raw_step(training: Training) -> Step:
    """What anyone would write, on a model of its own with the layers that this project trains."""
    config, device = training.cell.train, training.device
    model = build(training.cell.model, training.dataset.input_shape).to(device).to(memory_format=torch.channels_last)
    if device.type == "cpu":
        model = for_cpu(model, channels_last=True)
    optimizer = optimizer_for(model, config)

    def step(training: Training, images_NCHW: Tensor, labels_N: Tensor, global_batch_size: int) -> None:
        loss = objective.loss(model(images_NCHW), labels_N, config)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def accelerated_step(training: Training) -> Step:
    """The same lines with the model and optimizer that Accelerate has prepared."""
    accelerator, config = training.accelerator, training.cell.train
    model, optimizer = training.model, training.optimizer

    def step(training: Training, images_NCHW: Tensor, labels_N: Tensor, global_batch_size: int) -> None:
        loss = objective.loss(model(images_NCHW), labels_N, config)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step


@contextmanager
def world_of_one(device: torch.device) -> Iterator[None]:
    """A process group of this process alone."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(backend, init_method=f"file://{folder}/group", rank=0, world_size=1)
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()


def _distribute(training: Training) -> None:
    training.model = DistributedDataParallel(training.model, gradient_as_bucket_view=True)
