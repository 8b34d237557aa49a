"""A list of measurements, and what every function of statistics refuses. No torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

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
