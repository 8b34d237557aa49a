"""Whitened and passed-on beginnings, by what the convolutions then do."""

import pytest
import torch
from torch import nn

from fmnist_core.config import CellConfig, DataConfig, KernelDepthCNN, Network2, StagedCNN, TrainConfig
from fmnist_core.fused.training import FusedTraining
from fmnist_core.initialization import EPSILON, initialize, pass_on, whitening_filters
from fmnist_core.train import Training, train_epoch
from tests.small import small_dataset


def training(model, **train) -> Training:
    data = DataConfig(dataset="synthetic", validation_size=40)
    return Training(CellConfig(model=model, data=data, train=TrainConfig(epochs=1, global_batch_size=32, **train)), 0,
                    small_dataset())


# Closed forms. He: normal of variance 2 / fan in. Glorot: uniform of variance 2 / (fan in + fan out).
@pytest.mark.parametrize(("initialization", "variance"), [("kaiming", 2 / 784), ("xavier", 2 / (784 + 392))])
def test_scales_of_other_beginnings(initialization, variance):
    begun = training(Network2(), initialization=initialization).model
    weight = begun.fc1.weight
    assert weight.var().item() == pytest.approx(variance, rel=0.02)
    is_uniform = weight.abs().max().item() <= (3 * variance) ** 0.5 * (1 + 1e-6)
    assert is_uniform is (initialization == "xavier")
    of_conv2 = 2 / (4 * 25) if initialization == "kaiming" else 2 / (4 * 25 + 16 * 25)
    assert begun.conv2.weight.var().item() == pytest.approx(of_conv2, rel=0.1)
    assert not begun.conv2.bias.any()
    assert not begun.fc2.bias.any()


def test_seeds_begin_apart_and_fused_ones_as_alone():
    begun = training(Network2(), initialization="kaiming")
    fused = FusedTraining(begun.cell, (0, 1), begun.dataset)
    assert all(torch.equal(a, b) for a, b in zip(fused.single(0).parameters(), begun.model.parameters(), strict=True))
    assert not torch.equal(fused.single(0).fc1.weight, fused.single(1).fc1.weight)


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_whitened_outputs_are_uncorrelated_and_of_variance_1(kernel_size):
    """Every second filter is the negative of the one before."""
    num = 2 * kernel_size**2
    begun = training(KernelDepthCNN(kernel_size=kernel_size, width=num), whitening="initial")
    weight = begun.model.conv1.weight
    assert torch.equal(weight[1::2], -weight[::2])
    images = begun.dataset.images(begun.dataset.train, torch.arange(230))
    outputs = nn.functional.conv2d(images, weight[::2]).transpose(0, 1).flatten(1).double()
    correlation, variance = outputs.corrcoef(), outputs.var(1)
    assert (correlation - torch.eye(num // 2)).abs().max() < 1e-3
    assert variance.max() <= 1 + 1e-6
    before = variance / weight[::2].flatten(1).double().square().sum(1)  # of the patches, in that direction
    torch.testing.assert_close(variance, before / (before + EPSILON), rtol=1e-3, atol=1e-4)
    assert bool((before.diff() <= 1e-9).all())


def test_fewer_filters_are_the_first_and_more_begin_at_random():
    few = training(KernelDepthCNN(width=5), whitening="initial").model.conv1.weight
    many = training(KernelDepthCNN(width=20), whitening="initial").model.conv1.weight
    plain = training(KernelDepthCNN(width=20)).model.conv1.weight
    assert torch.equal(few, many[:5])
    assert torch.equal(many[18:], plain[18:])
    assert not (many[:18] == plain[:18]).any()


def test_frozen_stays_and_initial_learns():
    for whitening, stays in (("frozen", True), ("initial", False)):
        begun = training(KernelDepthCNN(width=18), whitening=whitening)
        before = begun.model.conv1.weight.detach().clone()
        train_epoch(begun)
        assert torch.equal(begun.model.conv1.weight, before) is stays
        assert not torch.equal(begun.model.fc1.bias, torch.zeros(10))


@pytest.mark.parametrize(("kernel_size", "channels"), [(3, (4, 6)), (3, (6, 4)), (2, (4, 4)), (4, (3, 5))])
def test_inputs_are_passed_on_as_they_came(kernel_size, channels):
    """An even kernel pads one pixel less before than after."""
    convolution = nn.Conv2d(*channels, kernel_size, bias=False)
    random = convolution.weight.detach().clone()
    pass_on(convolution)
    x = torch.randn(2, channels[0], 9, 9)
    before, after = (kernel_size - 1) // 2, kernel_size // 2
    y = convolution(nn.functional.pad(x, (before, after, before, after)))
    num = min(channels)
    assert torch.equal(y[:, :num], x[:, :num])
    assert torch.equal(convolution.weight[num:], random[num:])


def test_the_first_convolution_is_not_passed_on_and_fused_seeds_begin_alike():
    model = StagedCNN(stem_channels=4, widths=(4, 6), depth=1)
    begun = training(model, identity=True)
    assert torch.equal(begun.model.conv1.weight, training(model).model.conv1.weight)
    assert torch.equal(begun.model.conv2.weight[:, :, 1, 1], torch.eye(4))
    fused = FusedTraining(begun.cell, (0, 1), begun.dataset)
    assert all(torch.equal(a, b) for a, b in zip(fused.single(0).parameters(), begun.model.parameters(), strict=True))


def test_networks_that_cannot_begin_so_are_refused():
    with pytest.raises(ValueError, match="knows 18 filters of 3 x 3 pixels; the first convolution has 19"):
        training(KernelDepthCNN(width=19), whitening="frozen")
    with pytest.raises(ValueError, match=r"train.identity = true needs a network with two convolutions"):
        training(KernelDepthCNN(depth=1), identity=True)
    with pytest.raises(ValueError, match=r"train.whitening = 'initial' needs a network that begins with"):
        initialize(nn.Linear(3, 3), small_dataset(), TrainConfig(whitening="initial"))
    frozen = CellConfig(model=KernelDepthCNN(width=18), train=TrainConfig(whitening="frozen"))
    with pytest.raises(ValueError, match=r"seeds cannot be fused with train.whitening = 'frozen'"):
        FusedTraining(frozen, (0, 1), small_dataset())


def test_patches_of_one_pixel_are_whitened_and_those_larger_than_an_image_refused():
    images_NCHW = torch.rand(50, 1, 8, 8)
    filters = whitening_filters(images_NCHW, (1, 1))
    assert filters.shape == (2, 1, 1, 1)
    assert float((filters[0] * images_NCHW).std()) == pytest.approx(1.0, abs=0.05)
    dataset = small_dataset(20)
    with pytest.raises(ValueError, match="needs images that hold a patch of 29 x 29 pixels"):
        initialize(nn.Conv2d(1, 4, 29), dataset, TrainConfig(whitening="initial"))
