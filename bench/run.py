# PYTHON_ARGCOMPLETE_OK
"""Run experiments: train and time every cell that has no record yet.

    accelerate launch bench/run.py                      the default experiment, quick
    torchrun --nproc-per-node 2 bench/run.py NAME       several processes, each taking whole cells
    python bench/run.py NAME --list                     what is done and what is missing; no torch, no training
    python bench/run.py NAME --only model.depth=2 --set train.epochs=1 --seeds 1
    python bench/run.py NAME --only label=Trial-2 --profile      where its time goes
    torchrun --nproc-per-node 2 --max-restarts 9 bench/run.py NAME --set launch.mode=ddp      all share each cell
"""

import argparse
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from bench import environment, experiment
from bench.inputs import options
from bench.record import Record
from bench.store import Store, StoreError
from bench.sweep import dry_run, launch, plan_table, progress, tracking
from bench.sweep.attempts import Attempt
from bench.sweep.conditions import Conditions
from bench.sweep.plan import Known, Task, due, is_done, missing, outdated, siblings, tasks

POLL_S = 0.5
"""Between looks at the store while other processes hold all tasks that are left."""
OK, FAILED, WRONG_INPUT, BROKEN, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 all cells there, 1 a cell failed or the store did, 2 wrong input, 3 a process that
    shares a cell failed, 130 interrupted, 143 stopped by a scheduler's notice."""
    parser = options.parser(__doc__)
    options.answer_shell(parser)
    asked = parser.parse_args(arguments)
    try:
        world = launch.world()
    except ValueError as error:
        print(f"bench/run.py: {error}", file=sys.stderr)
        return WRONG_INPUT
    go_on = (f"Finished records are in {asked.store}; "
             + ("--rerun would begin anew." if asked.rerun else "the same command goes on from there."))
    with launch.Notice() as notice:
        try:
            return _run(asked, world, notice)
        except launch.Stopped as stop:
            code, what = (INTERRUPTED, "Interrupted") if stop.number == signal.SIGINT else (TERMINATED, "Stopped")
            if world.rank == 0:
                print(f"\n{what}. {go_on}", file=sys.stderr)
        except launch.GroupBroken as error:
            code = TERMINATED if notice.number else BROKEN
            if not notice.number:
                print(f"bench/run.py: rank {world.rank} of {world.num_processes}: {error}. {go_on}", file=sys.stderr)
    return code


def _run(asked: argparse.Namespace, world: launch.World, notice: launch.Notice) -> int:
    try:
        sweep = Sweep(asked, world, notice)
        if asked.list:
            latest = sweep.store.latest()
            plan_table.show(sweep.experiments, due(sweep.planned, latest), latest)
            return OK
        sweep.check()
    except ValueError as error:
        if world.rank == 0:
            print(f"bench/run.py: {error}", file=sys.stderr)
        return WRONG_INPUT
    try:
        if asked.profile:
            return sweep.profile()
        sweep.run()
        return sweep.finish()
    except StoreError as error:
        print(f"bench/run.py: {error}", file=sys.stderr)
        return FAILED


