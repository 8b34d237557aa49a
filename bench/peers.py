"""The same work by everything that a user might pick instead, in turns on this machine.

    python -m bench.peers                                  stores peers-<host>.json and prints it
    python -m bench.peers --epochs 2 --images 9000         a quick look

Work: the final network, its batch, Adam, so many epochs over the same images. Images per second are of the whole
machine: of all processes together, after the first epoch where there are more, without start-up and evaluation.
Test accuracies after the last epoch show that the work was equal.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from bench import command, environment
from bench.records.side_records import Peer, PeerRun, Peers
from bench.timing import side_runs, workers
from bench.timing.interleave import interleave
from bench.timing.workers import Worker, WorkerFailed
from fmnist_core.config import CellConfig, ExecutionConfig, TrainConfig, to_dict
from fmnist_core.files import load_arrays

EPOCHS, ROUNDS = 3, 5


class System(NamedTuple):
    name: str
    what: str
    worker: str
    """Its name in `bench.timing.peer_systems.SYSTEMS`."""
    num_processes: int = 1
    num_threads: int = 1
    package: str = ""
    """Needed, and not required by this project."""
    missing: str = ""
    """Why it cannot run here."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = side_runs.parser("peers", __doc__, rounds=ROUNDS, blocks=False)
    parser.add_argument("--epochs", type=side_runs.positive, default=EPOCHS, metavar="N", help=f"default: {EPOCHS}")
    parser.add_argument("--images", type=side_runs.positive, metavar="N", help="train on the first N only")
    options = parser.parse_args(arguments)
    try:
        cell = side_runs.cell_of(options)
        num_images = _check(cell, options)
        with side_runs.alone(options.store) as load_warnings:
            started_at = environment.now()
            request = {"cell": to_dict(cell), "epochs": options.epochs, "images": num_images,
                       "batch_size": cell.train.global_batch_size, "data_dir": options.data_dir}
            measured = run(systems(options.threads), request, options.rounds)
            peers = Peers(environment=environment.collect(options.threads), started_at=started_at,
                          warnings=load_warnings(), cell=to_dict(cell), epochs=options.epochs,
                          images_per_epoch=num_images, systems=measured)
    except ValueError as error:
        print(f"bench.peers: {error}", file=sys.stderr)
        return side_runs.WRONG_INPUT
    return side_runs.finish("peers", options.store, peers)


