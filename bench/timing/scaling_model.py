"""When several processes that share a batch are worth it: a model of a step's time. Pure: numbers in, numbers out.

A step of B images by n processes takes

    fixed + per_image * B / n + reduction(gradient bytes, n)

seconds, nothing overlapping, with a ring's all-reduce as NCCL's own tuning models it and as its bandwidth term has
long been known to be least (Patarasuk and Yuan 2009):

    reduction(bytes, n) = base + 2 (n - 1) * hop + 2 (n - 1) / n * bytes / bandwidth

Left out: what DDP itself costs in a step, and the wait for the slower of the processes, which make a step longer; and
the reductions that overlap with the backward pass, which make it shorter. RESULTS.md says by how much measured steps
differ from predicted ones. All times are in seconds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class StepCost(NamedTuple):
    fixed_s: float
    per_image_s: float

    def step_s(self, num_images: float) -> float:
        return self.fixed_s + self.per_image_s * num_images


class Link(NamedTuple):
    """What joins the processes."""

    name: str
    base_s: float
    hop_s: float
    bytes_per_s: float
    """Of one direction, per process."""

    def reduction_s(self, num_bytes: float, num_processes: int) -> float:
        n = num_processes
        if n == 1:
            return 0.0
        return self.base_s + 2 * (n - 1) * self.hop_s + 2 * (n - 1) / n * num_bytes / self.bytes_per_s


NVLINK = Link("NVLink 4", 8.4e-6, 3.4e-6, 450e9)
"""NVIDIA's H100 SXM data sheet: 900 GB/s, both directions together. Base and hop: NCCL's src/graph/tuning.cc, ring,
simple protocol."""
INFINIBAND = Link("InfiniBand NDR", 8.4e-6, 14.0e-6, 50e9)
"""400 Gb/s for each GPU, as in a DGX H100; base and hop: likewise."""
GPUS_PER_NODE = 8
H100_FLOPS = 67e12
"""Peak of float32 without tensor cores, H100 SXM data sheet. A multiply-add is two."""


def link_between(num_gpus: int) -> Link:
    """The slowest link of a ring through so many GPUs."""
    return NVLINK if num_gpus <= GPUS_PER_NODE else INFINIBAND


def fit_step(num_images: Sequence[float], step_s: Sequence[float]) -> StepCost:
    """Least squares in relative error, so that small batches count as much as large ones; neither cost below 0."""
    images, seconds = np.asarray(num_images, float), np.asarray(step_s, float)
    rows = np.stack([1 / seconds, images / seconds], 1)
    fixed, per_image = _non_negative(rows, np.ones(len(seconds)))
    return StepCost(fixed, per_image)


def fit_link(name: str, num_processes: int, num_bytes: Sequence[float], seconds: Sequence[float]) -> Link:
    """From all-reduces of several sizes by so many processes; what does not grow with the size goes into `base_s`."""
    sizes, measured = np.asarray(num_bytes, float), np.asarray(seconds, float)
    share = 2 * (num_processes - 1) / num_processes
    base, per_byte = _non_negative(np.stack([1 / measured, share * sizes / measured], 1), np.ones(len(measured)))
    return Link(name, base, 0.0, 1 / per_byte if per_byte else float("inf"))


def shared_step_s(cost: StepCost, link: Link, num_images: int, num_bytes: int, num_processes: int) -> float:
    """Predicted seconds of a step of `num_images` by processes that share it and a gradient of `num_bytes`."""
    return cost.step_s(num_images / num_processes) + link.reduction_s(num_bytes, num_processes)


def break_even_s(link: Link, num_bytes: int, num_processes: int) -> float:
    """Seconds that a step must compute, beyond what does not shrink with its share of the batch, for DDP to pay."""
    return link.reduction_s(num_bytes, num_processes) * num_processes / (num_processes - 1)


def least_compute_s(multiply_adds: int, num_images: int, flops: float = H100_FLOPS) -> float:
    """Forward and backward pass at the peak: three times the multiply-adds of the forward pass, two operations each."""
    return 6 * multiply_adds * num_images / flops


def _non_negative(rows: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
                  targets: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> tuple[float, float]:
    from scipy.optimize import nnls

    scale = np.abs(rows).max(0)
    found, _ = nnls(rows / scale, targets)
    first, second = (found / scale).tolist()
    return first, second
