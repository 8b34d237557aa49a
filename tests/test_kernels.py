"""The Triton kernels of fused seeds against PyTorch's own layers: on CUDA as they are, elsewhere interpreted.

Whether kernels are compiled or interpreted is settled when they are defined, so the interpreted tests run in a process
of their own.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fmnist_core.config import CellConfig, DataConfig, ModelConfig, Network1, Network2, TrainConfig
from fmnist_core.fused.training import FusedTraining
from fmnist_core.kernels import available
from fmnist_core.kernels.available import HAS_TRITON, INTERPRETED
from tests.small import small_dataset

DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
here = pytest.mark.skipif(not HAS_TRITON or (DEVICE == "cpu" and not INTERPRETED),
                          reason="needs a CUDA device, or TRITON_INTERPRET=1")
SHAPES = [  # replicas, images, channels in and out, kernel size, padding, side of the map
    (3, 2, 1, 4, 3, 1, 6), (2, 3, 4, 16, 5, 2, 7), (2, 2, 3, 20, 2, 0, 5), (1, 2, 20, 70, 3, 1, 4),
    (2, 2, 5, 6, 4, 0, 6), (2, 2, 3, 2, 3, 3, 4),
]


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """Whether the kernels work is asked in this test, and forgotten after it."""
    available.work_on.cache_clear()
    yield
    available.work_on.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available() or not HAS_TRITON or INTERPRETED, reason="the others run as they are")
def test_interpreted() -> None:
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
                          env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    assert " 25 skipped" in done.stdout  # this test, and those of TF32


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    yield
    torch.backends.cudnn.allow_tf32 = before


def rows_of(num: int, size: int) -> Tensor:
    """A leaf whose rows lie apart, as those of one layer in the matrix of all parameters do."""
    return torch.randn(num, size + 7, device=DEVICE)[:, 3 : 3 + size].detach().requires_grad_()


def assert_alike(mine: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for one, other in zip(mine, wanted, strict=True):
        torch.testing.assert_close(one, other.view(one.shape), rtol=1e-4, atol=1e-4)


@here
@pytest.mark.parametrize("far", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolutions(shape: tuple[int, ...], bias: bool, far: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`far`: as for tensors that have more elements than 32 bits count."""
    from fmnist_core.kernels import conv as conv_kernels
    from fmnist_core.kernels.conv import convolve

    assert not conv_kernels._is_far(torch.empty(2, 2), torch.empty(0, 3))
    assert conv_kernels._is_far(torch.empty(2**16, 2**15, device="meta"))
    monkeypatch.setattr(conv_kernels, "_is_far", lambda *tensors: far)
    replicas, images, num_in, num_out, kernel, padding, side = shape
    x = torch.randn(images, replicas * num_in, side, side, device=DEVICE, requires_grad=True)
    weight_RP = rows_of(replicas, num_out * num_in * kernel * kernel)
    bias_RO = rows_of(replicas, num_out) if bias else None
    y = convolve(x, weight_RP, bias_RO, (num_in, num_out), (kernel, kernel), (padding, padding))
    weight = weight_RP.reshape(-1, num_in, kernel, kernel)
    wanted = F.conv2d(x, weight, None if bias_RO is None else bias_RO.flatten(), padding=padding, groups=replicas)
    inputs, upstream = [x, weight_RP, *([] if bias_RO is None else [bias_RO])], torch.randn_like(wanted)
    assert_alike((y, *torch.autograd.grad(y, inputs, upstream)),
                 (wanted, *torch.autograd.grad(wanted, inputs, upstream)))


