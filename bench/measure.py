"""One cell to raw samples of time. What is measured is what trains: `fmnist_core.train.train_step`."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import msgspec
import torch

from bench.record import Inference, Labels, Layer, SpeedRecord
from bench.timing import gpu_limits, memory
from bench.timing.block import (
    INFERENCE_BATCHES,
    WARMUP_STEPS,
    host_clock,
    num_steps_to_fill,
    time_evaluations,
    time_inference,
    time_steps,
)
from bench.timing.other_processes import Usage, load_warning, usage
from fmnist_core.batches import shares
from fmnist_core.clock import Clock, clock_for, synchronize
from fmnist_core.config import CellConfig, Precision, to_dict
from fmnist_core.data import Dataset
from fmnist_core.models.layers import step_multiply_adds
from fmnist_core.observe import count_operators, count_waits, graph_counts, observe, reset_graph_counts
from fmnist_core.summary import least_bytes, multiply_adds, num_moments, num_parameters, summarize
from fmnist_core.train import Training

DTYPES: dict[Precision, torch.dtype] = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of matrix products and their results."""
NUM_REPEATS = 7
"""Of large products and copies, of which the fastest counts."""
MAX_DISAGREEMENT = 0.05
"""Between the sum of the samples and the wall time of their block, beyond which the record carries a warning."""


def measure(cell: CellConfig, dataset: Dataset, *, experiment: str = "", speed_key: str = "", repeat: int = 0,
            clock: Clock | None = None) -> SpeedRecord:
    """Time a fresh model of this cell. The caller sees to it that the machine has nothing else to do.

    `experiment`, `speed_key` and `repeat`: what the record is to be filed under; by default nothing.
    """
    memory.forget_earlier_peaks()
    training = Training(cell, 0, dataset)
    if cell.execution.compile == "auto":  # two others were timed to choose
        memory.forget_earlier_peaks()
    compiled = training.cell.execution.compile != "no"
    if compiled:  # which happens at the first step
        reset_graph_counts()
    device, size = training.device, min(training.batch_size, len(dataset.train))
    clock = clock or clock_for(device)
    labels = Labels(**asdict(observe(training)))
    rows = summarize(training.network, dataset.input_shape)
    training.model.train()
    first_step_s = time_steps(training, clock, 1)[1][0]
    time_steps(training, clock, WARMUP_STEPS)
    allocated, reserved = memory.peak_memory(training)
    batch_s, step_s, block_s, warnings = _time_block(training, clock)
    evaluate_s = time_evaluations(training, clock)
    inference = [Inference(batch_size=n, batch_s=time_inference(training, clock, n))
                 for n in INFERENCE_BATCHES if n <= len(dataset.test)]
    if compiled:
        labels = msgspec.structs.replace(labels, **graph_counts()._asdict())
    operators = {} if compiled or training.captured else count_operators(training)
    tf32 = labels.matmul_tf32 or labels.cudnn_tf32  # where either kind of product uses it, its speed is the bound
    matmul, copy = matmul_flops_per_s(device, cell.train.precision, tf32), copy_bytes_per_s(device)
    params, most_images = num_parameters(training.model), shares(size, training.num_processes)[1]
    num_bytes = least_bytes(rows, params, num_moments(training.optimizer), most_images,
                            DTYPES[cell.train.precision].itemsize)
    return SpeedRecord(
        experiment=experiment, speed_key=speed_key, repeat=repeat, cell=to_dict(cell), first_step_s=first_step_s,
        step_s=step_s, batch_s=batch_s, block_s=block_s, evaluate_s=evaluate_s, inference=inference,
        images_per_step=size, images_per_evaluation=len(dataset.test), num_parameters=params,
        multiply_adds=multiply_adds(rows), operators_per_step=sum(operators.values()),
        host_syncs_per_step=count_waits(operators), peak_memory_bytes=allocated,
        reserved_memory_bytes=reserved, matmul_flops_per_s=matmul, copy_bytes_per_s=copy,
        floor_s=floor_s(step_multiply_adds([row.multiply_adds for row in rows]), num_bytes, most_images, matmul, copy),
        layers=[msgspec.convert(asdict(row), Layer) for row in rows], labels=labels, warnings=warnings,
    )


def floor_s(num_multiply_adds: int, num_bytes: int, num_images: int, matmul: float, copy: float) -> float:
    """The least time of a training step: the larger of its arithmetic and its traffic, at the machine's ceilings.

    `num_multiply_adds` of one image, two operations each; `num_images` and `num_bytes` of one process in a step, as
    the ceilings are one process's.
    """
    return max(2 * num_multiply_adds * num_images / matmul, num_bytes / copy)


def disagreement(samples: Sequence[float], block_s: float) -> list[str]:
    """A warning where the samples do not add up to the wall time of the block they fill."""
    total = sum(samples)
    if abs(total - block_s) <= MAX_DISAGREEMENT * block_s:
        return []
    return [f"samples add up to {total:.4g} s, their block took {block_s:.4g} s"]


@lru_cache(maxsize=8)
def matmul_flops_per_s(device: torch.device, precision: Precision, tf32: bool = False) -> float:
    """The best of several large square matrix products in this precision, two operations per multiply-add.

    `tf32`: allowed here, as convolutions may have it where matrix products have not.
    """
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=DTYPES[precision]) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        return 2 * size**3 / _best(lambda: torch.mm(a, b), device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@lru_cache(maxsize=4)
def copy_bytes_per_s(device: torch.device) -> float:
    """The best of several copies far larger than any cache, bytes read plus bytes written."""
    source = torch.ones((1 << 30) if device.type == "cuda" else (1 << 28), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best(lambda: target.copy_(source), device)


def _best(work: Callable[[], Any], device: torch.device) -> float:
    clock = clock_for(device)
    work()
    marks = [clock.mark()]
    for _ in range(NUM_REPEATS):
        work()
        marks.append(clock.mark())
    return min(clock.seconds_between(marks))


def _time_block(training: Training, clock: Clock) -> tuple[list[float], list[float], float, list[str]]:
    """Batches, steps, the wall time of their block by the host's clock, and what speaks against them."""
    num_steps = num_steps_to_fill(training, clock)
    training.accelerator.wait_for_everyone()
    synchronize(training.device)
    host, before = host_clock(clock), usage()
    start = host.mark()
    batch_s, step_s = time_steps(training, clock, num_steps)
    block_s = host.seconds_between([start, host.mark()])[0]
    after = usage()
    warnings = disagreement([*batch_s, *step_s], block_s) + load_warning(before, after, _own_s(training, before, after))
    # After the block: a process that is started in its midst would be in its times.
    warnings += gpu_limits.slowdowns(lambda: time_steps(training, clock, num_steps),
                                     again=training.num_processes == 1)
    return batch_s, step_s, block_s, warnings


def _own_s(training: Training, before: Usage, after: Usage) -> float:
    """Processor time of this run's processes on this machine; they count as equal where machines share the run."""
    own_s = after.own_s - before.own_s
    if training.num_processes == 1:
        return own_s
    total = torch.tensor(own_s, dtype=torch.float64, device=training.device)
    torch.distributed.all_reduce(total)
    share = int(os.environ.get("LOCAL_WORLD_SIZE", training.num_processes)) / training.num_processes
    return float(total.item() * share)
