"""Records on disk: one JSON line each, appended and synced before the run goes on. No torch.

A folder holds one `<experiment>.jsonl` per experiment. A line is there whole or not at all: a torn last line (a kill
in mid-write) is cut off by the next writer and passed over by readers. Who works on what is told by locks that the
kernel releases when their process ends, so a dead process's cell is free again.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bench.record import Record, SchemaError, decode, encode, key_of


class StoreError(ValueError):
    """The store cannot be used: not writable, or written by a newer version."""


class Store:
    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._offsets: dict[Path, int] = {}
        self._latest: dict[str, Record] = {}
        self._claims: IO[bytes] | None = None

    def check_writable(self) -> None:
        """Create the folder. Raises StoreError before any work is done."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._claims_file()
        except OSError as error:
            raise StoreError(f"store {self.folder} cannot be written: {error.strerror}") from error

    def latest(self) -> dict[str, Record]:
        """The newest record of each key, lines that others have appended since the last call included.

        Raises StoreError for a line that cannot be read, naming file and line.
        """
        if self.folder.is_dir():
            for path in sorted(self.folder.glob("*.jsonl")):
                for record in self._new_records(path):
                    self._latest[key_of(record)] = record
        return self._latest

    def append(self, record: Record) -> None:
        """Durable when this returns. On any failure the file is as it was, and the error is raised."""
        line = encode(record)
        path = self.folder / f"{record.experiment}.jsonl"
        is_new = not path.exists()
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = _cut_torn_line(file)
            try:
                _write_all(file.fileno(), line)
                os.fsync(file.fileno())
            except BaseException:
                os.ftruncate(file.fileno(), size)
                raise
        if is_new:
            _sync_folder(self.folder)

    def claim(self, key: str) -> bool:
        """Whether this process may work on `key`: no other process, on this machine or another, has claimed it.

        A lock on one byte of a file that all share; gone when the process ends or calls `release`.
        """
        try:
            fcntl.lockf(self._claims_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte_of(key))
        except BlockingIOError:
            return False
        return True

    def release(self, key: str) -> None:
        fcntl.lockf(self._claims_file(), fcntl.LOCK_UN, 1, _byte_of(key))

    @contextlib.contextmanager
    def machine(self, host: str, *, alone: bool) -> Iterator[None]:
        """Hold this host together with other training cells or, for a timing, `alone`: waits until the others are done."""
        with (self.folder / f".machine-{host}").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield

    def _claims_file(self) -> IO[bytes]:
        # Closing any handle of this file drops the process's locks: it is opened once and kept.
        if self._claims is None:
            self._claims = (self.folder / ".claims").open("wb")
        return self._claims

    def _new_records(self, path: Path) -> Iterator[Record]:
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    return  # torn, or still being written
                try:
                    yield decode(line)
                except SchemaError as error:
                    raise StoreError(f"store {path}, at byte {self._offsets.get(path, 0)}: {error}") from error
                self._offsets[path] = self._offsets.get(path, 0) + len(line)


def _byte_of(key: str) -> int:
    return int(key[:15], 16)


def _cut_torn_line(file: IO[bytes]) -> int:
    """Truncate to the last whole line; returns the size."""
    size = file.seek(0, os.SEEK_END)
    while size:
        start = max(0, size - 65536)
        file.seek(start)
        newline = file.read(size - start).rfind(b"\n")
        if newline >= 0:
            size = start + newline + 1
            break
        size = start
    file.truncate(size)
    return size


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
