"""What a task is done under, alone, together with others or for a profile. No torch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.sweep.notice import Notice
from bench.sweep.tracking import OnEpoch


@dataclass(frozen=True, kw_only=True)
class Conditions:
    num_threads: int
    data_dir: str | None = None
    shared: Callable[[], bool] = lambda: False
    """Says whether other work runs on the machine; asked before, after, and once an epoch."""
    notice: Notice = field(default_factory=Notice)
    """By which a training is stopped between two steps."""
    on_epoch: OnEpoch | None = None
    on_save: OnEpoch | None = None
    """Called off the training's clock, whenever a checkpoint is due."""
    keep_weights: Path | None = None
    """The folder for the trained weights, named by their quality key."""
