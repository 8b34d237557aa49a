"""Mixed images and their labels, against mixing by hand and against the sum of two losses."""

import pytest
import torch
import torch.nn.functional as F

from fmnist_core import objective
from fmnist_core.config import CellConfig, DataConfig, KernelDepthCNN, TrainConfig
from fmnist_core.fused.training import FusedTraining, fused_fit
from fmnist_core.mix import mix
from fmnist_core.observe import count_operators, count_waits
from fmnist_core.train import Training, fit
from tests.small import small_dataset


def batch(num: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i is of the value i throughout, and of class i % 10."""
    values = torch.arange(num, dtype=torch.float32)
    return values.view(-1, 1, 1, 1).expand(-1, 1, 28, 28).clone(), torch.arange(num) % 10


def shares(probabilities_NK: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """Of an image's own class; all that is not its own is its partner's."""
    own_N = probabilities_NK.gather(1, labels_N[:, None])[:, 0]
    partner_N = probabilities_NK.gather(1, labels_N.roll(1)[:, None])[:, 0]
    torch.testing.assert_close(own_N + partner_N, torch.ones(len(labels_N)))
    return own_N


def test_mixup_blends_pixels_and_labels_in_one_proportion():
    torch.manual_seed(0)
    images, labels = batch()
    mixed, probabilities = mix(images, labels, DataConfig(mixup=1.0))
    share_N = shares(probabilities, labels)
    expected = share_N * images[:, 0, 0, 0] + (1 - share_N) * images.roll(1, 0)[:, 0, 0, 0]
    torch.testing.assert_close(mixed[:, 0, 5, 7], expected, rtol=1e-4, atol=1e-2)
    assert share_N.mean() == pytest.approx(0.5, abs=0.05)
    assert share_N.std() == pytest.approx(12**-0.5, abs=0.03)


def test_cutmix_counts_the_pixels_of_the_box():
    torch.manual_seed(0)
    images, labels = batch()
    mixed, probabilities = mix(images, labels, DataConfig(cutmix=1.0))
    is_own = mixed == images
    assert bool((is_own | (mixed == images.roll(1, 0))).all())
    torch.testing.assert_close(shares(probabilities, labels), is_own.float().mean((1, 2, 3)))
    for box in ~is_own[:50, 0]:
        rows, columns = box.any(1), box.any(0)
        assert torch.equal(box, rows[:, None] & columns)
        assert rows.int().diff().abs().sum() <= 2
    areas = 1 - is_own.float().mean((1, 2, 3))
    assert 0.25 < areas.mean() < 0.45  # half the image less what falls over the border
    assert areas.max() > 0.8


@pytest.mark.parametrize(("options", "fraction"), [({"mixup": 0.3}, 0.3), ({"cutmix": 0.6}, 0.6),
                                                   ({"mixup": 0.3, "cutmix": 0.5}, 0.8)])
def test_as_many_are_mixed_as_asked(options, fraction):
    torch.manual_seed(0)
    images, labels = batch(4000)
    mixed, probabilities = mix(images, labels, DataConfig(**options))
    changed = (mixed != images).flatten(1).any(1)
    assert changed.float().mean() == pytest.approx(fraction, abs=0.03)
    assert bool((probabilities.max(1).values[~changed] == 1).all())


def test_the_loss_is_that_of_both_labels_in_proportion():
    torch.manual_seed(0)
    logits, labels = torch.randn(400, 10), batch()[1]
    probabilities = mix(*batch(), DataConfig(mixup=0.5))[1]
    share = shares(probabilities, labels)
    for smoothing in (0.0, 0.2):
        each = lambda target, smoothing=smoothing: F.cross_entropy(logits, target, reduction="none",
                                                                  label_smoothing=smoothing)
        expected = (share * each(labels) + (1 - share) * each(labels.roll(1))).mean()
        found = objective.loss(logits, probabilities, TrainConfig(label_smoothing=smoothing))
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    squares = objective.loss(logits, probabilities, TrainConfig(loss="mse"))
    assert squares.item() == pytest.approx((logits - probabilities).square().mean().item(), rel=1e-6)


def test_fused_seeds_mix_within_a_seed():
    torch.manual_seed(0)
    images = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(20, 3, 1, 28, 28).clone()
    for config in (DataConfig(mixup=1.0), DataConfig(cutmix=1.0)):
        mixed, probabilities = mix(images, torch.arange(3).expand(20, 3), config)
        torch.testing.assert_close(mixed, images)
        torch.testing.assert_close(probabilities[..., :3], torch.eye(3).expand(20, 3, 3))


def test_training_mixes_without_waiting_and_evaluation_does_not_mix():
    data = DataConfig(dataset="synthetic", validation_size=40, mixup=0.5, cutmix=0.5)
    cell = CellConfig(model=KernelDepthCNN(depth=1, width=4), data=data, train=TrainConfig(epochs=3,
                                                                                         global_batch_size=32))
    training = Training(cell, 0, small_dataset(mixup=0.5, cutmix=0.5))
    assert count_waits(count_operators(training)) == 0
    history = fit(training)
    assert history.train_loss[-1] < history.train_loss[0]
    assert history.train_subset_loss[-1] < history.train_loss[-1]
    outcomes = fused_fit(FusedTraining(cell, (0, 1), small_dataset(mixup=0.5, cutmix=0.5)))
    assert all(outcome.train_loss[-1] < outcome.train_loss[0] for outcome in outcomes)
