"""What `bench.scaling` starts: a process that trains a cell, alone or with others, and says how long a step takes."""

import json
import sys
import time
from typing import Any

import msgspec
import torch

from bench.timing.block import use_threads
from bench.timing.workers import READY
from fmnist_core.clock import synchronize
from fmnist_core.config import CellConfig
from fmnist_core.data import load
from fmnist_core.fused.training import FusedTraining
from fmnist_core.summary import num_parameters
from fmnist_core.train import Training

WARMUP_STEPS, PILOT_STEPS, MIN_STEPS = 5, 5, 10
NUM_REDUCTIONS = 50


class Pace:
    """A training that goes round and round in one epoch's full batches."""

    def __init__(self, training: Training | FusedTraining, block_s: float) -> None:
        self.training = training
        size = min(training.batch_size, len(training.dataset.train))
        batches = training.order().split(size)
        self.batches = [each for each in batches if len(each) == size] or list(batches)
        training.model.train()
        self._steps(WARMUP_STEPS)
        pilot_s = self._steps(PILOT_STEPS)
        self.num_steps = max(MIN_STEPS, round(block_s / pilot_s))
        if training.num_processes > 1:
            steps = torch.tensor(self.num_steps, device=training.device)
            torch.distributed.broadcast(steps, 0)
            self.num_steps = int(steps)

    def step_s(self) -> float:
        return self._steps(self.num_steps)

    def reduction_s(self, num_bytes: int) -> float:
        """Mean seconds of an all-reduce of so many bytes."""
        numbers = torch.zeros(num_bytes // 4, device=self.training.device)
        start = 0.0
        for i in range(NUM_REDUCTIONS + 5):
            if i == 5:
                synchronize(self.training.device)
                start = time.perf_counter()
            torch.distributed.all_reduce(numbers)
        synchronize(self.training.device)
        return (time.perf_counter() - start) / NUM_REDUCTIONS

    def _steps(self, number: int) -> float:
        """Mean seconds of a step with its batch, the device's work included."""
        training, done = self.training, 0
        synchronize(training.device)
        start = time.perf_counter()
        while done < number:
            if training.step_in_epoch >= len(self.batches):
                training.step_in_epoch = 0
            training.advance(self.batches)
            done += 1
        synchronize(training.device)
        return (time.perf_counter() - start) / done


def main(request: str) -> None:
    """`cell`, `seed`, `num_seeds`, `threads`, `data_dir`, `block_s`. A line of input is `step`, or bytes to reduce."""
    asked: dict[str, Any] = json.loads(request)
    cell = msgspec.convert(asked["cell"], CellConfig)
    dataset = load(cell.data, use_threads(asked["threads"], cell), asked["data_dir"])
    seed, num_seeds = asked["seed"], asked["num_seeds"]
    training = Training(cell, seed, dataset) if num_seeds == 1 else FusedTraining(cell, range(num_seeds), dataset)
    parameters = num_parameters(training.model if isinstance(training, Training) else training.single(0))
    pace = Pace(training, asked["block_s"])
    print(READY, flush=True)
    for line in sys.stdin:
        seconds = pace.step_s() if line.strip() == "step" else pace.reduction_s(int(line))
        print(json.dumps({"seconds": seconds, "num_parameters": parameters}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
