"""What a call of `bench/run.py` asks for, and the processes that it has for that. No torch."""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench import environment, experiment
from bench.experiment import Experiment
from bench.inputs import options
from bench.store import Store
from bench.sweep import launch, tracking
from bench.sweep.attempts import Attempt
from bench.sweep.plan import Known, Task, tasks


class Work(NamedTuple):
    """What is left of a request, by the store as this launch found it."""

    left: list[Task]
    outdated: Mapping[str, Known]
    """Records that are made anew."""
    launched_at: float
    """Unix time of the launch, whose processes may have done some of its work; infinite for a process alone."""


@dataclass(frozen=True)
class Request:
    asked: argparse.Namespace
    world: launch.World
    experiments: list[Experiment]
    planned: list[Task]
    store: Store
    ddp: bool
    """Whether all processes share each cell."""
    gpu: bool

    @classmethod
    def of(cls, asked: argparse.Namespace, world: launch.World) -> "Request":
        """Raises ValueError for whatever is wrong by itself, without a look at launch, data and store."""
        options.check(asked)
        tracking.check(asked.track)
        settings, filters = options.overrides(asked), options.filters(asked)
        experiments = [experiment.select(one, filters) for one in experiment.load_all(asked.experiments, settings)]
        if len(modes := {each.launch.mode for each in experiments}) > 1:
            raise ValueError("experiments with launch.mode 'cells' and 'ddp' cannot share one launch: run them apart")
        gpu, machine = environment.uses_gpu(), environment.speed_identity(environment.collect(asked.threads))
        planned = tasks(experiments, num_seeds=asked.seeds, num_timings=asked.timings, gpu=gpu, machine=machine,
                        num_processes=world.num_processes)
        return cls(asked, world, experiments, planned, Store(asked.store), gpu=gpu,
                   ddp=modes == {"ddp"} and world.num_processes > 1)

    @property
    def leads(self) -> bool:
        """Whether this process decides and writes: under DDP, rank 0 alone."""
        return not self.ddp or self.world.rank == 0

    @property
    def weights_folder(self) -> Path | None:
        return self.store.folder / "weights" if self.asked.keep_weights else None

    def attempt(self, task: Task) -> Attempt:
        return Attempt(self.store.folder, task.key, self.world.num_processes if self.ddp else 1)

    def num_threads(self, *, alone: bool) -> int:
        """Of this process, which has the machine `alone` or shares it with the others."""
        num_sharing = 1 if alone and not self.ddp else self.world.local_num_processes
        return self.asked.threads or max(1, environment.num_cpus() // num_sharing)

    @contextlib.contextmanager
    def machine(self, *, alone: bool) -> Iterator[Callable[[], bool]]:
        """Yields what says whether others train here now: of this command, or of another on the same store."""
        if not self.leads:
            yield lambda: False
            return
        with self.store.machine(environment.collect().host, alone=alone) as held_by_others:
            with_others = not alone and not self.ddp and self.world.local_num_processes > 1
            yield lambda: with_others or held_by_others()
