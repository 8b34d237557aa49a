"""The device of this process: whether it is the one that records will name, and what lies on it between two tasks."""

from typing import Any

import torch

from bench import environment
from bench.sweep.plan import Task
from fmnist_core import data
from fmnist_core.accelerator import accelerator_for
from fmnist_core.observe import reset_graph_counts


def check(*, gpu: bool) -> None:
    """Raise ValueError where torch trains elsewhere than the driver's tool says."""
    found = torch.cuda.is_available() and not environment.is_told_to_use_cpu()
    if gpu and not found:
        raise ValueError(f"nvidia-smi lists a GPU, but torch {torch.__version__} finds none: install a torch for GPUs "
                         "that fits the driver, or train on the CPU with CUDA_VISIBLE_DEVICES=''")
    if found and not gpu:
        raise ValueError(f"torch {torch.__version__} finds a GPU, but nvidia-smi lists none, and records would name "
                         "the wrong device: install nvidia-smi, or train on the CPU with CUDA_VISIBLE_DEVICES=''")


def set_up(task: Task, num_threads: int) -> None:
    """The process for a task. A compiler counts what it did for earlier ones, and at its limit would stop compiling."""
    torch.set_num_threads(num_threads)
    if task.cell.config.execution.compile != "no":
        reset_graph_counts()


_datasets: dict[Any, data.Dataset] = {}


def dataset_of(task: Task, data_dir: str | None) -> data.Dataset:
    """The last data set is kept on the device: most sweeps have one for all cells."""
    config = task.cell.config.data
    device = accelerator_for(task.cell.config.train.precision).device
    if (config, device) not in _datasets:
        _datasets.clear()
        _datasets[config, device] = data.load(config, device, data_dir)
    return _datasets[config, device]
