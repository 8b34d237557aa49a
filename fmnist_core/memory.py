"""A lack of memory, however it is told, and memory given back."""

import gc

import torch

SIGNS = ("out of memory", "can't allocate memory")
"""In the text of a RuntimeError: CUDA's own error, and that of torch's allocator on a CPU."""


def ran_out(error: BaseException) -> bool:
    """Whether the machine or the device had no memory left, as torch, CUDA and Python say it."""
    if isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS):
        return True
    return isinstance(error, MemoryError | torch.OutOfMemoryError)


def free_memory() -> None:
    """What Accelerate prepared is freed by the garbage collector alone."""
    gc.collect()
    torch.cuda.empty_cache()
