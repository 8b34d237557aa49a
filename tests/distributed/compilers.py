"""What `execution.compile = 'auto'` comes to in two processes, in one of which the compiler may fail.

`torchrun --nproc-per-node 2 tests/distributed/compilers.py` prints a line for each case and rank.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from fmnist_core import step_time
from fmnist_core.config import CellConfig, ExecutionConfig, KernelDepthCNN, TrainConfig
from fmnist_core.evaluation import _model_to_evaluate
from fmnist_core.train import Training, train_epoch
from tests.small import small_dataset


class Case(NamedTuple):
    broken_rank: int
    breaks: str = "backend"
    """Or `compile`: before anything is run."""
    options: dict[str, Any] = {}


CASES = {
    "works in both": Case(-1),
    "fails in one": Case(1),
    "fails in one at once": Case(1, "compile"),
    "fails in one, statistics shared": Case(1, options={"sync_batch_norm": True}),
    "works in both, statistics shared": Case(-1, options={"sync_batch_norm": True, "gradient_accumulation": 2}),
}


def compiler(case: Case, rank: int, original: Callable[..., Any] = torch.compile) -> Callable[..., Any]:
    """In place of `torch.compile`: traces as it does, but makes no code, or fails."""
    def backend(graph: Any, inputs: Any) -> Any:
        if rank == case.broken_rank:
            raise RuntimeError("no C++ compiler")
        return graph.forward

    def compile(model: Any, mode: str, dynamic: bool) -> Any:
        if rank == case.broken_rank and case.breaks == "compile":
            raise RuntimeError("not on this Python")
        return original(model, dynamic=dynamic, backend=backend)

    return compile


def main() -> None:
    torch.set_num_threads(1)
    step_time.NUM_WARMUP, step_time.NUM_TIMED = 1, 2
    dataset = small_dataset(230)
    model = KernelDepthCNN(kernel_size=2, depth=2, width=4, batch_norm=True)
    cell = CellConfig(model=model, train=TrainConfig(epochs=1, global_batch_size=45))
    rank = Training(cell, 0, dataset).rank
    for name, case in CASES.items():
        torch._dynamo.reset()
        torch.compile = compiler(case, rank)
        train = TrainConfig(epochs=1, global_batch_size=45, **case.options)
        training = Training(CellConfig(model=model, train=train, execution=ExecutionConfig(compile="auto")), 0, dataset)
        mode = training.cell.execution.compile
        train_epoch(training)
        assert isinstance(_model_to_evaluate(training), torch._dynamo.OptimizedModule) == (mode != "no")
        sys.stdout.write(f"rank {rank}, {name}: {', '.join(training.compile_timings_s)}; {mode}\n")  # at once
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
