"""Run experiments: train and time every cell that has no record yet.

    accelerate launch bench/run.py                      the default experiment, quick
    torchrun --nproc-per-node 2 bench/run.py NAME       several processes, each taking whole cells
    python bench/run.py NAME --list                     what is done and what is missing; no torch, no training
    python bench/run.py NAME --only model.depth=2 --set train.epochs=1 --seeds 1
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from bench import environment, experiment, launch, progress
from bench.plan import Task, missing, tasks
from bench.store import Store
from fmnist_core.files import load_arrays

POLL_S = 0.5
"""Between looks at the store while other processes hold all tasks that are left."""
OK, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
DEFAULT_STORE = "runs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 all cells there, 1 a cell failed, 2 wrong input, 130 interrupted."""
    options = _parser().parse_args(arguments)
    world = launch.world()
    try:
        sweep = Sweep(options, world)
        if options.list:
            progress.show_plan(sweep.experiments, sweep.planned, sweep.store.latest())
            return OK
        sweep.check()
    except ValueError as error:
        if world.rank == 0:
            print(f"bench/run.py: {error}", file=sys.stderr)
        return WRONG_INPUT
    try:
        sweep.run()
    except KeyboardInterrupt:
        print(f"\nInterrupted. Finished records are in {sweep.store.folder}; the same command goes on from there.",
              file=sys.stderr)
        return INTERRUPTED
    return sweep.finish()


class Sweep:
    """The tasks of this call and what has become of them."""

    def __init__(self, options: argparse.Namespace, world: launch.World) -> None:
        """Whatever can be wrong with the request is found here or in `check`, as ValueError."""
        self.options, self.world = options, world
        overrides = dict(_setting(text, "--set") for text in options.set)
        if options.dataset:
            overrides["data.dataset"] = options.dataset
        filters = dict(_setting(text, "--only") for text in options.only)
        self.experiments = [_selected(experiment.load(name, overrides), filters) for name in options.experiments]
        modes = {each.launch.mode for each in self.experiments}
        if len(modes) > 1:
            raise ValueError("experiments with launch.mode 'cells' and 'ddp' cannot share one launch: run them apart")
        self.ddp = modes == {"ddp"} and world.num_processes > 1
        self.gpu = environment.uses_gpu()
        self.planned = tasks(self.experiments, num_seeds=options.seeds, gpu=self.gpu, num_processes=world.num_processes,
                             machine=environment.speed_identity(environment.collect()))
        if options.untimed:
            self.planned = [task for task in self.planned if task.seed is not None]
        self.store = Store(options.store)

    def check(self) -> None:
        """Launch, data and store, before any work. Raises ValueError."""
        launch.check(self.experiments, self.world, gpu=self.gpu)
        for dataset in {task.cell.config.data.dataset for task in self.planned}:
            load_arrays(dataset, self.options.data_dir)
        self.store.check_writable()
        self.before = dict(self.store.latest())
        self.left = missing(self.planned, self.before, rerun=self.options.rerun,
                            retry_failed=self.options.retry_failed)

    def run(self) -> None:
        """Cells mode: this process takes any free task until none is left. DDP: all processes share each."""
        if not self.left:
            return
        if not self.ddp:
            launch.stand_alone(self.world)
        from bench import trial  # brings torch: only now is it sure that there is work, and on which device

        num_done = len(self.planned) - len(self.left)
        with progress.Progress(len(self.planned), num_done, quiet=self.world.rank != 0) as bar:
            while task := trial.agree(self._next() if self.leads else None, ddp=self.ddp):
                bar.start(task.name)
                alone = task.seed is None
                with self.store.machine(self.host, alone=alone) if self.leads else contextlib.nullcontext():
                    record = trial.run(task, data_dir=self.options.data_dir, num_threads=self._num_threads(alone),
                                       shared=not alone and self._shares_machine(), on_epoch=bar.epoch)
                if self.leads:
                    self.store.append(record)
                    self.store.release(task.key)
                bar.finish(task.name, record, len(self.planned) - len(self.left))

    def finish(self) -> int:
        """Say what was learnt; the exit code."""
        latest = self.store.latest()
        if self.world.rank == 0:
            progress.show_summary(self.experiments, self.planned, latest, self.store.folder)
        there = [latest[task.key].status for task in self.planned if task.key in latest]
        return OK if there == ["ok"] * len(self.planned) else FAILED

    @property
    def leads(self) -> bool:
        """Whether this process decides and writes: under DDP, rank 0 alone."""
        return not self.ddp or self.world.rank == 0

    @property
    def host(self) -> str:
        return environment.collect().host

    def _next(self) -> Task | None:
        """Claim the first free task, waiting while other processes hold all that are left; None: all are done."""
        while True:
            self.left = [task for task in self.left if not self._is_done(task)]
            for task in self.left:
                if self.store.claim(task.key):
                    if not self._is_done(task):
                        return task
                    self.store.release(task.key)
            if not self.left:
                return None
            time.sleep(POLL_S)

    def _is_done(self, task: Task) -> bool:
        """Whether a record has come since this call began."""
        return self.store.latest().get(task.key) is not self.before.get(task.key)

    def _num_threads(self, alone: bool) -> int:
        sharing = 1 if alone and not self.ddp else self.world.local_num_processes
        return max(1, environment.num_cpus() // sharing)

    def _shares_machine(self) -> bool:
        return not self.ddp and self.world.local_num_processes > 1


def _selected(chosen: experiment.Experiment, filters: dict[str, Any]) -> experiment.Experiment:
    cells = experiment.select(chosen.cells, filters)
    if not cells:
        asked = ", ".join(f"{key}={value}" for key, value in filters.items())
        raise ValueError(f"experiment {chosen.name}: no cell has {asked}")
    return msgspec.structs.replace(chosen, cells=cells)


def _setting(text: str, option: str) -> tuple[str, Any]:
    """`train.epochs=1` to ("train.epochs", 1): the value is JSON, or else a string."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"{option} {text}: expected KEY=VALUE, e.g. train.epochs=1")
    try:
        return key, json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        return key, value


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="bench/run.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=["quick"], metavar="EXPERIMENT",
                        help=f"a name ({', '.join(experiment.names())}) or the path of a .toml file; default: quick")
    parser.add_argument("--list", action="store_true", help="show the cells, done or not, and what each costs; run nothing")
    parser.add_argument("--only", action="append", default=[], metavar="KEY=VALUE", help="only cells with this value")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value in every cell")
    parser.add_argument("--seeds", type=_positive, metavar="N", help="seeds 0 to N - 1 instead of the experiment's own number")
    parser.add_argument("--untimed", action="store_true", help="train only; leave the timings for when the machine is quiet")
    parser.add_argument("--rerun", action="store_true", help="run again what already has a record")
    parser.add_argument("--retry-failed", action="store_true", help="run again what has failed")
    parser.add_argument("--store", default=DEFAULT_STORE, metavar="DIR", help=f"folder of the records; default: {DEFAULT_STORE}")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the four IDX files")
    parser.add_argument("--dataset", metavar="NAME", help="short for --set data.dataset=NAME, e.g. synthetic")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 to 10000")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
