"""How many seeds are trained as one module: by refusal, memory and timing."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from fmnist_core import step_time
from fmnist_core.config import (
    Baseline,
    CellConfig,
    CitedModel,
    ExecutionConfig,
    KernelDepthCNN,
    ModelConfig,
    Network1,
    Network2,
    TrainConfig,
)
from fmnist_core.fused import choice as fused_choice
from fmnist_core.fused.choice import balanced, choose_num_replicas, pays, replica_bytes
from fmnist_core.fused.training import FusedTraining, check_fusible
from fmnist_core.models.build import build
from fmnist_core.seeds import stream
from fmnist_core.step_time import seconds_per_step
from fmnist_core.train import Training
from tests.small import small_dataset


def cell_of(model: ModelConfig | None = None, **train: Any) -> CellConfig:
    return CellConfig(model=model or Network2(), train=TrainConfig(**{"global_batch_size": 10, **train}))


@pytest.mark.parametrize(("cell", "message"), [
    (cell_of(CitedModel(system="bhatnagar_skip")), "no plain sequence"),
    (cell_of(precision="fp16"), "fp16"),
])
def test_refusals(cell: CellConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_fusible(cell, build(cell.model, (1, 28, 28)))
    assert not pays(cell, torch.device("cuda"))


def test_refuses_several_processes() -> None:
    with pytest.raises(ValueError, match="2 processes"):
        check_fusible(cell_of(), build(Network1(), (1, 28, 28)), num_processes=2)


def test_pays_on_a_gpu_at_most() -> None:
    assert pays(cell_of(), torch.device("cuda"))
    assert pays(cell_of(CitedModel(system="bhatnagar_cnn2")), torch.device("cuda"))
    assert not pays(cell_of(), torch.device("cpu"))
    exact = CellConfig(model=Network2(), execution=ExecutionConfig(deterministic=True))
    assert not pays(exact, torch.device("cuda"))
    assert not pays(CellConfig(model=Baseline(estimator="gaussian_nb")), torch.device("cuda"))
    assert choose_num_replicas(cell_of(), small_dataset(), torch.device("cpu"), 16) == 1


def test_cited_sequences_are_fused_too() -> None:
    model = CitedModel(system="bhatnagar_cnn2")
    training = FusedTraining(cell_of(model), (0, 1), small_dataset())
    images_NCHW = training.dataset.images(training.dataset.test, torch.arange(3))
    logits_RNK = training.network.eval()(images_NCHW)
    for replica in (0, 1):
        torch.manual_seed(stream(replica, "init"))
        other = build(model, (1, 28, 28)).eval()(images_NCHW)
        torch.testing.assert_close(other, logits_RNK[replica], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("num_seeds", "most", "size"), [
    (16, 16, 16), (16, 100, 16), (16, 15, 8), (16, 12, 8), (16, 7, 6), (5, 4, 3), (5, 2, 2), (5, 1, 1),
])
def test_groups_are_balanced(num_seeds: int, most: int, size: int) -> None:
    assert balanced(num_seeds, most) == size


@pytest.mark.parametrize(("free_replicas", "faster_up_to", "chosen"), [
    (100, 16, 16), (33, 16, 16), (20, 16, 8), (100, 4, 4), (100, 1, 1), (1, 16, 1),
])
def test_choice_from_memory_and_timing(monkeypatch: pytest.MonkeyPatch, free_replicas: int, faster_up_to: int,
                                       chosen: int) -> None:
    """Half the free memory counts; a fused step of R costs R - 0.1 or R + 0.1 steps of one."""
    cell = cell_of()
    monkeypatch.setattr(fused_choice, "_free_bytes", lambda device: free_replicas * replica_bytes(cell))
    monkeypatch.setattr(fused_choice, "FusedTraining", lambda cell, seeds, dataset: len(seeds))
    seconds = lambda num: num - 0.1 if num <= faster_up_to else num + 0.1
    monkeypatch.setattr(step_time, "seconds_per_step",
                        lambda training: seconds(training) if isinstance(training, int) else 1.0)
    assert choose_num_replicas(cell, small_dataset(), torch.device("cuda"), 16) == chosen


def test_memory_of_a_replica_by_hand() -> None:
    """2x2 kernels, 3 channels, no bias, no pool: outputs of pad, conv, norm and activation, of flatten and of fc1."""
    cell = cell_of(KernelDepthCNN(kernel_size=2, depth=1, width=3, num_pools=0), global_batch_size=7)
    outputs = 29 * 29 + 3 * (3 * 28 * 28) + 3 * 28 * 28 + 10
    patches = 4 * 28 * 28
    parameters = 3 * 4 + 2 * 3 + 10 * (3 * 28 * 28 + 1)
    assert replica_bytes(cell) == 4 * (7 * 2 * (outputs + patches) + 4 * parameters)


def test_memory_does_not_suffice_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> None:
        raise torch.OutOfMemoryError

    cell = cell_of(Network1())
    monkeypatch.setattr(fused_choice, "_free_bytes", lambda device: 100 * replica_bytes(cell))
    monkeypatch.setattr(fused_choice, "FusedTraining", fails)
    assert choose_num_replicas(cell, small_dataset(), torch.device("cuda"), 16) == 1


def test_a_busy_device_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others slow down the first timings of both, and then leave: the least of each counts."""
    cell, busy = cell_of(), iter([50.0, 50.0, 1.0, 2.0, 50.0, 50.0])
    monkeypatch.setattr(fused_choice, "_free_bytes", lambda device: 100 * replica_bytes(cell))
    monkeypatch.setattr(fused_choice, "FusedTraining", lambda cell, seeds, dataset: None)
    monkeypatch.setattr(step_time, "seconds_per_step", lambda training: next(busy))
    assert choose_num_replicas(cell, small_dataset(), torch.device("cuda"), 4) == 4


class CountingClock:
    """Every mark is a second later than the last."""

    def __init__(self) -> None:
        self.now = 0.0

    def mark(self) -> float:
        self.now += 1.0
        return self.now

    def seconds_between(self, marks: Any) -> list[float]:
        return [later - earlier for earlier, later in pairwise(marks)]


@pytest.mark.parametrize("fused_seeds", [True, False])
def test_seconds_per_step_with_a_fake_clock(fused_seeds: bool) -> None:
    cell = cell_of(Network1())
    training = FusedTraining(cell, (0, 1), small_dataset()) if fused_seeds else Training(cell, 0, small_dataset())
    assert seconds_per_step(training, CountingClock()) == 1.0
