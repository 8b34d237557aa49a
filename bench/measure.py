"""One cell to raw samples of time. What is measured is what trains: `fmnist_core.train.train_step`."""

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import torch

from bench.record import Inference, Labels, Layer, SpeedRecord
from fmnist_core.clock import Clock, clock_for, synchronize
from fmnist_core.config import CellConfig, to_dict
from fmnist_core.data import Dataset
from fmnist_core.observe import count_operators, count_waits, observe
from fmnist_core.summary import least_bytes, multiply_adds, num_parameters, summarize
from fmnist_core.train import Training, evaluate, train_step

WARMUP_STEPS = 10
MIN_STEPS, MAX_STEPS, MIN_BLOCK_S = 40, 1000, 1.5
"""Steps are timed until there are 40 of them and they have filled 1.5 seconds, at most 1,000."""
INFERENCE_BATCHES = (1, 128, 1000)
MAX_DISAGREEMENT = 0.05
"""Between the sum of the samples and the wall time of their block, beyond which the record carries a warning."""


def measure(cell: CellConfig, dataset: Dataset, *, experiment: str, speed_key: str, clock: Clock | None = None) -> SpeedRecord:
    """Time a fresh model of this cell. The caller sees to it that the machine has nothing else to do."""
    memory_before = _peak_memory(None)
    training = Training(cell, 0, dataset)
    device, size = training.device, min(training.batch_size, len(dataset.train))
    clock = clock or clock_for(device)
    labels = Labels(**asdict(observe(training)))
    rows = summarize(training.accelerator.unwrap_model(training.model, keep_torch_compile=False), dataset.input_shape)
    training.model.train()
    first_step_s = time_steps(training, clock, 1)[1][0]
    time_steps(training, clock, WARMUP_STEPS)
    batch_s, step_s, block_s = _time_block(training, clock)
    operators = count_operators(training) if cell.execution.compile == "no" else {}
    matmul = matmul_flops_per_s(device, cell.train.precision)
    copy = copy_bytes_per_s(device)
    params = num_parameters(training.model)
    return SpeedRecord(
        experiment=experiment, speed_key=speed_key, cell=to_dict(cell), first_step_s=first_step_s, step_s=step_s,
        batch_s=batch_s, block_s=block_s,
        evaluate_s=_repeat(lambda: evaluate(training, dataset.test), clock, training, 3),
        inference=[Inference(batch_size=n, batch_s=_time_inference(training, clock, n)) for n in INFERENCE_BATCHES],
        images_per_step=size, images_per_evaluation=len(dataset.test), num_parameters=params,
        multiply_adds=multiply_adds(rows), operators_per_step=sum(operators.values()),
        host_syncs_per_step=count_waits(operators),
        peak_memory_bytes=_peak_memory(device) - (0 if device.type == "cuda" else memory_before),
        reserved_memory_bytes=torch.cuda.max_memory_reserved() if device.type == "cuda" else 0,
        matmul_flops_per_s=matmul, copy_bytes_per_s=copy,
        floor_s=floor_s(multiply_adds(rows), least_bytes(rows, params, size), size, matmul, copy),
        layers=[Layer(**{**asdict(row), "in_shape": list(row.in_shape), "out_shape": list(row.out_shape)}) for row in rows],
        labels=labels, warnings=disagreement([*batch_s, *step_s], block_s),
    )


def time_steps(training: Training, clock: Clock, num_steps: int) -> tuple[list[float], list[float]]:
    """Seconds of each batch and of each training step, over full batches of the current order. One wait, at the end."""
    size = min(training.batch_size, len(training.dataset.train))
    num_batches = len(training.dataset.train) // size
    order = training.order()
    marks = [clock.mark()]
    for i in range(num_steps):
        start = i % num_batches * size
        images_NCHW, labels_N = training.batch(order[start : start + size])
        marks.append(clock.mark())
        train_step(training, images_NCHW, labels_N, size)
        marks.append(clock.mark())
    seconds = _slowest_process(training, clock.seconds_between(marks))
    return seconds[0::2], seconds[1::2]


