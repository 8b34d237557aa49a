"""What `calibrate`, `compare`, `ledger`, `peers`, `scaling` and `turns` share: which cell, where, alone. No torch."""

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import environment, experiment
from bench.formatting import table
from bench.inputs.options import DEFAULT_STORE, overrides
from bench.inputs.strict_parser import StrictParser, count_up_to, folder
from bench.pages.side_tables import headers_and_rows
from bench.records.side_records import SideRecord, save
from bench.store import Store
from bench.timing.other_processes import load_warning, usage
from fmnist_core.config import Baseline, CellConfig

OK, SLOWER, WRONG_INPUT = 0, 1, 2
NOT_STORED = 1
BLOCK_S = 1.5
"""As in a record, see `bench.timing.block.MIN_BLOCK_S`."""
DEFAULT_EXPERIMENT = "final"
positive = count_up_to(1_000_000)
"""Reads the value of an option."""


def parser(name: str, description: str | None, *, rounds: int, threads: bool = True, blocks: bool = True,
           settings: bool = False, timed: str = "the first cell of this experiment is") -> argparse.ArgumentParser:
    """The options that they have; `threads`, `blocks`, `settings`: whether those of threads, of a block's seconds and
    of a cell's settings too. `timed`: what of an experiment.
    """
    new = StrictParser(f"python -m bench.{name}", description)
    new.add_argument("--experiment", default=DEFAULT_EXPERIMENT, metavar="NAME",
                     help=f"{timed} timed; default: {DEFAULT_EXPERIMENT}")
    new.add_argument("--dataset", metavar="NAME", help="another data set, e.g. synthetic")
    new.add_argument("--data-dir", metavar="DIR", help="folder of the four IDX files")
    new.add_argument("--store", type=folder, default=DEFAULT_STORE, metavar="DIR",
                     help=f"folder of the records; default: {DEFAULT_STORE}")
    new.add_argument("--rounds", type=positive, default=rounds, metavar="N", help=f"in turns; default: {rounds}")
    if threads:
        new.add_argument("--threads", type=positive, default=environment.num_cpus(), metavar="N",
                         help="of a process; default: one per processor")
    if blocks:
        new.add_argument("--block-s", type=up_to(3600), default=BLOCK_S, metavar="S",
                         help=f"seconds of training steps in a block; default: {BLOCK_S:g}")
    if settings:
        new.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the cell")
    else:
        new.set_defaults(set=[])
    return new


def cell_of(options: argparse.Namespace) -> CellConfig:
    """Raises ValueError for an unknown experiment or data set, and for a cell that has no training steps."""
    cell = experiment.load(options.experiment, overrides(options), num_cells=1).cells[0].config
    if isinstance(cell.model, Baseline):
        raise ValueError(f"experiment {options.experiment}: its first cell has model.name = 'baseline', which is no "
                         "network and has no training steps; expected an experiment whose first cell is a network")
    return cell


@contextlib.contextmanager
def alone(folder: str | Path) -> Iterator[Callable[[], list[str]]]:
    """Hold the machine against other runs of this harness that use the store; yields what tells of any other load.

    Raises StoreError where the store cannot be written.
    """
    store = Store(folder)
    store.check_writable()
    with store.machine(environment.collect().host, alone=True):
        before = usage()
        yield lambda: load_warning(before, usage())


def finish(name: str, store: str | Path, record: SideRecord) -> int:
    """Print the record as a table, what speaks against it, and where it is; the command's exit code."""
    headers, rows = headers_and_rows(record)
    print(table(headers, rows, text_columns=2))
    for warning in record.warnings:
        print(f"WARNING: {warning}")
    try:
        path = save(store, record)
    except OSError as error:
        print(f"bench.{name}: not stored: {error}", file=sys.stderr)
        return NOT_STORED
    print(f"\nStored in {path}")
    return OK


def up_to(most: float) -> Callable[[str], float]:
    """What reads a number from 0 to `most`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to {most:g}")
        return value

    return read
