"""A timing in a process of its own, so that what two processes differ in is in the spread of a cell's timings.

Where their memory lies, what the cells before left in it, which processor they began on: within one process little of
that changes, and its timings agree better with each other than with those of the next run.
"""

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench import environment
from bench.inputs.own_source import source_of
from bench.record import Record, SpeedRecord
from bench.records.lines import encode
from bench.sweep import new_record, one_task
from bench.sweep.attempts import Attempt
from bench.sweep.conditions import Conditions
from bench.sweep.plan import Task
from bench.timing import workers
from fmnist_core.config import CustomModel

START = '{"kind":"speed",'
"""How the line of a record begins: networks may print what they like."""


class _Asked(NamedTuple):
    task: Task
    num_threads: int
    data_dir: str | None


def run(task: Task, conditions: Conditions) -> Record:
    """As `one_task.run` of a timing. A process that ends without a record is a failure of the cell."""
    started_at = environment.now()
    asked = _Asked(task._replace(smaller=None), conditions.num_threads, conditions.data_dir)
    # All that is found here is found there, and nothing else.
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
    with contextlib.ExitStack() as stack:
        worker = workers.start(stack, __name__, [], variables)
        worker.tell(msgspec.json.encode(asked).decode())
        try:
            record: Record = msgspec.convert(worker.answer(START), SpeedRecord)
        except (workers.WorkerFailed, ValueError) as error:
            record = new_record.failed(task, "error", f"the process that timed it ended: {error}")
            record = msgspec.structs.replace(record, started_at=started_at,
                                             environment=environment.collect(conditions.num_threads))
    shared = record.labels.machine_shared or conditions.shared()
    return msgspec.structs.replace(record, labels=msgspec.structs.replace(record.labels, machine_shared=shared))


def main() -> None:
    asked = msgspec.json.decode(sys.stdin.readline(), type=_Asked)
    threading.Thread(target=_end_with_caller, daemon=True).start()
    conditions = Conditions(num_threads=asked.num_threads, data_dir=asked.data_dir)
    model = asked.task.cell.config.model
    if isinstance(model, CustomModel) and model.source and source_of(model.factory) != model.source:
        record = new_record.failed(asked.task, "error", f"the code of {model.factory} was changed during the sweep")
    else:
        record = one_task.run(asked.task, Attempt(Path(), asked.task.key), conditions)  # which is the caller's to note
    print(f"\n{encode(record).decode()}", end="", flush=True)


def _end_with_caller() -> None:
    """Also where that was killed: nobody would hear the answer, and the machine is no longer held for the timing."""
    while os.read(sys.stdin.fileno(), 1):  # not by `sys.stdin`, whose lock the end of the interpreter wants
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
