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
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.inputs import options
from bench.store import StoreError
from bench.sweep import dry_run, launch, plan_table
from bench.sweep.notice import Notice, Stopped
from bench.sweep.plan import due, missing, outdated
from bench.sweep.progress import to_whoever_reads
from bench.sweep.request import Request, Work

FIRST_SPEAKS_S = 2.0
"""What a machine's other processes wait before they end by wrong input, since the launcher then ends the first, too."""
OK, FAILED, WRONG_INPUT, BROKEN, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 all cells there, 1 a cell failed (told by the first process of a machine alone) or the
    store did, 2 wrong input, 3 a process that shares a cell failed, 130 interrupted, 143 stopped by a scheduler's
    notice."""
    parser = options.parser(__doc__)
    options.answer_shell(parser)
    asked = parser.parse_args(arguments)
    try:
        world = launch.world()
    except ValueError as error:
        print(f"bench/run.py: {error}", file=sys.stderr)
        return WRONG_INPUT
    with Notice() as notice:
        try:
            return _run(asked, world, notice)
        except Stopped as stop:
            code, what = (INTERRUPTED, "Interrupted") if stop.number == signal.SIGINT else (TERMINATED, "Stopped")
            if world.rank == 0:
                print(f"\n{what}. {_go_on(asked)}", file=sys.stderr)
        except launch.GroupBroken as error:
            code = TERMINATED if notice.number else BROKEN
            if not notice.number:
                print(f"bench/run.py: rank {world.rank} of {world.num_processes}: {error}. {_go_on(asked)}",
                      file=sys.stderr)
    return code


def _go_on(asked: argparse.Namespace) -> str:
    if not Path(asked.store).exists():
        return "Nothing was begun."
    return (f"Finished records are in {asked.store}; "
            + ("--rerun would begin anew." if asked.rerun else "the same command goes on from there."))


def _run(asked: argparse.Namespace, world: launch.World, notice: Notice) -> int:
    try:
        request = Request.of(asked, world)
        if asked.list:
            latest = request.store.latest()
            old = outdated(latest, rerun=asked.rerun, retry_failed=asked.retry_failed)
            plan_table.show(request.experiments, request.planned, latest, old)
            return OK
        work = check(request)
    except ValueError as error:
        if world.local_rank == 0:  # of each machine: what is wrong may be wrong on one of them alone
            print(f"bench/run.py: {error}", file=sys.stderr)
        else:
            time.sleep(FIRST_SPEAKS_S)
        return WRONG_INPUT
    try:
        if asked.profile:
            from bench.sweep import profiling

            return OK if profiling.run(request) else FAILED
        is_quiet = world.rank != 0 or (world.num_restarts > 0 and not work.left)
        if not is_quiet:
            _say_what_has_no_effect(request, work)
        if work.left:
            from bench.sweep import loop

            loop.run(request, work, notice)
        return _finish(request, is_quiet)
    except StoreError as error:
        print(f"bench/run.py: {error}", file=sys.stderr)
        return FAILED


def check(request: Request) -> Work:
    """Launch, data and store, before any work; what is left to do. Raises ValueError."""
    asked, world, store = request.asked, request.world, request.store
    launch.check(request.experiments, world, gpu=request.gpu)
    dry_run.check_data(request.planned, asked.data_dir, world.num_processes if request.ddp else 1)
    latest = store.heads()
    launched_at = launch.began_at(world)
    # What this launch has run by now, before a restart or in a process that was faster, must not be run again.
    kept = store.since(launched_at) if launched_at < math.inf and (asked.rerun or asked.retry_failed) else ()
    old = outdated(latest, rerun=asked.rerun, retry_failed=asked.retry_failed, kept=kept)
    work = Work(missing(request.planned, latest, old), old, launched_at)
    at_work = request.planned if asked.profile else work.left
    if at_work and not request.ddp:
        launch.stand_alone(world)  # before torch, or the user's code, looks for a GPU
    if at_work:
        from bench.sweep import device  # brings torch: only now is it sure that there is work, and on which device

        device.check(gpu=request.gpu)
    dry_run.check(dry_run.to_build(at_work), ddp=request.ddp)
    store.check_writable(each.name for each in request.experiments)  # last: it creates the folder
    return work


def _say_what_has_no_effect(request: Request, work: Work) -> None:
    of_trainings = ["--keep-weights"] * request.asked.keep_weights + ["--track"] * bool(request.asked.track)
    if of_trainings and all(task.seed is None for task in work.left):
        print(f"{' and '.join(of_trainings)}: nothing is left to train; --rerun trains again what has a record")


def _finish(request: Request, is_quiet: bool) -> int:
    """Say what was learnt; the exit code. Of a machine's processes the first, which may be the one to say it, alone
    tells of failed cells: a launcher ends the others as soon as one has failed, in the midst of a sentence."""
    latest = request.store.latest()
    planned = due(request.planned, latest)
    if not is_quiet:
        from bench.sweep import results  # brings scipy

        with to_whoever_reads():
            results.show(request.experiments, planned, latest, request.store.folder, request.asked.experiments)
    is_done = all(task.key in latest and latest[task.key].status == "ok" for task in planned)
    return OK if is_done or request.world.local_rank != 0 else FAILED


if __name__ == "__main__":
    launch.leave(main, at_once=(BROKEN, INTERRUPTED, TERMINATED), unread=FAILED)
