"""The learning rate as a function of the step alone: the same at every number of processes. No torch."""

import math

from fmnist_core.config import TrainConfig


def learning_rate(step: int, num_steps: int, config: TrainConfig) -> float:
    """At optimizer step `step` of `num_steps`, counted from 0. The last step of a falling schedule is just above 0.

    `cosine` falls from the peak along half a cosine; `one_cycle` rises linearly for the fraction `config.warmup`
    of the steps and then falls linearly. `step` is the peak times what the last of `config.steps` to have begun says.
    """
    peak = config.learning_rate
    if config.schedule == "constant":
        return peak
    if config.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * step / num_steps))
    if config.schedule == "step":
        factors = [factor for start, factor in config.steps if step >= start * num_steps]
        return peak * factors[-1] if factors else peak
    rise = config.warmup * num_steps
    return peak * (step + 1) / (rise + 1) if step < rise else peak * (num_steps - step) / (num_steps - rise)
