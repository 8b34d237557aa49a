"""What the launcher says: how many processes, on which device, since when. Read from it, never assumed. No torch."""

import math
import os
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bench import environment
from bench.experiment import Experiment
from fmnist_core.config import check_capture

DDP_TIMEOUT_S = 600.0
"""How long a process waits for the others that share its cell before it takes them for dead."""
ENGINES = {
    "ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "several kinds of parallelism",
}
"""How `accelerate launch` tells its processes to train in a way that this harness does not offer."""
PLUGINS = {
    "ACCELERATE_DYNAMO_BACKEND": ("no", "execution.compile"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "train.gradient_accumulation"),
}
"""What Accelerate would do to every training without a trace in its record: the value that does nothing, and the
setting to ask for instead."""
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
            "PMI_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK",
            "MV2_COMM_WORLD_SIZE")
"""By these torch and Accelerate would take this process for one of several; the last six are from MPI, or srun."""


class GroupBroken(Exception):
    """The processes that shared a cell can no longer work together: the launcher has to start them again."""


@dataclass(frozen=True)
class World:
    """What the launcher started. One process, rank 0, where there was none."""

    rank: int = 0
    num_processes: int = 1
    local_rank: int = 0
    local_num_processes: int = 1
    num_restarts: int = 0
    """How often torchrun has started the processes again after one of them failed."""


def world() -> World:
    """From the variables that torchrun and `accelerate launch` set. Raises ValueError."""
    return World(_number("RANK", 0), _number("WORLD_SIZE", 1), _number("LOCAL_RANK", 0),
                 _number("LOCAL_WORLD_SIZE", 1), _number("TORCHELASTIC_RESTART_COUNT", 0))


def began_at(started: World) -> float:
    """Unix time at which this launch began: what has been done since then is not to be done again.

    Infinite for a process alone: all that it finds is from before it. Of torchrun, when this process's parent began,
    which outlives the processes that it starts again; of others, which may be a shell that is hours old, when this
    process began itself. Where the system does not say: once processes were started again, ever since.
    """
    if started.num_processes == 1 and not started.num_restarts:
        return math.inf
    launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else os.getpid()
    try:
        fields = Path(f"/proc/{launcher}/stat").read_text().rpartition(")")[2].split()
        booted_at = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
        return int(booted_at.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, ValueError, IndexError):
        return 0.0 if started.num_restarts else math.inf


def keeps_addresses() -> bool:
    """Whether processes that the launcher starts again would find, in its store, the addresses of those that died."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def ddp_timeout_s() -> float:
    """DDP_TIMEOUT_S, or what $FMNIST_DDP_TIMEOUT_S says instead. Raises ValueError."""
    text = os.environ.get("FMNIST_DDP_TIMEOUT_S", str(DDP_TIMEOUT_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86_400:
        raise ValueError(f"FMNIST_DDP_TIMEOUT_S = {text!r}: expected seconds from 1 to 86400")
    return seconds


def check(experiments: Iterable[Experiment], started: World, *, gpu: bool) -> None:
    """Raise ValueError, with the command to type, where the launch is not what an experiment asks for."""
    ddp_timeout_s()
    for variable, engine in ENGINES.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise ValueError(f"{variable} = true: Accelerate is configured for {engine}, which is not offered: these "
                             "networks fit into one device many times over; allowed: one process, or DDP, e.g. with "
                             "torchrun, which leaves Accelerate's configuration aside")
    for variable, (harmless, setting) in PLUGINS.items():
        if (value := os.environ.get(variable, harmless)).lower() not in ("", harmless):
            raise ValueError(f"{variable} = {value}: set by Accelerate's configuration or the shell, it would change "
                             f"trainings without a trace in their records; allowed: {harmless}; what it does is asked "
                             f"for by --set {setting}=...")
    several_machines = started.local_num_processes < started.num_processes
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    for experiment in experiments:
        asked = experiment.launch
        if asked.mode == "ddp" and several_machines and restarts and keeps_addresses():
            raise ValueError("torchrun cannot start processes on several machines again while it shares its store with "
                             "them; type: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv-backend c10d ...")
        if asked.device == "cuda" and not gpu:
            raise ValueError(f"experiment {experiment.name}: launch.device = 'cuda', but no CUDA device is visible "
                             "here; allowed: --set launch.device=any")
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
            sharing = started.num_processes if asked.mode == "ddp" else 1
            if cell.config.train.sync_batch_norm and sharing == 1:  # the same training under another key
                raise ValueError(f"experiment {experiment.name}: train.sync_batch_norm = true has no effect where one "
                                 "process trains a cell; allowed: launch.mode = 'ddp' with several processes")
            try:
                check_capture(cell.config, "cuda" if gpu else "cpu", sharing)
            except ValueError as error:
                raise ValueError(f"experiment {experiment.name}: {error}") from None


def stand_alone(started: World) -> None:
    """Cells mode: make this process a world of one, on its own GPU, before torch looks at the environment."""
    if environment.uses_gpu() and started.local_num_processes > 1:
        devices = environment.visible_gpus()
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[started.local_rank % len(devices)]
    for name in LAUNCHED:
        os.environ.pop(name, None)


def leave(main: Callable[[], int], *, at_once: Collection[int], unread: int) -> NoReturn:
    """Exit with the code that `main` returns; with `unread` where whoever read the output, as `head`, has left.

    With one of the codes `at_once`, and of several processes with any but 0, without destructors: those of a process
    group wait for ranks that are gone, and those of a DDP model that has failed can abort the process.
    """
    try:
        exit_code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(unread)
    if exit_code in at_once or (exit_code and os.environ.get("WORLD_SIZE", "1") != "1"):
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "") or str(default)
    if not text.isdecimal():
        raise ValueError(f"{name} = '{text}': the launcher should have set it to a whole number")
    return int(text)


def _command(experiment: Experiment, num_processes: int) -> str:
    """`accelerate launch --cpu` would start one process whatever it is asked for; torchrun starts them all."""
    return f"torchrun --nproc-per-node {num_processes} bench/run.py {experiment.name}"
