"""Batch normalization by rows against PyTorch's own layer and against finite differences."""

import pytest
import torch
from torch import nn

from fmnist_core.cpu.row_norm import RowBatchNorm, normalize_by_rows


@pytest.fixture(autouse=True)
def maps_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_core.cpu.row_norm.MIN_NUMBERS", 0)


def pair(channels: int, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    """PyTorch's layer and this one, with the same parameters that are not the initial ones."""
    torch.manual_seed(0)
    theirs = nn.BatchNorm2d(channels, momentum=0.3).to(dtype)
    nn.init.uniform_(theirs.weight, -1, 2)
    nn.init.uniform_(theirs.bias, -1, 1)
    ours = nn.BatchNorm2d(channels, momentum=0.3).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    ours = normalize_by_rows(ours)
    assert type(ours) is RowBatchNorm
    return theirs, ours


def maps(channels: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    maps_NCHW = torch.randn(6, channels, height, width, dtype=dtype) * 3 + 5
    return maps_NCHW.to(memory_format=torch.channels_last)


@pytest.mark.parametrize(("channels", "height", "width"), [(4, 28, 28), (1, 7, 5), (12, 3, 9), (3, 1, 1)])
def test_equals_pytorchs_layer(channels: int, height: int, width: int) -> None:
    theirs, ours = pair(channels, torch.float64)
    for _ in range(3):  # the running statistics of several batches
        maps_NCHW = maps(channels, height, width, torch.float64)
        results = []
        for layer in (theirs, ours):
            x = maps_NCHW.clone(memory_format=torch.preserve_format).requires_grad_()
            y = layer(x)
            y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y) ** 2)
            results.append([y, x.grad, layer.weight.grad, layer.bias.grad, *layer.buffers()])
        torch.testing.assert_close(results[1], results[0])
    theirs.eval(), ours.eval()
    torch.testing.assert_close(ours(maps_NCHW), theirs(maps_NCHW))


def test_gradients_against_finite_differences() -> None:
    _, ours = pair(4, torch.float64)
    x = maps(4, 3, 2, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, weight, bias: torch.func.functional_call(
        ours, {"weight": weight, "bias": bias}, x), (x, ours.weight, ours.bias))


def test_keeps_channels_last_and_leaves_the_rest_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = pair(4)
    assert ours(maps(4, 8, 8)).is_contiguous(memory_format=torch.channels_last)
    calls: list[torch.Size] = []
    theirs_forward = nn.BatchNorm2d.forward
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, x: calls.append(x.shape) or theirs_forward(self, x))
    ours(maps(4, 8, 8))
    assert not calls
    ours(maps(4, 8, 8).contiguous())
    assert len(calls) == 1
    monkeypatch.setattr("fmnist_core.cpu.row_norm.MIN_NUMBERS", maps(4, 8, 8).numel() + 1)
    ours(maps(4, 8, 8))
    assert len(calls) == 2


def test_one_value_per_channel_is_refused_as_pytorch_refuses_it() -> None:
    _, ours = pair(4)
    with pytest.raises(ValueError, match="more than 1 value"):
        ours(torch.ones(1, 4, 1, 1).to(memory_format=torch.channels_last))


def test_changes_only_layers_that_gain() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(16), nn.BatchNorm2d(4, affine=False),
                          nn.BatchNorm2d(4, momentum=None), nn.BatchNorm2d(4, track_running_stats=False))
    kinds = [type(layer) for layer in normalize_by_rows(model)]
    assert kinds == [RowBatchNorm] + [nn.BatchNorm2d] * 4
