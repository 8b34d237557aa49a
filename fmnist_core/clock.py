"""What "now" means on a device.

A mark is taken without waiting; the time between marks is read after one synchronisation at the end. On CUDA marks
are events in the device's own stream of work, on a CPU readings of the host's clock.
"""

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch


class Clock(Protocol):
    def mark(self) -> Any:
        """A point in time, for `seconds_between`."""

    def seconds_between(self, marks: Sequence[Any]) -> list[float]:
        """The seconds between neighbouring marks: one entry less than `marks`."""


class HostClock:
    """For the CPU, whose work is done when the call returns."""

    def mark(self) -> float:
        return time.perf_counter()

    def seconds_between(self, marks: Sequence[float]) -> list[float]:
        return [later - earlier for earlier, later in pairwise(marks)]


class CudaClock:
    """Events in the current stream: the device's time, with no wait inside the region."""

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds_between(self, marks: Sequence[torch.cuda.Event]) -> list[float]:
        torch.cuda.synchronize()
        return [earlier.elapsed_time(later) / 1e3 for earlier, later in pairwise(marks)]


def clock_for(device: torch.device) -> Clock:
    return CudaClock() if device.type == "cuda" else HostClock()


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
