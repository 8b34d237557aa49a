"""A list of measurements: what every function of statistics refuses, and what they share. No torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Samples = Sequence[float] | npt.NDArray[Any]


def checked(name: str, samples: Samples, positive: bool = False) -> npt.NDArray[np.float64]:
    """The samples as an array. Raises ValueError, by `name`, for none, NaN, infinity, and 0 or less if `positive`."""
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name}: expected a list of at least one number, not one of shape {values.shape}")
    wrong = ~np.isfinite(values) | (values <= 0 if positive else False)
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(f"{name}[{i}] = {values[i]}: expected a finite number{' above 0' if positive else ''}")
    return values


def fraction(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} = {value}: expected a fraction between 0 and 1")


def sd_of(values: npt.NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def half_width(standard_error: float, df: float, confidence: float) -> float:
    return float(standard_error * stats.t.ppf((1 + confidence) / 2, df))


def t_test(estimate: float, standard_error: float, df: float) -> float:
    if standard_error == 0:
        return float(estimate == 0)  # the limit of ever smaller spreads
    return 2 * float(stats.t.sf(abs(estimate) / standard_error, df))
