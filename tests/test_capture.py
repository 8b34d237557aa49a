"""Whole-step capture on a CPU, where a step is a tape of its operators; what it shares with CUDA graphs is tested here.

Like a CUDA graph a tape knows operators and tensors alone: Python numbers are frozen at capture, tensors are read where
they lie, random numbers are drawn anew, and asking the host for a value is an error.
"""

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fmnist_core import objective
from fmnist_core.capture import Replay, StepGraph
from fmnist_core.config import (
    CellConfig,
    CitedModel,
    CustomModel,
    DataConfig,
    ExecutionConfig,
    KernelDepthCNN,
    Network1,
    Network2,
    TrainConfig,
    check_capture,
)
from fmnist_core.cpu.tape import Tape
from fmnist_core.data import Dataset
from fmnist_core.fused.training import FusedTraining, fused_fit
from fmnist_core.train import Training, fit, train_epoch
from tests.small import small_dataset

EXACT_RATE = 2**-10
"""The same number in float32, in which a captured step reads it, and in float64."""


def dataset(config: DataConfig) -> Dataset:
    """42 training images: at batch size 10, four batches and a remainder of 2."""
    return replace(small_dataset(42, 10, 10), config=config)


def captured(training: Any) -> Any:
    training.replay = Replay(training.torch_optimizer, training.rates())
    return training


def make(cell: CellConfig, seed: int = 0) -> Training:
    return Training(cell, seed, dataset(cell.data))


def cell_of(model: Any = None, data: DataConfig | None = None, **train: Any) -> CellConfig:
    train = {"epochs": 2, "global_batch_size": 10, "learning_rate": EXACT_RATE, **train}
    return CellConfig(model=model or Network2(dropout=0.0, fc_sizes=(24,)), data=data or DataConfig(),
                      train=TrainConfig(**train))


def asked(cell: CellConfig) -> CellConfig:
    """As users ask for it."""
    return msgspec.structs.replace(cell, execution=msgspec.structs.replace(cell.execution, capture=True))


def assert_same_run(mine: Training, other: Training, tolerance: float = 0.0) -> None:
    for name in ("train_loss", "test_loss", "validation_loss", "train_subset_loss"):
        assert getattr(mine.history, name) == pytest.approx(getattr(other.history, name), abs=tolerance, rel=tolerance)
    for one, two in zip(mine.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


def test_numbers_are_frozen_but_not_tensors() -> None:
    x, rate, out, number = torch.ones(3), torch.tensor(2.0), torch.zeros(3), 5.0

    def work() -> Tensor:
        out.copy_(x * rate + number)
        return out.sum()

    tape = Tape()
    tape.capture(work)
    x.fill_(10.0)
    rate.fill_(3.0)
    number = 7.0
    assert tape.replay() == 105.0
    assert out.tolist() == [35.0] * 3


def test_a_literal_that_is_changed_in_place_begins_anew() -> None:
    x = torch.ones(3)

    def work() -> Tensor:
        total = torch.tensor(0.0)
        for each in x:
            total += each
        return total

    tape = Tape()
    tape.capture(work)
    for i in range(3):
        x.fill_(float(i))
        assert tape.replay() == 3.0 * i


def test_views_several_results_and_changes_in_place_are_replayed() -> None:
    x, count = torch.arange(6.0), torch.zeros(())

    def work() -> Tensor:
        count.add_(1)
        low, high = x.view(2, 3).unbind()  # of what stays, once
        values, places = (low * high).view(3, 1).max(dim=0)  # of what is computed, every time
        values.mul_(count)
        return (values + places).squeeze()

    tape = Tape()
    tape.capture(work)
    expected = []
    for i in range(3):
        x.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).roll(i))
        count.fill_(10 * i)
        expected.append(work().clone())
        count.fill_(10 * i)
        assert torch.equal(tape.replay(), expected[-1])
    assert len({float(each) for each in expected}) == 3