def systems(num_threads: int) -> list[System]:
    """The first is the reference."""
    gpus, replicas = (environment.num_gpus() if environment.uses_gpu() else 0), environment.num_replicas()
    few = "" if replicas > 1 else f"one {'GPU' if gpus else 'core'}: the line above"
    return [
        System("tutorial", "Accelerate's tutorial: ToTensor per item, DataLoader", "tutorial", 1, num_threads),
        System("raw PyTorch", "a plain loop, images as floats in memory", "raw", 1, num_threads),
        System("Lightning", "Trainer, images as floats in a DataLoader", "lightning", 1, num_threads, "lightning"),
        System("Keras", "Sequential.fit on arrays", "keras", 1, num_threads, "keras"),
        System("ours, one process", "fit of this project, captured", "ours", 1, num_threads),
        System("ours, cells mode", "a training per core or GPU, all at once", "ours", replicas,
               1 if not gpus else max(1, num_threads // gpus), missing=few),
        System("ours, fused seeds", "16 seeds of the cell as one module, all counted", "fused", 1, num_threads,
               missing="" if gpus else "CUDA only: on a CPU it does not pay"),
    ]


def run(chosen: Sequence[System], request: Mapping[str, Any], rounds: int) -> list[Peer]:
    """Each system in turns, with new seeds in every round. One that fails is left out from then on, with the reason.
    Without the first, the reference, there is nothing to compare with: raises ValueError where that one fails.

    All processes of a round get ready at once, which can take longer than their work, and then wait for their turn.
    """
    skipped = {system.name: reason for system in chosen if (reason := _not_here(system))}
    about: dict[str, dict[str, Any]] = {}
    ready: dict[str, list[Worker]] = {}
    round_numbers = itertools.count()

    def one_round(system: System, stack: contextlib.ExitStack) -> PeerRun | None:
        if system.name in skipped:
            return None
        try:
            if not ready:
                _get_ready(stack, [one for one in chosen if one.name not in skipped],
                           {**request, "round": next(round_numbers)}, ready)
            answers = train(ready.pop(system.name))
        except WorkerFailed as error:
            if system is chosen[0]:
                raise ValueError(f"{system.name}, the reference, failed: {error}; nothing is stored") from error
            skipped[system.name] = str(error)
            return None
        about[system.name] = {key: answers[0][key] for key in ("num_parameters", "libraries")}
        return to_run(answers, request)

    with contextlib.ExitStack() as stack:
        runs = interleave({system.name: partial(one_round, system, stack) for system in chosen}, rounds)
    return [Peer(name=system.name, what=system.what, num_processes=system.num_processes,
                 num_threads=system.num_threads, **about.get(system.name, {}),
                 runs=[] if system.name in skipped else [each for each in runs[system.name] if each],
                 skipped=skipped.get(system.name, "")) for system in chosen]


def _get_ready(stack: contextlib.ExitStack, chosen: Sequence[System], request: Mapping[str, Any],
               ready: dict[str, list[Worker]]) -> None:
    """All at once but fused seeds, which choose their ways of computing by timing: they come last, undisturbed."""
    for last in (False, True):
        crews = {system.name: start(stack, system, request) for system in chosen if (system.worker == "fused") == last}
        for worker in itertools.chain(*crews.values()):
            with contextlib.suppress(WorkerFailed):  # shows again when its turn comes
                worker.wait_until_ready()
        ready.update(crews)


def to_run(answers: Sequence[Mapping[str, Any]], request: Mapping[str, Any]) -> PeerRun:
    """The answers of one system's processes. Their timed epochs need not coincide: the time goes from the first start
    to the last end of any."""
    first = min(1, request["epochs"] - 1)  # the first epoch also compiles, allocates, and fills caches
    timed = [answer["epochs_at"][first:] for answer in answers]
    models = sum(len(answer["test_accuracies"]) for answer in answers)
    return PeerRun(
        images=models * request["images"] * (request["epochs"] - first),
        train_s=max(spans[-1][1] for spans in timed) - min(spans[0][0] for spans in timed),
        num_steps=request["epochs"] * -(-request["images"] // request["batch_size"]),
        test_accuracy=[accuracy for answer in answers for accuracy in answer["test_accuracies"]],
    )


def start(stack: contextlib.ExitStack, system: System, request: Mapping[str, Any]) -> list[Worker]:
    """The system's processes, on their way to being ready."""
    return [_start(stack, system, request, i) for i in range(system.num_processes)]


def train(crew: Sequence[Worker]) -> list[dict[str, Any]]:
    """Let a system's processes begin together, collect their answers, and end them. Raises WorkerFailed."""
    try:
        for worker in crew:
            worker.wait_until_ready()
        for worker in crew:
            worker.tell()
        return [worker.answer() for worker in crew]
    finally:
        for worker in crew:
            worker.stop()


def _start(stack: contextlib.ExitStack, system: System, request: Mapping[str, Any], i: int) -> Worker:
    variables = {**os.environ, "OMP_NUM_THREADS": str(system.num_threads),
                 "TF_NUM_INTRAOP_THREADS": str(system.num_threads), "TF_CPP_MIN_LOG_LEVEL": "3"}
    if system.num_processes > 1 and environment.uses_gpu():
        variables["CUDA_VISIBLE_DEVICES"] = environment.visible_gpus()[i]
    asked = {**request, "seed": request["round"] * system.num_processes + i, "threads": system.num_threads}
    return workers.start(stack, "bench.timing.peer_systems", [system.worker, json.dumps(asked)], variables)


def _not_here(system: System) -> str:
    if system.package and importlib.util.find_spec(system.package) is None:
        return "not installed"
    return system.missing


def _check(cell: CellConfig, options: argparse.Namespace) -> int:
    """Images to train on. Raises ValueError for a cell that not every system could train alike."""
    plain = TrainConfig(epochs=cell.train.epochs, global_batch_size=cell.train.global_batch_size,
                        learning_rate=cell.train.learning_rate)
    data = msgspec.structs.replace(cell.data, dataset="fashion-mnist", validation_size=10_000)
    if cell.train != plain or data != type(data)() or cell.execution != ExecutionConfig():
        raise ValueError(f"experiment {options.experiment}: its first cell asks for more than every system does alike; "
                         "expected the defaults but for model, epochs, batch and learning rate")
    available = len(load_arrays(cell.data.dataset, options.data_dir).train_labels_N) - cell.data.validation_size
    if options.images and options.images > available:
        raise ValueError(f"--images {options.images}: only {available} are there")
    return options.images or available


if __name__ == "__main__":
    command.leave(main)
