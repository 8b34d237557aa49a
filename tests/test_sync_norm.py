"""Shared batch statistics against PyTorch's layer, which has the whole batch; which layers have none to share."""

import copy
import re

import pytest
import torch
from torch import nn

from fmnist_core.sync_norm import synchronize_batch_norm

CPU = torch.device("cpu")


@pytest.fixture
def twin(monkeypatch):
    """Another process that has the same images."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.mul_(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(37, 3), (37, 3, 5), (37, 3, 5, 4)], ids=str)
def test_half_a_batch_is_normalized_as_in_the_whole(twin, shape, affine, dtype):
    torch.manual_seed(0)
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(3, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    shared = synchronize_batch_norm(nn.Sequential(copy.deepcopy(norm)), CPU)
    half, goal = (2 + torch.randn(shape)).to(dtype).requires_grad_(), torch.randn(shape).to(dtype)
    whole, own = half.detach().repeat(2, *[1] * (len(shape) - 1)).requires_grad_(), shared(half)
    expected = norm(whole)
    assert own.dtype == dtype
    close = {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(own, expected[:37], **close)
    (own * goal).sum().backward()
    (expected * torch.cat([goal, goal])).sum().backward()
    torch.testing.assert_close(half.grad, whole.grad[:37], **close)
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[f"0.{name}"], value, msg=name)
    torch.testing.assert_close(shared.eval()(half), norm.eval()(half))


def test_a_layer_that_would_keep_its_statistics_for_itself_is_refused():
    for norm in (nn.BatchNorm3d(4), nn.BatchNorm2d(4, momentum=None), nn.BatchNorm1d(4, track_running_stats=False)):
        with pytest.raises(ValueError, match=re.escape(
                f"train.sync_batch_norm = true, but on a CPU 1 = {norm} cannot be synchronized; allowed: BatchNorm1d")):
            synchronize_batch_norm(nn.Sequential(nn.Flatten(), norm), CPU)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_network_without_such_layers_is_refused(device):
    with pytest.raises(ValueError, match=r"train.sync_batch_norm = true has no effect on a network without batch"):
        synchronize_batch_norm(nn.Sequential(nn.Linear(3, 3)), torch.device(device))
