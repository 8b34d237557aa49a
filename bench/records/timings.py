"""What the timings of a cell came to, in base units, as `outcomes` says it of a training. No torch."""

import math
from collections.abc import Callable, Iterable, Sequence
from operator import add
from statistics import geometric_mean

import msgspec
import numpy as np

from bench import stats
from bench.formatting import FEWEST_SPREAD
from bench.record import SpeedRecord
from bench.records.side_records import Metric

LATENCY_BATCH = 1


def was_disturbed(speed: SpeedRecord) -> bool:
    """Whether other work ran meanwhile, here or in other processes, or its record has a warning: no measurement."""
    return speed.labels.machine_shared or bool(speed.warnings)


def last_alike(timed: Sequence[SpeedRecord]) -> list[SpeedRecord]:
    """Of a cell's timings on one machine the last successful one, preferring undisturbed, then captured ones, and those
    whose seconds can be averaged with its: of the same code, cell and, as observed, execution. Fastest first."""
    found = [one for one in timed if one.status == "ok" and one.step_s]
    alone = [one for one in found if not was_disturbed(one)] or found
    captured = [one for one in alone if one.labels.captured] or alone
    own = [one for one in captured if one.cell == captured[-1].cell]
    facts = lambda one: (one.environment.commit, one.environment.dirty, one.images_per_step,
                         msgspec.structs.replace(one.labels, machine_shared=False, compile_timings_s={}))
    last = facts(max(own, key=lambda one: one.started_at)) if own else None
    return sorted((one for one in own if facts(one) == last), key=lambda one: stats.median(one.step_s))


def whole_s(speed: SpeedRecord) -> list[float]:
    """Seconds from one step to the next: with its batch, which a captured step holds."""
    return list(map(add, speed.batch_s, speed.step_s)) if speed.batch_s else speed.step_s


def image_s(speed: SpeedRecord) -> list[float]:
    """Seconds of each step, by image."""
    return [seconds / speed.images_per_step for seconds in whole_s(speed)]


def training(timed: Sequence[SpeedRecord]) -> stats.Throughput:
    """Images trained per second, by the timings of one cell on one machine."""
    return stats.throughput(timed[0].images_per_step, *map(whole_s, timed))


def ratio(a: Sequence[SpeedRecord], b: Sequence[SpeedRecord], others: Iterable[Sequence[SpeedRecord]], alpha: float,
          seconds: Callable[[SpeedRecord], Sequence[float]]) -> stats.Ratio | None:
    """The median `seconds` of cell `a` over those of `b`, timed in turns, with the interval at 1 - `alpha`.

    By the spread of their timings and those of `others`, as `stats.compare_with` has it. None where one of the two was
    timed fewer than three times, or where all timings of one came before those of the other: what drifts would count as
    a difference.
    """
    if min(len(a), len(b)) < FEWEST_SPREAD or not _took_turns(a, b):
        return None
    rest = {id(timed[0]): timed for timed in others if timed[0] not in (a[0], b[0])}
    found = stats.compare_with(_logs(b, seconds), [_logs(each, seconds) for each in (a, *rest.values())], 1 - alpha)[0]
    with np.errstate(over="ignore"):  # wild timings: the interval may reach to infinity
        low, high = float(np.exp(found.low)), float(np.exp(found.high))
    return stats.Ratio(math.exp(found.difference), low, high, len(a) + len(b), found.p)


def _logs(timed: Sequence[SpeedRecord], seconds: Callable[[SpeedRecord], Sequence[float]]) -> list[float]:
    return [math.log(stats.median(seconds(one))) for one in timed]


def _took_turns(a: Sequence[SpeedRecord], b: Sequence[SpeedRecord]) -> bool:
    began = [sorted(one.started_at for one in timed) for timed in (a, b)]
    return began[0][0] <= began[1][-1] and began[1][0] <= began[0][-1]


def medians(records: Sequence[SpeedRecord]) -> dict[Metric, float]:
    """Median seconds of one timing or several by metric, those that all have; of several the geometric mean.

    Their spread is not used: what differs between two runs of a sweep is not in that of one.
    """
    first, *others = map(_medians, records)
    return {metric: geometric_mean([own[metric] for own in (first, *others)]) if others else seconds
            for metric, seconds in first.items() if all(metric in own for own in others)}


def _medians(record: SpeedRecord) -> dict[Metric, float]:
    by_size = {one.batch_size: one.batch_s for one in record.inference if one.batch_s}
    samples: dict[Metric, Sequence[float]] = {
        "train_step": record.step_s, "batch": record.batch_s, "evaluate": record.evaluate_s,
        "inference": by_size.get(max(by_size, default=0), []), "latency": latency_s(record),
    }
    return {metric: stats.median(values) for metric, values in samples.items() if values}


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
