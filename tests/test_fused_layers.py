"""The layers of fused models against torch's own, and which way of convolving is used."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fmnist_core.config import CellConfig, ExecutionConfig, KernelDepthCNN, Network1, Network2, TrainConfig
from fmnist_core.fused import tuning as fused_tuning
from fmnist_core.fused.conv import METHODS, FusedConv
from fmnist_core.fused.layers import FusedSequential, is_fusible
from fmnist_core.fused.training import FusedTraining
from fmnist_core.fused.tuning import tune
from fmnist_core.models.build import build
from tests.small import small_dataset

SEEDS = (0, 3, 5)

@pytest.mark.parametrize("method", [name for name in METHODS if name != "implicit_gemm"])
@pytest.mark.parametrize(("channels", "kernel_size", "stride", "padding", "bias"), [
    (1, 3, 1, 1, True), (3, 2, 2, 0, False), (2, 5, 1, 2, True), (2, 4, 3, 1, False),
])
def test_convolutions_against_torch(method: str, channels: int, kernel_size: int, stride: int, padding: int,
                                    bias: bool) -> None:
    layers = [nn.Conv2d(channels, 4, kernel_size, stride, padding, bias=bias).double() for _ in range(3)]
    conv = FusedConv(layers[0], 3)
    conv.method = method
    x = torch.randn(2, 3 * channels, 9, 8, dtype=torch.float64, requires_grad=True)
    rows = [torch.stack([p.detach().flatten() for p in each]).requires_grad_()
            for each in zip(*(layer.parameters() for layer in layers), strict=True)]
    y = conv(x, *rows)
    expected = torch.cat([layer(one) for layer, one in zip(layers, x.chunk(3, 1), strict=True)], 1)
    torch.testing.assert_close(y, expected)
    assert y.is_contiguous()
    upstream = torch.randn_like(y)
    gradients = torch.autograd.grad(y, [x, *rows], upstream)
    wanted = torch.autograd.grad(expected, [x, *(p for layer in layers for p in layer.parameters())], upstream)
    torch.testing.assert_close(gradients[0], wanted[0])
    for i, gradient in enumerate(gradients[1:]):
        per_layer = 1 + bias
        torch.testing.assert_close(gradient, torch.stack([g.flatten() for g in wanted[1:][i::per_layer]]))


def test_only_plain_sequences_of_known_layers_are_fusible() -> None:
    flat = [nn.Flatten(), nn.Linear(4, 10)]
    assert is_fusible(nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.ReLU(), nn.MaxPool2d(2), *flat))
    for layer in (nn.Conv2d(2, 2, 3, groups=2), nn.Conv2d(1, 1, 3, dilation=2), nn.Conv2d(1, 1, 3, padding="same"),
                  nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(1, affine=False),
                  nn.BatchNorm2d(1, momentum=None), nn.LayerNorm(4), nn.Sequential()):
        assert not is_fusible(nn.Sequential(layer, *flat)), layer
    assert not is_fusible(nn.Linear(4, 10))


def used_twice() -> nn.Sequential:
    activation = nn.Tanh()
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 4), activation, nn.Linear(4, 4), activation, nn.Linear(4, 10))


def changed(change) -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    change(model)
    return model


@pytest.mark.parametrize("model", [
    used_twice(),
    changed(lambda model: model[0].weight.requires_grad_(False)),
    changed(lambda model: setattr(model[4], "weight", model[2].weight)),
    changed(lambda model: model[0].register_forward_hook(lambda *_: None)),
    changed(lambda model: model.register_forward_pre_hook(lambda *_: None)),
    changed(lambda model: model[2].register_full_backward_hook(lambda *_: None)),
    changed(lambda model: setattr(model, "training_loss", lambda output, labels, progress: output.sum())),
    changed(lambda model: nn.utils.parametrizations.weight_norm(model[2])),
    nn.Sequential(nn.Linear(28, 4), nn.Flatten(), nn.Linear(4, 10)),
    nn.Sequential(nn.Linear(28, 10)),
    nn.Sequential(nn.Flatten(), nn.Flatten(), nn.Linear(784, 10)),
    nn.Sequential(nn.Flatten(2), nn.Linear(784, 10)),
], ids=["layer twice", "frozen", "tied", "hook", "pre-hook", "backward hook", "own loss", "parametrized",
        "Linear on maps", "no Flatten", "Flatten twice", "Flatten in part"])
def test_what_a_fused_form_would_not_heed_is_not_fusible(model) -> None:
    assert is_fusible(changed(lambda model: None))
    assert not is_fusible(model)


@pytest.mark.parametrize("before_flatten", [True, False])
def test_dropout_masks_have_their_rate_and_are_independent_between_replicas(before_flatten: bool) -> None:
    num_replicas, num_images, size, rate = 4, 50, 100, 0.3
    dropout, flatten, linear = nn.Dropout(rate), nn.Flatten(), nn.Linear(size, size, bias=False)
    nn.init.eye_(linear.weight)
    single = nn.Sequential(*((dropout, flatten) if before_flatten else (flatten, dropout)), linear)
    model = FusedSequential([single] * num_replicas)
    torch.manual_seed(0)
    y = model(torch.ones(num_images, 1, 10, 10)).detach()
    assert torch.allclose(y[y != 0], torch.tensor(1 / (1 - rate)))
    dropped = (y == 0).double().flatten(1)
    per_replica = num_images * size
    assert (dropped.mean(1) - rate).abs().max() < 4 * math.sqrt(rate * (1 - rate) / per_replica)
    correlation = torch.corrcoef(dropped) - torch.eye(num_replicas)
    assert correlation.abs().max() < 4 / math.sqrt(per_replica)
    assert model.eval()(torch.ones(1, 1, 10, 10)).unique().tolist() == [1.0]


def test_methods_are_timed_once_a_shape_and_the_fastest_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def seconds(conv: FusedConv, method: str, x: Tensor, *rest: Any) -> float:
        asked.append(method)
        assert x.shape == ((10, 3, 28, 28) if conv.in_channels == 1 else (10, 12, 14, 14))
        assert x.requires_grad == (conv.in_channels > 1)  # nobody needs the gradient of the images
        return 1.0 if method == ("gemm" if conv.in_channels == 1 else "separate") else 2.0

    monkeypatch.setattr(fused_tuning, "_seconds", seconds)
    monkeypatch.setattr(fused_tuning, "_fastest", {})
    cell = CellConfig(model=Network2(), train=TrainConfig(global_batch_size=10))
    for _ in range(2):
        methods = [conv.method for conv in FusedTraining(cell, SEEDS, small_dataset()).network.convolutions()]
        assert methods == ["gemm", "separate"]
    elsewhere = [name for name in METHODS if name != "implicit_gemm"]  # CUDA only
    assert sorted(asked) == sorted([*elsewhere, *elsewhere])


def test_a_deterministic_cell_is_not_left_to_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_tuning, "_seconds", lambda *args: pytest.fail("timed"))
    cell = CellConfig(model=Network1(), execution=ExecutionConfig(deterministic=True))
    convolutions = FusedTraining(cell, SEEDS, small_dataset()).network.convolutions()
    assert [conv.method for conv in convolutions] == ["grouped", "grouped"]


def test_tuning_leaves_statistics_and_mode_alone() -> None:
    model = FusedSequential([build(KernelDepthCNN(width=4), (1, 28, 28)) for _ in range(2)])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tune(model, torch.rand(3, 1, 28, 28), precision="no", captured=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert {conv.method for conv in model.convolutions()} <= set(METHODS)
