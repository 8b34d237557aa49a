"""Convolutions of few channels against PyTorch's own layer and against finite differences."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from fmnist_core.config import CellConfig, DataConfig, Network2, TrainConfig
from fmnist_core.cpu.layer_fusion import has_native_layers
from fmnist_core.cpu.narrow_conv import NarrowConv2d, fills_vectors, speed_up_narrow_convolutions
from fmnist_core.train import Training
from tests.small import small_dataset


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More have PyTorch's convolutions."""
    many = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(many)


def pair(channels: int, filters: int, dtype: torch.dtype = torch.float64, **options) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    theirs = nn.Conv2d(channels, filters, **options).to(dtype, memory_format=torch.channels_last)
    ours = nn.Conv2d(channels, filters, **options).to(dtype, memory_format=torch.channels_last)
    ours.load_state_dict(theirs.state_dict())
    ours = speed_up_narrow_convolutions(ours)
    assert type(ours) is NarrowConv2d
    return theirs, ours


def maps(channels: int, height: int, width: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(5, channels, height, width, dtype=dtype).to(memory_format=torch.channels_last)


@pytest.mark.parametrize(("height", "width"), [(14, 14), (7, 10), (9, 9), (5, 5)])
@pytest.mark.parametrize(("kernel_size", "padding"), [(1, 0), (2, 0), (3, 1), (3, 0), (4, 0), (5, 2), (5, 4), (7, 3)])
@pytest.mark.parametrize(("channels", "filters"), [(2, 7), (4, 7), (2, 16), (3, 32), (4, 16)])
def test_equals_pytorchs_layer(channels, filters, kernel_size, padding, height, width):
    theirs, ours = pair(channels, filters, kernel_size=kernel_size, padding=padding, bias=channels == 4)
    x, results = maps(channels, height, width), []
    for layer in (theirs, ours):
        own = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = layer(own)
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y) ** 2)
        results.append([y, own.grad, *(parameter.grad for parameter in layer.parameters())])
    assert len(results[0]) == 3 + (channels == 4)
    torch.testing.assert_close(results[1], results[0])


def test_filters_that_fill_vectors_are_computed_in_c():
    weight = torch.randn(16, 4, 3, 3)
    if not has_native_layers():
        pytest.skip("needs a C compiler")
    assert fills_vectors(torch.ones(1, 4, 5, 5), weight)
    assert not fills_vectors(torch.ones(0, 4, 5, 5), weight)
    assert not fills_vectors(torch.ones(1, 4, 5, 5), weight[:15])
    torch.set_num_threads(2)
    assert not fills_vectors(torch.ones(1, 4, 5, 5), weight)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_what_is_frozen_gets_no_gradient(frozen):
    theirs, ours = pair(4, 16, kernel_size=3)
    x = maps(4, 6, 6).requires_grad_()
    for layer in (theirs, ours):
        getattr(layer, frozen).requires_grad_(False)
        layer(x).square().sum().backward()
    assert getattr(ours, frozen).grad is None
    for mine, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad)


def test_gradients_against_finite_differences():
    _, ours = pair(3, 16, kernel_size=3, padding=1)
    x = maps(3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, weight, bias: torch.func.functional_call(
        ours, {"weight": weight, "bias": bias}, x), (x, ours.weight, ours.bias))


@pytest.mark.parametrize("filters", [16, 15])
def test_float32_agrees_to_rounding_at_the_final_networks_size(filters):
    """With functions in C, and without."""
    theirs, ours = pair(4, filters, torch.float32, kernel_size=5, padding=2)
    x = torch.randn(90, 4, 14, 14).to(memory_format=torch.channels_last).requires_grad_()
    g = torch.randn(90, filters, 14, 14).to(memory_format=torch.channels_last)
    found = torch.autograd.grad(ours(x), (x, *ours.parameters()), g)
    exact = torch.autograd.grad(theirs.double()(x.double()), (x, *theirs.parameters()), g.double())
    for mine, wanted in zip(found, exact, strict=True):
        torch.testing.assert_close(mine.double(), wanted.double(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[0].double(), exact[0].double(), rtol=1e-4, atol=1e-4)
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layer", [
    nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(4, 8, 3, stride=2), nn.Conv2d(4, 8, 3, dilation=2),
    nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(4, 8, (3, 5)), nn.Conv2d(4, 8, 3, padding=(1, 0)),
    nn.Conv2d(4, 8, 3, padding="same"), nn.Conv2d(4, 8, 3, padding_mode="circular"), nn.Conv2d(4, 8, 2, padding=3),
    nn.ConvTranspose2d(4, 8, 3)])
def test_other_layers_stay_as_they_are(layer):
    before = type(layer)
    assert type(speed_up_narrow_convolutions(layer)) is before


def test_what_does_not_fit_is_left_to_pytorch(monkeypatch):
    theirs, ours = pair(4, 8, torch.float32, kernel_size=3)
    x, used = maps(4, 6, 6, torch.float32), []
    monkeypatch.setattr("fmnist_core.cpu.narrow_conv._Convolve.apply", lambda *a: used.append(1) or theirs(a[0]))
    ours(x)  # no gradient of the input is wanted
    ours(x.contiguous().requires_grad_())
    with torch.autocast("cpu", torch.bfloat16):
        ours(x.requires_grad_())
    assert not used
    ours(x.requires_grad_())
    assert used


def test_a_training_has_it_in_the_second_convolution_alone():
    cell = CellConfig(model=Network2(), data=DataConfig(dataset="synthetic", validation_size=40),
                      train=TrainConfig(global_batch_size=32))
    model = Training(cell, 0, small_dataset()).model
    assert [type(layer) is NarrowConv2d for layer in model.modules() if isinstance(layer, nn.Conv2d)] == [False, True]
