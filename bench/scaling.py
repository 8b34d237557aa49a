"""How the speed of training grows with the batch, the width, fused seeds, and processes that share a batch or do not.

    python -m bench.scaling                 stores scaling-<host>.json and prints it

A process has one thread, or one GPU. The points of an axis are measured in turns, each by processes of its own that
stay warm; all-reduces of several sizes are timed between the processes of DDP. RESULTS.md sets what DDP was measured to
cost beside what a model of it predicts (`bench.timing.scaling_model`), and the prediction for many GPUs beside that.
"""

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from bench import command, environment, experiment
from bench.records.side_records import Axis, Point, Reduction, Scaling
from bench.timing import side_runs, workers
from bench.timing.interleave import interleave
from bench.timing.workers import Worker, WorkerFailed
from fmnist_core.config import CellConfig, to_dict

ROUNDS = 5
BATCHES = (10, 30, 90, 256, 1000)
LARGE_BATCH = 1000
"""At which DDP is measured beside the cell's own."""
WIDTHS = (8, 16, 32, 64, 128)
SEEDS = (1, 2, 4, 8)
FAMILY, FAMILY_CELL = "kernel_depth", {"model.kernel_size": 3, "model.depth": 2}
REDUCED_BYTES = (4096, 65_536, 1_048_576, 8_388_608)


class Plan(NamedTuple):
    """A point to measure."""

    axis: Axis
    value: int
    cell: CellConfig
    num_processes: int = 1
    num_seeds: int = 1

    @property
    def shares_a_batch(self) -> bool:
        return self.axis == "processes, ddp"


def main(arguments: Sequence[str] | None = None) -> int:
    options = side_runs.parser("scaling", __doc__, rounds=ROUNDS, threads=False).parse_args(arguments)
    try:
        cell = side_runs.cell_of(options)
        plans = plan(cell, options.dataset, environment.num_replicas())
        request = {"threads": 1, "data_dir": options.data_dir, "block_s": options.block_s}
        with side_runs.alone(options.store) as load_warnings:
            started_at = environment.now()
            points, reductions = measure(plans, request, options.rounds)
            scaling = Scaling(environment=environment.collect(1), started_at=started_at, warnings=load_warnings(),
                              cell=to_dict(cell), points=points, reductions=reductions)
    except ValueError as error:
        print(f"bench.scaling: {error}", file=sys.stderr)
        return side_runs.WRONG_INPUT
    return side_runs.finish("scaling", options.store, scaling)


def plan(cell: CellConfig, dataset: str | None, num_replicas: int) -> list[list[Plan]]:
    """The points of each axis; those of one are measured in turns."""
    batch = cell.train.global_batch_size
    counts = [2**i for i in range(num_replicas.bit_length()) if 2**i <= num_replicas]
    several = [count for count in counts if count > 1]
    return [
        [Plan("global_batch_size", size, _with_batch(cell, size)) for size in sorted({*BATCHES, batch})],
        [Plan("width", width, _family(width, dataset)) for width in WIDTHS],
        [Plan("fused seeds", seeds, cell, num_seeds=seeds) for seeds in SEEDS],
        [Plan("processes, cells", count, cell, count) for count in counts]
        + [Plan("processes, ddp", count, _with_batch(cell, size), count)
           for size in (batch, LARGE_BATCH) for count in several],
    ]


def measure(plans: Sequence[Sequence[Plan]], request: Mapping[str, Any],
            rounds: int) -> tuple[list[Point], list[Reduction]]:
    points: list[Point] = []
    reductions: list[Reduction] = []
    for axis in plans:
        with contextlib.ExitStack() as stack:
            crews = [_Crew(stack, each, request) for each in axis]
            interleave({str(i): crew.step for i, crew in enumerate(crews)}, rounds)
            points += [crew.point() for crew in crews]
            for crew in _reducers(crews):
                reductions += crew.reductions(rounds)
    return points, reductions


class _Crew:
    """The processes of a point. Where one fails, the point is skipped, with what that process said last."""

    def __init__(self, stack: contextlib.ExitStack, asked: Plan, request: Mapping[str, Any]) -> None:
        self.asked, self.skipped, self.num_parameters = asked, "", 0
        self.step_s: list[float] = []
        port = _free_port()
        self._workers = [_start(stack, asked, request, i, port) for i in range(asked.num_processes)]
        with self._skipping_on_failure():
            for worker in self._workers:  # one at a time but for DDP, whose processes wait for each other
                worker.wait_until_ready()

    def step(self) -> None:
        if self.skipped:
            return
        with self._skipping_on_failure():
            answers = self._ask("step")
            self.num_parameters = answers[0]["num_parameters"]
            self.step_s.append(sum(answer["seconds"] for answer in answers) / len(answers))

    def reductions(self, rounds: int) -> list[Reduction]:
        """All-reduces of every size; those before a failure, where a process fails."""
        found: list[Reduction] = []
        try:
            for num_bytes in REDUCED_BYTES:
                seconds = [max(answer["seconds"] for answer in self._ask(str(num_bytes))) for _ in range(rounds)]
                found.append(Reduction(num_processes=self.asked.num_processes, num_bytes=num_bytes, seconds=seconds))
        except WorkerFailed as reason:
            print(f"bench.scaling: no more all-reduces of {self.asked.num_processes} processes: {reason}",
                  file=sys.stderr)
        return found

    def point(self) -> Point:
        asked = self.asked
        trainings = asked.num_seeds if asked.shares_a_batch else asked.num_seeds * asked.num_processes
        return Point(axis=asked.axis, value=asked.value, num_processes=asked.num_processes,
                     num_parameters=self.num_parameters, skipped=self.skipped,
                     images_per_step=asked.cell.train.global_batch_size * trainings,
                     step_s=[] if self.skipped else self.step_s)

    def _ask(self, order: str) -> list[dict[str, Any]]:
        for worker in self._workers:
            worker.tell(order)
        return [worker.answer() for worker in self._workers]

    @contextlib.contextmanager
    def _skipping_on_failure(self) -> Iterator[None]:
        try:
            yield
        except WorkerFailed as reason:
            self.skipped = str(reason)


def _start(stack: contextlib.ExitStack, asked: Plan, request: Mapping[str, Any], i: int, port: int) -> Worker:
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    if asked.shares_a_batch:
        world = str(asked.num_processes)
        variables |= {"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world,
                      "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    elif asked.num_processes > 1 and environment.uses_gpu():
        variables["CUDA_VISIBLE_DEVICES"] = environment.visible_gpus()[i]
    content = {**request, "cell": to_dict(asked.cell), "seed": 0 if asked.shares_a_batch else i,
               "num_seeds": asked.num_seeds}
    return workers.start(stack, "bench.timing.scaling_work", [json.dumps(content)], variables)


def _reducers(crews: Sequence[_Crew]) -> list[_Crew]:
    """One crew of DDP for each number of processes."""
    return list({crew.asked.num_processes: crew for crew in crews
                 if crew.asked.shares_a_batch and not crew.skipped}.values())


def _with_batch(cell: CellConfig, size: int) -> CellConfig:
    return msgspec.structs.replace(cell, train=msgspec.structs.replace(cell.train, global_batch_size=size))


def _family(width: int, dataset: str | None) -> CellConfig:
    overrides = {"model.width": width, **({"data.dataset": dataset} if dataset else {})}
    cells = experiment.load(FAMILY, overrides).cells
    return next(cell.config for cell in cells if cell.axes == FAMILY_CELL)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


if __name__ == "__main__":
    command.leave(main)
