"""A training that was interrupted against the same training left alone, and files that must not be used."""

import json
import os
import random
import time
import warnings
from dataclasses import asdict
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from fmnist_core import checkpoint
from fmnist_core.config import (
    CellConfig,
    CustomModel,
    DataConfig,
    ExecutionConfig,
    KernelDepthCNN,
    Network1,
    Network2,
    TrainConfig,
)
from fmnist_core.train import Training, fit
from tests.small import small_dataset

AUGMENTED = {"flip": "random", "shift": 2, "rotation": 10.0, "erasing": 0.5}
CASES = {
    "adam": (Network2(), AUGMENTED, {}),
    "adamw": (KernelDepthCNN(kernel_size=4, width=6, dropout=0.3), {"flip": "alternating", "shift": 1},
              {"weight_decay": 0.1, "schedule": "one_cycle"}),
    "sgd": (Network1(batch_norm=True, conv_dropout=0.1), AUGMENTED,
            {"momentum": 0.9, "nesterov": True, "schedule": "cosine", "gradient_clip_norm": 1.0}),
    "rmsprop": (Network2(conv_dropout=0.1), AUGMENTED, {"momentum": 0.5}),
    "muon": (Network2(conv_dropout=0.1), AUGMENTED,
             {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05, "ema": 0.9}),
}


class Interrupt(Exception):
    pass


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def fresh(name="adam", seed=0, memory_format="contiguous", **options) -> Training:
    model, data, own = CASES[name]
    dataset = small_dataset(**data)
    options = {"epochs": 2, "global_batch_size": 48, "learning_rate": 0.003, **own, **options}
    cell = CellConfig(model=model, data=dataset.config, train=TrainConfig(optimizer=name, **options),
                      execution=ExecutionConfig(memory_format=memory_format))
    return Training(cell, seed, dataset)


def interrupted(training: Training, path, step: int, wall_s: float = 0.0) -> None:
    def stop(training: Training) -> None:
        if training.epoch * training.steps_per_epoch + training.step_in_epoch == step:
            checkpoint.save(training, path, wall_s=wall_s)
            raise Interrupt

    with pytest.raises(Interrupt):
        fit(training, on_step=stop)


def state(training: Training) -> dict[str, torch.Tensor]:
    """Every tensor that a training leaves behind."""
    tensors = dict(training.accelerator.unwrap_model(training.model).state_dict())
    for i, values in training.optimizer.state_dict()["state"].items():
        tensors |= {f"{i} {name}": value for name, value in values.items() if value is not None}
    return tensors


def learnt(training: Training) -> dict[str, list[float]]:
    return {name: values for name, values in asdict(training.history).items() if name != "train_s"}


def assert_bit_equal(one: Training, other: Training) -> None:
    assert learnt(one) == learnt(other)
    assert state(one).keys() == state(other).keys()
    for name, value in state(one).items():
        assert torch.equal(value, state(other)[name]), name


@pytest.mark.parametrize(("memory_format", "accumulation"), [("contiguous", 1), ("channels_last", 3)])
@pytest.mark.parametrize("name", CASES)
def test_resumed_is_bit_equal_to_uninterrupted(name, memory_format, accumulation, tmp_path):
    options = {"memory_format": memory_format, "gradient_accumulation": accumulation}
    alone = fresh(name, **options)
    fit(alone)
    assert alone.num_steps == 10
    path = tmp_path / "checkpoint.safetensors"
    # The last step of an epoch, with its evaluation still to come, is as good a place as any other.
    for step in (random.Random(f"{name} {options}").choice([1, 2, 3, 4, 6, 7, 8, 9]), 5):
        interrupted(fresh(name, **options), path, step, wall_s=12.5)
        torch.manual_seed(99)  # another process would draw other numbers
        resumed = fresh(name, **options)
        assert checkpoint.load(resumed, path) == 12.5
        assert resumed.step == step
        fit(resumed)
        assert_bit_equal(alone, resumed)