class Sweep:
    """The tasks of this call and what has become of them."""

    def __init__(self, asked: argparse.Namespace, world: launch.World, notice: launch.Notice) -> None:
        """Whatever can be wrong with the request is found here or in `check`, as ValueError."""
        self.asked, self.world, self.notice = asked, world, notice
        tracking.check(asked.track)
        settings, filters = options.overrides(asked), options.filters(asked)
        self.experiments = [experiment.select(one, filters) for one in experiment.load_all(asked.experiments, settings)]
        if len(modes := {each.launch.mode for each in self.experiments}) > 1:
            raise ValueError("experiments with launch.mode 'cells' and 'ddp' cannot share one launch: run them apart")
        self.ddp = modes == {"ddp"} and world.num_processes > 1
        self.gpu = environment.uses_gpu()
        self.planned = tasks(self.experiments, num_seeds=asked.seeds, gpu=self.gpu, num_processes=world.num_processes,
                             machine=environment.speed_identity(environment.collect(asked.threads)))
        if asked.untimed:
            self.planned = [task for task in self.planned if task.seed is not None]
        self.store = Store(asked.store)
        self.launched_at = launch.began_at() if world.num_restarts else math.inf
        self.outdated: dict[str, Known] = {}
        """Records that are made anew: see `check`."""
        self.left = list(self.planned)
        self.quiet = world.rank != 0
        self.bar = progress.Progress(len(self.planned), 0, quiet=True)
        self.show: tracking.OnEpoch = lambda training: None

    def check(self) -> None:
        """Launch, data and store, before any work. Raises ValueError."""
        launch.check(self.experiments, self.world, gpu=self.gpu)
        dry_run.check_data(self.planned, self.asked.data_dir, self.world.num_processes if self.ddp else 1)
        latest = self.store.heads()
        # Processes that torchrun has started again must not run again what this launch ran before that.
        restarted, again = self.world.num_restarts > 0, self.asked.rerun or self.asked.retry_failed
        self.outdated = outdated(latest, rerun=self.asked.rerun, retry_failed=self.asked.retry_failed,
                                 kept=self.store.since(self.launched_at) if again and restarted else ())
        self.left = missing(self.planned, latest, self.outdated)
        self.quiet = self.world.rank != 0 or (restarted and not self.left)
        at_work = self.planned if self.asked.profile else self.left
        if at_work and not self.ddp:
            launch.stand_alone(self.world)  # before torch, or the user's code, looks for a GPU
        if at_work:
            from bench.sweep import device  # brings torch: only now is it sure that there is work, and on which device
            device.check(gpu=self.gpu)
        dry_run.check(dry_run.to_build(at_work), ddp=self.ddp)
        self.store.check_writable(each.name for each in self.experiments)  # last: it creates the folder

    def run(self) -> None:
        """Cells mode: this process takes any free task until none is left. DDP: all processes share each."""
        of_trainings = ["--keep-weights"] * self.asked.keep_weights + ["--track"] * bool(self.asked.track)
        if of_trainings and not self.quiet and all(task.seed is None for task in self.left):
            print(f"{' and '.join(of_trainings)}: nothing is left to train; --rerun trains again what has a record")
        if not self.left:
            return
        from bench.sweep import ranks  # brings torch
        num_done = len(self.planned) - len(self.left)
        with progress.Progress(len(self.planned), num_done, quiet=self.world.rank != 0) as self.bar:
            if self.leads:
                self.show = self.bar.training
            while task := ranks.agree(self._next() if self.leads else None, ddp=self.ddp):
                self.bar.start(task.name)
                group = self._gather(task)
                if len(group) > 1:
                    self._run_together(group)
                else:
                    self._run_alone(task)

    def profile(self) -> int:
        """A profile of each cell instead: nothing is recorded. In cells mode each process takes its share of them."""
        cells = list({msgspec.json.encode(task.cell.config): task for task in reversed(self.planned)}.values())[::-1]
        if not self.ddp:
            cells = cells[self.world.rank :: self.world.num_processes]
        os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # torch's profiler is silent but for fatal errors
        from bench.sweep import profiling, ranks

        codes = [OK]
        for task in cells:
            with self._machine(alone=True):
                ranks.agree(task, ddp=self.ddp)
                good = profiling.show(task, self.store.folder, self._conditions(alone=True))
            codes.append(OK if good else FAILED)
        ranks.agree(None, ddp=self.ddp)
        return max(codes)

    def finish(self) -> int:
        """Say what was learnt; the exit code."""
        latest = self.store.latest()
        planned = due(self.planned, latest)
        if not self.quiet:
            from bench.sweep import results  # brings scipy
            results.show(self.experiments, planned, latest, self.store.folder, self.asked.experiments)
        return OK if all(task.key in latest and latest[task.key].status == "ok" for task in planned) else FAILED

    @property
    def leads(self) -> bool:
        """Whether this process decides and writes: under DDP, rank 0 alone."""
        return not self.ddp or self.world.rank == 0

    def _gather(self, task: Task) -> list[Task]:
        """The task and, where their seeds are to be trained as one module, others of its cell: each of them claimed."""
        fusible = (self.gpu and not self.ddp and task.seed is not None
                   and not self.asked.keep_weights and not self.asked.track)
        if not fusible or self._attempt(task).checkpoint.exists():
            return [task]
        from bench.sweep import together

        group = [task]
        with contextlib.ExitStack() as attempts:  # of which none has died where a notice ends them here
            attempts.enter_context(self._attempt(task))
            for other in siblings(task, self.left):
                if not self._attempt(other).checkpoint.exists() and self.store.claim(other.key):
                    attempts.enter_context(self._attempt(other))
                    if is_done(other, self.store.heads(), self.outdated) or self._is_given_up(other):
                        self.store.release(other.key)
                    else:
                        group.append(other)
            num = together.num_replicas(group, data_dir=self.asked.data_dir) if len(group) > 1 else 1
        for other in group[num:]:
            self._attempt(other).stop()
            self.store.release(other.key)
        return group[:num]

    def _run_alone(self, task: Task) -> None:
        from bench.sweep import one_task, ranks

        alone = task.seed is None
        with self._attempt(task) as attempt, self._machine(alone) as shared, self._tracked(task) as on_epoch:
            ranks.agree(task, ddp=self.ddp)  # the others wait for rank 0, which may wait for the machine
            with self._hold_notice(alone):
                record = one_task.run(task, attempt, self._conditions(alone, shared, on_epoch))
                if self.leads:
                    self._store(task, record)

    def _run_together(self, group: list[Task]) -> None:
        from bench.sweep import together

        self.bar.start(f"{group[0].name} and {len(group) - 1} more as one module")
        with contextlib.ExitStack() as attempts:
            for task in group:
                attempts.enter_context(self._attempt(task))
            with self._machine(alone=False) as shared, self._hold_notice(alone=False):
                records = together.run(group, self._conditions(alone=False, shared=shared, on_epoch=self.show))
                for task, record in zip(group, records, strict=True) if records is not None else ():
                    self._store(task, record)
            for task in group if records is None else ():
                self.bar.start(task.name)
                self._run_alone(task)

    def _next(self) -> Task | None:
        """Claim the first free task, waiting while other processes hold all that are left; None: all are done."""
        while True:
            self.left = missing(self.left, self.store.heads(), self.outdated)
            for task in self.left:
                if self.store.claim(task.key):
                    if not is_done(task, self.store.heads(), self.outdated) and not self._is_given_up(task):
                        return task
                    self.store.release(task.key)
            if not self.left:
                return None
            time.sleep(POLL_S)

    def _is_given_up(self, task: Task) -> bool:
        """Begin an attempt; or, where those before it died, record that the cell failed."""
        attempt = self._attempt(task)
        if task.key in self.outdated:
            attempt.forget(self.launched_at)  # to be run again means from the start
        if verdict := attempt.begin():
            from bench.sweep import new_record

            self._store(task, new_record.failed(task, *verdict, attempt.num_processes))
        return verdict is not None

    def _store(self, task: Task, record: Record) -> None:
        self.store.append(record)
        self._attempt(task).finish()
        self.store.release(task.key)
        self.left = missing(self.left, self.store.heads(), self.outdated)
        self.bar.finish(task.name, record, len(self.planned) - len(self.left), self._weights_folder())

    def _attempt(self, task: Task) -> Attempt:
        return Attempt(self.store.folder, task.key, self.world.num_processes if self.ddp else 1)

    @contextlib.contextmanager
    def _machine(self, alone: bool) -> Iterator[Callable[[], bool]]:
        """Yields what says whether others train here now: of this command, or of another on the same store."""
        if not self.leads:
            yield lambda: False
            return
        with self.store.machine(environment.collect().host, alone=alone) as held_by_others:
            with_others = not alone and not self.ddp and self.world.local_num_processes > 1
            yield lambda: with_others or held_by_others()

    def _hold_notice(self, alone: bool) -> contextlib.AbstractContextManager[None]:
        """A training stops between two steps, and processes that share a cell stop together; a timing stops at once."""
        return self.notice.held() if self.ddp or not alone else contextlib.nullcontext()

    def _conditions(self, alone: bool, shared: Callable[[], bool] = lambda: False,
                    on_epoch: tracking.OnEpoch | None = None) -> Conditions:
        return Conditions(data_dir=self.asked.data_dir, num_threads=self._num_threads(alone), shared=shared,
                          notice=self.notice, on_epoch=on_epoch, on_save=self.show, keep_weights=self._weights_folder())

    def _num_threads(self, alone: bool) -> int:
        num_sharing = 1 if alone and not self.ddp else self.world.local_num_processes
        return self.asked.threads or max(1, environment.num_cpus() // num_sharing)

    def _weights_folder(self) -> Path | None:
        return self.store.folder / "weights" if self.asked.keep_weights else None

    def _tracked(self, task: Task) -> contextlib.AbstractContextManager[tracking.OnEpoch]:
        names = self.asked.track if self.leads and task.seed is not None else ()
        return tracking.tracked(names, self.store.folder, task, also=self.show)


if __name__ == "__main__":
    launch.leave(main, at_once=(BROKEN, INTERRUPTED, TERMINATED), unread=FAILED)
