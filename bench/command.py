"""How a command of the harness ends: with its exit code, or quietly where it is interrupted. No torch.

`bench/run.py`, which saves what it has begun, has a way of its own: `bench.sweep.launch`.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def leave(main: Callable[[], int]) -> NoReturn:
    """Exit with what `main` returns; after Ctrl-C or SIGTERM with 130 or 143, once it has cleared away what it made.

    1 where whoever read the output, as `head`, has left.
    """
    for number in SIGNALS:
        signal.signal(number, _stop)
    try:
        exit_code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(1)
    sys.exit(exit_code)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # a second Ctrl-C would leave what the first has begun to clear away
    print("\nInterrupted.", file=sys.stderr)
    raise SystemExit(128 + number)
