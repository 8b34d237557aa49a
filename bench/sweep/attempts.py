"""Notes of what is being tried, so that whoever comes after a dead process knows of it. No torch.

A process that has claimed a cell writes `<store>/attempts/<key>.json` before it begins, and removes it when the cell
has its record or was stopped on purpose. To claim a cell and find a note means that the attempt before it died:

- A cell of one process is run again, from its last checkpoint. After MAX_DEATHS deaths without a new checkpoint it is
  recorded as failed: a cell that kills its process must not do so for ever.
- Of the processes that shared a cell (DDP), those that could still speak left a report beside the note. The cell is
  recorded as failed at once, with the rank that failed and the cause.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from bench.record import Status
from bench.store import StoreError
from fmnist_core.whole_files import remove_drafts, write_whole

MAX_DEATHS = 3
Fate = Literal["", "died", "stalled"]
_Content = TypeVar("_Content")


class Report(Struct, frozen=True, forbid_unknown_fields=True):
    """What a rank says of the end of an attempt."""

    rank: int
    status: Status
    reason: str
    others: Fate = ""
    """What this rank saw of the others, where that is the reason and not an error of its own."""


class _Note(Struct, frozen=True, forbid_unknown_fields=True):
    num_deaths: int = 0
    """Of earlier attempts, since the last checkpoint."""


class Attempt:
    """To train or time the cell of one key, by `num_processes` that share it."""

    def __init__(self, store: Path, key: str, num_processes: int = 1) -> None:
        self.checkpoint = store / "checkpoints" / f"{key}.safetensors"
        self.num_processes = num_processes
        self._folder, self._key = store / "attempts", key
        self._note = self._folder / f"{key}.json"

    def begin(self) -> tuple[Status, str] | None:
        """Leave a note; or, where attempts before this one died and it is not to be tried again: how it failed.

        Raises StoreError where no note can be written.
        """
        note = _read(self._note, _Note)
        if note is None:
            self._write(self._note, _Note())
            return None
        num_deaths = note.num_deaths + 1
        reports = [report for path in self._reports() if (report := _read(path, Report)) is not None]
        if reports:
            return blame(reports, self.num_processes)
        if num_deaths >= MAX_DEATHS:
            return "error", f"its process died without a word, {num_deaths} times"
        self._write(self._note, _Note(num_deaths))
        return None

    def progressed(self) -> None:
        """There is a new checkpoint: deaths before it do not count."""
        self._write(self._note, _Note())

    def report(self, report: Report) -> None:
        self._write(self._report_of(report.rank), report)

    def withdraw(self) -> None:
        """It ended as it was meant to: there is nothing to tell. The checkpoint stays, and drafts of reports, which
        other ranks may be writing now."""
        for path in [self._note, *self._reports()]:
            path.unlink(missing_ok=True)
        remove_drafts(self._note)

    def finish(self) -> None:
        """The cell has its record, or is to be tried from the start: no rank is at work on it."""
        self.withdraw()
        for rank in range(self.num_processes):
            remove_drafts(self._report_of(rank))
        self.checkpoint.unlink(missing_ok=True)
        remove_drafts(self.checkpoint)

    def forget(self, launched_at: float) -> None:
        """`finish`, unless the note is from this launch, which began at `launched_at` (Unix time): its deaths still
        count."""
        with contextlib.suppress(FileNotFoundError):
            if self._note.stat().st_mtime >= launched_at:
                return
        self.finish()

    def _report_of(self, rank: int) -> Path:
        return self._folder / f"{self._key}.rank{rank}.json"

    def _reports(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._key}.rank*.json"))

    def _write(self, path: Path, content: Struct) -> None:
        try:
            write_whole(path, msgspec.json.encode(content))
        except OSError as error:
            raise StoreError(f"store {path} cannot be written: {error.strerror}") from error


def blame(reports: Sequence[Report], num_processes: int) -> tuple[Status, str]:
    """Status and reason of a cell whose processes left these reports: the failed rank, and what happened to it."""
    of = f"of {num_processes}"
    own = [report for report in reports if not report.others]
    if own:
        return own[0].status, "; ".join(f"rank {report.rank} {of}: {report.reason}" for report in own)
    silent = sorted(set(range(num_processes)) - {report.rank for report in reports})
    witness = min(reports, key=lambda report: (report.others != "stalled", report.rank))
    who = f"rank {', '.join(map(str, silent))} {of} {witness.others}" if silent else "the ranks lost each other"
    return "error", f"{who}; rank {witness.rank} saw: {witness.reason}"


def _read(path: Path, kind: type[_Content]) -> _Content | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):  # not there, or damaged: nothing is known
        return None
