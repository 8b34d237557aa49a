"""How many seeds of a cell to train as one module on a device: from memory and a short timing."""

import math

import torch
from torch import nn

from fmnist_core.config import Baseline, CellConfig, input_shape
from fmnist_core.data import Dataset
from fmnist_core.fused.training import FusedTraining, check_fusible
from fmnist_core.memory import free_memory
from fmnist_core.models.build import build
from fmnist_core.step_time import fastest_steps
from fmnist_core.summary import LayerRow, num_parameters, summarize
from fmnist_core.train import Training

MEMORY_SHARE = 0.5
"""Of the free memory, for what `replica_bytes` counts; the rest is for workspaces and for what it leaves out."""


def pays(cell: CellConfig, device: torch.device) -> bool:
    """Whether seeds of this cell can be fused and may gain by it: no timing yet.

    On a CPU they never do: a replica at a time fills a core and stays in its caches. Measured with one thread at R = 2,
    4 and 8, a fused step took 1.1 to 1.5 times as long as its seeds one by one for the report's networks, and 2 to 4
    times for the family.
    """
    if device.type != "cuda" or isinstance(cell.model, Baseline):
        return False
    if cell.execution.deterministic:  # how many are fused is timed, and rounds differently from one seed at a time
        return False
    try:
        check_fusible(cell, _model(cell))
    except ValueError:
        return False
    return True


def choose_num_replicas(cell: CellConfig, dataset: Dataset, device: torch.device, num_seeds: int) -> int:
    """R: the most replicas that fit the memory, in groups of nearly equal size, if a fused step is faster than R alone.

    If it is not, half as many are tried, and so on; 1 says: one by one. Trains throw-away models for a few steps.
    """
    if num_seeds < 2 or not pays(cell, device):
        return 1
    most = _free_bytes(device) * MEMORY_SHARE / replica_bytes(cell)
    num = balanced(num_seeds, max(1, math.floor(most)))
    alone = Training(cell, 0, dataset)
    while num > 1:
        if _is_faster(cell, num, dataset, alone):
            return num
        num = balanced(num_seeds, num // 2)
    return 1


def balanced(num_seeds: int, most: int) -> int:
    """The size of equal groups, no larger than `most`, into which the seeds go with the fewest groups: 16, 12 -> 8."""
    return math.ceil(num_seeds / math.ceil(num_seeds / most))


def replica_bytes(cell: CellConfig) -> int:
    """What a replica adds to the memory of a step: every layer's output, the patches of every convolution, and the
    gradients of both; parameters, their gradients and two moments. In float32."""
    model = _model(cell)
    rows = summarize(model, input_shape(cell.data))
    per_image = 2 * sum(math.prod(row.out_shape) + _patches(row) for row in rows)
    batch_size = math.ceil(cell.train.global_batch_size / cell.train.gradient_accumulation)
    return 4 * (per_image * batch_size + 4 * num_parameters(model))


def _is_faster(cell: CellConfig, num_replicas: int, dataset: Dataset, alone: Training) -> bool:
    """Whether a fused step beats R steps alone."""
    free_memory()
    try:
        step_s = fastest_steps({"alone": alone, "together": FusedTraining(cell, range(num_replicas), dataset)})
    except torch.OutOfMemoryError:
        return False
    return step_s["together"] < num_replicas * step_s["alone"]


def _model(cell: CellConfig) -> nn.Module:
    """One of the cell's networks, without disturbing the generator of random numbers."""
    with torch.random.fork_rng([]):
        return build(cell.model, input_shape(cell.data))


def _patches(row: LayerRow) -> int:
    """Elements of an image's patches, of a convolution."""
    return row.multiply_adds // row.out_shape[0] if row.kind == "Conv2d" else 0


def _free_bytes(device: torch.device) -> int:
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]
