"""What a training step spends its time on: a trace of some steady steps of a cell, and its dearest operators.

Nothing here is a measurement, since a profiler slows what it watches: no record is made of it.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.utils import ProfileKwargs
from tabulate import tabulate

from bench.sweep import device, launch, new_record, ranks
from bench.sweep.conditions import Conditions
from bench.sweep.plan import Task, first_of_each
from bench.sweep.request import Request
from bench.timing.block import WARMUP_STEPS, time_steps
from fmnist_core.clock import clock_for
from fmnist_core.config import Baseline, CellConfig, canonical_json
from fmnist_core.data import Dataset
from fmnist_core.train import Training, train_step

NUM_STEPS = 10
"""Steps in the trace, after WARMUP_STEPS without the profiler and SKIPPED_STEPS under it."""
SKIPPED_STEPS = 2
FOLDER = "profiles"
NUM_OPERATORS = 10
MARK = "train_step"
"""The name that encloses a step in the trace; what lies between two is the next batch."""


class Profile(NamedTuple):
    trace: Path
    """In Chrome's JSON format, one per process of a DDP run."""
    operators: str
    """A Markdown table."""


def profile(cell: CellConfig, dataset: Dataset, folder: Path) -> Profile:
    """Profile a fresh model of this cell; `folder` gets the trace and `operators.md`.

    Raises ValueError for a model that takes no steps.
    """
    if isinstance(cell.model, Baseline):
        raise ValueError("model.name = 'baseline' takes no training steps that could be profiled")
    training = Training(cell, 0, dataset)
    training.model.train()
    clock = clock_for(training.device)
    time_steps(training, clock, WARMUP_STEPS)
    activities = ["cpu", "cuda"] if training.device.type == "cuda" else ["cpu"]
    options = {"activities": activities, "record_shapes": True}
    # A captured step is replayed whole: there is no function to mark.
    step = None if training.captured else _marked
    with training.accelerator.profile(ProfileKwargs(**options)):
        time_steps(training, clock, SKIPPED_STEPS, step)
    with training.accelerator.profile(ProfileKwargs(**options, output_trace_dir=str(folder))) as profiler:
        time_steps(training, clock, NUM_STEPS, step)
    text = _table(profiler.key_averages(), training.device)
    if training.rank == 0:
        (folder / "operators.md").write_text(text + "\n")
    return Profile(folder / f"profile_{training.rank}.json", text)


def run(request: Request) -> bool:
    """Show a profile of each cell, in cells mode of this process's share of them; False where one failed."""
    cells = first_of_each(request.planned, lambda task: canonical_json(task.cell.config))
    if not request.ddp:
        cells = cells[request.world.rank :: request.world.num_processes]
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # torch's profiler is silent but for fatal errors
    conditions = Conditions(num_threads=request.num_threads(alone=True), data_dir=request.asked.data_dir)
    all_good = True
    for task in cells:
        with request.machine(alone=True):
            ranks.agree(task, ddp=request.ddp)
            all_good &= show(task, request.store.folder, conditions)
    ranks.agree(None, ddp=request.ddp)
    return all_good


def show(task: Task, store: Path, conditions: Conditions) -> bool:
    """Profile the task's cell into the store's folder, and print what was found; False where it failed."""
    torch.set_num_threads(conditions.num_threads)
    try:
        dataset = device.dataset_of(task, conditions.data_dir)
        found = profile(task.cell.config, dataset, store / FOLDER / task.folder)
    except Exception as error:
        reason, together = ": ".join(new_record.explain(error, task)), torch.distributed.is_initialized()
        if together and not ranks.fail_alike(reason):
            raise launch.GroupBroken(reason) from error
        if not together or torch.distributed.get_rank() == 0:
            print(f"{_title(task)}: {reason}", file=sys.stderr)
        return False
    if found.trace.name == "profile_0.json":
        print(f"\n{_title(task)}, {conditions.num_threads} threads\n\n{found.operators}\n\n"
              f"Trace: {found.trace}. Perfetto (ui.perfetto.dev) opens it.", flush=True)
    return True


def _title(task: Task) -> str:
    return f"{task.experiment}: {task.cell.label}"


def _marked(*arguments: Any) -> None:
    with torch.profiler.record_function(MARK):
        train_step(*arguments)


def _table(events: Sequence[Any], on: torch.device) -> str:
    """The operators that took most time themselves, what they called left out: on the GPU, its kernels."""
    on_gpu = on.type == "cuda"
    own_us = lambda event: event.self_device_time_total if on_gpu else event.self_cpu_time_total
    operators = sorted((event for event in events if event.key != MARK), key=own_us, reverse=True)
    total_us = sum(map(own_us, operators)) or 1.0
    body = [[event.key[:70], f"{event.count / NUM_STEPS:g}", f"{own_us(event) / 1000 / NUM_STEPS:.3f}",
             f"{own_us(event) / total_us:.1%}"] for event in operators[:NUM_OPERATORS]]
    headers = ["operator", "calls a step", f"{'GPU' if on_gpu else 'CPU'} ms a step", "share"]
    alignment = ("left", "right", "right", "right")
    return str(tabulate(body, headers, "github", disable_numparse=True, colalign=alignment))
