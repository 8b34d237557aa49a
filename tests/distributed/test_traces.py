"""One process against two, real ones; and the evaluation's slices against a count, at any number of processes."""

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fmnist_core import evaluation
from fmnist_core.config import CellConfig, TrainConfig
from fmnist_core.evaluation import evaluate
from fmnist_core.train import Training
from tests.distributed import traces
from tests.distributed.launching import finish, torchrun
from tests.small import small_dataset


@pytest.mark.distributed
def test_two_processes_learn_what_one_learns(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 1000)
    reference = {f"evaluation/{size}": torch.tensor(figures, dtype=torch.float64)
                 for size, *figures in traces.evaluations()}
    for name, case in traces.CASES.items():
        reference |= {f"{name}/{key}": value for key, value in traces.trace(case).items()}
    save_file(reference, tmp_path / "one.safetensors")
    code, output = finish(torchrun("--nproc-per-node", 2, traces.__file__, tmp_path / "one.safetensors", tmp_path))
    assert code == 0, output
    assert "rank 0: all is equal" in output
    assert "rank 1: all is equal" in output


class Collector:
    """Takes the place of the accelerator: keeps what a process contributes, and answers as if all were well."""

    def __init__(self) -> None:
        self.contributions: list[Tensor] = []

    def reduce(self, value: Tensor, reduction: str) -> Tensor:
        assert reduction == "sum"
        self.contributions.append(value)
        return torch.ones_like(value)


@pytest.fixture(scope="module")
def images_10000():
    return small_dataset(64, 40, 10_000)


def test_processes_without_an_image_of_a_split_add_nothing_to_it(monkeypatch):
    dataset = small_dataset(64, 2, 10)
    training = Training(CellConfig(model=traces.PLAIN, data=dataset.config), 0, dataset)
    alone = evaluate(training, dataset.validation)
    monkeypatch.setattr(evaluation, "_model_to_evaluate", lambda training: training.model)
    training.num_processes, sums_2 = 5, torch.zeros(2, dtype=torch.float64)
    for training.rank in range(5):
        training.accelerator = Collector()
        evaluate(training, dataset.validation)
        sums_2 += training.accelerator.contributions[0]
    assert sums_2.tolist() == [pytest.approx(2 * alone.loss), 2 * alone.accuracy]


@pytest.mark.parametrize("evaluation_batch", traces.EVALUATION_BATCHES)
@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
def test_the_processes_together_count_each_of_10000_images_once(num_processes, evaluation_batch, images_10000,
                                                                monkeypatch):
    torch.set_num_threads(1)
    dataset = images_10000
    cell = CellConfig(model=traces.PLAIN, data=dataset.config, train=TrainConfig(global_batch_size=32))
    training = Training(cell, 0, dataset)
    alone = evaluate(training, dataset.test)
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", evaluation_batch)
    monkeypatch.setattr(evaluation, "_model_to_evaluate", lambda training: training.model)
    training.num_processes = num_processes
    sums_2, seen_N = torch.zeros(2, dtype=torch.float64), torch.zeros(10_000, dtype=torch.int64)
    for training.rank in range(num_processes):
        training.accelerator = Collector()
        evaluate(training, dataset.test)
        own_sums_2, own_seen_N = training.accelerator.contributions
        sums_2 += own_sums_2
        seen_N += own_seen_N
    assert seen_N.tolist() == [1] * 10_000
    assert sums_2[1] == alone.accuracy * 10_000
    assert sums_2[0] == pytest.approx(alone.loss * 10_000)
