"""Independent streams of randomness from one small seed. No torch.

Seeds 0, 1, 2, ... are hashed together with what they are for, so that no two (seed, epoch) pairs share a shuffle
and neighbouring seeds are as independent as distant ones (numpy's SeedSequence).
"""

import numpy as np

PURPOSES = ("init", "order", "step", "split", "fixture", "flip")


def stream(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed for one purpose ('init', 'order', ...), and optionally one epoch or other index."""
    sequence = np.random.SeedSequence([seed, PURPOSES.index(purpose), *index])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
