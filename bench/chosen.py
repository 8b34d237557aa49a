"""The choice of an experiment of least time to an accuracy: the label of its twin on all images, to train it further.

    python -m bench.chosen beyond_fast_gpu 0.94 --store runs/gpu
"""

import sys
from collections.abc import Sequence

from bench import command, experiment
from bench.inputs.strict_parser import StrictParser, folder
from bench.judging import goals
from bench.records.rows import collect
from bench.store import StoreError, read

OK, NONE, WRONG_INPUT = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 and the label printed, 1 if no cell reaches the goal on validation, 2 wrong input."""
    parser = StrictParser("python -m bench.chosen", __doc__)
    parser.add_argument("experiment", choices=sorted(goals.FAST))
    parser.add_argument("goal", type=float, help="validation accuracy, a fraction")
    parser.add_argument("--store", type=folder, default="runs", metavar="DIR",
                        help="folder of the records; default: runs")
    asked = parser.parse_args(arguments)
    if not 0 < asked.goal < 1:
        parser.error(f"argument goal: {asked.goal:g}: expected a fraction between 0 and 1, e.g. 0.94")
    try:
        rows = collect(read(asked.store), [experiment.load(asked.experiment)]).of(asked.experiment)
    except (StoreError, ValueError) as error:
        print(f"bench.chosen: {error}", file=sys.stderr)
        return WRONG_INPUT
    chosen = goals.choose(rows, asked.goal)
    if chosen is None:
        print(f"bench.chosen: no cell of {asked.experiment} reaches {asked.goal:g} on validation in {asked.store}",
              file=sys.stderr)
        return NONE
    print(goals.twin_of(chosen, rows).label)
    return OK


if __name__ == "__main__":
    command.leave(main)