class Wobbles(nn.Module):
    """Begins and steps by Python's and numpy's random numbers."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(784, 10)
        nn.init.constant_(self.linear.bias, random.gauss(0.0, 1.0))

    def forward(self, images_NCHW):
        logits = self.linear(images_NCHW.flatten(1))
        return logits + random.gauss(0.0, 0.1) + 0.1 * float(np.random.standard_normal()) if self.training else logits


def test_random_numbers_of_python_and_numpy_are_of_the_seed_and_go_on(tmp_path):
    cell = CellConfig(model=CustomModel(factory="tests.test_checkpoint:Wobbles"),
                      train=TrainConfig(epochs=2, global_batch_size=48))
    make = lambda seed: Training(cell, seed, small_dataset())
    assert not torch.equal(make(0).model.linear.bias, make(1).model.linear.bias)
    alone = make(0)
    fit(alone)
    again = make(0)
    fit(again)
    assert_bit_equal(alone, again)
    path = tmp_path / "checkpoint.safetensors"
    interrupted(make(0), path, 3)
    random.seed(99)
    np.random.seed(99)
    resumed = make(0)
    assert checkpoint.load(resumed, path) == 0.0
    fit(resumed)
    assert_bit_equal(alone, resumed)


def test_every_optimizer_is_resumed():
    assert set(CASES) == set(get_args(get_type_hints(TrainConfig)["optimizer"]))


def test_resuming_twice_and_saving_at_every_step_change_nothing(tmp_path):
    alone, path = fresh(), tmp_path / "checkpoint.safetensors"
    fit(alone)
    saved = fresh()
    fit(saved, on_step=lambda training: checkpoint.save(training, path))
    assert_bit_equal(alone, saved)
    interrupted(fresh(), path, 3)
    second = fresh()
    checkpoint.load(second, path)
    interrupted(second, path, 8)
    third = fresh()
    checkpoint.load(third, path)
    fit(third)
    assert_bit_equal(alone, third)


def test_an_epoch_cut_in_two_took_what_both_parts_took(tmp_path, monkeypatch):
    now = [50.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def one_second(training: Training) -> None:
        now[0] += 1.0

    def stop_at_three(training: Training) -> None:
        one_second(training)
        if training.step == 3:
            checkpoint.save(training, tmp_path / "checkpoint.safetensors")
            raise Interrupt

    with pytest.raises(Interrupt):
        fit(fresh(), on_step=stop_at_three)
    now[0] += 1000.0
    resumed = fresh()
    checkpoint.load(resumed, tmp_path / "checkpoint.safetensors")
    fit(resumed, on_step=one_second)
    assert resumed.history.train_s == [5.0, 5.0]


def test_non_finite_figures_survive(tmp_path):
    """A loss may be infinite in an evaluation; JSON proper has no word for that."""
    training, path = fresh(), tmp_path / "checkpoint.safetensors"
    training.history.test_loss.append(float("inf"))
    training.bad.fill_(True)
    training.losses[2] = float("nan")
    checkpoint.save(training, path)
    resumed = fresh()
    checkpoint.load(resumed, path)
    assert resumed.history.test_loss == [float("inf")]
    assert bool(resumed.bad)
    assert resumed.losses.isnan().tolist() == [False, False, True, False, False]


def test_no_file_is_no_fault(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.load(fresh(), tmp_path / "none" / "checkpoint.safetensors") is None


def test_damaged_files_are_reported_and_not_used(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    interrupted(fresh(), path, 3)
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little") + 8
    rng = random.Random(0)
    places = [*rng.sample(range(header), 40), *rng.sample(range(header, len(content)), 40)]
    damaged = [content[:i] + bytes([content[i] ^ (1 << rng.randrange(8))]) + content[i + 1 :] for i in places]
    sizes = (0, 7, 8, header - 1, header, header + 1, len(content) // 2, len(content) - 1)
    damaged += [content[:size] for size in sizes]
    damaged += [b"\0" * len(content), content + b"\0", b"\x80\x04N."]
    training = fresh()
    before, generator = state(training), torch.get_rng_state()
    for each in damaged:
        path.write_bytes(each)
        with pytest.warns(UserWarning, match=r"checkpoint .*checkpoint\.safetensors is not used: "):
            assert checkpoint.load(training, path) is None
    assert training.step == 0
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in state(training).items())
    path.write_bytes(content)
    assert checkpoint.load(training, path) is not None


def test_a_checkpoint_of_another_training_is_not_used(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    interrupted(fresh(), path, 3)
    for other in (fresh(seed=1), fresh(learning_rate=0.1), fresh("sgd")):
        with pytest.warns(UserWarning, match="it is of another training"):
            assert checkpoint.load(other, path) is None


def test_a_checkpoint_of_another_number_of_processes_or_of_another_network_is_not_used(tmp_path, monkeypatch):
    path, shared, other = tmp_path / "checkpoint.safetensors", fresh(), fresh("sgd")
    interrupted(fresh(), path, 3)
    shared.num_processes = 2
    with pytest.warns(UserWarning, match="it is of another training"):
        assert checkpoint.load(shared, path) is None
    monkeypatch.setattr(checkpoint, "_key", lambda training: checkpoint._read(path)[0]["key"])
    with pytest.warns(UserWarning, match="its parameters are not those of this network"):
        assert checkpoint.load(other, path) is None


@pytest.mark.parametrize("is_earlier", [False, True], ids=["now", "before files said so"])
@pytest.mark.parametrize(("made_on", "device"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_checkpoint_of_another_kind_of_device_is_not_used(made_on, device, is_earlier, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    interrupted(fresh(), path, 3)
    about, tensors = checkpoint._read(path)
    assert about["device"] == "cpu"
    if made_on == "cuda":
        about["device"], tensors["cuda_generator_R"] = "cuda", tensors["cpu_generator_R"]
    if is_earlier:
        del about["device"]
    monkeypatch.setattr(checkpoint, "_read", lambda path: (about, tensors))
    training = fresh()
    before, training.device = state(fresh()), torch.device(device)
    with pytest.warns(UserWarning, match=f"it is of a training on {made_on}, this one is on {device}"):
        assert checkpoint.load(training, path) is None
    assert all(torch.equal(value, before[name]) for name, value in state(training).items())
    training.device = torch.device(made_on)
    checkpoint._check_fits(training, about, tensors)


def test_execution_may_change_between_the_parts(tmp_path):
    """It is no part of what is learnt: a cell goes on where another memory format began it."""
    path = tmp_path / "checkpoint.safetensors"
    interrupted(fresh(memory_format="contiguous"), path, 3)
    resumed = fresh(memory_format="channels_last")
    assert checkpoint.load(resumed, path) is not None
    for parameter in resumed.model.parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            assert resumed.optimizer.state[parameter][moment].stride() == parameter.stride()


@pytest.mark.parametrize("fault", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_earlier_file(fault, tmp_path, monkeypatch):
    training, path = fresh(), tmp_path / "checkpoint.safetensors"
    checkpoint.save(training, path)
    earlier = path.read_bytes()

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (type(path), "replace")}[fault], fail)
    training.step_in_epoch = 2
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(training, path)
    assert path.read_bytes() == earlier
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_the_file_is_tensors_and_json(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    interrupted(fresh("sgd"), path, 3)
    with safe_open(path, "pt") as file:
        assert file.metadata().keys() == {"about", "sha256"}
        assert json.loads(file.metadata()["about"])["step_in_epoch"] == 3


def tied() -> nn.Module:
    """Two layers that share one matrix."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Tanh(), nn.Linear(10, 10), nn.Linear(10, 10))
    model[4].weight = model[3].weight
    return model


