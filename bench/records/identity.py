"""Which records may stand for each other: by their key and by the arithmetic that was at work. No torch."""

from collections.abc import Iterable
from typing import NamedTuple

from bench.record import Record, SpeedRecord, TrainRecord
from bench.records.lines import key_of
from fmnist_core.config import canonical_json


class Numerics(NamedTuple):
    """What must be equal for two accuracies to be seeds of one cell: the arithmetic, and who shares a batch."""

    precision: str
    tf32: bool
    num_processes: int

    @classmethod
    def of(cls, record: Record) -> "Numerics":
        labels = record.labels
        # The flags are set on a CPU too, where they mean nothing.
        tf32 = record.environment.device != "cpu" and (labels.matmul_tf32 or labels.cudnn_tf32)
        return cls(labels.precision, tf32, labels.num_processes)

    def __str__(self) -> str:
        processes = f", {self.num_processes} processes" if self.num_processes > 1 else ""
        return f"{self.precision or 'unknown precision'}{' with TF32' if self.tf32 else ''}{processes}"


def key_and_numerics(record: Record) -> tuple[str, Numerics]:
    """What two records must share for one to take the place of the other."""
    return key_of(record), Numerics.of(record)


def newest(records: Iterable[Record]) -> list[Record]:
    """The last begun of each key and arithmetic; a failure takes the place of all of its key, as does what follows it.

    A failed timing also ends with a later one of its cell on its host and device, by whatever driver, torch or threads.
    A sweep asks whether a key is done, on whatever device. Here, seeds of a GPU with TF32 do not hide those of a CPU.
    Files are read by name, so that of one cell in two experiments the later line may be the earlier record.
    """
    found: dict[str, dict[Numerics, Record]] = {}
    for record in sorted(records, key=lambda record: record.started_at):
        group = found.setdefault(key_of(record), {})
        if record.status != "ok" or any(other.status != "ok" for other in group.values()):
            group.clear()
        group[Numerics.of(record)] = record
    return _without_mended([record for group in found.values() for record in group.values()])


def _without_mended(records: list[Record]) -> list[Record]:
    timings = [record for record in records if isinstance(record, SpeedRecord)]
    if all(record.status == "ok" for record in timings):
        return records
    taken: dict[object, str] = {}
    """When the last good one began, by what a newer driver, torch or number of threads leaves alike."""
    what = lambda one: (canonical_json(one.cell), one.repeat, one.environment.host, one.environment.device,
                        one.labels.num_processes)
    for record in timings:
        if record.status == "ok":
            taken[what(record)] = max(record.started_at, taken.get(what(record), ""))
    return [record for record in records if not isinstance(record, SpeedRecord) or record.status == "ok"
            or record.started_at >= taken.get(what(record), "")]


def repeated(records: Iterable[Record]) -> list[list[TrainRecord]]:
    """The finished trainings of one key and arithmetic, where there are several, first begun first: the last counts."""
    found: dict[tuple[str, Numerics], list[TrainRecord]] = {}
    for record in sorted(records, key=lambda record: record.started_at):
        if isinstance(record, TrainRecord) and record.status == "ok":
            found.setdefault(key_and_numerics(record), []).append(record)
    return [group for group in found.values() if len(group) > 1]
