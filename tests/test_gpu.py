"""What only a CUDA device can show: capture, fused seeds, waits and speed. Runs unattended: `pytest -m gpu -s`.

The same claims are tested without a device in test_capture (with a stand-in for the graph) and in test_fused.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fmnist_core import optimizers
from fmnist_core.clock import CudaClock
from fmnist_core.config import (
    CellConfig,
    CitedModel,
    DataConfig,
    ExecutionConfig,
    KernelDepthCNN,
    ModelConfig,
    Network1,
    Network2,
    TrainConfig,
)
from fmnist_core.data import Dataset, Split
from fmnist_core.evaluation import evaluate
from fmnist_core.fused.choice import choose_num_replicas
from fmnist_core.fused.conv import METHODS
from fmnist_core.fused.training import FusedTraining, fused_epoch, fused_fit
from fmnist_core.kernels import adam as adam_kernel
from fmnist_core.kernels import available
from fmnist_core.observe import observe
from fmnist_core.steps import Diverged
from fmnist_core.train import Training, fit, train_epoch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SEEDS = (0, 3, 5)
NETWORKS: list[ModelConfig] = [
    Network1(dropout=0.0),
    Network1(dropout=0.0, batch_norm=True, num_pools=1),
    Network2(dropout=0.0),
    Network2(dropout=0.0, batch_norm=False, fc_activation="none"),
    *(KernelDepthCNN(kernel_size=k, depth=depth) for k, depth in ((2, 1), (3, 2), (4, 3), (5, 4))),
]
EXACT_RATE = 2**-10
"""The same number in float32, in which a captured step reads it, and in float64."""
FINAL = CellConfig(model=Network2(dropout=0.5), train=TrainConfig(learning_rate=1e-4, global_batch_size=90, epochs=30))
"""The report's final network."""


