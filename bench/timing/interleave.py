"""Several things measured in turns, so that what drifts (clocks, heat, other load) strikes them alike. No torch."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from tqdm import tqdm

from bench.sweep.progress import TELL_EVERY_S, duration, is_terminal

Measured = TypeVar("Measured")


def interleave(subjects: Mapping[str, Callable[[], Measured]], rounds: int) -> dict[str, list[Measured]]:
    """`rounds` measurements of each; the i-th entries of two lists were taken next to each other.

    Every second round runs backwards (A B C, C B A, ...), so that over an even number of rounds a steady drift favours
    none of them. How many are left is shown: by a bar in a terminal, by a line now and then elsewhere.
    """
    results: dict[str, list[Measured]] = {name: [] for name in subjects}
    turns = [name for i in range(rounds) for name in (subjects if i % 2 == 0 else reversed(list(subjects)))]
    shows_bar = is_terminal(sys.stderr)
    began = told = time.monotonic()
    for i, name in enumerate(tqdm(turns, unit="block", leave=False, dynamic_ncols=True, disable=not shows_bar), 1):
        results[name].append(subjects[name]())
        now = time.monotonic()
        if not shows_bar and now - told >= TELL_EVERY_S and i < len(turns):
            left_s = (now - began) / i * (len(turns) - i)
            print(f"block {i} of {len(turns)}, about {duration(left_s)} left", file=sys.stderr, flush=True)
            told = now
    return results
