"""The loop of a sweep: claim a task, train or time it, store its record, until none is left.

In cells mode each process takes any free task; under DDP rank 0 does so for all processes, which share it.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

from bench.record import Record
from bench.sweep import apart, new_record, one_task, ranks, together, tracking
from bench.sweep.attempts import Attempt
from bench.sweep.conditions import Conditions
from bench.sweep.notice import Notice, Stopped
from bench.sweep.plan import Task, is_done, missing, siblings
from bench.sweep.progress import Progress
from bench.sweep.request import Request, Work

POLL_S = 0.5
"""Between looks at the store while other processes hold all tasks that are left."""


def run(request: Request, work: Work, notice: Notice) -> None:
    num_done = len(request.planned) - len(work.left)
    with Progress(len(request.planned), num_done, quiet=request.world.rank != 0) as bar:
        _Loop(request, work, notice, bar).run()


class _Loop:
    """The tasks that are left, and those of them that this process has begun."""

    def __init__(self, request: Request, work: Work, notice: Notice, bar: Progress) -> None:
        self.request, self.store, self.notice, self.bar = request, request.store, notice, bar
        self.left, self.outdated, self.launched_at = work.left, work.outdated, work.launched_at
        self.begun: dict[str, Attempt] = {}
        """By key: claimed, with a note of the attempt on disk."""
        self.show: tracking.OnEpoch = bar.training if request.leads else lambda training: None

    def run(self) -> None:
        with self._stopped_on_purpose():
            while task := ranks.agree(self._next() if self.request.leads else None, ddp=self.request.ddp):
                self.bar.start(task.name)
                group = self._gather(task)
                if len(group) > 1:
                    self._run_together(group)
                else:
                    self._run_one(task)

    def _next(self) -> Task | None:
        """The first task that is free, claimed; waits while other processes hold all that are left. None: all done."""
        while True:
            self.left = missing(self.left, self.store.heads(), self.outdated)
            for task in self.left:
                if self._claim(task):
                    return task
            if not self.left:
                return None
            time.sleep(POLL_S)

    def _claim(self, task: Task) -> bool:
        """Whether the task is this process's to do: then its attempt is begun. One that is given up is recorded."""
        if not self.store.claim(task.key):
            return False
        with self.notice.held():  # else it could come where the note is on disk, and not yet known here
            if is_done(task, self.store.heads(), self.outdated):
                self.store.release(task.key)
                return False
            attempt = self.request.attempt(task)
            if task.key in self.outdated:
                attempt.forget(self.launched_at)  # to be run again means from the start
            if verdict := attempt.begin():
                self._store(task, new_record.failed(task, *verdict, attempt.num_processes))
                return False
            self.begun[task.key] = attempt
        return True

    def _gather(self, task: Task) -> list[Task]:
        """The task and, where their seeds are to be trained as one module, others of its cell: each of them claimed."""
        asked = self.request.asked
        fusible = (self.request.gpu and not self.request.ddp and task.seed is not None
                   and not asked.keep_weights and not asked.track)
        if not fusible or self._is_resumed(task):
            return [task]
        others = [other for other in siblings(task, self.left) if not self._is_resumed(other) and self._claim(other)]
        group = [task, *others]
        num = together.num_replicas(group, data_dir=asked.data_dir) if others else 1
        for other in group[num:]:
            self._give_back(other)
        return group[:num]

    def _run_one(self, task: Task) -> None:
        alone = task.seed is None
        with self.request.machine(alone=alone) as shared, self._tracked(task) as on_epoch:
            ranks.agree(task, ddp=self.request.ddp)  # the others wait for rank 0, which may wait for the machine
            with self._held_notice(alone):
                conditions = self._conditions(alone, shared, on_epoch)
                is_apart = task.repeat > 0 and not self.request.ddp
                record = (apart.run(task, conditions) if is_apart else
                          one_task.run(task, self.request.attempt(task), conditions))
                if self.request.leads:
                    self._store(task, record)

    def _run_together(self, group: list[Task]) -> None:
        self.bar.start(f"{group[0].name} and {len(group) - 1} more as one module")
        with self.request.machine(alone=False) as shared, self._held_notice(alone=False):
            records = together.run(group, self._conditions(False, shared, self.show))
            for task, record in zip(group, records, strict=True) if records is not None else ():
                self._store(task, record)
        for task in group if records is None else ():
            self.bar.start(task.name)
            self._run_one(task)

    def _store(self, task: Task, record: Record) -> None:
        self.store.append(record)
        self.request.attempt(task).finish()
        self.begun.pop(task.key, None)
        self.store.release(task.key)
        self.left = missing(self.left, self.store.heads(), self.outdated)
        num_done = len(self.request.planned) - len(self.left)
        self.bar.finish(task.name, record, num_done, self.request.weights_folder)

    def _give_back(self, task: Task) -> None:
        """Begun, and left to whoever claims it next."""
        self.begun[task.key].withdraw()
        del self.begun[task.key]
        self.store.release(task.key)

    @contextlib.contextmanager
    def _stopped_on_purpose(self) -> Iterator[None]:
        """A notice must not count as a death: the notes of what was begun are removed. Under DDP they stay where this
        process stops alone, since the other ranks were left in the middle of a cell."""
        try:
            yield
        except Stopped:
            for attempt in self.begun.values() if not self.request.ddp else ():
                attempt.withdraw()
            raise

    def _held_notice(self, alone: bool) -> contextlib.AbstractContextManager[None]:
        """A training stops between two steps, and processes that share a cell stop together; a timing stops at once."""
        return self.notice.held() if self.request.ddp or not alone else contextlib.nullcontext()

    def _conditions(self, alone: bool, shared: Callable[[], bool], on_epoch: tracking.OnEpoch) -> Conditions:
        return Conditions(num_threads=self.request.num_threads(alone=alone), data_dir=self.request.asked.data_dir,
                          shared=shared, notice=self.notice, on_epoch=on_epoch, on_save=self.show,
                          keep_weights=self.request.weights_folder)

    def _tracked(self, task: Task) -> contextlib.AbstractContextManager[tracking.OnEpoch]:
        names = self.request.asked.track if self.request.leads and task.seed is not None else ()
        return tracking.tracked(names, self.store.folder, task, also=self.show)

    def _is_resumed(self, task: Task) -> bool:
        return self.request.attempt(task).checkpoint.exists()
