"""What one timing came to, in base units, as `outcomes` says it of a training. No torch."""

import math
from collections.abc import Sequence
from operator import add

from bench import stats
from bench.record import SpeedRecord

LATENCY_BATCH = 1


def was_disturbed(speed: SpeedRecord) -> bool:
    """Whether other work ran meanwhile, here or in other processes, or its clocks disagree: no measurement of speed."""
    return speed.labels.machine_shared or bool(speed.warnings)


def training(speed: SpeedRecord) -> stats.Throughput:
    """Images trained per second, by the time from one step to the next: with its batch, which a captured step holds."""
    whole_s = list(map(add, speed.batch_s, speed.step_s)) if speed.batch_s else speed.step_s
    return stats.throughput(speed.images_per_step, whole_s)


def over_limit(speed: SpeedRecord) -> float:
    """Median step over the least time that the machine's ceilings allow; nan where that is not known."""
    return stats.median(speed.step_s) / speed.floor_s if speed.floor_s and speed.step_s else math.nan


def latency_s(speed: SpeedRecord) -> Sequence[float]:
    """Seconds of a forward pass of one image; empty where it was not timed."""
    return next((one.batch_s for one in speed.inference if one.batch_size == LATENCY_BATCH), [])


def inference(speed: SpeedRecord) -> dict[int, stats.Throughput]:
    """At each batch size that was timed, but a single image's, which is a latency."""
    return {one.batch_size: stats.throughput(one.batch_size, one.batch_s) for one in speed.inference
            if one.batch_s and one.batch_size != LATENCY_BATCH}
