"""Fused seeds against the same seeds trained alone."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmnist_core.config import (
    CellConfig,
    DataConfig,
    KernelDepthCNN,
    ModelConfig,
    Network1,
    Network2,
    TrainConfig,
)
from fmnist_core.data import Dataset
from fmnist_core.evaluation import evaluate
from fmnist_core.fused import tuning as fused_tuning
from fmnist_core.fused.conv import METHODS
from fmnist_core.fused.evaluation import fused_evaluate
from fmnist_core.fused.training import FusedTraining, fused_epoch, fused_fit
from fmnist_core.models.build import build
from fmnist_core.seeds import stream
from fmnist_core.steps import Diverged
from fmnist_core.train import Training, fit
from tests.small import small_dataset

SEEDS = (0, 3, 5)
SMALL = Network2(dropout=0.0, fc_sizes=(24,))
NETWORKS: list[ModelConfig] = [
    Network1(dropout=0.0),
    Network1(dropout=0.0, batch_norm=True, num_pools=1, activation="elu", fc_sizes=(20,)),
    Network2(dropout=0.0),
    Network2(dropout=0.0, batch_norm=False, fc_activation="none", conv1_stride=2, conv2_kernel_size=4),
    *(KernelDepthCNN(kernel_size=k, depth=depth, width=4) for k, depth in ((2, 1), (3, 2), (4, 3), (5, 4))),
    KernelDepthCNN(width=4, batch_norm=False, activation="silu", fc_sizes=(12,)),
]


def dataset(config: DataConfig | None = None) -> Dataset:
    """42 training images: at batch size 10, four batches and a remainder of 2."""
    return replace(small_dataset(42, 13, 11), config=config or DataConfig())


def cell_of(model: ModelConfig | None = None, data: DataConfig | None = None, **train: Any) -> CellConfig:
    train = {"epochs": 2, "global_batch_size": 10, **train}
    return CellConfig(model=model or SMALL, data=data or DataConfig(), train=TrainConfig(**train))


def make(cell: CellConfig, seeds: tuple[int, ...] = SEEDS) -> FusedTraining:
    return FusedTraining(cell, seeds, dataset(cell.data))


def alone(cell: CellConfig, seed: int) -> Training:
    training = Training(cell, seed, dataset(cell.data))
    fit(training)
    return training


def parameters_of(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


@pytest.fixture(autouse=True)
def first_method_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """No timing: fast, and the same from run to run."""
    monkeypatch.setattr(fused_tuning, "_seconds", lambda conv, method, *rest: float(list(METHODS).index(method)))
    monkeypatch.setattr(fused_tuning, "_fastest", {})


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Train in float64: what is left between two runs of the same algorithm is far below what any mistake makes."""
    in_float32 = Dataset._normalized
    monkeypatch.setattr(Dataset, "_normalized", lambda self, images_NCHW: in_float32(self, images_NCHW).double())
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def assert_equal_runs(training: FusedTraining) -> None:
    """Train; parameters, statistics, losses and accuracies of every replica are those of its seed alone.

    Most parameters agree to 1e-12. The tolerance is for the biases in front of a batch norm: their gradient is zero
    but for rounding, and an optimizer that divides by its size makes of it what it likes.
    """
    tolerance = 1e-7
    outcomes = fused_fit(training)
    for replica, seed in enumerate(training.seeds):
        single, outcome = alone(training.cell, seed), outcomes[replica]
        assert not isinstance(outcome, Diverged)
        mine, other = training.single(replica), single.model
        torch.testing.assert_close(parameters_of(mine), parameters_of(other), rtol=tolerance, atol=tolerance)
        for (name, one), two in zip(mine.named_buffers(), other.buffers(), strict=True):
            if "num_batches" not in name:
                torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)
        for name in ("train_loss", "train_subset_loss", "validation_loss", "test_loss"):  # evaluated in float32
            assert getattr(outcome, name) == pytest.approx(getattr(single.history, name), rel=3e-6)
        for name in ("train_subset_accuracy", "validation_accuracy", "test_accuracy"):
            assert getattr(outcome, name) == getattr(single.history, name)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_each_replica_equals_its_seed_alone(model: ModelConfig) -> None:
    assert_equal_runs(make(cell_of(model)))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("settings", [
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    {"optimizer": "rmsprop", "momentum": 0.5},
    {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "one_cycle"},
    {"optimizer": "adam", "weight_decay": 1e-3, "schedule": "cosine", "label_smoothing": 0.1},
    {"optimizer": "sgd", "learning_rate": 0.1, "gradient_clip_norm": 0.2},
    {"gradient_accumulation": 3, "loss": "mse"},
    {"loss": "squared_hinge", "global_batch_size": 42},
    {"global_batch_size": 64},
], ids=str)
def test_every_way_of_training(settings: dict[str, Any]) -> None:
    assert_equal_runs(make(cell_of(**settings)))


