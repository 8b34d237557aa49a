"""Dropout from uniform numbers: rate, scale, gradient, and where it leaves PyTorch's layer alone."""

import math

import pytest
import torch
from torch import nn

from fmnist_core.config import CellConfig, Network2, TrainConfig
from fmnist_core.cpu.uniform_dropout import UniformDropout, draw_masks_from_uniform
from fmnist_core.train import Training
from tests.small import small_dataset


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_at_its_rate_and_keeps_the_mean(p, dtype):
    torch.manual_seed(0)
    layer = draw_masks_from_uniform(nn.Dropout(p))
    assert type(layer) is UniformDropout
    x = torch.full((300, 400), 3.0, dtype=dtype, requires_grad=True)
    y = layer(x)
    assert y.dtype == dtype
    dropped = (y == 0).double()
    assert abs(dropped.mean().item() - p) < 4 * math.sqrt(p * (1 - p) / x.numel())
    assert y[y != 0].unique().item() == pytest.approx(3 / (1 - p), rel=1e-2 if dtype == torch.bfloat16 else 1e-6)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)
    rows, columns = dropped.mean(1), dropped.mean(0)  # no row and no column is favoured
    assert rows.std() < 1.3 * math.sqrt(p * (1 - p) / 400)
    assert columns.std() < 1.3 * math.sqrt(p * (1 - p) / 300)
    assert not torch.equal(layer(x) == 0, y == 0)


def test_evaluation_and_other_layers_are_pytorchs():
    x = torch.randn(5, 7)
    assert torch.equal(draw_masks_from_uniform(nn.Dropout(0.5)).eval()(x), x)
    assert type(draw_masks_from_uniform(nn.Dropout2d(0.5))) is nn.Dropout2d
    overwriting = draw_masks_from_uniform(nn.Dropout(0.5, inplace=True))
    assert overwriting(x) is x
    assert (x == 0).any()


@pytest.mark.parametrize("first", [0.0, 0.5, 1.0])
def test_a_rate_may_change_later(first):
    layer, x = draw_masks_from_uniform(nn.Dropout(first)), torch.full((100, 100), 3.0)
    assert type(layer) is UniformDropout
    for p, left in ((0.25, {0.0, 4.0}), (1.0, {0.0}), (0.0, {3.0})):
        layer.p = p
        assert set(layer(x).unique().tolist()) == left


def test_a_training_on_a_cpu_uses_it_and_repeats_its_masks():
    cell = CellConfig(model=Network2(dropout=0.5), train=TrainConfig(global_batch_size=10))
    losses = []
    for _ in range(2):
        training = Training(cell, 3, small_dataset())
        kinds = {type(module) for module in training.model.modules()}
        assert (UniformDropout in kinds) == (training.device.type == "cpu")
        losses.append([training.step_on(index_N).item() for index_N in training.order().split(10)[:3]])
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3