class Fading(nn.Sequential):
    """What it gives depends on a buffer that is no part of its state, and changes with every batch."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, 10))
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.scale.mul_(0.9)
        return super().forward(x) * self.scale


@pytest.mark.parametrize("factory", ["tied", "Fading"])
def test_networks_whose_state_does_not_name_everything_once(factory, tmp_path):
    dataset = small_dataset()
    cell = CellConfig(model=CustomModel(factory=f"tests.test_checkpoint:{factory}"), data=dataset.config,
                      train=TrainConfig(epochs=1, global_batch_size=48))
    alone, path = Training(cell, 0, dataset), tmp_path / "checkpoint.safetensors"
    fit(alone)
    interrupted(Training(cell, 0, dataset), path, 2)
    resumed = Training(cell, 0, dataset)
    checkpoint.load(resumed, path)
    fit(resumed)
    assert_bit_equal(alone, resumed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fp16_on_a_gpu_resumes_with_its_scale_and_its_generator(tmp_path):
    model, _, _ = CASES["adam"]
    dataset = small_dataset(shift=2)
    dataset = type(dataset)(dataset.config, *(type(split)(split.images_NCHW.cuda(), split.labels_N.cuda())
                                              for split in (dataset.train, dataset.validation, dataset.test)), 0.0, 1.0)
    cell = CellConfig(model=model, data=DataConfig(dataset="synthetic", validation_size=40, shift=2),
                      train=TrainConfig(epochs=1, global_batch_size=48, precision="fp16"),
                      execution=ExecutionConfig(deterministic=True))
    alone, path = Training(cell, 0, dataset), tmp_path / "checkpoint.safetensors"
    fit(alone)
    interrupted(Training(cell, 0, dataset), path, 3)
    resumed = Training(cell, 0, dataset)
    checkpoint.load(resumed, path)
    assert resumed.accelerator.scaler.get_scale() == alone.accelerator.scaler.get_scale()
    fit(resumed)
    torch.testing.assert_close(state(resumed), state(alone))
