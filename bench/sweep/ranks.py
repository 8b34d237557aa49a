"""The processes (ranks) that share a cell under DDP: how they agree, and what they do when one of them fails.

Agreement goes over a gloo group of its own, on the CPU: it waits for no device and meets no collective of the training.

A rank that fails leaves a report with its `bench.sweep.attempts` note. If all fail alike, the group is whole and the
sweep goes on. Otherwise the group is broken, and the processes end with a code that makes torchrun (`--max-restarts`)
start them again, or a person the same command: rank 0 then finds the note, records which rank failed and why, and goes
on with the next cell. The ranks that still work learn of a dead one from its closed connection, of a stalled one after
`launch.ddp_timeout_s()`.
"""

import os
import re
import zlib
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch
from accelerate import PartialState
from torch.distributed import PrefixStore, ProcessGroup, TCPStore  # type: ignore[attr-defined]

from bench import environment
from bench.record import Status
from bench.sweep import launch
from bench.sweep.attempts import Attempt, Fate, Report
from bench.sweep.plan import Task

MEET_S = 3.0
"""A rank that has failed waits this long for the others to fail as well."""
IDLE = timedelta(days=7)
"""For the next task, which rank 0 may not get before another sweep on the same store is done with it."""
FAILED = 1 << 32
"""Added to a digest of the reason: what a failed rank tells the others."""


class Lost(RuntimeError):
    """Another rank did not answer, or has failed."""


def agree(task: Task | None, *, ddp: bool) -> Task | None:
    """Under DDP, rank 0's task in every process; otherwise the task itself. Raises GroupBroken.

    None ends the group: its threads, left to the interpreter's end, may end the process by a signal.
    """
    if not ddp:
        return task
    box = [task]
    try:
        torch.distributed.broadcast_object_list(box, 0, group=_group())
    except RuntimeError as error:
        raise launch.GroupBroken(f"the ranks lost each other: {reason_of(error)}") from error
    if box[0] is None:
        torch.distributed.destroy_process_group()
        _group.cache_clear()
    return box[0]


def tell(code: int, wait_s: float) -> list[int]:
    """Each rank's `code`, by rank. Raises Lost after `wait_s`, or where a rank has failed while this one has not."""
    codes = [torch.zeros(1, dtype=torch.int64) for _ in range(torch.distributed.get_world_size())]
    try:
        work = torch.distributed.all_gather(codes, torch.tensor([code]), group=_group(), async_op=True)
        work.wait(timedelta(seconds=wait_s))
    except RuntimeError as error:
        raise Lost(reason_of(error)) from error
    heard = [int(each) for each in codes]
    failed = [rank for rank, each in enumerate(heard) if each >= FAILED]
    if failed and code < FAILED:
        raise Lost(f"rank {failed[0]} has failed")
    return heard


def fail(attempt: Attempt, error: Exception, status: Status, reason: str) -> None:
    """Report this rank's failure. Returns where all ranks failed alike; otherwise raises GroupBroken."""
    others = what_happened_to_others(error)
    if others:
        reason = reason_of(error)
    attempt.report(Report(torch.distributed.get_rank(), status, reason, others))
    if not fail_alike(reason):
        raise launch.GroupBroken(reason) from error


def fail_alike(reason: str) -> bool:
    """Whether every rank, having failed, calls this with the same reason: then the group is whole."""
    try:
        return len(set(tell(FAILED + zlib.crc32(reason.encode()), MEET_S))) == 1
    except Lost:
        return False


def what_happened_to_others(error: Exception) -> Fate:
    """`died` or `stalled` for an error of communication; `` for any other, which is this rank's own."""
    text = str(error)
    if not isinstance(error, Lost | torch.distributed.DistError) and "gloo/transport" not in text:
        return ""
    return "stalled" if "timed out" in text.lower() or "timeout" in text.lower() else "died"


def reason_of(error: Exception) -> str:
    """The first sentence of an error of communication, without the place in its source."""
    return re.sub(r"^\[\S+\] ", "", str(error)).partition("\n")[0].partition(". ")[0]


@lru_cache(maxsize=1)
def _group() -> ProcessGroup:
    """The group for agreement; with it, the group that the training uses."""
    world, timeout = launch.world(), timedelta(seconds=launch.ddp_timeout_s())
    options: dict[str, Any] = {}
    if launch.keeps_addresses():
        # torchrun's store outlives the processes: those that it starts again must not find the addresses of the dead.
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)
        options = {"store": PrefixStore(f"restart {world.num_restarts}", store), "rank": world.rank,
                   "world_size": world.num_processes}
    PartialState(cpu=not environment.uses_gpu(), timeout=timeout, **options)
    group = torch.distributed.new_group(backend="gloo", timeout=IDLE)
    assert isinstance(group, ProcessGroup)
    return group
