"""How long a training step takes here and now, for choices between ways to carry it out."""

from collections.abc import Mapping
from typing import TypeVar

from fmnist_core.clock import Clock, clock_for
from fmnist_core.steps import Steps

NUM_WARMUP, NUM_TIMED = 3, 10
"""Replays or steps per timing."""
ROUNDS = 3
"""Timings of each training, where several are compared."""
_Key = TypeVar("_Key")


def fastest_steps(trainings: Mapping[_Key, Steps]) -> dict[_Key, float]:
    """The least `seconds_per_step` of each, timed in turns: what else the device does comes and goes."""
    rounds = [{key: seconds_per_step(training) for key, training in trainings.items()} for _ in range(ROUNDS)]
    return {key: min(seconds[key] for seconds in rounds) for key in trainings}


def seconds_per_step(training: Steps, clock: Clock | None = None) -> float:
    """The least time of a step of a full batch, from index to optimizer: the rest is what other processes took of the
    device. The training is spoilt by it."""
    clock = clock or clock_for(training.device)
    batches = training.order().split(training.batch_size)
    training.model.train()
    marks = []
    for i in range(NUM_WARMUP + NUM_TIMED + 1):
        if i >= NUM_WARMUP:
            marks.append(clock.mark())
        training.step_in_epoch = 0
        training.advance(batches)
    return min(clock.seconds_between(marks))
