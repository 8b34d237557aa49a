"""Several things measured in turns, so that what drifts (clocks, heat, other load) strikes them alike. No torch."""

import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

from tqdm import tqdm

from bench.sweep.progress import is_terminal

Measured = TypeVar("Measured")


def interleave(subjects: Mapping[str, Callable[[], Measured]], rounds: int) -> dict[str, list[Measured]]:
    """`rounds` measurements of each; the i-th entries of two lists were taken next to each other.

    Every second round runs backwards (A B C, C B A, ...), so that over an even number of rounds a steady drift favours
    none of them. A terminal shows how many are left.
    """
    results: dict[str, list[Measured]] = {name: [] for name in subjects}
    turns = [name for i in range(rounds) for name in (subjects if i % 2 == 0 else reversed(list(subjects)))]
    for name in tqdm(turns, unit="block", leave=False, dynamic_ncols=True, disable=not is_terminal(sys.stderr)):
        results[name].append(subjects[name]())
    return results
