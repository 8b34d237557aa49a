"""Losses by hand and against torch."""

import pytest
import torch

from fmnist_core.config import TrainConfig
from fmnist_core.objective import loss

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
