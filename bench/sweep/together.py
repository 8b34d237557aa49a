"""The seeds of one cell trained as one module, to a record per seed as if each had run alone."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from bench import environment
from bench.record import Labels, Record
from bench.sweep import device, new_record
from bench.sweep.conditions import Conditions
from bench.sweep.notice import Notice, Stopped
from bench.sweep.plan import Task
from bench.sweep.watch import SharedMachineWatch, TimeoutExceeded
from fmnist_core.fused.choice import choose_num_replicas
from fmnist_core.fused.training import FusedTraining, fused_fit
from fmnist_core.memory import free_memory
from fmnist_core.observe import observe
from fmnist_core.steps import Diverged
from fmnist_core.summary import multiply_adds, num_parameters, summarize


def num_replicas(group: Sequence[Task], *, data_dir: str | None) -> int:
    """How many of these seeds to train at once: 1 where that does not pay or cannot be found out."""
    try:
        dataset = device.dataset_of(group[0], data_dir)
        return choose_num_replicas(group[0].cell.config, dataset, dataset.train.labels_N.device, len(group))
    except Exception:  # the cell fails alone, and is recorded, in its turn
        return 1


def run(group: Sequence[Task], conditions: Conditions) -> list[Record] | None:
    """Train the group. A failure of all is a record of each, but for want of memory: then None, as each seed alone may
    fit. Raises Stopped on notice: nothing is kept of the group.
    """
    started_at, start = environment.now(), time.perf_counter()
    others = SharedMachineWatch(conditions)
    device.set_up(group[0], conditions.num_threads)
    so_far: list[dict[str, Any]] = [{} for _ in group]
    try:
        watch = _watch(group, conditions.notice, start)
        records = _train(group, conditions.data_dir, watch, others.after_epoch, so_far)
    except Exception as error:
        status, reason = new_record.explain(error, group[0])
        records = [new_record.failed(task, status, reason, **known) for task, known in zip(group, so_far, strict=True)]
    free_memory()
    if records[0].status == "oom":
        return None
    about = {"started_at": started_at, "wall_s": time.perf_counter() - start,
             "environment": environment.collect(conditions.num_threads)}
    was_shared = others.check()
    labels = [msgspec.structs.replace(each.labels, machine_shared=was_shared, fused_seeds=len(group))
              for each in records]
    return [msgspec.structs.replace(record, labels=each, **about) for record, each in zip(records, labels, strict=True)]


def _train(group: Sequence[Task], data_dir: str | None, on_step: Callable[[FusedTraining], None],
           on_epoch: Callable[[Any], None] | None, so_far: list[dict[str, Any]]) -> list[Record]:
    """`so_far`, an entry per seed, is given what a record says of the training even if it fails."""
    cell, dataset = group[0].cell.config, device.dataset_of(group[0], data_dir)
    training = FusedTraining(cell, [task.seed for task in group if task.seed is not None], dataset)
    labels, single = Labels(**asdict(observe(training))), training.single(0)
    about = {"labels": labels, "num_parameters": num_parameters(single),
             "multiply_adds": multiply_adds(summarize(single, dataset.input_shape))}
    try:
        outcomes = fused_fit(training, on_step=on_step, on_epoch=on_epoch)
    finally:
        for known, history in zip(so_far, training.histories, strict=True):
            known |= about | new_record.learnt(dataset, history.finished())
    records: list[Record] = []
    for task, outcome, known, logits_NK in zip(group, outcomes, so_far, training.test_logits_NK, strict=True):
        if isinstance(outcome, Diverged):
            records.append(new_record.failed(task, "diverged", str(outcome), **known))
            continue
        assert logits_NK is not None  # of each seed that was evaluated
        test, extra = new_record.details(logits_NK, dataset.test.labels_N.cpu(), cell.train)
        records.append(new_record.trained(task, dataset, outcome, test=test, extra=extra, **about))
    return records


def _watch(group: Sequence[Task], notice: Notice, start: float) -> Callable[[FusedTraining], None]:
    """Seeds one by one would have the time R times over."""
    timeout_s = group[0].timeout_s * len(group)

    def watch(training: FusedTraining) -> None:
        if notice.number:
            raise Stopped(notice.number)
        if timeout_s and time.perf_counter() - start > timeout_s:
            raise TimeoutExceeded(f"stopped at step {training.step} of {training.num_steps} "
                                  f"after {timeout_s:g} s for {len(group)} seeds")

    return watch
