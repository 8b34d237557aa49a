"""A request to stop, by a signal: obeyed between two steps of a training, or at once. No torch."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; the notice of torchrun and of schedulers; what Slurm is often told to send (`--signal=USR1@60`)."""
GRACE_S = 10.0
"""A held notice is obeyed after this long even where no step comes, e.g. in a long evaluation."""


class Stopped(BaseException):
    """This process was asked to stop, by the signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Notice:
    """A request to stop, by one of SIGNALS. Obeyed at once; while `held`, when `obey` is called."""

    def __init__(self) -> None:
        self.number = 0
        """The signal that came; 0: none."""
        self._held, self._stopped = False, False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Notice":
        listeners: dict[int, Any] = {**dict.fromkeys(SIGNALS, self._receive), signal.SIGALRM: self._stop}
        self._handlers = {number: signal.signal(number, listener) for number, listener in listeners.items()}
        return self

    def __exit__(self, *error: object) -> None:
        if not self._stopped:  # else the process is on its way out, and stays deaf to repetitions
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold a notice back until `obey`, the end of this block, or GRACE_S after it came."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.obey()

    def obey(self) -> None:
        """Raise Stopped if a notice has come."""
        if self.number:
            self._stop()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_first, self.number = not self.number, self.number or number
        if not self._held:
            self._stop()
        elif is_first:
            signal.setitimer(signal.ITIMER_REAL, GRACE_S)

    def _stop(self, *_: object) -> NoReturn:
        self._stopped = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in SIGNALS:  # torchrun repeats a Ctrl-C that the terminal has sent already
            signal.signal(number, signal.SIG_IGN)
        raise Stopped(self.number)