def floor_s(num_multiply_adds: int, num_bytes: int, batch_size: int, matmul: float, copy: float) -> float:
    """The least time of a training step: the larger of its arithmetic and its traffic, at the machine's ceilings.

    Backward costs twice the forward's multiply-adds; a multiply-add is two operations.
    """
    return max(3 * 2 * num_multiply_adds * batch_size / matmul, num_bytes / copy)


def disagreement(samples: Sequence[float], block_s: float) -> list[str]:
    """A warning where the samples do not add up to the wall time of the block they fill."""
    total = sum(samples)
    if abs(total - block_s) <= MAX_DISAGREEMENT * block_s:
        return []
    return [f"samples add up to {total:.4g} s, their block took {block_s:.4g} s"]


@lru_cache(maxsize=8)
def matmul_flops_per_s(device: torch.device, precision: str) -> float:
    """The best of several large square matrix products in this precision, two operations per multiply-add."""
    size = 8192 if device.type == "cuda" else 2048
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _best(lambda: torch.mm(a, b), device)


@lru_cache(maxsize=4)
def copy_bytes_per_s(device: torch.device) -> float:
    """The best of several copies far larger than any cache, bytes read plus bytes written."""
    source = torch.ones((1 << 30) if device.type == "cuda" else (1 << 28), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best(lambda: target.copy_(source), device)


def _best(work: Callable[[], Any], device: torch.device, repeats: int = 7) -> float:
    clock = clock_for(device)
    work()
    marks = [clock.mark()]
    for _ in range(repeats):
        work()
        marks.append(clock.mark())
    return min(clock.seconds_between(marks))


def _time_block(training: Training, clock: Clock) -> tuple[list[float], list[float], float]:
    """Batches, steps, and the wall time of the block by the host's clock."""
    pilot = [batch + step for batch, step in zip(*time_steps(training, clock, 5), strict=True)]
    num_steps = round(min(MAX_STEPS, max(MIN_STEPS, MIN_BLOCK_S * len(pilot) / max(sum(pilot), 1e-9))))
    training.accelerator.wait_for_everyone()
    synchronize(training.device)
    host = _host_clock(clock)
    start = host.mark()
    batch_s, step_s = time_steps(training, clock, num_steps)
    return batch_s, step_s, host.seconds_between([start, host.mark()])[0]


def _host_clock(clock: Clock) -> Clock:
    from fmnist_core.clock import CudaClock, HostClock

    return HostClock() if isinstance(clock, CudaClock) else clock


def _repeat(work: Callable[[], Any], clock: Clock, training: Training, repeats: int) -> list[float]:
    work()
    marks = [clock.mark()]
    for _ in range(repeats):
        work()
        marks.append(clock.mark())
    return _slowest_process(training, clock.seconds_between(marks))


def _time_inference(training: Training, clock: Clock, batch_size: int) -> list[float]:
    model = training.accelerator.unwrap_model(training.model)
    images_NCHW = training.dataset.images(training.dataset.test, torch.arange(batch_size, device=training.device))
    model.eval()
    with torch.inference_mode():
        samples = _repeat(lambda: model(images_NCHW), clock, training, 100 if batch_size == 1 else 20)
    model.train()
    return samples


def _slowest_process(training: Training, seconds: list[float]) -> list[float]:
    """Entry by entry, the maximum over processes: a step is over when its last process is done."""
    if training.num_processes == 1:
        return seconds
    slowest = torch.tensor(seconds, dtype=torch.float64, device=training.device)
    torch.distributed.all_reduce(slowest, torch.distributed.ReduceOp.MAX)
    return [float(value) for value in slowest.tolist()]


def _peak_memory(device: torch.device | None) -> int:
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
