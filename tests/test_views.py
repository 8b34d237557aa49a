"""Test-time augmentation, and the augmented test set of one cited system."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fmnist_core import views
from fmnist_core.config import CellConfig, DataConfig, KernelDepthCNN, TrainConfig
from fmnist_core.evaluation import evaluate
from fmnist_core.fused.evaluation import fused_evaluate
from fmnist_core.fused.training import FusedTraining
from fmnist_core.train import Training
from tests.small import small_dataset


class Pixels(nn.Module):
    """Logit k is the pixel in row 14 and column 10 + k: what a view shows there."""

    def forward(self, images_NCHW):
        return images_NCHW[:, 0, 14, 10:20]


def pixel(row: int, column: int) -> float:
    """Of the picture below."""
    return 100.0 * row + column


def picture() -> torch.Tensor:
    return (100.0 * torch.arange(28.0)[:, None] + torch.arange(28.0)).view(1, 1, 28, 28)


def test_the_views_are_the_image_its_mirror_image_and_both_shifted_by_a_pixel():
    assert torch.equal(views.logits(Pixels(), picture(), "one"), picture()[:, 0, 14, 10:20])
    flipped = [(pixel(14, 10 + k) + pixel(14, 17 - k)) / 2 for k in range(10)]
    assert views.logits(Pixels(), picture(), "flip")[0].tolist() == pytest.approx(flipped)
    shifted = lambda k, by: (pixel(14 + by, 10 + k + by) + pixel(14 + by, 17 - k + by)) / 2
    expected = [0.5 * flipped[k] + 0.25 * shifted(k, 1) + 0.25 * shifted(k, -1) for k in range(10)]
    assert views.logits(Pixels(), picture(), "flip_shift")[0].tolist() == pytest.approx(expected)
    one_sided = views.logits(Pixels(), picture().square(), "flip_shift") - views.logits(Pixels(), picture().square(),
                                                                                       "flip")
    assert (one_sided > 0).all()  # a mean of neighbours of a convex function lies above it: both shifts were taken


def cell(**data) -> CellConfig:
    return CellConfig(model=KernelDepthCNN(depth=1, width=4), train=TrainConfig(global_batch_size=32),
                      data=DataConfig(dataset="synthetic", validation_size=40, **data))


@pytest.mark.parametrize("seen_as", ["one", "flip", "flip_shift"])
def test_a_network_that_changes_its_input_in_place_sees_the_same_views(seen_as):
    class InPlace(Pixels):
        def forward(self, images_NCHW):
            return super().forward(images_NCHW.sub_(1000.0).relu_())

    class Plain(Pixels):
        def forward(self, images_NCHW):
            return super().forward((images_NCHW - 1000.0).relu())

    assert torch.equal(views.logits(InPlace(), picture(), seen_as), views.logits(Plain(), picture(), seen_as))


@pytest.mark.parametrize("seen_as", ["flip", "flip_shift"])
def test_every_evaluation_takes_the_cells_views(seen_as):
    training = Training(cell(test_views=seen_as), 0, small_dataset())
    result = evaluate(training, training.dataset.test, keep_logits=True)
    images = training.dataset.test.images_NCHW / 255
    with torch.no_grad():
        expected = views.logits(training.model.eval(), images, seen_as)
    torch.testing.assert_close(result.logits_NK, expected, rtol=1e-4, atol=1e-5)
    plain = evaluate(training, training.dataset.test, test_views="one")
    assert plain.loss == evaluate(Training(cell(), 0, small_dataset()), training.dataset.test).loss != result.loss
    fused = FusedTraining(cell(test_views=seen_as), (0, 1), small_dataset())
    assert fused_evaluate(fused, training.dataset.test)[0].loss == pytest.approx(result.loss, rel=1e-4)


def test_an_augmented_test_set_is_the_test_set_alone():
    data = {"shift": 4, "flip": "random", "augment_test": True}
    training = Training(cell(**data), 0, small_dataset(**data))
    unchanged = replace(training.dataset, config=DataConfig())
    different = {}
    for name in ("train", "validation", "test"):
        loss = evaluate(training, getattr(training.dataset, name)).loss
        training.dataset, kept = unchanged, training.dataset
        different[name] = loss != evaluate(training, getattr(training.dataset, name)).loss
        training.dataset = kept
    assert different == {"train": False, "validation": False, "test": True}
