"""What a process trains on is what its records name."""

import pytest
import torch

from bench.sweep import device


@pytest.mark.parametrize(("gpu", "found", "told", "expected"), [
    (True, False, "", "nvidia-smi lists a GPU, but torch .* finds none"),
    (False, True, "", "finds a GPU, but nvidia-smi lists none"),
    (False, True, "true", None), (True, True, "", None), (False, False, "", None),
])
def test_a_record_cannot_name_another_device_than_trains(gpu, found, told, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    monkeypatch.setenv("ACCELERATE_USE_CPU", told)
    if expected is None:
        device.check(gpu=gpu)
    else:
        with pytest.raises(ValueError, match=expected):
            device.check(gpu=gpu)
