"""Records on disk: one JSON line each, appended and synced before the run goes on. No torch.

A folder holds one `<experiment>.jsonl` per experiment. A line is there whole or not at all: a torn last line (a kill
in mid-write) is cut off by the next writer and passed over by readers; a whole one that an editor left without its end
counts, and is given it. Who works on what is told by locks that the kernel releases when their process ends, so a dead
process's cell is free again.
"""

import contextlib
import fcntl
import os
import re
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Generic, TypeVar

from msgspec.structs import replace

from bench.record import Record
from bench.records.identity import newest
from bench.records.lines import Head, NotARecord, SchemaError, decode, decode_head, encode, key_of

_FILE_NAME = re.compile(r"\w[\w .+-]{0,99}", re.ASCII)
"""Experiments that may name a file: no separator, nothing hidden, and short enough for every file system."""
_NO_KEY = 16**15
"""A byte of the file of claims that no key has."""


class StoreError(ValueError):
    """The store cannot be used: not writable, not readable, or written by a newer version."""


class Store:
    """Not for several threads: the kernel's locks belong to the process."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._records = _Reader(self.folder, decode)
        self._heads = _Reader(self.folder, decode_head)
        self._known_files: set[Path] = set()  # whose directory entry is durable
        self._claims: int | None = None

    def check_writable(self, experiments: Iterable[str] = ()) -> None:
        """Create the folder; see that the files of `experiments` can be written. Raises StoreError before any work."""
        files = [self._file_of(name) for name in experiments]
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
                _sync_folder(self.folder.parent)
            for path in files:
                if path.exists():
                    path.open("ab").close()
            fcntl.lockf(self._claims_file(), fcntl.LOCK_UN, 1, _NO_KEY)  # fails where there are no locks
        except OSError as error:
            raise _not_written(self.folder, error) from error

    def latest(self) -> dict[str, Record]:
        """The newest record of each key, lines that others have appended since the last call included.

        Raises StoreError for a line that cannot be read, naming file and line.
        """
        return self._records.latest()

    def heads(self) -> dict[str, Head]:
        """As `latest`, but for what a sweep must know to go on: with 100,000 records a second instead of several."""
        return self._heads.latest()

    def since(self, moment: float) -> set[str]:
        """Keys of records whose work began at `moment`, Unix time, or later."""
        return {key for key, record in self.latest().items()
                if record.started_at and datetime.fromisoformat(record.started_at).timestamp() >= moment}

    def append(self, record: Record) -> None:
        """Durable when this returns. Raises StoreError where it cannot be written; the file is then as it was.

        Of a key the record last begun counts. By a clock that was set back, this one would have begun before the one
        that it takes the place of, as this store has read it; then it is stored as begun a second after that.
        """
        key, path = key_of(record), self._file_of(record.experiment)
        known: Record | Head | None = self._heads.known.get(key) or self._records.known.get(key)
        if known and known.started_at and known.started_at >= record.started_at:
            later = datetime.fromisoformat(known.started_at) + timedelta(seconds=1)
            record = replace(record, started_at=later.isoformat(timespec="seconds"))
        try:
            line = encode(record)
            decode(line)  # one that cannot be read back, e.g. because of a NaN, would make the whole store unreadable
        except ValueError as error:
            raise StoreError(f"record {key} cannot be kept: {error}") from error
        try:
            with path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                size = _end_last_line(file)
                if path not in self._known_files:
                    _sync_folder(self.folder)
                    self._known_files.add(path)
                try:
                    _write_all(file.fileno(), line)
                    os.fsync(file.fileno())
                except OSError:
                    # If this is refused as well, what is left is as after a kill: a torn line, or a whole record.
                    with contextlib.suppress(OSError):
                        os.ftruncate(file.fileno(), size)
                    raise
        except OSError as error:
            raise _not_written(path, error) from error

    def claim(self, key: str) -> bool:
        """Whether this process may work on `key`: no other process, on this machine or another, has claimed it.

        A lock on one byte of a file that all share; gone when the process ends or calls `release`.
        """
        try:
            fcntl.lockf(self._claims_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte_of(key))
        except (BlockingIOError, PermissionError):  # POSIX allows either answer
            return False
        return True

    def release(self, key: str) -> None:
        fcntl.lockf(self._claims_file(), fcntl.LOCK_UN, 1, _byte_of(key))

    @contextlib.contextmanager
    def machine(self, host: str, *, alone: bool) -> Iterator[Callable[[], bool]]:
        """Hold this host with other training cells or, for a timing, `alone`: waits until the others are done.

        Yields what says whether another process holds it now.
        """
        # Read and write: over NFS a shared lock needs a file that can be read, an exclusive one a file for writing.
        with (self.folder / f".machine-{host}").open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            byte = _byte_of_host(host)
            fcntl.lockf(self._claims_file(), fcntl.LOCK_SH, 1, byte)
            try:
                yield lambda: self._is_held_by_others(byte)
            finally:
                fcntl.lockf(self._claims_file(), fcntl.LOCK_UN, 1, byte)

    def _is_held_by_others(self, byte: int) -> bool:
        """Besides this process's shared lock, which stays: one that cannot be made exclusive is left as it was."""
        try:
            fcntl.lockf(self._claims_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            fcntl.lockf(self._claims_file(), fcntl.LOCK_SH, 1, byte)
        except OSError:  # or a file system that cannot say: nothing may be called alone that is not
            return True
        return False

    def _file_of(self, experiment: str) -> Path:
        if not _FILE_NAME.fullmatch(experiment):
            raise StoreError(f"experiment name {experiment!r} cannot name a file; allowed: up to 100 letters (a-z, "
                             "A-Z), digits, '_', '-', '+', '.' and spaces, the first a letter, digit or '_'")
        return self.folder / f"{experiment}.jsonl"

    def _claims_file(self) -> int:
        # Closing any descriptor of this file drops all of the process's locks on it: it is opened once and kept.
        if self._claims is None:
            self._claims = os.open(self.folder / ".claims", os.O_RDWR | os.O_CREAT, 0o666)
            weakref.finalize(self, os.close, self._claims)
        return self._claims


def read(folder: str | Path) -> list[Record]:
    """The records of a folder, the newest of each identity. Raises StoreError, also where there is no such folder."""
    return newest(read_all(folder))


def read_all(folder: str | Path) -> list[Record]:
    """Also those that a later one takes the place of."""
    if not Path(folder).is_dir():
        raise StoreError(f"store {folder}: there is no such folder")
    return list(_Reader(Path(folder), decode).lines())


def read_file(path: str | Path) -> list[Record]:
    """One file of a folder, by the same rules. Raises StoreError."""
    return newest(_Reader(Path(path).parent, decode).new(Path(path)))


Line = TypeVar("Line", bound=Record | Head)


class _Reader(Generic[Line]):
    """What the lines of a folder say, each as `read` makes it. A line is read once."""

    def __init__(self, folder: Path, read: Callable[[bytes], Line]) -> None:
        self.folder, self.read = folder, read
        self.known: dict[str, Line] = {}
        """What `latest` gave last."""
        self._offsets: dict[Path, int] = {}  # by file: the end of the last line read
        self._without_end: dict[Path, bytes] = {}  # by file: a last line that was read, and will be met once more

    def latest(self) -> dict[str, Line]:
        """Of each key the record last begun: as in a report, whichever file it is in."""
        for line in self.lines():
            key = key_of(line)
            if key not in self.known or line.started_at >= self.known[key].started_at:
                self.known[key] = line
        return self.known

    def lines(self) -> Iterator[Line]:
        """Those that are new since the last call, file by file."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"store {self.folder} cannot be read: {error.strerror}") from error
        for path in sorted(self.folder / name for name in names if name.endswith(".jsonl")):
            yield from self.new(path)

    def new(self, path: Path) -> Iterator[Line]:
        """Those of one file."""
        start = offset = self._offsets.get(path, 0)
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)  # a writer may yet take back a line that it could not sync
                if file.seek(0, os.SEEK_END) < start:
                    raise StoreError(f"store {path} was shortened while in use")
                file.seek(start)
                for line in file:
                    has_end = line.endswith(b"\n")
                    if not has_end and not _is_whole(line):
                        break
                    if self._without_end.pop(path, None) != line.removesuffix(b"\n"):
                        yield self.read(line)
                    if has_end:
                        self._offsets[path] = offset = offset + len(line)
                    else:
                        self._without_end[path] = line
        except SchemaError as error:
            number = path.read_bytes()[:offset].count(b"\n") + 1
            mend = "; mend or delete this line, and all others count again" if isinstance(error, NotARecord) else ""
            raise StoreError(f"store {path}, line {number}: {error}{mend}") from error
        except OSError as error:
            raise StoreError(f"store {path} cannot be read: {error.strerror}") from error


def _not_written(path: Path, error: OSError) -> StoreError:
    return StoreError(f"store {path} cannot be written: {error.strerror}")


def _byte_of(key: str) -> int:
    return int(key[:15], 16)


def _byte_of_host(host: str) -> int:
    """Behind those of all keys."""
    return _NO_KEY + 1 + zlib.crc32(host.encode())


def _is_whole(line: bytes) -> bool:
    """Whether the last line lacks nothing but its end. Else it is torn: its writer was killed."""
    try:
        decode(line)
    except SchemaError as error:
        return not isinstance(error, NotARecord)
    return True


def _end_last_line(file: IO[bytes]) -> int:
    """Truncate to the last whole line, or end it; returns the size."""
    end = size = file.seek(0, os.SEEK_END)
    while size:
        start = max(0, size - 65536)
        file.seek(start)
        newline = file.read(size - start).rfind(b"\n")
        if newline >= 0:
            size = start + newline + 1
            break
        size = start
    if size == end:
        return size
    file.seek(size)
    if _is_whole(file.read()):
        _write_all(file.fileno(), b"\n")
        return end + 1
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
