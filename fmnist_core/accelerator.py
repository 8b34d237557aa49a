"""Accelerate's state and PyTorch's switches, of which a process has one each: precision, and determinism."""

import importlib.util
import os
import sys
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState

from fmnist_core.config import Precision


def accelerator_for(precision: Precision, **options: Any) -> Accelerator:
    """An Accelerator that really has this precision. `options`: others of Accelerator's own, e.g. of its trackers.

    Accelerate keeps one precision per process; its state is cleared when another is asked for, so that one command
    can compare precisions. The process group, if there is one, lives on.
    """
    _remember_missing("lomo_optim")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    # Accelerate makes no group of processes on CPUs unless it is told that they are; and it would take accelerators of
    # other kinds, whose work no clock here waits for.
    on_cpus = not torch.cuda.is_available()
    accelerator = Accelerator(mixed_precision=precision, cpu=on_cpus, kwargs_handlers=[ddp], **options)
    assert accelerator.num_processes == int(os.environ.get("WORLD_SIZE", 1)), accelerator.num_processes
    assert accelerator.mixed_precision == precision, (accelerator.mixed_precision, precision)
    return accelerator


def be_deterministic(wanted: bool) -> None:
    """Deterministic algorithms only, or any. On CUDA cuBLAS must be told before its first use, by the environment."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = False


def _remember_missing(module: str) -> None:
    """Accelerate looks through the whole search path for its optional `lomo_optim`, twice a step: 0.1 ms."""
    if importlib.util.find_spec(module) is None:
        sys.modules[module] = None  # type: ignore[assignment]  # how Python itself notes that there is none
