"""The cells of an experiment timed in turns, block by block, so that what drifts on the machine strikes all alike.

    python -m bench.turns --experiment kernel_size_network2    stores turns-<host>-<experiment>.json and prints it
    python -m bench.turns --experiment mine.toml --threads 1   on a machine whose threads others keep waiting
    python -m bench.turns --set execution.capture=true         on a GPU, where an eager step is Python's time

Tells smaller differences apart than the timings of a sweep, as all blocks are of one process; what two processes differ
in is therefore not in its intervals.
"""

import sys
from collections.abc import Sequence

from bench import command, environment, experiment
from bench.experiment import Experiment
from bench.inputs.options import overrides
from bench.records.side_records import TimedCell, Turns
from bench.timing import side_runs
from bench.timing.interleave import interleave
from fmnist_core.config import Baseline, to_dict

ROUNDS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    parser = side_runs.parser("turns", __doc__, rounds=ROUNDS, settings=True,
                              timed="all cells of this experiment are")
    options = parser.parse_args(arguments)
    try:
        chosen = experiment.load(options.experiment, overrides(options))
        _check(chosen)
        with side_runs.alone(options.store) as load_warnings:
            started_at = environment.now()
            cells = measure(chosen, options.rounds, options.threads, options.data_dir, options.block_s)
            turns = Turns(environment=environment.collect(options.threads), started_at=started_at,
                          warnings=load_warnings(), experiment=chosen.name, changes=sorted(options.set),
                          cells=cells)
    except ValueError as error:
        print(f"bench.turns: {error}", file=sys.stderr)
        return side_runs.WRONG_INPUT
    return side_runs.finish("turns", options.store, turns)


def measure(chosen: Experiment, rounds: int, num_threads: int, data_dir: str | None, block_s: float) -> list[TimedCell]:
    """Blocks of training steps of every cell, each of about `block_s` seconds. Raises ValueError."""
    from torch._dynamo import config as dynamo

    from bench.timing import block
    from fmnist_core.data import load
    from fmnist_core.train import Training

    subjects = {}
    # Models of one class share what the compiler counts: beyond its limit it would leave the last cells eager.
    with dynamo.patch(recompile_limit=dynamo.recompile_limit * len(chosen.cells)):
        for i, cell in enumerate(chosen.cells):
            dataset = load(cell.config.data, block.use_threads(num_threads, cell.config), data_dir)
            subjects[str(i)] = block.Subject(Training(cell.config, 0, dataset), min_block_s=block_s)
        blocks = interleave({name: subject.step_s for name, subject in subjects.items()}, rounds)
    return [TimedCell(label=cell.label, cell=to_dict(cell.config), step_s=blocks[str(i)])
            for i, cell in enumerate(chosen.cells)]


def _check(chosen: Experiment) -> None:
    if any(isinstance(cell.config.model, Baseline) for cell in chosen.cells):
        raise ValueError(f"experiment {chosen.name}: a cell with model.name = 'baseline' has no training steps")
    for key, values in (("train.precision", {cell.config.train.precision for cell in chosen.cells}),
                        ("execution.deterministic", {cell.config.execution.deterministic for cell in chosen.cells})):
        if len(values) > 1:
            raise ValueError(f"experiment {chosen.name}: its cells differ in {key}, of which a process has one")


if __name__ == "__main__":
    command.leave(main)
