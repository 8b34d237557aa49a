"""Whether this project's Triton kernels can be used: where they are installed, compile and give what PyTorch gives."""

import functools
import importlib.util
import os
import warnings

import torch
from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's kernels run on the CPU, element by element: for tests."""


def has_kernels(x: Tensor) -> bool:
    """Whether they work on `x`."""
    dtypes = (torch.float32, torch.bfloat16) if x.is_cuda else (torch.float32,)  # interpreted, bfloat16 is wrong
    return HAS_TRITON and (x.is_cuda or INTERPRETED) and x.dtype in dtypes and work_on(x.device)


@functools.cache
def work_on(device: torch.device) -> bool:
    """Triton is installed with torch, but needs a C compiler, and these kernels a GPU with TF32 and bfloat16."""
    if device.type == "cuda" and (torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0)):
        return False
    try:
        from fmnist_core.kernels.check import check

        check(device)
    except Exception as error:  # what is missing shows itself in many ways
        reason = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(f"training goes on without this project's kernels, slower: {reason[0]}", stacklevel=2)
        return False
    return True
