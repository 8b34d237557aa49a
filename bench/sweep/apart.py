"""A timing in a process of its own, so that what two processes differ in is in the spread of a cell's timings.

Where their memory lies, what the cells before left in it, which processor they began on: within one process little of
that changes, and its timings agree better with each other than with those of the next run.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.record import Record, SpeedRecord
from bench.records.lines import encode
from bench.sweep import new_record, one_task
from bench.sweep.attempts import Attempt
from bench.sweep.conditions import Conditions
from bench.sweep.plan import Task
from bench.timing import workers


class _Asked(NamedTuple):
    task: Task
    num_threads: int
    data_dir: str | None


def run(task: Task, conditions: Conditions) -> Record:
    """As `one_task.run` of a timing. A process that ends without a record is a failure of the cell."""
    asked = _Asked(task._replace(smaller=None), conditions.num_threads, conditions.data_dir)
    with contextlib.ExitStack() as stack:
        worker = workers.start(stack, __name__, [], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        worker.tell(msgspec.json.encode(asked).decode())
        try:
            record = msgspec.convert(worker.answer(), SpeedRecord)
        except workers.WorkerFailed as error:
            return new_record.failed(task, "error", f"the process that timed it ended: {error}")
    shared = record.labels.machine_shared or conditions.shared()
    return msgspec.structs.replace(record, labels=msgspec.structs.replace(record.labels, machine_shared=shared))


def main() -> None:
    asked = msgspec.json.decode(sys.stdin.readline(), type=_Asked)
    conditions = Conditions(num_threads=asked.num_threads, data_dir=asked.data_dir)
    record = one_task.run(asked.task, Attempt(Path(), asked.task.key), conditions)  # which is the caller's to note
    print(encode(record).decode(), end="", flush=True)


if __name__ == "__main__":
    main()
