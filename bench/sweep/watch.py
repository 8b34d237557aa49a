"""What is looked after while a training runs: its checkpoints, its time, a notice, and other work on the machine."""

import time
import warnings
from enum import IntEnum
from signal import SIGTERM
from typing import Any

from bench.store import StoreError
from bench.sweep import launch, ranks
from bench.sweep.attempts import Attempt
from bench.sweep.conditions import Conditions
from bench.sweep.notice import Stopped
from bench.sweep.plan import Task
from fmnist_core import checkpoint
from fmnist_core.clock import synchronize
from fmnist_core.train import Training

CHECKPOINT_EVERY_S = 60.0
"""Wall time between two checkpoints of a training."""
AGREE_EVERY = 10
"""Steps between two agreements of the processes that share a cell."""


class TimeoutExceeded(Exception):
    """The cell ran longer than the experiment allows."""


class SharedMachineWatch:
    """Whether other work was `seen` beside a training, at any of the times when `shared` was asked for it."""

    def __init__(self, conditions: Conditions) -> None:
        self._shared, self._on_epoch, self.seen = conditions.shared, conditions.on_epoch, conditions.shared()

    def check(self) -> bool:
        self.seen |= self._shared()
        return self.seen

    def after_epoch(self, training: Any) -> None:
        self.check()
        if self._on_epoch is not None:
            self._on_epoch(training)


class _Wish(IntEnum):
    """What a process wants after a step. Of several processes, the largest wish is done by all."""

    NOTHING = 0
    SAVE = 1
    STOP = 2
    TIME_IS_UP = 3


class TrainingWatch:
    """Called after each step of a training: saves now and then, and stops on notice or when the cell's time is up."""

    def __init__(self, task: Task, attempt: Attempt, conditions: Conditions) -> None:
        self._timeout_s, self._attempt = task.timeout_s, attempt
        self._notice, self._on_save = conditions.notice, conditions.on_save
        self._began = self._saved = time.perf_counter()
        self.num_processes = attempt.num_processes

    @property
    def wall_s(self) -> float:
        """Since the cell began, what it took before a resume included."""
        return time.perf_counter() - self._began

    def resume(self, training: Training) -> None:
        earlier_s = checkpoint.load(training, self._attempt.checkpoint)
        self._began -= earlier_s or 0.0

    def __call__(self, training: Training) -> None:
        wish = self._wish()
        if training.num_processes > 1:
            if training.step_in_epoch % AGREE_EVERY and training.step_in_epoch < training.steps_per_epoch:
                return
            wish = _Wish(max(ranks.tell(wish, launch.ddp_timeout_s() / 2)))
        if wish in (_Wish.SAVE, _Wish.STOP):
            self._save(training)
        if wish == _Wish.STOP:
            self._attempt.withdraw()
            raise Stopped(self._notice.number or SIGTERM)
        if wish == _Wish.TIME_IS_UP:
            raise TimeoutExceeded(f"stopped at step {training.step} of {training.num_steps} "
                                  f"after {self._timeout_s:g} s")

    def _wish(self) -> _Wish:
        if self._timeout_s and self.wall_s > self._timeout_s:
            return _Wish.TIME_IS_UP
        if self._notice.number:
            return _Wish.STOP
        return _Wish.SAVE if time.perf_counter() - self._saved > CHECKPOINT_EVERY_S else _Wish.NOTHING

    def _save(self, training: Training) -> None:
        """Off the training's clock. A disk that is full is no reason to stop."""
        synchronize(training.device)
        start = time.perf_counter()
        try:
            checkpoint.save(training, self._attempt.checkpoint, wall_s=self.wall_s)
            if training.accelerator.is_main_process:
                self._attempt.progressed()
        except (OSError, StoreError) as error:
            warnings.warn(f"no checkpoint could be written: {error}", stacklevel=2)
        if self._on_save is not None:
            self._on_save(training)
        self._saved = time.perf_counter()
        training.epoch_began += self._saved - start
