"""What a running sweep shows: how far it is, with the time left, and what became of each task. No torch."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from bench.record import Record, TrainRecord
from bench.records.lines import key_of

TELL_EVERY_S = 30.0
"""Where there is no terminal, the least time between two lines about a training that goes on."""


class Progress:
    """A bar with the time left in a terminal; elsewhere a line per finished task, and now and then one of a long one.

    Lines are flushed: they come out of a pipe when they are written.
    """

    def __init__(self, total: int, done: int, *, quiet: bool) -> None:
        self._is_terminal = is_terminal(sys.stderr)
        self._bar = tqdm(total=total, initial=done, unit="task", disable=quiet or not self._is_terminal,
                         dynamic_ncols=True)
        self._total, self._done_before = total, done
        self._began = self._told = time.monotonic()
        self._name = ""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def start(self, name: str) -> None:
        self._name = name
        self._bar.set_description(name)

    def training(self, training: Any) -> None:
        """Where the `Training` is: called after each epoch, and now and then within a long one."""
        share = training.step_in_epoch / training.steps_per_epoch
        state = f"epoch {training.epoch + share:.3g} of {training.cell.train.epochs}"
        if training.history.test_accuracy:
            state += f", test {training.history.test_accuracy[-1]:.2%}"
        self._bar.set_postfix_str(state)
        if not self._is_terminal and time.monotonic() - self._told >= TELL_EVERY_S:
            self._say(f"{self._name}: {state}")

    def finish(self, name: str, record: Record, num_done: int, weights: Path | None = None) -> None:
        """`num_done`: tasks done, this one and those of others too. `weights`: folder of those kept."""
        self._bar.n = num_done
        self._bar.set_postfix_str("")
        self._bar.refresh()
        kept = "" if weights is None else _kept(weights, record)
        self._say(f"[{num_done}/{self._total}] {name}: {outcome(record)}{kept}{self._left(num_done)}")

    def _left(self, num_done: int) -> str:
        """At the pace of this call so far; the bar says it in a terminal."""
        pace_s = (time.monotonic() - self._began) / max(1, num_done - self._done_before)
        left_s = pace_s * (self._total - num_done)
        return "" if self._is_terminal or left_s < TELL_EVERY_S else f"; about {duration(left_s)} left"

    def _say(self, line: str) -> None:
        with to_whoever_reads():
            tqdm.write(line, file=sys.stdout)
        self._told = time.monotonic()


@contextlib.contextmanager
def to_whoever_reads() -> Iterator[None]:
    """What is printed within, as far as somebody reads it: that `head` has left is no reason for a sweep to end."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def is_terminal(stream: TextIO) -> bool:
    """Whether a bar can be drawn there: `script` and some CI systems make terminals without rows or columns."""
    try:
        return stream.isatty() and min(os.get_terminal_size(stream.fileno())) > 0
    except (OSError, ValueError):
        return False


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _kept(folder: Path, record: Record) -> str:
    path = folder / f"{key_of(record)}.safetensors"
    return f"; {path}" if record.status == "ok" and path.exists() else ""


def outcome(record: Record) -> str:
    """One record in a few words."""
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    if isinstance(record, TrainRecord):
        time_taken = f"{record.wall_s:.1f} s" if record.wall_s <= 90 else duration(record.wall_s)
        return f"test accuracy {record.epochs.test_accuracy[-1]:.2%}, {time_taken}"
    from bench.records.timings import training  # brings scipy

    return f"{training([record]).images_per_s:,.0f} images/s"