@pytest.mark.usefixtures("double")
def test_alternating_flips_are_those_of_the_seed() -> None:
    assert_equal_runs(make(cell_of(data=DataConfig(flip="alternating"), epochs=3)))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("method", [name for name in METHODS if name != "implicit_gemm"])  # see test_kernels
def test_every_method_trains_alike(method: str) -> None:
    training = make(cell_of(Network2(dropout=0.0, conv1_stride=2, fc_sizes=(24,))))
    for conv in training.network.convolutions():
        conv.method = method
    assert_equal_runs(training)


@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_in_float32_to_rounding(model: ModelConfig) -> None:
    """Parameters after one step; losses after five, for rounding may choose another pixel where two nearly tie."""
    cell = cell_of(model, optimizer="sgd", learning_rate=0.05, epochs=1)
    training = make(cell)
    training.model.train()
    training.step_on(training.order()[:10])
    for replica, seed in enumerate(SEEDS):
        single = Training(cell, seed, training.dataset)
        single.step_on(single.order()[:10])
        mine = training.network.parameters_RP[replica]
        torch.testing.assert_close(mine, parameters_of(single.model), rtol=1e-5, atol=1e-6)
    for seed, outcome in zip(SEEDS, fused_fit(make(cell)), strict=True):
        assert not isinstance(outcome, Diverged)
        assert outcome.train_loss + outcome.test_loss == pytest.approx(
            [getattr(alone(cell, seed).history, name)[0] for name in ("train_loss", "test_loss")], rel=1e-3)


def test_in_bf16_to_its_rounding() -> None:
    cell = cell_of(Network1(dropout=0.0), precision="bf16")
    outcomes = fused_fit(make(cell))
    for seed, outcome in zip(SEEDS, outcomes, strict=True):
        assert not isinstance(outcome, Diverged)
        assert outcome.test_loss == pytest.approx(alone(cell, seed).history.test_loss, rel=2e-3)


def test_initialisation_and_order_are_those_of_each_seed() -> None:
    training = make(cell_of(Network1(), data=DataConfig()))
    order_TR = training.order()
    for replica, seed in enumerate(SEEDS):
        torch.manual_seed(stream(seed, "init"))
        assert torch.equal(training.network.parameters_RP[replica], parameters_of(build(Network1(), (1, 28, 28))))
        assert torch.equal(order_TR[:, replica], Training(training.cell, seed, training.dataset).order())
    assert not torch.equal(order_TR[:, 0], order_TR[:, 1])


def test_draws_are_those_of_the_seed_in_a_group_of_one_and_differ_between_groups() -> None:
    cell = cell_of(Network1())
    draws = {}
    for seeds in ((3,), (0, 1), (0, 2)):
        make(cell, seeds)
        draws[seeds] = torch.rand(3).tolist()
    Training(cell, 3, dataset())
    assert draws[3,] == torch.rand(3).tolist()
    assert draws[0, 1] != draws[0, 2]


