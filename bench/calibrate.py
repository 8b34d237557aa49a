"""How well this machine can tell two speeds apart: one cell timed against itself, block by block in turns.

    python -m bench.calibrate                      stores calibration-<host>.json and prints it
    python -m bench.calibrate --rounds 30          more pairs: a surer estimate of the noise

Whatever differs between the two is noise; what a comparison on this machine can resolve follows from it.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

from bench import command, environment
from bench.records.side_records import METRICS, PAIRS, Calibration, Metric, Pairs
from bench.timing import side_runs
from bench.timing.interleave import interleave
from fmnist_core.config import CellConfig, to_dict

Block = Callable[[], Mapping[str, float]]
"""Times one block; median seconds by metric."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = side_runs.parser("calibrate", __doc__, rounds=2 * PAIRS)
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds 1: noise needs at least 2")
    try:
        cell = side_runs.cell_of(options)
        with side_runs.alone(options.store) as load_warnings:
            started_at = environment.now()
            metrics = noise(*_two_subjects(cell, options), options.rounds)
            calibration = Calibration(
                environment=environment.collect(options.threads), started_at=started_at, warnings=load_warnings(),
                cell=to_dict(cell), metrics=metrics)
    except ValueError as error:
        print(f"bench.calibrate: {error}", file=sys.stderr)
        return side_runs.WRONG_INPUT
    return side_runs.finish("calibrate", options.store, calibration)


def noise(a: Block, b: Block, rounds: int) -> dict[Metric, Pairs]:
    """Pairs of blocks of two things that are the same."""
    blocks = interleave({"a": a, "b": b}, rounds)
    return {metric: Pairs(a_s=[block[metric] for block in blocks["a"]], b_s=[block[metric] for block in blocks["b"]])
            for metric in METRICS if metric in blocks["a"][0]}


def _two_subjects(cell: CellConfig, options: argparse.Namespace) -> tuple[Block, Block]:
    from bench.timing import block  # brings torch
    from fmnist_core.data import load
    from fmnist_core.train import Training

    dataset = load(cell.data, block.use_threads(options.threads, cell), options.data_dir)
    a, b = (block.Subject(Training(cell, 0, dataset), min_block_s=options.block_s) for _ in range(2))
    return a.block, b.block


if __name__ == "__main__":
    command.leave(main)
