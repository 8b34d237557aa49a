"""Losses by hand and against torch."""

import pytest
import torch

from fmnist_core.config import TrainConfig
from fmnist_core.objective import loss, sign_argmax_accuracy

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 2])


def test_cross_entropy_by_hand():
    expected = (-2.0 + torch.tensor([2.0, -1.0, 0.5]).exp().sum().log() + torch.tensor(3.0).log()) / 2
    assert loss(LOGITS, LABELS, TrainConfig()).item() == pytest.approx(expected.item())
    smooth = loss(LOGITS, LABELS, TrainConfig(label_smoothing=0.3))
    uniform = -LOGITS.log_softmax(1).mean()
    assert smooth.item() == pytest.approx(0.7 * expected.item() + 0.3 * uniform.item())


def test_mse_is_against_one_hot():
    """(1 + 1 + 0.25 + 0 + 0 + 1) / 6"""
    assert loss(LOGITS, LABELS, TrainConfig(loss="mse")).item() == pytest.approx(3.25 / 6)


def test_squared_hinge_by_hand():
    """Margins: 1-2 -> 0, 1-1 = 0, 1.5 -> 2.25; 1, 1, 1 -> (0 + 0 + 2.25 + 3) / 6"""
    assert loss(LOGITS, LABELS, TrainConfig(loss="squared_hinge")).item() == pytest.approx(5.25 / 6)


SIGNS = torch.tensor([
    [-1.0, 0.5, 9.0],   # 1 and 2 are above 0: the lower one, not the larger
    [-3.0, -2.0, 0.1],  # 2 alone
    [-3.0, -1.0, -2.0],  # none: all signs are equal
    [-3.0, 0.0, -2.0],  # 0 lies above the rest
    [2.0, 0.0, 5.0],    # 0 and 2
])


def test_sign_argmax_by_hand():
    predicted = torch.tensor([1, 2, 0, 1, 0])
    assert sign_argmax_accuracy(SIGNS, predicted) == 1
    assert sign_argmax_accuracy(SIGNS, SIGNS.argmax(1)) == pytest.approx(2 / 5)  # 2, 2, 1, 1, 2
    assert sign_argmax_accuracy(SIGNS, torch.tensor([2, 1, 0, 0, 1])) == pytest.approx(1 / 5)


def test_sign_argmax_gives_ties_to_the_lowest_of_many_classes():
    logits_NK = torch.full((1000, 10), 1.0)
    assert sign_argmax_accuracy(logits_NK, torch.zeros(1000, dtype=torch.int64)) == 1
