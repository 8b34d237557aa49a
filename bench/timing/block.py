"""Timing loops over a cell: batches, training steps, evaluations, forward passes.

They need nothing but `fmnist_core`, so that the same loops time any revision of it: `bench.timing.revisions` starts
this file as a program, which prints one block as JSON. `bench.measure` makes a record of one block;
`bench.calibrate`, `bench.compare` and the performance tests compare many.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import msgspec
import torch
from torch import Tensor

import fmnist_core
from fmnist_core.accelerator import accelerator_for
from fmnist_core.clock import Clock, CudaClock, HostClock, clock_for, synchronize
from fmnist_core.config import CellConfig
from fmnist_core.data import load
from fmnist_core.evaluation import evaluate
from fmnist_core.train import Training, train_epoch, train_step

WARMUP_STEPS = 10
MIN_STEPS, MAX_STEPS, MIN_BLOCK_S = 40, 5000, 1.5
"""Steps are timed until there are 40 of them and they have filled 1.5 seconds, at most 5,000: a record holds each."""
NUM_EVALUATIONS = 3
INFERENCE_BATCHES = (1, 128, 1000)
NUM_SINGLE_PASSES, NUM_BATCH_PASSES = 100, 20
"""Timed forward passes of one image, and of a batch."""


Step = Callable[[Training, Tensor, Tensor, int], Any]
"""As `train_step`: the run, images, labels, images in the global batch."""


class Subject:
    """A model that is warm, for blocks that alternate with another's."""

    def __init__(self, training: Training, *, step: Step | None = None, min_block_s: float = MIN_BLOCK_S,
                 min_steps: int = MIN_STEPS, clock: Clock | None = None) -> None:
        """`step`: in the place of `train_step`."""
        self.training, self.step = training, step
        self.clock = clock or clock_for(training.device)
        training.model.train()
        time_steps(training, self.clock, WARMUP_STEPS, step)
        self.num_steps = num_steps_to_fill(training, self.clock, min_block_s, min_steps, step)

    def step_s(self) -> float:
        """Median seconds of the steps of one block."""
        return median(time_steps(self.training, self.clock, self.num_steps, self.step)[1])

    def epoch_s(self) -> float:
        """Seconds of an epoch by the training loop itself, from its last steps: what lies between them is in it."""
        training, num_steps = self.training, min(self.num_steps, self.training.steps_per_epoch)
        _train_last(training, 1)  # the remainder batch, which a capture or a compiler sees for the first time
        marks = [self.clock.mark()]
        _train_last(training, num_steps)
        marks.append(self.clock.mark())
        [seconds] = _slowest_process(training, self.clock.seconds_between(marks))
        return seconds / num_steps * training.steps_per_epoch

    def block(self) -> dict[str, float]:
        """Median seconds of each of `bench.records.side_records.METRICS`; of a captured step without its batch."""
        batch_s, step_s = time_steps(self.training, self.clock, self.num_steps, self.step)
        largest = min(INFERENCE_BATCHES[-1], len(self.training.dataset.test))
        return {
            "train_step": median(step_s),
            **({"batch": median(batch_s)} if batch_s else {}),
            "epoch": self.epoch_s(),
            "evaluate": median(time_evaluations(self.training, self.clock)),
            "inference": median(time_inference(self.training, self.clock, largest)),
            "latency": median(time_inference(self.training, self.clock, 1)),
        }


def _train_last(training: Training, num_steps: int) -> None:
    """The last steps of an epoch, after which it stands at its beginning once more."""
    epoch, training.step_in_epoch = training.epoch, training.steps_per_epoch - num_steps
    with contextlib.suppress(ArithmeticError):  # whether they learn anything is not the question
        train_epoch(training)
    training.epoch, training.step_in_epoch = epoch, 0


def use_threads(num_threads: int, cell: CellConfig) -> torch.device:
    """Set this process's threads; returns the device that the cell runs on."""
    torch.set_num_threads(num_threads)
    device: torch.device = accelerator_for(cell.train.precision).device
    return device


