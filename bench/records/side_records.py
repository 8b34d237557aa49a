"""What is known of a machine beside the records of cells: noise, Accelerate's price, peers, scaling. No torch.

JSON files in the store, one each per machine: `calibration-<host>.json`, and likewise `ledger`, `peers`, `scaling` and,
for each experiment, `turns`.
Each is written whole by the module of its name, holds raw samples in base units, and names the environment it holds
for; `bench.pages.side_tables` shows them.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct

from bench.environment import speed_identity
from bench.record import Environment
from fmnist_core.whole_files import write_whole

SIDE_SCHEMA_VERSION = 1
PAIRS = 10
"""Pairs of blocks, by default: of a calibration, and of a comparison of two revisions."""
THRESHOLD = 0.025
"""The least relative change of a speed that counts: half of the 5 % that is to be found."""

Metric = Literal["train_step", "batch", "epoch", "evaluate", "inference", "latency"]
METRICS: tuple[Metric, ...] = get_args(Metric)
"""One training step; its batch; an epoch, with all that the training loop does between its steps; one evaluation of the
test set; one forward pass of the largest inference batch; one of a single image."""
Seconds = list[Annotated[float, Meta(gt=0.0)]]


class _Side(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", kw_only=True):
    schema: Annotated[int, Meta(ge=1, le=SIDE_SCHEMA_VERSION)] = SIDE_SCHEMA_VERSION
    environment: Environment
    started_at: str
    """UTC, ISO 8601."""
    warnings: list[str] = []

    @property
    def place(self) -> str:
        """What tells its file from others of its kind."""
        return self.environment.host


class Pairs(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One metric of a calibration: the same cell twice, block by block in turns."""

    a_s: Seconds
    """Median seconds of each block of the one."""
    b_s: Seconds
    """Of the other, taken next to it."""


class Calibration(_Side, frozen=True, tag="calibration", kw_only=True):
    """A cell timed against itself: every difference is noise."""

    cell: dict[str, Any]
    own_processes: bool = False
    """Whether each block was a process of its own, as a record is. Until November 2026 one process had all of them."""
    metrics: dict[Metric, Pairs]

    @property
    def reason_against(self) -> str:
        """Why it decides nothing; empty where it does."""
        if self.warnings:
            return "the calibration was disturbed"  # by other work: it knows the noise of that hour alone
        return "" if self.own_processes else "the calibration is of one process, and knows nothing of how two differ"


