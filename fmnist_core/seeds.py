"""Independent streams of randomness from one small seed. No torch before it is seeded.

Seeds 0, 1, 2, ... are hashed together with what they are for, so that no two (seed, epoch) pairs share a shuffle
and neighbouring seeds are as independent as distant ones (numpy's SeedSequence).
"""

import math
import random
from collections.abc import Sequence

import numpy as np

PURPOSES = ("init", "order", "step", "split", "fixture", "flip")


def stream(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed for one purpose ('init', 'order', ...), and optionally one epoch or other index."""
    sequence = np.random.SeedSequence([seed, PURPOSES.index(purpose), *index])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def set_seed(seed: int) -> None:
    """Of PyTorch's generators, and of Python's and numpy's, which a network of one's own may draw from."""
    import torch

    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed([seed >> 32, seed & 0xFFFFFFFF])


def host_state() -> list[float]:
    """Where Python's and numpy's generators are, as numbers that a float64 holds exactly."""
    _, words, gauss = random.getstate()
    _, keys, *rest = np.random.get_state()
    return [*map(float, words), math.inf if gauss is None else gauss, *map(float, keys), *map(float, rest)]


def set_host_state(state: Sequence[float]) -> None:
    """What `host_state` told."""
    num_words = len(random.getstate()[1])
    *words, gauss = state[: num_words + 1]
    *keys, position, has_gauss, cached = state[num_words + 1 :]
    random.setstate((3, tuple(map(int, words)), None if math.isinf(gauss) else gauss))
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), int(position), int(has_gauss), cached))
