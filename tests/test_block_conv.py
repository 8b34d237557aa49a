"""A first stage computed in blocks of pixels against PyTorch's own layers."""

import pytest
import torch
from torch import nn

from fmnist_core.config import CellConfig, DataConfig, Network2, TrainConfig
from fmnist_core.cpu.block_conv import BlockConv2d, BlockMaxPool2d, compute_first_stage_in_blocks
from fmnist_core.cpu.row_norm import RowBatchNorm
from fmnist_core.train import Training
from tests.small import small_dataset


def stage(norm: bool, dtype: torch.dtype = torch.float64, channels: int = 1, **options) -> nn.Sequential:
    """Convolution to pool, with parameters that are not the initial ones: some scales of the norm are negative."""
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 4, **options)
    layers = [conv, *([nn.BatchNorm2d(4, momentum=0.3)] if norm else []), nn.MaxPool2d(2), nn.ReLU()]
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, -1, 2)
            nn.init.uniform_(layer.bias, -1, 1)
    return nn.Sequential(*layers).to(dtype, memory_format=torch.channels_last)


def pair(*args, **options) -> tuple[nn.Sequential, nn.Sequential]:
    theirs, ours = stage(*args, **options), compute_first_stage_in_blocks(stage(*args, **options))
    assert type(ours[0]) is BlockConv2d
    return theirs, ours


