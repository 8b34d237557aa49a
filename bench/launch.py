"""Facts of the launch: how many processes, which device. Read from the launcher's environment, never assumed. No torch."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from bench import environment
from bench.experiment import Experiment


@dataclass(frozen=True)
class World:
    """What the launcher started. One process, rank 0, where there was none."""

    rank: int = 0
    num_processes: int = 1
    local_rank: int = 0
    local_num_processes: int = 1


def world() -> World:
    """From the variables that torchrun and `accelerate launch` set."""
    read = lambda name, default: int(os.environ.get(name, default))
    return World(read("RANK", 0), read("WORLD_SIZE", 1), read("LOCAL_RANK", 0), read("LOCAL_WORLD_SIZE", 1))


def check(experiments: Iterable[Experiment], started: World, *, gpu: bool) -> None:
    """Raise ValueError, with the command to type, where the launch is not what an experiment asks for."""
    for experiment in experiments:
        asked = experiment.launch
        if asked.device == "cuda" and not gpu:
            raise ValueError(f"experiment {experiment.name}: launch.device = 'cuda', but no CUDA device is visible here; "
                             "allowed: --set launch.device=any")
        if asked.device == "cpu" and gpu:
            raise ValueError(f"experiment {experiment.name}: launch.device = 'cpu', but this launch uses a GPU; "
                             f"type: ACCELERATE_USE_CPU=true python bench/run.py {experiment.name}")
        if asked.num_processes and asked.num_processes != started.num_processes:
            raise ValueError(f"experiment {experiment.name}: launch.num_processes = {asked.num_processes}, but "
                             f"{started.num_processes} started; type: {_command(experiment, asked.num_processes)}")
        for cell in experiment.cells:
            if cell.config.train.precision == "fp16" and not gpu:
                raise ValueError(f"experiment {experiment.name}: train.precision = 'fp16' needs a GPU; "
                                 "allowed on a CPU: 'no', 'bf16'")
            if cell.config.execution.capture and not gpu:
                raise ValueError(f"experiment {experiment.name}: execution.capture = true needs a GPU")


def stand_alone(started: World) -> None:
    """Cells mode: make this process a world of one, on its own GPU, before torch looks at the environment."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if environment.uses_gpu() and started.local_num_processes > 1:
        devices = visible.split(",") if visible else [str(i) for i in range(environment.num_gpus())]
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[started.local_rank % len(devices)]
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


def _command(experiment: Experiment, num_processes: int) -> str:
    """`accelerate launch --cpu` would start one process whatever it is asked for; torchrun starts them all."""
    return f"torchrun --nproc-per-node {num_processes} bench/run.py {experiment.name}"