class LedgerLine(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    what: str
    """What this line has that the one it is compared with has not."""
    step_s: Seconds = []
    """Median seconds of a training step, one entry per block; the i-th blocks of all lines were taken in turns."""
    skipped: str = ""
    """Why there are no samples."""


class Ledger(_Side, frozen=True, tag="ledger", kw_only=True):
    """One training step, done in several ways; the first line is the reference."""

    cell: dict[str, Any]
    lines: list[LedgerLine]


class PeerRun(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One round of one system, over all its processes."""

    images: int
    """Trained on in the timed epochs, over all processes."""
    train_s: Annotated[float, Meta(gt=0.0)]
    """From the first start to the last end of a timed epoch in any process; start-up, the first epoch where there are
    more, and evaluation are not timed."""
    num_steps: int
    """Optimizer steps of one training, all epochs."""
    test_accuracy: list[float]
    """One fraction per training."""


class Peer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    what: str
    num_processes: int = 1
    num_threads: int = 1
    """Of each process, as far as the system lets itself be told."""
    num_parameters: int = 0
    libraries: dict[str, str] = {}
    """Name to version, of what the environment does not name."""
    runs: list[PeerRun] = []
    """One per round; the i-th runs of all systems were made in turns."""
    skipped: str = ""


class Peers(_Side, frozen=True, tag="peers", kw_only=True):
    """The same work done by several systems; the first is the reference."""

    cell: dict[str, Any]
    epochs: int
    images_per_epoch: int
    systems: list[Peer]


Axis = Literal["global_batch_size", "width", "fused seeds", "processes, cells", "processes, ddp"]
AXES: tuple[Axis, ...] = get_args(Axis)
"""What grows: images of a step; channels of the family's convolutions; seeds in one module; processes that each train a
cell; processes that share one."""


class Point(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One place on an axis. Each process has one thread, or one GPU."""

    axis: Axis
    value: int
    num_processes: int = 1
    num_parameters: int = 0
    images_per_step: int = 0
    """Of all processes and seeds together."""
    step_s: Seconds = []
    """Mean seconds of a step with its batch, over the processes; one entry per round, taken in turns along the axis."""
    skipped: str = ""


class Reduction(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An all-reduce of float32 numbers, alone."""

    num_processes: int
    num_bytes: int
    seconds: Seconds
    """Mean of one, one entry per round."""


class Scaling(_Side, frozen=True, tag="scaling", kw_only=True):
    """How the speed of training grows with batch, width, seeds and processes."""

    cell: dict[str, Any]
    points: list[Point]
    reductions: list[Reduction] = []


class TimedCell(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    label: str
    cell: dict[str, Any]
    step_s: Seconds
    """Median seconds of a training step, one entry per block; the i-th blocks of all cells were taken in turns."""


NO_NAME = re.compile(r"[^\w.=-]")
"""What a setting may hold that the name of a file may not."""


class Turns(_Side, frozen=True, tag="turns", kw_only=True):
    """The cells of an experiment, timed in turns; the first is the reference."""

    experiment: str
    changes: list[str] = []
    """Settings that were changed for all of its cells, as `key=value`."""
    cells: list[TimedCell]

    @property
    def place(self) -> str:
        return "-".join([self.environment.host, self.experiment, *(NO_NAME.sub("_", text) for text in self.changes)])

    def step_s_of(self, cell: dict[str, Any]) -> Seconds:
        """Of the cell, or else of its training, however carried out; empty where neither is among them."""
        trains = lambda one: {key: value for key, value in one.items() if key != "execution"}
        same = [one for one in self.cells if one.cell == cell] or [
            one for one in self.cells if trains(one.cell) == trains(cell)]
        return same[0].step_s if same else []


SideRecord = Calibration | Ledger | Peers | Scaling | Turns
KINDS: tuple[type[SideRecord], ...] = get_args(SideRecord)
Side = TypeVar("Side", bound=_Side)


def path_of(folder: str | Path, kind: type[_Side], host: str) -> Path:
    return Path(folder) / f"{kind.__struct_config__.tag}-{host}.json"


def save(folder: str | Path, record: SideRecord) -> Path:
    """Replace the machine's file; whole or not at all. Raises OSError."""
    path = path_of(folder, type(record), record.place)
    write_whole(path, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    return path


def load(folder: str | Path, kind: type[Side], host: str) -> Side | None:
    """The machine's record of this kind, None where there is none. Raises ValueError for one that cannot be read."""
    path = path_of(folder, kind, host)
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def load_every(folder: str | Path) -> list["SideRecord"]:
    """Of every kind and machine. Raises ValueError."""
    return [record for kind in KINDS for record in load_all(folder, kind)]


def load_all(folder: str | Path, kind: type[Side]) -> list[Side]:
    """Of every machine, in the order of their hosts. Raises ValueError."""
    start = f"{kind.__struct_config__.tag}-"
    hosts = sorted(path.stem.removeprefix(start) for path in Path(folder).glob(f"{start}*.json"))
    return [record for host in hosts if (record := load(folder, kind, host)) is not None]


def calibration_for(folder: str | Path, environment: Environment) -> Calibration | None:
    """The calibration that holds for this machine, device, library and number of threads."""
    found = load(folder, Calibration, environment.host)
    return found if found and speed_identity(found.environment) == speed_identity(environment) else None
