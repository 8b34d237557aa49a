"""Processes that work on command: started one by one, made ready, and set off together. No torch.

A worker's program prints `ready`, then reads a line and prints a JSON object in one line, until its input ends.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Any

READY = "ready"


class WorkerFailed(Exception):
    """A process that ended without an answer; the last line that it wrote."""


class Worker:
    def __init__(self, process: "subprocess.Popen[str]", errors: IO[str]) -> None:
        self._process, self._errors, self._is_ready = process, errors, False

    def wait_until_ready(self) -> None:
        """Raises WorkerFailed, also when asked again."""
        if not self._is_ready:
            self._read(READY)
        self._is_ready = True

    def tell(self, line: str = "") -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # that it has ended shows where its answer is read
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def answer(self, start: str = '{"') -> dict[str, Any]:
        """The next line that begins with `start`. Raises WorkerFailed."""
        answer: dict[str, Any] = json.loads(self._read(start))
        return answer

    def stop(self) -> None:
        """End it, whatever it is doing; harmless where it has ended."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):  # a word that it did not live to hear
                if stream is not None:
                    stream.close()

    def _read(self, start: str) -> str:
        """The next line that is meant for us: frameworks print what they like."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(start):
                return line.strip()
        self._process.wait()
        self._errors.seek(0)
        raise WorkerFailed((self._errors.read().strip().splitlines() or [f"exit code {self._process.returncode}"])[-1])


def start(stack: contextlib.ExitStack, module: str, arguments: Sequence[str], variables: Mapping[str, str]) -> Worker:
    """A process of `module`, in the environment `variables`; it ends with the stack."""
    errors = stack.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115  the stack closes it
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], env=dict(variables), text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
    worker = Worker(process, errors)
    stack.callback(worker.stop)  # those that still run when another has failed
    return worker