def test_a_replica_as_a_model_of_its_own() -> None:
    training = make(cell_of(KernelDepthCNN(width=4)))
    fused_fit(training)
    images_NCHW = training.dataset.images(training.dataset.test, torch.arange(5))
    logits_RNK = training.network.eval()(images_NCHW)
    random_state = torch.get_rng_state()
    for replica in range(len(SEEDS)):
        mine = training.single(replica).eval()(images_NCHW)
        torch.testing.assert_close(mine, logits_RNK[replica], rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_evaluation_sees_each_image_once_whatever_the_batch() -> None:
    training = make(cell_of(Network1(dropout=0.5), global_batch_size=4))
    mine = fused_evaluate(training, training.dataset.test, keep_logits=True)
    first = fused_evaluate(training, training.dataset.test, limit=3)
    for seed, evaluation, of_first in zip(SEEDS, mine, first, strict=True):
        alone = Training(training.cell, seed, training.dataset)
        other = evaluate(alone, training.dataset.test, keep_logits=True)
        assert evaluation.accuracy == other.accuracy
        assert evaluation.loss == pytest.approx(other.loss, rel=1e-5)
        assert evaluation.logits_NK is not None
        assert other.logits_NK is not None
        torch.testing.assert_close(evaluation.logits_NK, other.logits_NK, rtol=1e-4, atol=1e-5)
        assert of_first.loss == pytest.approx(evaluate(alone, training.dataset.test, limit=3).loss, rel=1e-5)
        assert of_first.logits_NK is None


def test_augmentation_is_drawn_for_each_replica() -> None:
    training = make(cell_of(data=DataConfig(shift=3)))
    index_NR = torch.arange(10).unsqueeze(1).expand(10, 3)
    images_NRCHW, labels_NR = training.batch(index_NR)
    assert images_NRCHW.shape == (10, 3, 1, 28, 28)
    assert torch.equal(labels_NR, training.dataset.train.labels_N[index_NR])
    assert not torch.equal(images_NRCHW[:, 0], images_NRCHW[:, 1])


def test_the_loss_of_each_replica_is_its_own() -> None:
    training = make(cell_of(Network1(dropout=0.0)))
    index_NR = torch.stack([torch.arange(r, r + 8) for r in range(3)], 1)
    images_NRCHW, labels_NR = training.batch(index_NR)
    expected = [F.cross_entropy(training.single(r)(images_NRCHW[:, r]), labels_NR[:, r]).item() for r in range(3)]
    assert training.step_on(index_NR).tolist() == pytest.approx(expected, rel=1e-5)


# Replicas that leave


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_a_diverging_replica_harms_no_other(optimizer: str) -> None:
    cell = cell_of(KernelDepthCNN(width=4), optimizer=optimizer, gradient_clip_norm=1.0)
    healthy, training = make(cell), make(cell)
    with torch.no_grad():
        training.network.parameters_RP[1, -1] = torch.nan
    expected, outcomes = fused_fit(healthy), fused_fit(training)
    for replica in (0, 2):
        assert torch.equal(training.network.parameters_RP[replica], healthy.network.parameters_RP[replica])
        mine, other = outcomes[replica], expected[replica]
        assert not isinstance(mine, Diverged)
        assert not isinstance(other, Diverged)
        assert mine.test_loss == other.test_loss
        assert len(mine.train_s) == 2
    assert isinstance(outcomes[1], Diverged)
    assert str(outcomes[1]) == "the loss was nan at step 1 of 10"
    assert not training.network.parameters_RP[1].any()
    assert training.test_logits_NK[1] is None


@pytest.mark.parametrize("settings", [{"learning_rate": 1e6, "epochs": 3},
                                      {"learning_rate": 1e30, "epochs": 1, "global_batch_size": 500}])
def test_divergence_is_told_as_a_training_alone_tells_it(settings: dict[str, Any]) -> None:
    cell = cell_of(Network1(dropout=0.0), optimizer="sgd", **settings)
    outcomes = fused_fit(make(cell))
    for seed, outcome in zip(SEEDS, outcomes, strict=True):
        with pytest.raises(Diverged) as told:
            alone(cell, seed)
        assert str(outcome) == str(told.value)


def test_no_epoch_is_trained_when_all_have_diverged() -> None:
    training = make(cell_of(Network1(dropout=0.0), optimizer="sgd", learning_rate=1e6, epochs=9))
    epochs: list[int] = []
    fused_fit(training, on_epoch=lambda t: epochs.append(t.epoch))
    assert training.epoch < 9
    assert epochs == list(range(1, training.epoch))


@pytest.mark.usefixtures("double")
def test_early_stopping_ends_each_history_where_the_seed_alone_would() -> None:
    cell = cell_of(Network1(dropout=0.0), early_stopping_patience=3, epochs=12)
    training = make(cell)
    outcomes = fused_fit(training)
    lengths = []
    for replica, seed in enumerate(SEEDS):
        single, outcome = alone(cell, seed), outcomes[replica]
        assert not isinstance(outcome, Diverged)
        assert outcome.validation_accuracy == single.history.validation_accuracy
        logits_NK = training.test_logits_NK[replica]
        other = evaluate(single, single.dataset.test, keep_logits=True).logits_NK
        assert logits_NK is not None
        assert other is not None
        torch.testing.assert_close(logits_NK, other)
        lengths.append(len(outcome.train_loss))
    assert len(set(lengths)) > 1, "the seeds have to stop at different epochs to prove anything"
    assert training.epoch == max(lengths)


def test_hooks_see_every_step_and_may_stop_the_run() -> None:
    training = make(cell_of(Network1()))
    steps: list[int] = []

    def stop(current: FusedTraining) -> None:
        steps.append(current.step)
        if current.step == 7:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        fused_fit(training, on_step=stop)
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    assert [len(history.test_loss) for history in training.histories] == [1, 1, 1]
    assert training.history is training.histories[0]


def test_goes_on_where_it_stands() -> None:
    cell = cell_of(Network1(dropout=0.0))
    whole, interrupted = make(cell), make(cell)
    fused_fit(whole)
    with pytest.raises(TimeoutError):
        fused_epoch(interrupted, on_step=lambda t: (_ for _ in ()).throw(TimeoutError) if t.step == 3 else None)
    fused_fit(interrupted)
    assert torch.equal(whole.network.parameters_RP, interrupted.network.parameters_RP)
    assert [h.train_loss for h in whole.histories] == [h.train_loss for h in interrupted.histories]
