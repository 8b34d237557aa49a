"""Whole-step capture without a GPU: a graph that records operators and plays them back stands in for CUDA's.

Like a CUDA graph it knows operators and tensors alone: Python numbers are frozen at capture, tensors are read where
they lie, results land where they lay, random numbers are drawn anew, and asking the host for a value is an error.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fmnist_core import capture, objective
from fmnist_core.capture import Replay, StepGraph
from fmnist_core.config import CellConfig, DataConfig, ExecutionConfig, KernelDepthCNN, Network1, Network2, TrainConfig
from fmnist_core.data import Dataset
from fmnist_core.fused.training import FusedTraining, fused_fit
from fmnist_core.train import Training, fit, train_epoch
from tests.small import small_dataset

EXACT_RATE = 2**-10
"""The same number in float32, in which a captured step reads it, and in float64."""


class Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name == "aten::_local_scalar_dense":
            raise RuntimeError("the host asked for a value while a graph was captured")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


class FakeGraph:
    def __init__(self, device: torch.device) -> None:
        self.num_replays = 0

    def warm_up(self, work: Callable[[], None]) -> None:
        for _ in range(2):
            work()

    def capture(self, work: Callable[[], None]) -> None:
        with Tape() as tape:
            work()
        self._calls = tape.calls

    @torch.no_grad()
    def replay(self) -> None:
        self.num_replays += 1
        for func, args, kwargs, old in self._calls:
            aliases = [each.alias_info for each in func._schema.returns]
            if any(alias is not None and not alias.is_write for alias in aliases):
                continue  # a view of what it was made from
            new = func(*args, **kwargs)
            if not any(aliases):
                for target, value in zip(tree_leaves(old), tree_leaves(new), strict=True):
                    if isinstance(target, Tensor):
                        target.copy_(value)


def dataset(config: DataConfig) -> Dataset:
    """42 training images: at batch size 10, four batches and a remainder of 2."""
    return replace(small_dataset(42, 10, 10), config=config)


def captured(training: Any) -> Any:
    training.replay = Replay(training.optimizer, training.rates(), FakeGraph)
    return training


def make(cell: CellConfig, seed: int = 0) -> Training:
    return Training(cell, seed, dataset(cell.data))


def cell_of(model: Any = None, data: DataConfig | None = None, **train: Any) -> CellConfig:
    train = {"epochs": 2, "global_batch_size": 10, "learning_rate": EXACT_RATE, **train}
    return CellConfig(model=model or Network2(dropout=0.0, fc_sizes=(24,)), data=data or DataConfig(),
                      train=TrainConfig(**train))


def assert_same_run(mine: Training, other: Training, tolerance: float = 0.0) -> None:
    for name in ("train_loss", "test_loss", "validation_loss", "train_subset_loss"):
        assert getattr(mine.history, name) == pytest.approx(getattr(other.history, name), abs=tolerance, rel=tolerance)
    for one, two in zip(mine.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


def test_the_stand_in_freezes_numbers_but_not_tensors() -> None:
    x, rate, out, number = torch.ones(3), torch.tensor(2.0), torch.zeros(3), 5.0

    def work() -> None:
        out.copy_(x * rate + number)

    graph = FakeGraph(torch.device("cpu"))
    graph.capture(work)
    x.fill_(10.0)
    rate.fill_(3.0)
    number = 7.0
    graph.replay()
    assert out.tolist() == [35.0] * 3


def test_the_stand_in_refuses_to_wait_for_the_host() -> None:
    with pytest.raises(RuntimeError, match="asked for a value"):
        FakeGraph(torch.device("cpu")).capture(lambda: print(torch.ones(1).item()))


@pytest.mark.parametrize("settings", [
    {"optimizer": "adam"},
    {"optimizer": "adamw", "weight_decay": 0.01},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    {"optimizer": "adam", "gradient_accumulation": 2},
    {"optimizer": "adam", "label_smoothing": 0.1},
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


def test_every_batch_size_is_a_graph_of_its_own() -> None:
    training = captured(make(cell_of()))
    for num_epochs in (1, 2):
        train_epoch(training)
        assert {shape: graph._graph.num_replays for shape, graph in training.replay.graphs.items()} == {
            (10,): 4 * num_epochs, (2,): num_epochs}


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
    StepGraph(training, training.order()[:10], training.rates()[0], torch.zeros(()), FakeGraph)
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
        capture.check(cell, torch.device("cuda"), num_processes)


def test_accepts_the_rest() -> None:
    capture.check(cell_of(precision="bf16"), torch.device("cuda"), 1)


def test_refuses_a_cpu_before_any_work() -> None:
    cell = CellConfig(model=Network1(), execution=ExecutionConfig(capture=True))
    with pytest.raises(ValueError, match="needs a CUDA device, this is 'cpu'"):
        make(cell)
