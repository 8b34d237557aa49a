"""Bytes of a training step: by hand, by shapes, by the resident set of a process, and in any order of cells."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.timing import memory
from fmnist_core.average import Average
from fmnist_core.config import CellConfig, ExecutionConfig, KernelDepthCNN, Network2, TrainConfig
from fmnist_core.models.build import build
from fmnist_core.train import Training
from tests.small import small_dataset

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the resident set is known on Linux only")
TINY = nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.ReLU(), nn.Linear(4, 10))
PARAMETERS = 4 * (784 * 4 + 4 + 4 * 10 + 10)


def trained(model=None, batch_size=30, **execution):
    dataset = small_dataset(num_train=600)
    cell = CellConfig(model=model or Network2(), data=dataset.config, execution=ExecutionConfig(**execution),
                      train=TrainConfig(global_batch_size=batch_size))
    training = Training(cell, 0, dataset)
    training.model.train()
    training.step_on(torch.arange(batch_size))
    return training


# By shapes, on meta tensors


@pytest.mark.parametrize(("optimizer", "moments"), [("adam", 2), ("adamw", 2), ("rmsprop", 1), ("sgd", 0)])
def test_bytes_of_a_step_by_hand(optimizer, moments):
    config = TrainConfig(global_batch_size=30, optimizer=optimizer)
    counted = memory.step_bytes(TINY, (1, 28, 28), config)
    steps = 4 * 4 if moments else 0  # one number for each of four tensors
    assert counted.model == counted.gradients == PARAMETERS
    assert counted.optimizer_state == moments * PARAMETERS + steps
    # images; what ReLU gives; log-probabilities; labels of 8 bytes; the sum of the weights of the mean
    assert counted.saved == 4 * 30 * 784 + 4 * 30 * 4 + 4 * 30 * 10 + 8 * 30 + 4


def test_what_is_saved_is_what_the_cells_own_loss_needs():
    counted = memory.step_bytes(TINY, (1, 28, 28), TrainConfig(global_batch_size=30, loss="mse"))
    assert counted.saved == 4 * 30 * 784 + 4 * 30 * 4 + 2 * 4 * 30 * 10  # of the loss the logits and the labels


def test_what_is_saved_follows_the_largest_accumulated_part():
    whole, parts = (memory.step_bytes(TINY, (1, 28, 28), TrainConfig(global_batch_size=30, gradient_accumulation=n))
                    for n in (1, 4))
    assert (parts.saved - 4) / (whole.saved - 4) == pytest.approx(8 / 30)
    assert parts[:3] == whole[:3]


def test_a_shared_storage_counts_once_and_buffers_count():
    normed = nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.BatchNorm1d(4), nn.Linear(4, 10))
    counted = memory.step_bytes(normed, (1, 28, 28), TrainConfig(global_batch_size=30))
    assert counted.model == PARAMETERS + 4 * (4 + 4) + 4 * (4 + 4) + 8  # weight, bias; mean, variance; steps
    assert counted.gradients == PARAMETERS + 4 * (4 + 4)
    twice = nn.Sequential(*TINY[:3], nn.Identity(), nn.Unflatten(1, (1, 2, 2)), nn.Flatten(), TINY[3])
    assert memory.step_bytes(twice, (1, 28, 28), TrainConfig(global_batch_size=30)) == memory.step_bytes(
        TINY, (1, 28, 28), TrainConfig(global_batch_size=30))


def test_the_average_of_weights_and_a_momentum_of_filters_count():
    averaged = memory.step_bytes(TINY, (1, 28, 28), TrainConfig(global_batch_size=30, ema=0.9))
    assert averaged.model == 2 * PARAMETERS + 4  # and the number of steps
    filters = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 10))
    counted = memory.step_bytes(filters, (1, 28, 28), TrainConfig(global_batch_size=30, optimizer="muon", momentum=0.9))
    assert counted.optimizer_state == 4 * 2 * 9 + 2 * 4 * 30 + 4 * 2  # one moment of the filters, two of the others


def test_counting_leaves_the_model_alone():
    model = Network2()
    training = trained(model)
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    memory.step_bytes(training.model, (1, 28, 28), training.cell.train)
    assert all(torch.equal(value, before[name]) for name, value in training.model.state_dict().items())
    assert all(p.grad is None and p.device.type == "cpu" for p in training.model.parameters())


def test_a_step_is_counted_as_it_trains_whatever_the_model_did_before():
    model = build(Network2(dropout=0.5), (1, 28, 28))
    count = lambda: memory.step_bytes(model, (1, 28, 28), TrainConfig(global_batch_size=30))
    assert model.training
    in_training = count()
    model.eval()
    assert count() == in_training
    assert not model.training


# Tensors alive


def test_peak_of_bytes_alive_by_hand():
    with memory.Alive() as alive:
        a = torch.empty(1000, dtype=torch.uint8)
        b = torch.empty(500, dtype=torch.uint8)
        view = a[10:]
        view.add_(1)
        del a, view
        c = torch.empty(700, dtype=torch.uint8)
    assert (alive.peak, alive.bytes) == (1500, 1200)
    assert memory.peak_alive(lambda: torch.empty(300, dtype=torch.uint8)) == 300
    assert gc.isenabled()
    del b, c


def test_what_a_training_holds_by_hand():
    training = trained()
    count = sum(p.numel() for p in training.model.parameters())
    buffers = sum(buffer.nbytes for buffer in training.model.buffers())
    tensors = len(list(training.model.parameters()))
    assert memory.held_bytes(training) == 4 * 3 * count + 4 * tensors + buffers  # Adam: two moments, its own step
    training.num_processes = 2
    assert memory.held_bytes(training) == 4 * 4 * count + 4 * tensors + buffers  # and the buckets of DDP
    training.model.conv1.weight.requires_grad_(False)
    frozen = training.model.conv1.weight.nbytes
    assert memory.held_bytes(training) == 4 * 4 * count + 4 * tensors + buffers - frozen  # which DDP does not reduce
    training.average = Average(training.model, 0.9)
    averaged = sum(mean.nbytes for mean in training.average.means.values()) + 4  # and the number of steps
    assert memory.held_bytes(training) == 4 * 4 * count + 4 * tensors + buffers - frozen + averaged


def test_a_compiled_model_hides_its_operators():
    training = trained()
    training.cell = CellConfig(model=Network2(), execution=ExecutionConfig(compile="default"))
    assert memory.peak_memory(training)[0] == 0


# The resident set


@LINUX
def test_an_allocation_of_known_size_is_seen_though_the_process_was_larger_before():
    scattered = [torch.ones(16_384) for _ in range(4_000)]  # 64 KB each: the C library keeps them when they are freed
    pin = torch.ones(16_384)
    del scattered
    torch.ones(25_000_000)  # the first of its size also starts threads and brings code into memory
    growth = memory.resident_growth(lambda: torch.ones(25_000_000))
    assert growth == pytest.approx(100_000_000, rel=0.02)
    assert memory.resident_growth(lambda: [torch.ones(16_384) for _ in range(1_000)]) == pytest.approx(65.5e6, rel=0.1)
    assert memory.resident_growth(lambda: None) < 2_000_000
    del pin


def test_where_the_system_does_not_tell_nothing_is_said(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.resident_growth(lambda: pytest.fail("not to be run")) is None
    monkeypatch.setattr(memory, "resident_growth", lambda work: None)
    assert memory.peak_memory(trained())[1] == 0


@LINUX
def test_a_larger_cell_before_does_not_hide_a_smaller_one():
    small, large = KernelDepthCNN(kernel_size=2, depth=1, width=4), KernelDepthCNN(kernel_size=3, depth=2)
    first, second = memory.peak_memory(trained(small, 128)), memory.peak_memory(trained(large, 512))
    again = memory.peak_memory(trained(small, 128))
    assert again[0] == first[0] < second[0] / 5
    assert first[0] <= again[1] < second[1] / 2


EXACT = """
import torch
from bench.timing import memory
from tests.test_memory import trained
training = trained(batch_size=128)
step = lambda: training.step_on(torch.arange(128))
step()
print(memory.peak_alive(step), memory.resident_growth(step))
"""


@LINUX
def test_the_resident_set_grows_by_the_tensors_that_were_counted():
    """With a C library that gives every freed block back. With the usual one it grows by up to twice as much."""
    run = subprocess.run([sys.executable, "-c", EXACT], capture_output=True, text=True, check=False, env={
        **os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "MALLOC_MMAP_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    counted, grown = map(int, run.stdout.split())
    assert counted > 5_000_000
    assert grown == pytest.approx(counted, rel=0.05)