@pytest.mark.skipif(DEVICE == "cpu", reason="only a GPU rounds to TF32, and has products in flight")
@pytest.mark.parametrize("num_out", [16, 32, 64, 80])
@pytest.mark.parametrize(("num_in", "kernel"), [(1, 3), (2, 3), (5, 3), (8, 3), (4, 5), (32, 5)])
def test_convolutions_in_tf32(num_in: int, kernel: int, num_out: int) -> None:
    """Every tile that a GPU multiplies in TF32, over blocks enough to fill it, several times over."""
    from fmnist_core.kernels.conv import convolve

    torch.backends.cudnn.allow_tf32 = True
    x = torch.randn(90, 4 * num_in, 14, 14, device=DEVICE, requires_grad=True)
    weight_RP, bias_RO = rows_of(4, num_out * num_in * kernel * kernel), rows_of(4, num_out)
    weight = weight_RP.detach().double().view(-1, num_in, kernel, kernel).requires_grad_()
    inputs = x.detach().double().requires_grad_(), weight, bias_RO.detach().double().requires_grad_()
    wanted = F.conv2d(inputs[0], inputs[1], inputs[2].flatten(), padding=kernel // 2, groups=4)
    upstream = torch.randn_like(wanted, dtype=torch.float32)
    others = [wanted, *torch.autograd.grad(wanted, inputs, upstream.double())]
    for _ in range(5):
        y = convolve(x, weight_RP, bias_RO, (num_in, num_out), (kernel, kernel), (kernel // 2, kernel // 2))
        for one, other in zip((y, *torch.autograd.grad(y, [x, weight_RP, bias_RO], upstream)), others, strict=True):
            assert (one.flatten() - other.flatten()).abs().max() <= 3e-3 * other.abs().max()


@here
@pytest.mark.parametrize("padding", [(0, 1), (2, 0), (3, 1)])
def test_kernels_and_padding_that_are_not_square(padding: tuple[int, int]) -> None:
    from fmnist_core.kernels.conv import convolve

    x = torch.randn(3, 2 * 4, 5, 7, device=DEVICE, requires_grad=True)
    weight_RP = rows_of(2, 5 * 4 * 3 * 2)
    y = convolve(x, weight_RP, None, (4, 5), (3, 2), padding)
    wanted = F.conv2d(x, weight_RP.reshape(-1, 4, 3, 2), padding=padding, groups=2)
    upstream = torch.randn_like(wanted)
    assert_alike((y, *torch.autograd.grad(y, [x, weight_RP], upstream)),
                 (wanted, *torch.autograd.grad(wanted, [x, weight_RP], upstream)))


@here
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("order", [(0, 2, 3, 1), (1, 2, 3, 0)])
def test_maps_and_gradients_may_lie_in_any_order(kernel: int, order: tuple[int, ...]) -> None:
    """As other layers, and other ways of convolving, leave them."""
    from fmnist_core.kernels.conv import convolve

    def lying_so(*shape: int) -> Tensor:
        back = [order.index(i) for i in range(4)]
        return torch.randn([shape[i] for i in order], device=DEVICE).permute(back)

    x, padding = lying_so(3, 4, 6, 5).detach().requires_grad_(), kernel // 2
    weight_RP = rows_of(2, 2 * 3 * kernel * kernel)
    y = convolve(x, weight_RP, None, (2, 3), (kernel, kernel), (padding, padding))
    wanted = F.conv2d(x, weight_RP.reshape(-1, 2, kernel, kernel), padding=padding, groups=2)
    upstream = lying_so(*wanted.shape)
    assert not upstream.is_contiguous()
    inputs = [x, weight_RP]
    assert_alike((y, *torch.autograd.grad(y, inputs, upstream)),
                 (wanted, *torch.autograd.grad(wanted, inputs, upstream)))


@here
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_of_large_tensors(optimizer: Literal["adam", "adamw"], monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch's own step, which takes them where the rate is a number; the fourth step is to be skipped."""
    from fmnist_core.kernels import adam as adam_kernel
    from fmnist_core.optimizers import optimizer_for, set_learning_rate

    mine, other = (torch.nn.Linear(301, 128).to(DEVICE) for _ in range(2))
    other.load_state_dict(mine.state_dict())
    config = TrainConfig(optimizer=optimizer, learning_rate=0.01, weight_decay=0.1)
    by_kernel, plain = optimizer_for(mine, config), optimizer_for(other, config)
    for group in by_kernel.param_groups:
        group["capturable"] = DEVICE == "cuda"
    assert available.has_kernels(torch.zeros(1, device=DEVICE))  # asked once, by steps of its own
    sizes, adam_step = [], adam_kernel.adam_step
    monkeypatch.setattr(adam_kernel, "adam_step",
                        lambda parameter, *args, **options: (sizes.append(parameter.numel()),
                                                             adam_step(parameter, *args, **options)))
    for i in range(6):
        set_learning_rate(by_kernel, torch.tensor(0.01 / (i + 1), device=DEVICE))
        set_learning_rate(plain, 0.01 / (i + 1))
        for one, two in zip(mine.parameters(), other.parameters(), strict=True):
            one.grad = torch.randn_like(one) * 10.0 ** torch.randint(-6, 2, one.shape, device=DEVICE)
            two.grad = one.grad.clone()
        for each in (by_kernel, plain):
            each.found_inf = torch.tensor(float(i == 3), device=DEVICE)  # type: ignore[attr-defined]
            each.step()
    assert sizes == [301 * 128] * 6
    for one, two in zip(mine.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
        state, wanted = by_kernel.state[one], plain.state[two]
        assert state["step"] == wanted["step"] == 5
        torch.testing.assert_close(state["exp_avg"], wanted["exp_avg"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(state["exp_avg_sq"], wanted["exp_avg_sq"], rtol=1e-4, atol=1e-12)


@here
def test_what_has_no_gradient_here_says_so() -> None:
    from fmnist_core.kernels.norm_pool_relu import Norm, norm_pool_relu

    x = torch.randn(1, 2, 1, 1, device=DEVICE, requires_grad=True)
    norm = Norm(rows_of(2, 1), rows_of(2, 1), torch.zeros(2, device=DEVICE), torch.ones(2, device=DEVICE), 0.1, 1e-5,
                training=False)
    with pytest.raises(NotImplementedError, match="evaluation"):
        norm_pool_relu(x, norm, pool=False, relu=True).sum().backward()
    with pytest.raises(ValueError, match="more than one value per channel"):
        norm_pool_relu(x, norm._replace(training=True), pool=False, relu=True)


@here
def test_the_gradient_of_images_is_not_computed_where_nobody_needs_it() -> None:
    from fmnist_core.kernels.conv import convolve

    weight_RP = rows_of(2, 9)
    y = convolve(torch.randn(2, 2, 5, 5, device=DEVICE), weight_RP, None, (1, 1), (3, 3), (1, 1))
    assert y.grad_fn is not None
    assert [function is not None for function, _ in y.grad_fn.next_functions] == [False, True]


@here
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("side", [7, 20])
def test_norm_pool_and_relu(has_norm: bool, pool: bool, relu: bool, side: int) -> None:
    """Without a norm the values are rounded, so that many maxima tie."""
    from fmnist_core.kernels.norm_pool_relu import Norm, norm_pool_relu

    replicas, channels = 3, 2
    x = torch.randn(6, replicas * channels, side, side, device=DEVICE) + 3.0
    x = (x if has_norm else x.round(decimals=1) - 3.0).requires_grad_()
    scale_RC, shift_RC = rows_of(replicas, channels), rows_of(replicas, channels)
    statistics = [torch.rand(replicas * channels, device=DEVICE) + 0.5 for _ in range(2)]
    wanted_statistics = [each.clone() for each in statistics]
    inputs = [x, scale_RC, shift_RC] if has_norm else [x]

    def plain(training: bool) -> Tensor:
        y = F.batch_norm(x, *wanted_statistics, scale_RC.flatten(), shift_RC.flatten(), training, 0.1,
                         1e-5) if has_norm else x
        y = F.max_pool2d(y, 2) if pool else y
        return F.relu(y) if relu else y

    for training in (True, False):
        norm = Norm(scale_RC, shift_RC, *statistics, 0.1, 1e-5, training) if has_norm else None
        y, wanted = norm_pool_relu(x, norm, pool=pool, relu=relu), plain(training)
        assert_alike((y, *statistics), (wanted, *wanted_statistics))
        if training:
            upstream = torch.randn_like(wanted)
            assert_alike(torch.autograd.grad(y, inputs, upstream), torch.autograd.grad(wanted, inputs, upstream))


@here
def test_what_is_not_a_number_stays_so() -> None:
    from fmnist_core.kernels.norm_pool_relu import norm_pool_relu

    x = torch.zeros(1, 1, 4, 4, device=DEVICE)
    x[0, 0, 1, 1] = torch.nan
    assert norm_pool_relu(x, None, pool=True, relu=True).isnan().tolist() == [[[[True, False], [False, False]]]]


def no_compiler(*args: object, **options: object) -> None:
    raise RuntimeError("no C compiler\nlong story")


@here
@pytest.mark.parametrize(("kernel", "instead", "reason"), [
    ("norm_pool_relu", no_compiler, "no C compiler"),
    ("norm_pool_relu", lambda x, norm, **options: F.relu(F.max_pool2d(x, 2)),
     "batch norm and pooling differ from PyTorch's"),
    ("convolve", lambda x, weight, bias, channels, *args: F.conv2d(
        x, 1.1 * weight.view(-1, channels[0], 3, 3), bias.flatten(), padding=1, groups=2), "convolutions differ"),
    ("adam_step", lambda parameter, *args, **options: parameter.mul_(torch.nan), "Adam's steps differ"),
    ("adam_step", lambda parameter, gradient, *args, **options: parameter.sub_(0.125 * gradient.sign()), "Adam's"),
])
@pytest.mark.usefixtures("asked_anew")
def test_without_kernels_that_work_the_layers_are_pytorchs(kernel: str, instead: object, reason: str,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Triton cannot compile them, and where what it compiles is wrong."""
    x = torch.zeros(1, 1, 2, 2, device=DEVICE)
    monkeypatch.setattr(f"fmnist_core.kernels.check.{kernel}", instead)
    with pytest.warns(UserWarning, match=f"slower: {reason}"):
        assert not available.has_kernels(x)
    assert not available.has_kernels(x)  # found out once


@here
@pytest.mark.usefixtures("asked_anew")
def test_finding_out_draws_no_random_numbers_and_heeds_no_defaults() -> None:
    before, x = torch.get_rng_state(), torch.zeros(1, device=DEVICE)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            assert available.has_kernels(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert not available.has_kernels(x.double())
    assert available.has_kernels(x.bfloat16()) is (DEVICE == "cuda")  # interpreted, its products are wrong


@here
@pytest.mark.skipif(DEVICE == "cuda", reason="test_gpu does so for larger ones")
@pytest.mark.parametrize("model", [
    Network1(conv1_channels=2, conv2_channels=3, fc_sizes=(8,), dropout=0.0),
    Network2(conv1_channels=2, conv2_channels=3, fc_sizes=(8,), dropout=0.0),
], ids=str)
def test_whole_networks(model: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters after three steps with every kernel, and with none."""
    cell = CellConfig(model=model, data=DataConfig(), train=TrainConfig(
        epochs=1, global_batch_size=4, optimizer="sgd", learning_rate=0.05))
    parameters = []
    for with_kernels in (True, False):
        if not with_kernels:
            monkeypatch.setattr(available, "has_kernels", lambda x: False)
        monkeypatch.setattr("fmnist_core.fused.training.tune", lambda *args, **options: None)
        training = FusedTraining(cell, (0, 1), small_dataset(12, 4, 4))
        training.model.train()
        for conv in training.network.convolutions():
            conv.method = "implicit_gemm" if with_kernels else "grouped"
        for index_NR in training.order().split(4):
            training.step_on(index_NR)
        parameters.append(training.network.parameters_RP.detach().clone())
    torch.testing.assert_close(*parameters, rtol=1e-3, atol=1e-5)
