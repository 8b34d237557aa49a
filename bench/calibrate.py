"""How well this machine can tell two speeds apart: one cell timed against itself, block by block in turns.

    python -m bench.calibrate                      stores calibration-<host>.json and prints it
    python -m bench.calibrate --rounds 30          more pairs: a surer estimate of the noise

Whatever differs between the two is noise; what a comparison on this machine can resolve follows from it. Each block is
a process of its own, as those of `bench.compare` are and records of two sweeps.
"""

import sys
from collections.abc import Sequence

from bench import command, environment
from bench.records.side_records import PAIRS, Calibration
from bench.timing import revisions, side_runs
from fmnist_core.config import to_dict


def main(arguments: Sequence[str] | None = None) -> int:
    parser = side_runs.parser("calibrate", __doc__, rounds=2 * PAIRS)
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds 1: noise needs at least 2")
    try:
        cell = side_runs.cell_of(options)
        with side_runs.alone(options.store) as load_warnings:
            started_at = environment.now()
            metrics = revisions.time_in_turns([revisions.WORKING_TREE] * 2, revisions.request(cell, options),
                                              options.rounds)
            calibration = Calibration(
                environment=environment.collect(options.threads), started_at=started_at, warnings=load_warnings(),
                cell=to_dict(cell), own_processes=True, metrics=metrics)
    except ValueError as error:
        print(f"bench.calibrate: {error}", file=sys.stderr)
        return side_runs.WRONG_INPUT
    return side_runs.finish("calibrate", options.store, calibration)


if __name__ == "__main__":
    command.leave(main)
