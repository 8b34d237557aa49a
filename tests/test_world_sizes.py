"""The same training at any number of processes: each simulated by an accelerator that says so."""

import math

import pytest
import torch

from fmnist_core.accelerator import accelerator_for
from fmnist_core.config import CellConfig, ExecutionConfig, KernelDepthCNN, TrainConfig
from fmnist_core.schedule import learning_rate
from fmnist_core.seeds import stream
from fmnist_core.train import Training, train_epoch
from tests.small import small_dataset

WORLDS, BATCHES = (1, 2, 3, 8), (128, 256, 512)
NUM_TRAIN, EPOCHS, RATE = 1000, 2, 0.5


class OneOf:
    """A process of several."""

    def __init__(self, rank, num_processes):
        self.process_index, self.num_processes, self._real = rank, num_processes, accelerator_for("no")

    def __getattr__(self, name):
        return getattr(self._real, name)


@pytest.fixture(scope="module")
def dataset():
    found = small_dataset(num_train=NUM_TRAIN)
    found.train.labels_N.copy_(torch.arange(NUM_TRAIN))  # the label says which image it was
    return found


def run_of(dataset, rank, world, batch, schedule):
    """(rates, images of each epoch) of a training that computes nothing."""
    train = TrainConfig(epochs=EPOCHS, global_batch_size=batch, schedule=schedule, learning_rate=RATE)
    cell = CellConfig(model=KernelDepthCNN(depth=1, width=1), data=dataset.config, train=train,
                      execution=ExecutionConfig(memory_format="contiguous"))
    training = Training(cell, 3, dataset, OneOf(rank, world))
    rates, images = [], [[] for _ in range(EPOCHS)]

    def step_on(index_N):
        rates.append(training.optimizer.param_groups[0]["lr"])
        images[training.epoch] += training.batch(index_N)[1].tolist()
        return torch.zeros(())

    training.step_on = step_on
    for _ in range(EPOCHS):
        train_epoch(training)
    return rates, images


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("world", WORLDS)
def test_schedules_end_where_they_should_and_every_image_is_trained_on_once_an_epoch(dataset, world, batch):
    steps = EPOCHS * math.ceil(NUM_TRAIN / batch)
    last = {"constant": RATE, "cosine": RATE * (1 + math.cos(math.pi * (steps - 1) / steps)) / 2,
            "one_cycle": RATE / (0.7 * steps)}  # 30 % of the steps rise
    for schedule, expected in last.items():
        runs = [run_of(dataset, rank, world, batch, schedule) for rank in range(world)]
        config = TrainConfig(schedule=schedule, learning_rate=RATE)
        for rates, _ in runs:
            assert rates == [learning_rate(step, steps, config) for step in range(steps)]
            assert rates[-1] == pytest.approx(expected)
        for epoch in range(EPOCHS):
            together = [image for _, images in runs for image in images[epoch]]
            assert sorted(together) == list(range(NUM_TRAIN))
            sizes = {len(images[epoch]) for _, images in runs}
            assert max(sizes) - min(sizes) <= steps  # a batch is parted to within one image
        assert runs[0][1][0] != runs[0][1][1]  # another shuffle


def test_no_two_pairs_of_seed_and_epoch_share_a_shuffle():
    orders = {stream(seed, "order", epoch) for seed in range(100) for epoch in range(100)}
    others = {stream(seed, name) for seed in range(100) for name in ("init", "flip")}
    assert len(orders) == 10_000
    assert len(others) == 200
    assert not orders & others
