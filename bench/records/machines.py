"""The machines that records come from, and under what conditions two times may be compared. No torch."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

from bench import stats
from bench.environment import speed_identity
from bench.formatting import plural
from bench.record import Environment, Record, TrainRecord
from bench.records.side_records import SideRecord


class Machine(NamedTuple):
    """What must be equal for two times to be compared. On a GPU the host's threads are none of it, and count as 0."""

    device: str
    driver: str
    cpu: str
    num_cpus: int
    num_threads: int
    torch: str
    num_processes: int

    @classmethod
    def of(cls, record: Record) -> "Machine":
        return cls.at(record.environment, record.labels.num_processes)

    @classmethod
    def at(cls, environment: Environment, num_processes: int = 1) -> "Machine":
        facts = speed_identity(environment)
        if environment.device != "cpu":
            facts["num_threads"] = 0
        return cls(**facts, num_processes=num_processes)

    @property
    def hardware(self) -> str:
        """What computes: accelerator or processor."""
        return self.cpu or "unknown CPU" if self.device == "cpu" else self.device

    @property
    def title(self) -> str:
        """Of a figure or a comparison, e.g. `AMD EPYC (family 26, model 2), 2 threads`."""
        return f"{self.hardware}, {plural(self.num_threads, 'thread')}" if self.num_threads else self.hardware

    def __str__(self) -> str:
        accelerator = "" if self.device == "cpu" else f"{self.device} (driver {self.driver or 'unknown'}), "
        threads = f"threads: {self.num_threads}, " if self.num_threads else ""
        return (f"{accelerator}{self.cpu or 'unknown CPU'}, processors: {self.num_cpus}, {threads}"
                f"processes that share a batch: {self.num_processes}, torch {self.torch or 'unknown'}")


class Conditions(NamedTuple):
    """What must be equal for two training times to be averaged."""

    machine: Machine
    disturbed: bool
    fused_seeds: int
    """Trained as one module: the seconds are those of all of them together."""

    @classmethod
    def of(cls, record: TrainRecord) -> "Conditions":
        return cls(Machine.of(record), training_was_disturbed(record), record.labels.fused_seeds)


def by_conditions(records: Iterable[TrainRecord]) -> dict[Conditions, list[TrainRecord]]:
    """In order of the conditions."""
    found: dict[Conditions, list[TrainRecord]] = defaultdict(list)
    for record in records:
        found[Conditions.of(record)].append(record)
    return dict(sorted(found.items()))


def training_was_disturbed(record: TrainRecord) -> bool:
    """Whether other work ran beside a training: as the harness saw then, or as its epochs tell afterwards.

    They do if IQR / median of their seconds is above 10 %. The first, which may compile, is left out; fewer than three
    others tell nothing. Of a training that was taken up again the record knows its last part alone: what ran beside the
    others, and on which machine they were, it does not say.
    """
    seconds, labels = record.epochs.train_s[1:], record.labels
    return labels.machine_shared or labels.num_resumes > 0 or (len(seconds) > 2 and stats.is_noisy(seconds))


def is_undisturbed(record: TrainRecord) -> bool:
    """Whether its seconds say how long such a training takes: nothing beside it, and not a part of several seeds'."""
    return not training_was_disturbed(record) and record.labels.fused_seeds <= 1


T = TypeVar("T", bound="Machine | str")


def most_frequent(items: Iterable[T]) -> T | None:
    """The last in order of those that occur most often; None of none."""
    counts = Counter(items)
    return max(counts, key=lambda item: (counts[item], item), default=None)


def machines(records: Iterable[Record]) -> list[Machine]:
    return sorted({Machine.of(record) for record in records})


def machine_names(records: Iterable[Record], sides: Iterable[SideRecord]) -> dict[Machine, str]:
    """M1, M2 ... of all machines that anything was measured on: the names in RESULTS.md and in the explorer."""
    known = {*machines(records), *(Machine.at(side.environment) for side in sides)}
    return {machine: f"M{i}" for i, machine in enumerate(sorted(known), start=1)}