def test_the_host_is_not_waited_for() -> None:
    with pytest.raises(ValueError, match="asks for the value of a tensor"):
        Tape().capture(lambda: torch.zeros(()) + torch.ones(1).item())


class Peeks(nn.Module):
    """A network that reads off the images, by numpy or by the size of a mask, what another batch has otherwise."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.linear, self.by = nn.Linear(784, 10), by

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.linear(images_NCHW.flatten(1))
        if self.by == "numpy":
            return logits * float(np.asarray(images_NCHW).mean())
        if self.by == "mask":
            return logits - logits[logits > logits.mean()].mean()
        return logits + torch.rand(10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("by", "said"), [
    ("numpy", "a replayed step gives other numbers"), ("mask", "a replayed step gives|cannot be recorded"),
    ("generator", "cannot be recorded and played again"),
])
def test_a_network_whose_step_no_tape_holds_is_refused(by: str, said: str) -> None:
    cell = CellConfig(model=CustomModel(factory="tests.test_capture:Peeks", options={"by": by}),
                      train=TrainConfig(global_batch_size=10), execution=ExecutionConfig(capture=True))
    training = make(cell)
    before = [parameter.clone() for parameter in training.model.parameters()]
    with pytest.raises(ValueError, match=said):
        train_epoch(training)
    assert all(torch.equal(*pair) for pair in zip(before, training.model.parameters(), strict=True))


class Draws(nn.Module):
    """A network that draws in Python what a replay cannot draw again."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.linear(images_NCHW.flatten(1)) * random.uniform(0.5, 1.5)
        return logits


class Reassigns(Draws):
    """A buffer that is another tensor after each step: a replay would go on reading the first."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(10))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.linear(images_NCHW.flatten(1))
        self.mean = 0.9 * self.mean + 0.1 * logits.detach().mean(0)
        return logits - self.mean


def test_a_network_that_assigns_a_buffer_anew_is_refused() -> None:
    cell = CellConfig(model=CustomModel(factory="tests.test_capture:Reassigns"), data=DataConfig(),
                      train=TrainConfig(global_batch_size=10), execution=ExecutionConfig(capture=True))
    with pytest.raises(ValueError, match=r"assigns 'mean' anew in a step; change it in place, as with copy_"):
        train_epoch(make(cell))


def test_a_network_that_draws_outside_of_pytorch_is_refused() -> None:
    cell = CellConfig(model=CustomModel(factory="tests.test_capture:Draws"), train=TrainConfig(global_batch_size=10),
                      execution=ExecutionConfig(capture=True))
    with pytest.raises(ValueError, match="draws random numbers from Python or numpy"):
        train_epoch(make(cell))


@pytest.mark.parametrize("cell", [
    CellConfig(model=Network2(), train=TrainConfig(global_batch_size=20)),
    CellConfig(model=Network1(), train=TrainConfig(global_batch_size=20, optimizer="sgd", momentum=0.9)),
    CellConfig(model=KernelDepthCNN(kernel_size=5, depth=2), train=TrainConfig(global_batch_size=20, precision="bf16")),
    CellConfig(model=CitedModel(system="bhatnagar_skip"), train=TrainConfig(global_batch_size=20)),
    CellConfig(model=Network2(), execution=ExecutionConfig(memory_format="contiguous")),
], ids=lambda cell: type(cell.model).__name__ + cell.train.optimizer + cell.train.precision)
def test_captured_equals_eager_to_the_bit_in_the_layers_of_a_cpu(cell: CellConfig) -> None:
    """Networks of full size, whose layers are not PyTorch's own: see `fmnist_core.cpu`."""
    cell = msgspec.structs.replace(cell, train=msgspec.structs.replace(cell.train, learning_rate=EXACT_RATE, epochs=2))
    eager, random_state = make(cell), torch.get_rng_state()
    fit(eager)
    replayed = make(asked(cell))
    torch.set_rng_state(random_state)
    fit(replayed)
    assert replayed.replay is not None
    assert eager.replay is None
    assert_same_run(replayed, eager)


