"""Learning rates by closed form."""

import pytest

from bench import experiment
from fmnist_core.config import TrainConfig
from fmnist_core.schedule import learning_rate


def rates(num_steps, **options):
    config = TrainConfig(learning_rate=0.5, **options)
    return [learning_rate(step, num_steps, config) for step in range(num_steps)]


def test_constant():
    assert rates(5) == [0.5] * 5


def test_steps_are_torchs():
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.5)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 14], gamma=0.1)
    for rate in rates(20, schedule="step", steps=((0.3, 0.1), (0.7, 0.01))):
        assert rate == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_mcnn15s_is_the_cosine_of_its_authors():
    """Of a half period of 10 epochs, over 50. torch's own reaches 0, a step of no size; here a billionth stays."""
    import torch

    config = experiment.load("cited_mcnn15").cells[0].config.train
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], config.learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for epoch in range(50):
        rate = learning_rate(epoch * 938 + 469, 50 * 938, config)
        assert rate == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6, abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_cosine_is_torchs():
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    for rate in rates(20, schedule="cosine"):
        assert rate == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_one_cycle_by_hand():
    """10 steps, 30 % of them rising: peak/4, 2/4, 3/4, then from the peak linearly towards 0, never reached."""
    expected = [0.125, 0.25, 0.375, *(0.5 * (10 - step) / 7 for step in range(3, 10))]
    assert rates(10, schedule="one_cycle") == pytest.approx(expected)
    assert max(rates(10, schedule="one_cycle")) == 0.5
    assert rates(4, schedule="one_cycle", warmup=0.0) == pytest.approx([0.5, 0.375, 0.25, 0.125])
