"""The same cells in one process and in two: what each learns, step by step.

`torchrun --nproc-per-node 2 tests/distributed/traces.py FILE FOLDER` checks itself against the traces of one process
in FILE, and that a run resumed from a checkpoint in FOLDER equals one left alone. P parameters, S steps.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.experiment import Cell
from bench.sweep import launch, ranks
from bench.sweep.plan import Task
from fmnist_core import checkpoint, evaluation
from fmnist_core.config import (
    CellConfig,
    CustomModel,
    ExecutionConfig,
    KernelDepthCNN,
    ModelConfig,
    Network1,
    TrainConfig,
)
from fmnist_core.evaluation import evaluate
from fmnist_core.train import Training, fit
from tests.small import small_dataset

PLAIN = Network1(dropout=0.0, fc_sizes=(20,))
NORMED = KernelDepthCNN(kernel_size=2, depth=2, width=4, batch_norm=True)
VECTORS_NORMED = CustomModel(factory="tests.distributed.traces:vectors_normed")
NUM_VALIDATION = 40
EVALUATION_BATCHES = (128, 256, 512)


class Case(NamedTuple):
    model: ModelConfig
    num_train: int
    batch_size: int
    options: dict[str, object]


CASES = {
    "last batch of 50": Case(PLAIN, 250, 100, {"optimizer": "adamw", "weight_decay": 0.1}),
    "uneven, last batch of 5": Case(PLAIN, 230, 45, {"optimizer": "sgd", "momentum": 0.9, "schedule": "one_cycle"}),
    "accumulation": Case(PLAIN, 230, 45, {"gradient_accumulation": 3, "schedule": "cosine"}),
    "clipping": Case(PLAIN, 230, 64, {"gradient_clip_norm": 0.05, "optimizer": "sgd", "weight_decay": 0.1}),
    "synchronized batch norm": Case(NORMED, 230, 45, {"sync_batch_norm": True, "optimizer": "sgd"}),
    "synchronized, vectors too": Case(VECTORS_NORMED, 230, 45, {"sync_batch_norm": True, "optimizer": "sgd"}),
    "synchronized, bfloat16": Case(NORMED, 230, 45, {"sync_batch_norm": True, "optimizer": "sgd", "precision": "bf16"}),
    "average of the weights": Case(PLAIN, 230, 45, {"ema": 0.9, "optimizer": "sgd"}),
    "local batch norm": Case(NORMED, 230, 45, {"optimizer": "sgd"}),
}
TASKS = [Task("mine", Cell(config=CellConfig(model=PLAIN)), f"of rank {rank}", 0, 0.0) for rank in range(2)]


def vectors_normed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Flatten(),
                         nn.Linear(4 * 13 * 13, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 10))


def start(case: Case, **data: object) -> Training:
    dataset = small_dataset(case.num_train, NUM_VALIDATION, 70, **data)
    options = {"epochs": 2, "learning_rate": 0.01, **case.options}
    cell = CellConfig(model=case.model, data=dataset.config, execution=ExecutionConfig(memory_format="contiguous"),
                      train=TrainConfig(global_batch_size=case.batch_size, **options))  # type: ignore[arg-type]
    return Training(cell, 0, dataset)


def trace(case: Case) -> dict[str, Tensor]:
    """Parameters after and learning rate at every step; buffers and figures at the end."""
    training = start(case)
    parameters: list[Tensor] = []
    rates: list[float] = []

    def keep(training: Training) -> None:
        parameters.append(torch.cat([p.detach().flatten().clone() for p in training.model.parameters()]))
        rates.append(training.optimizer.param_groups[0]["lr"])

    history = fit(training, on_step=keep)
    buffers = [buffer.double().flatten() for buffer in training.model.buffers()]
    return {"parameters_SP": torch.stack(parameters), "rates_S": torch.tensor(rates, dtype=torch.float64),
            "buffers": torch.cat(buffers) if buffers else torch.zeros(0),
            "losses": torch.tensor([history.train_loss, history.test_loss]),
            "accuracies": torch.tensor([history.test_accuracy, history.validation_accuracy])}


def evaluations() -> Iterator[tuple[int, float, float]]:
    """Evaluation batch, loss and accuracy over 10,000 test images."""
    dataset = small_dataset(64, 40, 10_000)
    cell = CellConfig(model=PLAIN, data=dataset.config, train=TrainConfig(global_batch_size=32))
    training = Training(cell, 0, dataset)
    for evaluation.EVALUATION_BATCH in EVALUATION_BATCHES:
        result = evaluate(training, dataset.test)
        yield evaluation.EVALUATION_BATCH, result.loss, result.accuracy


def compare(reference: dict[str, Tensor]) -> None:
    for name, case in CASES.items():
        own = trace(case)
        ours = {key: reference[f"{name}/{key}"] for key in own}
        assert torch.equal(own["rates_S"], ours["rates_S"]), name
        if name == "local batch norm":
            differences_S = (own["parameters_SP"] - ours["parameters_SP"]).abs().amax(1)
            assert bool((differences_S > 1e-4).all()), f"{name}: {differences_S}"
        else:
            # Shares round their gradients apart, and Adam's step does not shrink with the gradient that it is of.
            is_adam = "adam" in case.options.get("optimizer", "adam")
            in_bfloat16 = case.options.get("precision") == "bf16"
            for key, value in own.items():
                atol = 1e-3 if in_bfloat16 else 1e-4 if is_adam else 2e-5
                if in_bfloat16 and key == "accuracies":
                    atol = 1.01 / NUM_VALIDATION  # an image may fall on the other side
                torch.testing.assert_close(value, ours[key], rtol=1e-3, atol=atol, check_dtype=False,
                                           msg=lambda text, at=f"{name}/{key}": f"{at}: {text}")
    for size, loss, accuracy in evaluations():
        assert accuracy == float(reference[f"evaluation/{size}"][1]), size
        assert abs(loss - float(reference[f"evaluation/{size}"][0])) < 1e-6, size


class Interrupt(Exception):
    pass


def resume(folder: Path) -> None:
    """Dropout, augmentation and batch statistics differ between the processes; a resumed run has them all again."""
    case = Case(KernelDepthCNN(kernel_size=3, depth=2, width=4, dropout=0.3), 230, 45, {})
    data = {"shift": 2, "flip": "random"}
    alone = start(case, **data)
    fit(alone)

    def stop(training: Training) -> None:
        if training.step == 8:
            checkpoint.save(training, folder / "shared.safetensors")
            raise Interrupt

    interrupted = start(case, **data)
    with pytest.raises(Interrupt):
        fit(interrupted, on_step=stop)
    interrupted.accelerator.wait_for_everyone()
    resumed = start(case, **data)
    assert checkpoint.load(resumed, folder / "shared.safetensors") is not None
    assert resumed.step == 8
    fit(resumed)
    for one, other in zip(alone.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert resumed.history.test_loss == alone.history.test_loss
    assert resumed.history.train_loss == alone.history.train_loss


def stay_compiled() -> None:
    """The network is compiled inside DDP, where accumulated parts wait for the last; evaluation has it compiled too."""
    plain, graphs = torch.compile, []
    backend = lambda graph, inputs: graphs.append(graph) or graph.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda model, **options: plain(model, backend=backend, dynamic=False))
        dataset = small_dataset(40, 40, 70)
        cell = CellConfig(model=PLAIN, data=dataset.config, execution=ExecutionConfig(compile="default"),
                          train=TrainConfig(global_batch_size=20, gradient_accumulation=2))
        training = Training(cell, 0, dataset)
        evaluate(training, dataset.test)
        evaluated = len(graphs)
        training.step_on(training.order()[:20])
    assert len(graphs) > evaluated > 0
    assert isinstance(training.model, torch.nn.parallel.DistributedDataParallel)
    assert isinstance(training.model.module, torch._dynamo.OptimizedModule)
    assert any(node.op == "call_function" for graph in graphs for node in graph.graph.nodes)


def agree() -> None:
    """What one process wants, all hear."""
    rank = launch.world().rank
    told = ranks.agree(TASKS[rank], ddp=True)  # starts the group
    assert told is not None
    assert told.key == "of rank 0"
    assert ranks.tell(10 + rank, 60.0) == [10, 11]
    if rank == 1:
        assert ranks.tell(ranks.FAILED, 60.0) == [0, ranks.FAILED]
    else:
        with pytest.raises(ranks.Lost, match="rank 1 has failed"):
            ranks.tell(0, 60.0)


def main(reference: str, folder: str) -> None:
    torch.set_num_threads(1)
    agree()
    training = start(CASES["clipping"])
    assert (training.num_processes, training.accelerator.num_processes) == (2, 2)
    compare(load_file(reference))
    stay_compiled()
    resume(Path(folder))
    assert ranks.agree(None if training.rank == 0 else TASKS[1], ddp=True) is None
    assert not torch.distributed.is_initialized()
    print(f"rank {training.rank}: all is equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