@pytest.mark.parametrize("settings", [
    {"optimizer": "adam"},
    {"optimizer": "adamw", "weight_decay": 0.01},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    {"optimizer": "adam", "gradient_accumulation": 2},
    {"optimizer": "adam", "label_smoothing": 0.1},
    {"optimizer": "adam", "loss": "mse"},
    {"optimizer": "adam", "loss": "squared_hinge"},
    {"optimizer": "adam", "ema": 0.9},
    {"optimizer": "muon", "momentum": 0.5, "nesterov": True, "other_learning_rate": 2 * EXACT_RATE, "ema": 0.9},
], ids=str)
def test_captured_equals_eager_to_the_bit(settings: dict[str, Any]) -> None:
    cell = cell_of(**settings)
    eager, replayed = make(cell), captured(make(cell))
    fit(eager)
    fit(replayed)
    assert_same_run(replayed, eager)


@pytest.mark.parametrize("settings", [
    {"schedule": "one_cycle"},
    {"schedule": "cosine", "optimizer": "sgd"},
    {"gradient_clip_norm": 0.1, "optimizer": "sgd", "learning_rate": 0.1},
], ids=str)
def test_rates_and_clipping_stay_alive(settings: dict[str, Any]) -> None:
    """Not to the bit: a captured step reads its rate in float32."""
    cell = cell_of(Network1(dropout=0.0), **settings)
    eager, replayed = make(cell), captured(make(cell))
    fit(eager)
    fit(replayed)
    assert_same_run(replayed, eager, tolerance=1e-5)


def test_a_loss_that_changes_with_progress_stays_alive() -> None:
    """A number would be frozen at 0, where this loss has no gradient."""
    eager, replayed = make(cell_of()), captured(make(cell_of()))
    for training in (eager, replayed):
        training.own_loss = lambda output, labels, progress: objective.loss(output, labels, TrainConfig()) * progress
    fit(eager)
    fit(replayed)
    assert_same_run(replayed, eager, tolerance=1e-6)
    assert replayed.history.train_loss[1] > 0


@pytest.mark.parametrize("model", [Network1(dropout=0.0), KernelDepthCNN(kernel_size=4, depth=2)])
def test_other_networks(model: Any) -> None:
    cell = cell_of(model)
    eager, replayed = make(cell), captured(make(cell))
    fit(eager)
    fit(replayed)
    assert_same_run(replayed, eager)


def test_alternating_flips_change_sides_every_epoch() -> None:
    cell = cell_of(data=DataConfig(flip="alternating"), epochs=3)
    eager, replayed = make(cell), captured(make(cell))
    fit(eager)
    fit(replayed)
    assert_same_run(replayed, eager)


def test_every_batch_size_is_a_graph_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    training, replays = captured(make(cell_of())), Counter()
    replay = Tape.replay
    monkeypatch.setattr(Tape, "replay", lambda self: (replays.update([self]), replay(self))[1])
    for num_epochs in (1, 2):
        train_epoch(training)
        assert set(training.replay.graphs) == {(10,), (2,)}
        # One more of each, to compare it with the step.
        assert sorted(replays.values()) == [num_epochs + 1, 4 * num_epochs + 1]


def test_capture_in_the_middle_of_a_run_keeps_what_was_learnt() -> None:
    cell = cell_of(optimizer="sgd", momentum=0.9)
    eager, late = make(cell), make(cell)
    fit(eager)
    train_epoch(late)
    captured(late)
    train_epoch(late)
    for one, two in zip(late.model.state_dict().values(), eager.model.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_capturing_leaves_no_trace() -> None:
    training = captured(make(cell_of(Network2(dropout=0.5))))
    training.model.train()
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    random_state = torch.get_rng_state()
    StepGraph(training, training.order()[:10], training.rates()[0], torch.zeros(()))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in training.model.state_dict().items())
    state = [value for each in training.optimizer.state.values() for value in each.values()]
    assert state
    assert not any(value.any() for value in state)
    assert not training.bad.any()