def images(height: int = 28, width: int = 28, channels: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Half of each is blank, as in the data."""
    x = torch.rand(5, channels, height, width, dtype=dtype)
    x[:, :, :height // 2] = 0
    return x.to(memory_format=torch.channels_last)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (14, 10), (9, 9), (8, 9)])
@pytest.mark.parametrize(("kernel_size", "padding"), [(1, 0), (2, 0), (3, 1), (3, 0), (4, 1), (5, 2), (5, 4), (2, 3)])
@pytest.mark.parametrize("norm", [True, False])
def test_equals_pytorchs_layers(norm, kernel_size, padding, height, width):
    theirs, ours = pair(norm, kernel_size=kernel_size, padding=padding, bias=norm)
    for _ in range(2):  # the running statistics of two batches
        x, results = images(height, width), []
        assert (ours[0](x).ndim == 5) == all((size + 2 * padding - kernel_size) % 2 for size in (height, width))
        for layers in (theirs, ours):
            layers.zero_grad()
            y = layers(x)
            y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y) ** 2)
            results.append([y, *(parameter.grad for parameter in layers.parameters()), *layers.buffers()])
        torch.testing.assert_close(results[1], results[0])
    theirs.eval(), ours.eval()
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("channels", [2, 3])
def test_several_input_channels(channels):
    theirs, ours = pair(True, channels=channels, kernel_size=3, padding=1)
    x, results = images(channels=channels), []
    for layers in (theirs, ours):
        y = layers(x)
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y) ** 2)
        results.append([y, *(parameter.grad for parameter in layers.parameters())])
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_what_is_frozen_gets_no_gradient(frozen):
    theirs, ours = pair(True, kernel_size=3, padding=1)
    x = images()
    for layers in (theirs, ours):
        getattr(layers[0], frozen).requires_grad_(False)
        layers(x).square().sum().backward()
    assert getattr(ours[0], frozen).grad is None
    for mine, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad)


def test_no_image_at_all_and_one_without_a_batch():
    theirs, ours = pair(True, torch.float32, kernel_size=3, padding=1)
    empty = torch.zeros(0, 1, 28, 28)
    assert ours(empty).shape == theirs(empty).shape == (0, 4, 14, 14)
    theirs, ours = pair(False, torch.float32, kernel_size=3, padding=1)
    torch.testing.assert_close(ours(empty[:, 0].new_ones(1, 28, 28)), theirs(empty[:, 0].new_ones(1, 28, 28)))


def test_gradients_against_finite_differences():
    _, ours = pair(True, kernel_size=3, padding=1)
    x, parameters = images(6, 4), dict(ours.named_parameters())
    assert torch.autograd.gradcheck(lambda *values: torch.func.functional_call(
        ours, dict(zip(parameters, values, strict=True)), x), tuple(parameters.values()))


def test_the_first_of_equal_pixels_gets_the_gradient():
    pool = BlockMaxPool2d(2)
    blocks = torch.zeros(1, 4, 1, 1, 3)
    blocks[0, 1:, 0, 0, 1] = 1  # the second, third and fourth are the largest
    blocks[0, 3, 0, 0, 2] = 1
    blocks.requires_grad_()
    pool(blocks).sum().backward()
    assert blocks.grad[0, :, 0, 0].T.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]


def test_the_next_layer_gets_channels_last():
    _, ours = pair(True, torch.float32, kernel_size=3, padding=1)
    assert ours(images(dtype=torch.float32)).is_contiguous(memory_format=torch.channels_last)
    assert ours[0](images(dtype=torch.float32)).shape == (5, 4, 4, 14, 14)


def test_what_does_not_fit_is_left_to_pytorch():
    _, ours = pair(True, torch.float32, kernel_size=3, padding=1)
    conv = ours[0]
    assert conv(images(28, 27, dtype=torch.float32)).shape == (5, 4, 28, 27)
    assert conv(images(dtype=torch.float32).requires_grad_()).shape == (5, 4, 28, 28)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(images(dtype=torch.float32)).shape == (5, 4, 28, 28)
    conv.eval()
    assert conv(images(dtype=torch.float32)).shape == (5, 4, 28, 28)


TWICE = nn.Conv2d(1, 1, 3, padding=1)
WATCHED = nn.Conv2d(1, 4, 3)
WATCHED.register_forward_hook(lambda *arguments: None)


class Forked(nn.Sequential):
    """Reads the convolution's output twice."""

    def forward(self, x):
        return self[1](self[0](x)) + self[0](x).mean()


@pytest.mark.parametrize("model", [
    nn.Sequential(nn.Conv2d(1, 16, 3), nn.MaxPool2d(2)), nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.MaxPool2d(2)),
    nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(3)), nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2, padding=1)),
    nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2, stride=1)), nn.Sequential(nn.Conv2d(1, 4, 3), nn.AvgPool2d(2)),
    nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2)), nn.Sequential(nn.Conv2d(1, 4, 3)), nn.Sequential(),
    nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.MaxPool2d(2)), nn.Conv2d(1, 4, 3),
    nn.Sequential(TWICE, nn.MaxPool2d(2), TWICE), nn.Sequential(WATCHED, nn.MaxPool2d(2)),
    nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3)), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2)),
    Forked(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2)), nn.ModuleList([nn.Conv2d(1, 4, 3), nn.MaxPool2d(2)]),
    nn.Sequential(nn.Conv2d(1, 32, 3), nn.MaxPool2d(2), nn.Conv2d(32, 4, 3), nn.MaxPool2d(2))])
def test_other_networks_stay_as_they_are(model):
    before = [type(module) for module in model.modules()]
    assert [type(module) for module in compute_first_stage_in_blocks(model).modules()] == before


def losses() -> list[float]:
    cell = CellConfig(model=Network2(), train=TrainConfig(global_batch_size=32),
                      data=DataConfig(dataset="synthetic", validation_size=40))
    training = Training(cell, 0, small_dataset())
    kinds = [type(layer) for layer in list(training.model)[:3]]
    assert kinds == [BlockConv2d, RowBatchNorm, BlockMaxPool2d]
    order = training.order().split(32)
    return [float(training.step_on(index_N)) for index_N in order[:6]]


def test_a_training_follows_the_curve_of_pytorchs_layers(monkeypatch):
    ours = losses()
    monkeypatch.setattr(BlockConv2d, "forward", nn.Conv2d.forward)
    assert ours == pytest.approx(losses(), rel=1e-4)
    assert ours[0] != ours[5]
