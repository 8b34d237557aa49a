"""`bench/run.py` with everything but the training: no torch, a cell in no time.

$PRETEND_S: seconds that a cell takes, 0.01 if not given. $PRETEND_LOG: a file that gets the key of each cell begun.
$PRETEND_LATE_S: seconds that every process but rank 0 waits before it begins.
"""

import os
import sys
import time
from types import ModuleType
from typing import Any

import bench.sweep
from bench import environment, run
from bench.record import Epochs, TrainRecord
from bench.sweep.plan import Task


def train(task: Task, attempt: Any, conditions: Any) -> TrainRecord:
    seconds = float(os.environ.get("PRETEND_S", "0.01"))
    with open(os.environ.get("PRETEND_LOG", os.devnull), "a") as log:
        log.write(f"{task.key}\n")
    started_at = environment.now()
    time.sleep(seconds)
    assert task.seed is not None
    return TrainRecord(experiment=task.experiment, quality_key=task.key, seed=task.seed, cell={},
                       epochs=Epochs(test_accuracy=[0.5]), started_at=started_at, wall_s=seconds)


def modules() -> dict[str, ModuleType]:
    """What stands in the place of the modules of `bench` that bring torch, by name."""
    contents: dict[str, dict[str, Any]] = {
        "device": {"check": lambda *, gpu: None},
        "new_record": {},
        "one_task": {"run": train},
        "ranks": {"agree": lambda task, *, ddp: task},
        "together": {},
    }
    found = {name: ModuleType(f"bench.sweep.{name}") for name in contents}
    for name, content in contents.items():
        vars(found[name]).update(content)
    return found


if __name__ == "__main__":
    results = ModuleType("bench.sweep.results")  # for the sake of time: it brings scipy
    vars(results)["show"] = lambda *contents: None
    for name, module in {**modules(), "results": results}.items():
        sys.modules[module.__name__] = module
        setattr(bench.sweep, name, module)
    if os.environ.get("RANK", "0") != "0":
        time.sleep(float(os.environ.get("PRETEND_LATE_S", "0")))
    sys.exit(run.main())
