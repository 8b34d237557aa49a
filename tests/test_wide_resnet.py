"""Wide residual networks: the sizes that their authors print, and that they learn under the recipe of `beyond_best`."""

import msgspec
import pytest
import torch
from torch import nn

from bench import experiment
from fmnist_core.models.wide_resnet import wide_resnet
from fmnist_core.summary import num_parameters
from fmnist_core.train import Training, fit
from tests.small import small_dataset


@pytest.mark.parametrize(("depth", "widening", "millions"), [(40, 1, 0.6), (40, 4, 8.9), (16, 8, 11.0), (28, 10, 36.5)])
def test_parameters_in_millions_are_those_of_the_papers_table(depth, widening, millions):
    with torch.device("meta"):
        model = wide_resnet(depth=depth, widening=widening, in_channels=3)
    assert round(num_parameters(model) / 1e6, 1) == millions
    is_square = lambda module: isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    assert sum(map(is_square, model.modules())) == depth - 3


def test_shapes_and_a_depth_that_there_is_not():
    maps = wide_resnet(depth=10, widening=1).blocks(torch.zeros(2, 16, 28, 28))
    assert maps.shape == (2, 64, 7, 7)
    with pytest.raises(ValueError, match="depth = 12: expected 10, 16"):
        wide_resnet(depth=12)


def test_the_recipe_of_the_best_learns_on_a_cpu():
    """A narrower and shallower network, every other option as there."""
    cell = experiment.load("beyond_best").cells[0].config
    assert cell.data.cutmix
    assert cell.train.ema
    model = msgspec.structs.replace(cell.model, options={"depth": 10, "widening": 1})
    data = msgspec.structs.replace(cell.data, dataset="synthetic", validation_size=40)
    train = msgspec.structs.replace(cell.train, epochs=6, global_batch_size=16, precision="no", ema=0.9)
    execution = msgspec.structs.replace(cell.execution, capture=False, compile="no")
    cell = msgspec.structs.replace(cell, model=model, data=data, train=train, execution=execution)
    history = fit(Training(cell, 0, small_dataset(230)))
    assert history.train_subset_loss[-1] < 0.8 * history.train_subset_loss[0]
    assert history.train_loss[-1] < history.train_loss[0]