def time_steps(training: Training, clock: Clock, num_steps: int,
               step: Step | None = None) -> tuple[list[float], list[float]]:
    """Seconds of each batch and of each training step, over full batches of the current order. One wait, at the end.

    A captured step holds its batch: then there are no seconds of batches.
    """
    size = min(training.batch_size, len(training.dataset.train))
    batches = training.order().split(size)[: len(training.dataset.train) // size]
    if getattr(training, "replay", None) is not None and step is None:
        return [], _time_replays(training, clock, num_steps, batches)
    step = step or train_step
    marks = [clock.mark()]
    for i in range(num_steps):
        images_NCHW, labels_N = training.batch(batches[i % len(batches)])
        marks.append(clock.mark())
        step(training, images_NCHW, labels_N, size)
        marks.append(clock.mark())
    seconds = _slowest_process(training, clock.seconds_between(marks))
    return seconds[0::2], seconds[1::2]


def num_steps_to_fill(training: Training, clock: Clock, min_block_s: float = MIN_BLOCK_S, min_steps: int = MIN_STEPS,
                      step: Step | None = None) -> int:
    """Steps that fill a block, by a pilot of five; the same number in every process."""
    batch_s, step_s = time_steps(training, clock, 5, step)
    seconds = (sum(batch_s) + sum(step_s)) / len(step_s)
    return round(min(MAX_STEPS, max(min_steps, min_block_s / max(seconds, 1e-9))))


def time_evaluations(training: Training, clock: Clock) -> list[float]:
    """Seconds of each evaluation of the whole test set."""
    return _repeat(lambda: evaluate(training, training.dataset.test), clock, training, NUM_EVALUATIONS)


def time_inference(training: Training, clock: Clock, batch_size: int) -> list[float]:
    """Seconds of each forward pass in evaluation mode.

    Of a single image the host waits for every result, as someone who asks for one does; batches follow each other.
    """
    model = training.model if training.num_processes == 1 else training.model.module
    images_NCHW = training.dataset.images(training.dataset.test, torch.arange(batch_size, device=training.device))

    def answer() -> None:
        model(images_NCHW)
        synchronize(training.device)

    model.eval()
    with torch.inference_mode():
        samples = (_repeat(answer, host_clock(clock), training, NUM_SINGLE_PASSES) if batch_size == 1 else
                   _repeat(lambda: model(images_NCHW), clock, training, NUM_BATCH_PASSES))
    model.train()
    return samples


def host_clock(clock: Clock) -> Clock:
    """The host's clock in place of the device's."""
    return HostClock() if isinstance(clock, CudaClock) else clock


def _time_replays(training: Training, clock: Clock, num_steps: int, batches: Sequence[Tensor]) -> list[float]:
    assert training.replay is not None
    marks = [clock.mark()]
    for _ in range(num_steps):
        training.replay.advance(training, batches)  # which every revision with captured steps has
        marks.append(clock.mark())
        if training.step_in_epoch == len(batches):
            training.step_in_epoch = 0
    training.step_in_epoch = 0
    return clock.seconds_between(marks)


def _repeat(work: Callable[[], Any], clock: Clock, training: Training, repeats: int) -> list[float]:
    work()
    marks = [clock.mark()]
    for _ in range(repeats):
        work()
        marks.append(clock.mark())
    return _slowest_process(training, clock.seconds_between(marks))


def _slowest_process(training: Training, seconds: list[float]) -> list[float]:
    """Entry by entry, the maximum over processes: a step is over when its last process is done."""
    if training.num_processes == 1:
        return seconds
    slowest = torch.tensor(seconds, dtype=torch.float64, device=training.device)
    torch.distributed.all_reduce(slowest, torch.distributed.ReduceOp.MAX)
    return [float(value) for value in slowest.tolist()]


def main(request: str) -> None:
    """One block, by JSON: `cell`, `threads`, `data_dir`, `min_block_s`."""
    asked = json.loads(request)
    cell = msgspec.convert(asked["cell"], CellConfig)
    device = use_threads(asked["threads"], cell)
    training = Training(cell, 0, load(cell.data, device, asked["data_dir"]))
    subject = Subject(training, min_block_s=asked["min_block_s"])
    print(json.dumps({"core": fmnist_core.__file__, "seconds": subject.block()}))


if __name__ == "__main__":
    main(sys.argv[1])
