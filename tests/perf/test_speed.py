"""The timed checks: training step, forward pass, evaluation, batch. Without --benchmark-enable each runs once."""

import pytest
import torch

from bench import experiment
from fmnist_core import train
from fmnist_core.accelerator import accelerator_for
from fmnist_core.data import Dataset, Split
from fmnist_core.evaluation import evaluate
from fmnist_core.train import Training
from tests.perf.reference import Reference
from tests.small import small_dataset

STEPS, FORWARDS, BATCHES = 10, 10, 200
"""Repetitions within a round: enough that starting a clock does not count."""


@pytest.fixture(scope="module")
def subject() -> Training:
    cell = experiment.load("final").cells[0].config
    device = accelerator_for("no").device
    on_device = lambda split: Split(split.images_NCHW.to(device), split.labels_N.to(device))
    small = small_dataset(num_train=900, num_test=2000)
    dataset = Dataset(cell.data, on_device(small.train), on_device(small.validation), on_device(small.test), 0.0, 1.0)
    return Training(cell, 0, dataset)


def full_batch(subject):
    return torch.arange(subject.batch_size, device=subject.device)


def reference_on(split):
    return Reference(split.images_NCHW, split.labels_N)


def test_training_step(check, subject):
    reference, (images_NCHW, labels_N) = reference_on(subject.dataset.train), subject.batch(full_batch(subject))
    subject.model.train()
    check(lambda: [train.train_step(subject, images_NCHW, labels_N, len(labels_N)) for _ in range(STEPS)],
          lambda: [reference.step(images_NCHW, labels_N) for _ in range(STEPS)], subject.device)


def test_forward(check, subject):
    reference, (images_NCHW, _) = reference_on(subject.dataset.train), subject.batch(full_batch(subject))
    subject.model.eval()

    def forward():
        with torch.inference_mode():
            subject.model(images_NCHW)

    check(lambda: [forward() for _ in range(FORWARDS)],
          lambda: [reference.forward(images_NCHW) for _ in range(FORWARDS)], subject.device)


def test_evaluation(check, subject):
    check(lambda: evaluate(subject, subject.dataset.test), reference_on(subject.dataset.test).evaluate,
          subject.device)


def test_batch(check, subject):
    reference, index_N = reference_on(subject.dataset.train), full_batch(subject)
    check(lambda: [subject.batch(index_N) for _ in range(BATCHES)],
          lambda: [reference.batch(index_N) for _ in range(BATCHES)], subject.device)