def test_randomness_is_fresh_at_each_replay() -> None:
    """With nothing learnt between them, losses of the same batch differ by their dropout masks alone."""
    index_N = torch.arange(10)
    for dropout, num_different in ((0.0, 1), (0.5, 4)):
        training = captured(make(cell_of(Network1(dropout=dropout), optimizer="sgd", learning_rate=1e-30, epochs=9)))
        training.model.train()
        losses = []
        for _ in range(4):
            training.step_in_epoch = 0
            training.advance([index_N])
            losses.append(float(training.losses[0]))
        assert len(set(losses)) == num_different


@pytest.mark.parametrize("data", [DataConfig(shift=2, erasing=0.5), DataConfig(mixup=0.4, cutmix=0.5)])
def test_captured_equals_eager_with_dropout_shifts_and_mixed_images(data: DataConfig) -> None:
    """The generator stands where it stood without capture, so that even the draws are the same."""
    cell = cell_of(Network2(dropout=0.5), data)
    eager, replayed = make(cell), make(cell)
    random_state = torch.get_rng_state()
    fit(eager)
    torch.set_rng_state(random_state)
    fit(captured(replayed))
    assert_same_run(replayed, eager)


def test_a_loss_that_is_not_finite_holds_the_parameters() -> None:
    training = captured(make(cell_of()))
    training.model.train()
    batches = training.order().split(10)
    training.advance(batches)
    before = [parameter.clone() for parameter in training.model.parameters()]
    last = list(training.model.parameters())[-1]
    with torch.no_grad():
        last[0] = torch.inf
    training.advance(batches)
    assert not training.losses[1].isfinite()
    for old, new in zip(before[:-1], list(training.model.parameters())[:-1], strict=True):
        assert torch.equal(old, new)


def test_fused_seeds_are_captured_alike() -> None:
    cell = cell_of(data=DataConfig(flip="alternating"), gradient_clip_norm=1.0)
    cell = CellConfig(model=cell.model, data=cell.data, train=cell.train, execution=ExecutionConfig(deterministic=True))
    eager, replayed = (FusedTraining(cell, (0, 1, 2), dataset(cell.data)) for _ in range(2))
    captured(replayed)
    fused_fit(eager)
    fused_fit(replayed)
    assert torch.equal(eager.network.parameters_RP, replayed.network.parameters_RP)
    assert [h.test_loss for h in eager.histories] == [h.test_loss for h in replayed.histories]


@pytest.mark.parametrize(("cell", "num_processes", "message"), [
    (cell_of(precision="fp16"), 1, "fp16"),
    (cell_of(), 2, "2 processes"),
    (CellConfig(model=Network1(), execution=ExecutionConfig(compile="reduce-overhead")), 1, "reduce-overhead"),
    (CellConfig(model=Network1(), execution=ExecutionConfig(compile="max-autotune")), 1, "max-autotune"),
])
def test_refuses_what_one_graph_cannot_hold(cell: CellConfig, num_processes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_capture(asked(cell), "cuda", num_processes)


def test_accepts_the_rest() -> None:
    check_capture(asked(cell_of(precision="bf16")), "cuda", 1)
    check_capture(asked(cell_of(optimizer="rmsprop")), "cuda", 1)
    check_capture(cell_of(precision="fp16"), "cuda", 2)  # nothing is to be captured


def test_refuses_compiled_steps_on_a_cpu_and_other_devices() -> None:
    compiled = CellConfig(model=Network1(), execution=ExecutionConfig(capture=True, compile="default"))
    with pytest.raises(ValueError, match=r"execution.compile = 'default' on a CPU; allowed: 'no'"):
        make(compiled)
    with pytest.raises(ValueError, match="'rmsprop' on a CPU"):
        make(msgspec.structs.replace(cell_of(optimizer="rmsprop"), execution=ExecutionConfig(capture=True)))
    with pytest.raises(ValueError, match="needs a CUDA device or a CPU, this is 'mps'"):
        check_capture(asked(cell_of()), "mps", 1)
