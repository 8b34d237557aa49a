"""Accelerate's price, and what else a training step is charged: one step done in several ways, in turns.

    python -m bench.ledger                  stores ledger-<host>.json and prints it
    python -m bench.ledger --no-compile     without the compiler, which takes its time
    python -m bench.ledger --markdown       print the stored table; measure nothing

All ways train the same network on the same batches with the same fused optimizer; batches are not on the clock.
"""

import argparse
import sys
from collections.abc import Sequence

from bench import command, environment
from bench.formatting import table
from bench.pages.side_tables import headers_and_rows
from bench.records.side_records import Ledger, LedgerLine, load
from bench.timing import side_runs
from fmnist_core.config import CellConfig, ExecutionConfig, TrainConfig, to_dict

ROUNDS = 20
PLAIN = ("precision", "gradient_accumulation", "gradient_clip_norm", "ema")
"""What `train_step` does for, and a raw step does not."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = side_runs.parser("ledger", __doc__, rounds=ROUNDS)
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled step out")
    parser.add_argument("--markdown", action="store_true", help="print what is stored for this machine")
    options = parser.parse_args(arguments)
    try:
        if options.markdown:
            return _print_stored(options.store)
        cell = side_runs.cell_of(options)
        _check(cell, options.experiment)
        with side_runs.alone(options.store) as load_warnings:
            started_at = environment.now()
            lines = _measure(cell, options)
            ledger = Ledger(environment=environment.collect(options.threads), started_at=started_at,
                            warnings=load_warnings(), cell=to_dict(cell), lines=lines)
    except ValueError as error:
        print(f"bench.ledger: {error}", file=sys.stderr)
        return side_runs.WRONG_INPUT
    return side_runs.finish("ledger", options.store, ledger)


def _check(cell: CellConfig, experiment: str) -> None:
    changed = [f"train.{key}" for key in PLAIN if getattr(cell.train, key) != getattr(TrainConfig(), key)]
    changed += ["execution"] * (cell.execution != ExecutionConfig())
    if changed:
        raise ValueError(f"experiment {experiment}: the ledger's raw step is float32, eager and in one part, without "
                         f"clipping or average; expected a cell with the default {', '.join(changed)}")


def _measure(cell: CellConfig, options: argparse.Namespace) -> list[LedgerLine]:
    from bench.timing import block, step_variants  # bring torch
    from fmnist_core.data import load as load_dataset

    dataset = load_dataset(cell.data, block.use_threads(options.threads, cell), options.data_dir)
    with step_variants.world_of_one(dataset.train.labels_N.device):
        chosen = step_variants.all_ways(cell, dataset, options.block_s, compiler=not options.no_compile)
        return step_variants.time_ways(chosen, options.rounds)


def _print_stored(folder: str) -> int:
    ledger = load(folder, Ledger, environment.collect().host)
    if ledger is None:
        raise ValueError(f"{folder} has no ledger of this machine; python -m bench.ledger makes one")
    print(table(*headers_and_rows(ledger), text_columns=2))
    return side_runs.OK


if __name__ == "__main__":
    command.leave(main)