def split(num: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images_NCHW = torch.randint(0, 256, (num, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return Split(images_NCHW.cuda(), torch.randint(0, 10, (num,), generator=generator).cuda())


def dataset(config: DataConfig | None = None, num_train: int = 410) -> Dataset:
    """410 images: at batch size 90, four batches and a remainder of 50, as in the report."""
    return Dataset(config or DataConfig(), split(num_train, 0), split(100, 1), split(110, 2), 0.0, 1.0)


def cell_of(model: ModelConfig | None = None, data: DataConfig | None = None, *, capture: bool = False,
            memory_format: Any = "channels_last", compile: Any = "no", **train: Any) -> CellConfig:
    train = {"epochs": 2, "global_batch_size": 90, "learning_rate": EXACT_RATE, **train}
    execution = ExecutionConfig(capture=capture, memory_format=memory_format, compile=compile)
    return CellConfig(model=model or Network2(dropout=0.0), data=data or DataConfig(), train=TrainConfig(**train),
                      execution=execution)


def losses_of_steps(training: Training | FusedTraining) -> Tensor:
    """Of all steps of two epochs."""
    losses = []
    for _ in range(2):
        if isinstance(training, FusedTraining):
            fused_epoch(training)
        else:
            train_epoch(training)
        losses.append(training.losses.clone())
    return torch.cat(losses)


def parameters_of(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


@pytest.fixture(autouse=True)
def no_tf32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = False, False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    in_float32 = Dataset._normalized
    monkeypatch.setattr(Dataset, "_normalized", lambda self, images_NCHW: in_float32(self, images_NCHW).double())
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Capture


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_captured_equals_eager(model: ModelConfig, precision: Any, memory_format: Any) -> None:
    """Losses of ten steps. SGD does not blow up rounding, but where two pixels of a pool nearly tie, it decides."""
    settings: dict[str, Any] = {"precision": precision, "memory_format": memory_format, "optimizer": "sgd",
                                "learning_rate": 0.02}
    eager = Training(cell_of(model, **settings), 0, dataset())
    replayed = Training(cell_of(model, capture=True, **settings), 0, dataset())
    tolerance = 2e-3 if precision == "no" else 2e-2
    torch.testing.assert_close(losses_of_steps(replayed), losses_of_steps(eager), rtol=tolerance, atol=0.0)
    assert sorted(replayed.replay.graphs) == [(50,), (90,)]  # type: ignore[union-attr]
    assert observe(replayed).captured
    assert not observe(eager).captured


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("settings", [
    {"optimizer": "adam", "schedule": "one_cycle"},
    {"optimizer": "adamw", "weight_decay": 0.05, "schedule": "cosine"},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    {"optimizer": "rmsprop", "schedule": "cosine"},
    {"optimizer": "rmsprop", "momentum": 0.9},
    {"optimizer": "sgd", "learning_rate": 0.1, "gradient_clip_norm": 0.1},
    {"gradient_accumulation": 3, "loss": "mse"},
    {"loss": "squared_hinge", "global_batch_size": 410},
], ids=str)
def test_captured_equals_eager_for_every_way_of_training(settings: dict[str, Any]) -> None:
    """In float64; what is left is the learning rate of a schedule, which a graph reads in float32."""
    eager = Training(cell_of(Network1(dropout=0.0), **settings), 0, dataset())
    replayed = Training(cell_of(Network1(dropout=0.0), capture=True, **settings), 0, dataset())
    fit(eager)
    fit(replayed)
    torch.testing.assert_close(parameters_of(replayed.model), parameters_of(eager.model), rtol=1e-5, atol=1e-6)
    assert replayed.history.test_accuracy == eager.history.test_accuracy


@pytest.mark.usefixtures("double")
def test_captured_equals_eager_where_the_loss_changes_with_progress() -> None:
    """The coarse heads' weights change in the middle of the first epoch and of the second."""
    settings: dict[str, Any] = {"model": CitedModel(system="hcnn_vgg16"), "optimizer": "sgd"}
    eager = losses_of_steps(Training(cell_of(**settings), 0, dataset()))  # before the other seeds the dropout anew
    replayed = Training(cell_of(capture=True, **settings), 0, dataset())
    torch.testing.assert_close(losses_of_steps(replayed), eager, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("fused_seeds", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_captured_steps_by_adams_kernel(optimizer: str, fused_seeds: bool,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor by the kernel, and none: the losses of ten steps, and what the optimizers know after them."""
    cell = cell_of(Network1(dropout=0.0), capture=True, optimizer=optimizer, weight_decay=0.1, schedule="one_cycle")
    sizes, adam_step, states, losses = [], adam_kernel.adam_step, [], []
    monkeypatch.setattr(adam_kernel, "adam_step", lambda parameter, *args, **options: (
        sizes.append(parameter.numel()), adam_step(parameter, *args, **options)))
    for large in (1, 2**62):
        monkeypatch.setattr(optimizers, "LARGE", large)
        training = FusedTraining(cell, SEEDS, dataset()) if fused_seeds else Training(cell, 0, dataset())
        losses.append(losses_of_steps(training))
        assert bool(sizes) is (large == 1)
        sizes.clear()
        states.append(list(training.optimizer.state.values()))
    torch.testing.assert_close(*losses, rtol=2e-3, atol=0.0)
    for one, two in zip(*states, strict=True):
        assert one["step"] == two["step"] == 10
        for name in ("exp_avg", "exp_avg_sq"):
            difference = (one[name] - two[name]).norm() / two[name].norm()
            assert difference < 0.05, name


@pytest.mark.filterwarnings("ignore")  # what the compiler has to say
def test_captured_equals_eager_when_compiled() -> None:
    eager = Training(cell_of(optimizer="sgd"), 0, dataset())
    replayed = Training(cell_of(capture=True, compile="default", optimizer="sgd"), 0, dataset())
    torch.testing.assert_close(losses_of_steps(replayed), losses_of_steps(eager), rtol=5e-3, atol=0.0)


def test_replays_draw_what_eager_steps_draw() -> None:
    """Dropout and every augmentation: capture restores the generator's place, and each replay moves it on."""
    data = DataConfig(flip="random", rotation=10.0, shift=2, erasing=0.5)
    settings: dict[str, Any] = {"model": Network2(dropout=0.5), "data": data, "optimizer": "sgd"}
    eager = losses_of_steps(Training(cell_of(**settings), 0, dataset(data)))
    replayed = losses_of_steps(Training(cell_of(capture=True, **settings), 0, dataset(data)))
    torch.testing.assert_close(replayed, eager, rtol=2e-3, atol=0.0)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_randomness_is_fresh_at_each_replay(dropout: float) -> None:
    """With nothing learnt between them, losses of one batch differ by their masks alone."""
    cell = cell_of(Network1(dropout=dropout), capture=True, optimizer="sgd", learning_rate=1e-30)
    losses = torch.tensor(losses_of_one_batch(Training(cell, 0, dataset())))
    assert losses.diff(dim=0).abs().min() > 1e-5 if dropout else losses.max() - losses.min() < 1e-5


def losses_of_one_batch(training: Any) -> list[Any]:
    """The loss, or losses, of the same batch at five replays."""
    training.model.train()
    batches, losses = training.order().split(90), []
    for _ in range(5):
        training.step_in_epoch = 0
        training.advance(batches)
        losses.append((training.losses[0] / 90).tolist())
    return losses


def test_alternating_flips_under_capture() -> None:
    data = DataConfig(flip="alternating")
    eager = Training(cell_of(data=data, optimizer="sgd"), 0, dataset(data))
    replayed = Training(cell_of(data=data, optimizer="sgd", capture=True), 0, dataset(data))
    torch.testing.assert_close(losses_of_steps(replayed), losses_of_steps(eager), rtol=2e-3, atol=0.0)


def test_divergence_is_found_under_capture() -> None:
    training = Training(cell_of(Network1(dropout=0.0), capture=True, optimizer="sgd", learning_rate=1e6), 0, dataset())
    with pytest.raises(Diverged):
        fit(training)


def test_evaluation_between_replays_changes_nothing() -> None:
    training = Training(cell_of(capture=True), 0, dataset())
    train_epoch(training)
    before = evaluate(training, training.dataset.test)
    assert evaluate(training, training.dataset.test).loss == before.loss
    train_epoch(training)
    assert evaluate(training, training.dataset.test).loss != before.loss


# Fused seeds


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_each_replica_equals_its_seed_alone(model: ModelConfig, capture: bool) -> None:
    """In float64; the tolerance is for biases in front of a batch norm, whose gradient is rounding alone."""
    cell = cell_of(model, capture=capture)
    training = FusedTraining(cell, SEEDS, dataset())
    outcomes = fused_fit(training)
    for replica, seed in enumerate(SEEDS):
        single, outcome = Training(cell_of(model), seed, dataset()), outcomes[replica]
        fit(single)
        assert not isinstance(outcome, Diverged)
        torch.testing.assert_close(training.network.parameters_RP[replica], parameters_of(single.model), rtol=1e-6,
                                   atol=1e-6)
        assert outcome.test_accuracy == single.history.test_accuracy


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_every_method_in_every_precision(method: str, precision: Any) -> None:
    cell = cell_of(precision=precision, optimizer="sgd", learning_rate=0.02)
    training = FusedTraining(cell, SEEDS, dataset())
    for conv in training.network.convolutions():
        conv.method = method
    losses_SR = losses_of_steps(training)
    for replica, seed in enumerate(SEEDS):
        single = losses_of_steps(Training(cell, seed, dataset()))
        torch.testing.assert_close(losses_SR[:, replica], single, rtol=2e-3 if precision == "no" else 3e-2, atol=0.0)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_kernels_equal_plain_layers(model: ModelConfig, precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses of ten steps, captured, with this project's kernels wherever they can be used and with none."""
    losses = []
    for with_kernels in (True, False):
        if not with_kernels:
            monkeypatch.setattr(available, "has_kernels", lambda x: False)
        training = FusedTraining(cell_of(model, capture=True, precision=precision, optimizer="sgd", learning_rate=0.02),
                                 SEEDS, dataset())
        for conv in training.network.convolutions():
            conv.method = "implicit_gemm" if with_kernels else "grouped"
        losses.append(losses_of_steps(training))
    torch.testing.assert_close(*losses, rtol=2e-3 if precision == "no" else 3e-2, atol=0.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_diverging_replica_harms_no_other(method: str) -> None:
    """No kernel may carry what is not finite from one group to the next."""
    cell = cell_of(optimizer="sgd")
    losses = []
    for poison in (0.0, torch.nan, torch.inf):
        training = FusedTraining(cell, SEEDS, dataset())
        for conv in training.network.convolutions():
            conv.method = method
        with torch.no_grad():
            training.network.parameters_RP[1] += poison
        losses.append(losses_of_steps(training))
        assert list(training.diverged) == ([1] if poison else [])
    for others in losses[1:]:
        torch.testing.assert_close(others[:, [0, 2]], losses[0][:, [0, 2]], rtol=2e-3, atol=0.0)


def test_fused_and_captured_draw_fresh_masks_for_each_replica() -> None:
    """The same parameters and the same images in two replicas: their losses differ by their masks alone."""
    cell = cell_of(Network1(dropout=0.5), capture=True, optimizer="sgd", learning_rate=1e-30)
    training = FusedTraining(cell, (0, 0), dataset())
    losses_K2 = torch.tensor(losses_of_one_batch(training))
    assert len(losses_K2.unique()) == losses_K2.numel()


# Waits


@pytest.mark.parametrize("fused_seeds", [False, True])
@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("settings", [
    {"optimizer": "adam", "schedule": "one_cycle"}, {"optimizer": "sgd", "gradient_clip_norm": 1.0},
    {"optimizer": "rmsprop", "precision": "bf16"}, {"optimizer": "adamw", "loss": "mse"},
], ids=str)
def test_no_step_waits_for_the_device(settings: dict[str, Any], capture: bool, fused_seeds: bool) -> None:
    data = DataConfig(flip="alternating", rotation=5.0, shift=2, erasing=0.5)
    cell = cell_of(Network2(dropout=0.5), data, capture=capture, **settings)
    training: Any = FusedTraining(cell, SEEDS, dataset(data)) if fused_seeds else Training(cell, 0, dataset(data))
    (fused_epoch if fused_seeds else train_epoch)(training)  # what is captured is captured here
    batches = training.order().split(90)
    with waiting_is_an_error():
        for _ in batches:
            training.advance(batches)


# Speed


def images_per_s(training: Training | FusedTraining, num_steps: int = 48) -> float:
    """Over all replicas; captured or not, full batches, the median of three blocks."""
    num_images = 90 * (len(training.seeds) if isinstance(training, FusedTraining) else 1)
    batches, clock = training.order().split(90), CudaClock()
    training.model.train()

    def block() -> None:
        for _ in range(num_steps):
            training.step_in_epoch = 0
            training.advance(batches)

    block()
    marks = [clock.mark()]
    for _ in range(3):
        block()
        marks.append(clock.mark())
    return num_steps * num_images / sorted(clock.seconds_between(marks))[1]


def test_speed(capsys: pytest.CaptureFixture[str]) -> None:
    """The report's final network at batch 90. Prints a table; fails only where capture does not pay at all."""
    torch.backends.cudnn.allow_tf32 = True  # as in training
    data, results = dataset(num_train=90 * 16), {}
    for precision in ("no", "bf16"):
        for memory_format in ("contiguous", "channels_last"):
            for capture in (False, True):
                cell = cell_of(FINAL.model, capture=capture, precision=precision, memory_format=memory_format)
                name = f"{precision}, {memory_format}, {'captured' if capture else 'eager'}"
                results[name] = images_per_s(Training(cell, 0, data))
        for num_replicas in (1, 2, 4, 8, 16, 32, 64):
            for capture in (False, True):
                cell = cell_of(FINAL.model, capture=capture, precision=precision)
                fused = FusedTraining(cell, range(num_replicas), data)
                methods = "/".join(conv.method for conv in fused.network.convolutions())
                name = f"{precision}, {num_replicas} fused seeds, {'captured' if capture else 'eager'}, {methods}"
                results[name] = images_per_s(fused)
    with capsys.disabled():
        print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}")
        for name, speed in results.items():
            print(f"{speed:12,.0f} images/s  {name}")
    assert results["no, channels_last, captured"] > results["no, channels_last, eager"]


@pytest.mark.parametrize("capture", [False, True])
def test_choice_of_replicas(capsys: pytest.CaptureFixture[str], capture: bool) -> None:
    torch.backends.cudnn.allow_tf32 = True  # as a sweep has it
    cell = cell_of(FINAL.model, capture=capture)
    num = choose_num_replicas(cell, dataset(), torch.device("cuda"), 16)
    with capsys.disabled():
        print(f"\nfinal network, {'captured' if capture else 'eager'}: {num} of 16 seeds fused")
    assert num in (1, 2, 4, 8, 16)
