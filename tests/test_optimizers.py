"""Muon against PyTorch's own on matrices, against a singular value decomposition, and AdamW beside it."""

import copy

import pytest
import torch
from torch import nn

from fmnist_core.config import CellConfig, KernelDepthCNN, TrainConfig
from fmnist_core.optimizers import Muon, optimizer_for, orthogonalized, set_learning_rate
from fmnist_core.train import Training, fit
from tests.small import small_dataset

MUON = {"optimizer": "muon", "learning_rate": 0.02, "other_learning_rate": 0.005, "momentum": 0.9, "weight_decay": 0.1}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 20, 3), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 6, 3, bias=False),
                         nn.Flatten(), nn.Linear(6 * 16, 10))


@pytest.mark.parametrize("nesterov", [True, False])
def test_a_convolution_steps_as_torchs_muon_steps_its_matrix(nesterov):
    """Which is an implementation of its own, in bfloat16 throughout: hence the tolerance, against steps of 0.02."""
    ours = network()
    optimizer = optimizer_for(ours, TrainConfig(**MUON, nesterov=nesterov))
    filters = [ours[0].weight, ours[3].weight]
    theirs = [nn.Parameter(weight.detach().flatten(1).clone()) for weight in filters]
    oracle = torch.optim.Muon(theirs, 0.02, weight_decay=0.1, momentum=0.9, nesterov=nesterov)
    for step in range(4):
        torch.manual_seed(step)
        for parameter in ours.parameters():
            parameter.grad = torch.randn_like(parameter)
        for weight, matrix in zip(filters, theirs, strict=True):
            # Its momentum is lerped: a constant factor, which orthogonalising takes out.
            matrix.grad = weight.grad.flatten(1).clone()
        optimizer.step()
        oracle.step()
        for weight, matrix in zip(filters, theirs, strict=True):
            torch.testing.assert_close(weight.flatten(1), matrix, rtol=0, atol=6e-4 * (step + 1))


def test_all_that_is_no_convolution_steps_as_adamw():
    ours = network()
    theirs = copy.deepcopy(ours)
    optimizer = optimizer_for(ours, TrainConfig(**MUON))
    others = lambda model: [parameter for parameter in model.parameters() if parameter.ndim != 4]
    oracle = torch.optim.AdamW(others(theirs), 0.005, weight_decay=0.1)
    for step in range(3):
        torch.manual_seed(step)
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        optimizer.step()
        oracle.step()
    for one, other in zip(others(ours), others(theirs), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (16, 16)])
def test_orthogonalised_has_the_same_directions_and_singular_values_about_1(shape):
    torch.manual_seed(1)
    matrix = torch.randn(shape)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.t() @ orthogonalized(matrix) @ vh.t()
    values = inside.diagonal()
    assert (inside - torch.diag(values)).abs().max() < 1e-4
    assert 0.6 < values.min() < values.max() < 1.25


def test_the_schedule_keeps_the_two_rates_in_proportion():
    optimizer = optimizer_for(network(), TrainConfig(**MUON))
    set_learning_rate(optimizer, 0.01)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.0025])
    plain = optimizer_for(network(), TrainConfig())
    set_learning_rate(plain, 0.01)
    assert [group["lr"] for group in plain.param_groups] == [0.01]


def test_a_held_step_changes_nothing():
    model = network()
    optimizer = optimizer_for(model, TrainConfig(**MUON))
    assert isinstance(optimizer, Muon)
    for held in (0.0, 1.0):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, torch.nan if held else 1.0)
        optimizer.found_inf = torch.tensor(held)
        optimizer.step()
        same = [torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True)]
        assert all(same) if held else not any(same)


def test_it_learns_and_a_network_without_convolutions_is_refused():
    model = KernelDepthCNN(depth=2, width=8)
    train = TrainConfig(epochs=4, global_batch_size=32, **MUON)
    history = fit(Training(CellConfig(model=model, train=train), 0, small_dataset()))
    assert history.train_loss[-1] < 0.5 * history.train_loss[0]
    with pytest.raises(ValueError, match="needs a network with convolutions"):
        optimizer_for(nn.Linear(3, 3), train)


def test_momentum_is_there_after_a_first_step_that_was_skipped(monkeypatch):
    """Gradients that overflow in fp16 skip the step, and with it what torch's fused kernel would have written."""
    monkeypatch.setattr(torch, "empty_like", lambda tensor, **more: torch.full_like(tensor, float("nan")))
    config = TrainConfig(optimizer="sgd", momentum=0.9, nesterov=True, learning_rate=0.1, weight_decay=0.01)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    optimizer = optimizer_for(ours, config)
    plain = torch.optim.SGD(theirs.parameters(), 0.1, 0.9, weight_decay=0.01, nesterov=True)
    gradients = [[torch.randn_like(parameter) for parameter in ours.parameters()] for _ in range(3)]
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(1.0)
    for step in range(3):
        for model in (ours, theirs):
            for parameter, gradient in zip(model.parameters(), gradients[step], strict=True):
                parameter.grad = gradient.clone()
        optimizer.step()
        if step:
            plain.step()
        optimizer.found_inf.zero_()
    torch.testing.assert_close([*ours.parameters()], [*theirs.parameters()])


def test_a_network_without_parameters_to_train_is_refused():
    frozen = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).requires_grad_(False)
    with pytest.raises(ValueError, match="the network has no parameters to train"):
        optimizer_for(frozen, TrainConfig())
