"""The training core against plain loops written out here."""

import copy
import math
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fmnist_core import evaluation, train
from fmnist_core.config import CellConfig, DataConfig, ExecutionConfig, KernelDepthCNN, Network1, Network2, TrainConfig
from fmnist_core.data import Split
from fmnist_core.evaluation import evaluate
from fmnist_core.models.build import build
from fmnist_core.seeds import stream
from fmnist_core.steps import Diverged
from fmnist_core.train import Training, fit, train_epoch, train_step
from tests.small import small_dataset


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def cell(model=None, execution=None, data=None, **options) -> CellConfig:
    options = {"epochs": 2, "global_batch_size": 32, **options}
    return CellConfig(model=model or Network2(dropout=0.0), train=TrainConfig(**options),
                      execution=execution or ExecutionConfig(memory_format="contiguous"),
                      data=data or DataConfig(dataset="synthetic", validation_size=40))


def plain_loop(model, optimizer, dataset, seed, epochs, batch_size, loss=F.cross_entropy, clip=0.0):
    """What a tutorial writes: float images in [0, 1], a fresh shuffle each epoch, the short last batch kept."""
    losses = []
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(stream(seed, "order", epoch))
        order = torch.randperm(len(dataset.train), generator=generator)
        for start in range(0, len(order), batch_size):
            index = order[start : start + batch_size]
            value = loss(model(dataset.train.images_NCHW[index] / 255), dataset.train.labels_N[index])
            optimizer.zero_grad()
            value.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            losses.append(value.item() * len(index))
    return losses


def initial_model(config, seed=0):
    torch.manual_seed(stream(seed, "init"))
    return build(config, (1, 28, 28))


def assert_same_parameters(model, other, tolerance=1e-5):
    """All but biases before a batch norm: their gradient is rounding noise, which Adam makes a step of full size."""
    names = [name for name, _ in model.named_parameters()]
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        if name.endswith("bias") and name.replace("conv", "batchnorm") in names and name.startswith("conv"):
            continue
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3, weight_decay=0.01),
}
OPTIONS = {
    "adamw": {"weight_decay": 0.1}, "sgd": {"momentum": 0.9, "nesterov": True}, "rmsprop": {"weight_decay": 0.01},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("model", [
    Network1(dropout=0.0), Network2(dropout=0.0), KernelDepthCNN(kernel_size=4, width=4),
], ids=["network1", "network2", "cnn"])
def test_training_equals_a_plain_loop_remainder_batch_included(name, model):
    dataset = small_dataset()
    assert len(dataset.train) % 32
    training = Training(cell(model, optimizer=name, **OPTIONS.get(name, {})), 3, dataset)
    oracle = initial_model(model, seed=3)
    losses = plain_loop(oracle, OPTIMIZERS[name](oracle.parameters()), dataset, 3, 2, 32)
    history = fit(training)
    per_epoch = len(losses) // 2
    expected = [sum(losses[:per_epoch]) / 230, sum(losses[per_epoch:]) / 230]
    assert history.train_loss == pytest.approx(expected, rel=1e-4)
    assert_same_parameters(training.model, oracle, 1e-4)


def test_no_step_searches_the_disk_for_a_module(monkeypatch):
    """Accelerate asks for an optional package twice a step; answered from memory, or the search path is read."""
    training, searched = Training(cell(), 0, small_dataset()), []
    training.step_on(torch.arange(32))  # what the first step imports is its own affair

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            searched.append(name)

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    training.step_on(torch.arange(32))
    assert not searched
    monkeypatch.delitem(sys.modules, "lomo_optim")
    training.step_on(torch.arange(32))
    assert searched == ["lomo_optim"] * 2


def test_accumulation_gives_the_step_of_the_whole_batch():
    """Without batch norm; 32 images in 3 parts are parts of unequal size."""
    dataset, model = small_dataset(), Network1(dropout=0.0)
    whole = Training(cell(model, optimizer="sgd"), 0, dataset)
    parts = Training(cell(model, optimizer="sgd", gradient_accumulation=3), 0, dataset)
    for training in (whole, parts):
        train_epoch(training)
    assert_same_parameters(parts.model, whole.model)
    assert whole.losses == pytest.approx(parts.losses, rel=1e-4)


def test_gradient_clipping_equals_the_plain_loop_and_does_something():
    dataset, model = small_dataset(), Network1(dropout=0.0)
    clipped = Training(cell(model, optimizer="sgd", learning_rate=0.1, gradient_clip_norm=0.01), 0, dataset)
    oracle = initial_model(model)
    plain_loop(oracle, torch.optim.SGD(oracle.parameters(), 0.1), dataset, 0, 1, 32, clip=0.01)
    train_epoch(clipped)
    assert_same_parameters(clipped.model, oracle)
    free = Training(cell(model, optimizer="sgd", learning_rate=0.1), 0, dataset)
    train_epoch(free)
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(free.model.parameters(), oracle.parameters(), strict=True))


def test_memory_format_changes_speed_and_not_what_is_learnt():
    dataset = small_dataset()
    trainings = [Training(cell(execution=ExecutionConfig(memory_format=form)), 0, dataset)
                 for form in ("contiguous", "channels_last")]
    for training in trainings:
        train_epoch(training)
    assert_same_parameters(trainings[0].model, trainings[1].model, 1e-3)


def test_compiled_equals_eager():
    dataset = small_dataset(num_train=96)
    eager = Training(cell(epochs=1), 0, dataset)
    execution = ExecutionConfig(memory_format="contiguous", compile="default")
    compiled = Training(cell(epochs=1, execution=execution), 0, dataset)
    train_epoch(eager)
    train_epoch(compiled)
    assert_same_parameters(eager.model, compiled.model, 1e-4)


def test_bf16_computes_in_bf16_and_learns():
    dataset = small_dataset()
    training = Training(cell(precision="bf16", epochs=3), 0, dataset)
    history = fit(training)
    assert history.train_loss[-1] < 0.7 * history.train_loss[0]
    assert training.accelerator.mixed_precision == "bf16"
    assert Training(cell(), 0, dataset).accelerator.mixed_precision == "no"


def test_seeds_give_the_same_run_again_and_different_runs():
    dataset = small_dataset()
    histories = [fit(Training(cell(Network2(dropout=0.5), epochs=1), seed, dataset)).train_loss for seed in (0, 0, 1)]
    assert histories[0] == histories[1] != histories[2]


def test_no_two_seeds_or_epochs_share_a_shuffle():
    dataset, seen = small_dataset(), set()
    for seed in range(4):
        training = Training(cell(KernelDepthCNN(depth=1, width=1)), seed, dataset)
        for epoch in range(6):
            training.epoch = epoch
            order = tuple(training.order().tolist())
            assert sorted(order) == list(range(230))
            seen.add(order)
    assert len(seen) == 24


def test_nothing_in_an_epoch_waits_for_the_device(monkeypatch):
    """`.item()` and the like within the loop would stall a GPU: they are counted over three steps."""
    from fmnist_core.observe import WAITS, count_operators, count_waits

    augmentation = {"flip": "random", "shift": 2, "erasing": 0.5}
    data = DataConfig(dataset="synthetic", validation_size=40, **augmentation)
    training = Training(cell(data=data), 0, small_dataset(**augmentation))
    operators = count_operators(training)
    assert count_waits(operators) == 0
    original = train.train_step

    def with_a_wait(*arguments):
        loss = original(*arguments)
        loss.item()
        return loss

    monkeypatch.setattr("fmnist_core.observe.train_step", with_a_wait)
    assert count_waits(count_operators(training)) == 1
    assert "aten::_local_scalar_dense" in WAITS


def test_evaluation_counts_every_image_once_and_agrees_with_a_plain_one():
    dataset = small_dataset()
    training = Training(cell(), 0, dataset)
    result = evaluate(training, dataset.test, keep_logits=True)
    with torch.no_grad():
        logits = copy.deepcopy(training.model).eval()(dataset.test.images_NCHW / 255)
    assert result.accuracy == (logits.argmax(1) == dataset.test.labels_N).double().mean().item()
    assert result.loss == pytest.approx(F.cross_entropy(logits, dataset.test.labels_N).item(), rel=1e-5)
    torch.testing.assert_close(result.logits_NK, logits, rtol=1e-4, atol=1e-5)
    assert training.model.training


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("batch", [128, 256, 512])
def test_the_parts_of_all_processes_are_the_test_set(world, batch, monkeypatch):
    """Processes simulated one after the other; what each saw is added up as the reduction would."""
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", batch)
    dataset = small_dataset(num_train=40, num_test=1003)
    training = Training(cell(KernelDepthCNN(depth=1, width=1)), 0, dataset)
    alone = evaluate(training, dataset.test)
    seen, sums = torch.zeros(1003, dtype=torch.int32), torch.zeros(2, dtype=torch.float64)
    monkeypatch.setattr(evaluation, "_model_to_evaluate", lambda training: training.model)
    for rank in range(world):
        training.rank, training.num_processes = rank, world

        def collect(tensor, how):
            (seen if tensor.dtype == torch.int32 else sums).add_(tensor)
            return torch.ones_like(tensor) if tensor.dtype == torch.int32 else tensor

        monkeypatch.setattr(training.accelerator, "reduce", collect)
        evaluate(training, dataset.test)
    assert bool((seen == 1).all())
    assert sums[1].item() / 1003 == alone.accuracy
    assert sums[0].item() / 1003 == pytest.approx(alone.loss, rel=1e-5)


def test_every_process_evaluates_by_the_statistics_of_the_first(monkeypatch):
    training = Training(cell(Network2(dropout=0.0)), 0, small_dataset())
    training.num_processes, training.model = 2, nn.Module()
    training.model.module = training.network  # as DDP holds it
    monkeypatch.setattr(torch.distributed, "broadcast", lambda buffer, source: buffer.fill_(7 + source))
    buffers = list(evaluation._model_to_evaluate(training).buffers())
    assert buffers
    assert all(bool((buffer == 7).all()) for buffer in buffers)


def test_after_an_epoch_each_part_is_evaluated_and_of_the_training_images_the_first(monkeypatch):
    monkeypatch.setattr(evaluation, "TRAIN_SUBSET", 100)
    training = Training(cell(epochs=1), 0, small_dataset())
    history, dataset = fit(training), training.dataset
    first = Split(dataset.train.images_NCHW[:100], dataset.train.labels_N[:100])
    for part, split in (("train_subset", first), ("validation", dataset.validation), ("test", dataset.test)):
        alone = evaluate(training, split)
        assert getattr(history, f"{part}_loss") == [pytest.approx(alone.loss)]
        assert getattr(history, f"{part}_accuracy") == [alone.accuracy]
    assert [part for part, *_ in evaluation.parts(small_dataset(num_validation=0))] == ["train_subset", "test"]


@pytest.mark.parametrize(("times", "said"), [(2, "0 of 70 images once, 70 more often"), (0, "0 of 70 images once, 0")])
def test_an_image_evaluated_twice_or_never_is_a_hard_failure(times, said, monkeypatch):
    dataset = small_dataset()
    training = Training(cell(), 0, dataset)
    monkeypatch.setattr(training.accelerator, "reduce", lambda tensor, how: times * tensor)
    with pytest.raises(AssertionError, match=said):
        evaluate(training, dataset.test)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_loss_that_is_not_finite_stops_before_it_spreads(optimizer):
    training = Training(cell(optimizer=optimizer), 0, small_dataset())
    good = {name: p.detach().clone() for name, p in training.model.named_parameters()}
    steps = 0

    def poison(running):
        nonlocal good, steps
        steps += 1
        if steps == 3:
            good = {name: p.detach().clone() for name, p in running.model.named_parameters()}
            running.dataset.train.images_NCHW.data = torch.full((230, 1, 28, 28), math.nan)

    with pytest.raises(Diverged, match=r"the loss was nan at step 4 of 16"):
        train_epoch(training, poison)
    for name, parameter in training.model.named_parameters():
        assert torch.equal(parameter, good[name]), name


def test_a_network_that_is_not_finite_in_evaluation_has_diverged():
    """Its last step went too far, and no step came after it to show that."""
    training = Training(cell(optimizer="sgd", learning_rate=1e30, epochs=1, global_batch_size=230), 0, small_dataset())
    with pytest.raises(Diverged, match=r"the loss on the training images was (nan|inf) after epoch 1"):
        fit(training)


@pytest.mark.parametrize(("part", "images"), [("train_subset", "training"), ("validation", "validation"),
                                              ("test", "test")])
def test_a_last_loss_that_is_not_finite_is_named_by_its_images(part, images):
    history = evaluation.History()
    for losses in ((1.0, 0.0, 0.0), (math.nan, 1.0, 1.0)):  # an SVM's may be 0
        assert history.divergence() == ""
        for name, loss in zip((part, *{"train_subset", "validation", "test"} - {part}), losses, strict=True):
            history.add(name, loss, 0.5)
    assert history.divergence() == f"the loss on the {images} images was nan after epoch 2"
    assert [len(history.train_subset_loss), len(history.validation_loss), len(history.test_loss)] == [2, 2, 2]


def test_early_stopping_counts_epochs_without_a_better_validation_accuracy(monkeypatch):
    dataset = small_dataset()
    training = Training(cell(epochs=9, early_stopping_patience=2), 0, dataset)
    scripted = iter([0.1, 0.3, 0.2, 0.3, 0.9])

    def evaluations(training):
        training.history.validation_accuracy.append(next(scripted))

    monkeypatch.setattr(train, "evaluate_epoch", evaluations)
    fit(training)
    assert training.history.validation_accuracy == [0.1, 0.3, 0.2, 0.3]


def test_alternating_flip_shows_every_image_both_ways_in_two_epochs():
    data = DataConfig(dataset="synthetic", validation_size=40, flip="alternating")
    dataset = small_dataset(flip="alternating")
    training = Training(cell(data=data), 0, dataset)
    index = torch.arange(20)
    first, _ = training.batch(index)
    training.odd_epoch.fill_(True)
    second, _ = training.batch(index)
    plain = dataset.images(dataset.train, index)
    flipped = plain.flip(-1)
    was_flipped = torch.tensor([torch.equal(a, b) for a, b in zip(first, flipped, strict=True)])
    assert 0 < was_flipped.sum() < 20
    torch.testing.assert_close(second, torch.where(was_flipped[:, None, None, None], plain, flipped))


def test_every_other_epoch_is_odd():
    odd = {}
    fit(Training(cell(KernelDepthCNN(depth=1, width=1), epochs=4), 0, small_dataset()),
        on_step=lambda running: odd.setdefault(running.epoch, bool(running.odd_epoch)))
    assert odd == {0: False, 1: True, 2: False, 3: True}


def test_train_step_returns_the_mean_loss():
    dataset = small_dataset()
    training = Training(cell(), 0, dataset)
    images, labels = training.batch(torch.arange(32))
    expected = F.cross_entropy(copy.deepcopy(training.model)(images), labels).item()
    assert train_step(training, images, labels, 32).item() == pytest.approx(expected, rel=1e-6)


def test_deterministic_mode_is_on_for_the_cell_that_asks_and_off_for_the_next():
    """Every augmentation and layer of the project has deterministic algorithms; the same run twice is equal."""
    augmentation = {"flip": "random", "shift": 2, "rotation": 10.0, "erasing": 0.5}
    data = DataConfig(dataset="synthetic", validation_size=40, **augmentation)
    execution = ExecutionConfig(deterministic=True)
    runs = []
    for _ in range(2):
        training = Training(cell(Network2(), execution, data), 0, small_dataset(**augmentation))
        assert torch.are_deterministic_algorithms_enabled()
        runs.append(fit(training).train_loss)
    assert runs[0] == runs[1]
    Training(cell(), 0, small_dataset())
    assert not torch.are_deterministic_algorithms_enabled()


def test_data_on_another_device_is_told():
    dataset = small_dataset()
    elsewhere = replace(dataset, train=replace(dataset.train, labels_N=dataset.train.labels_N.to("meta")))
    with pytest.raises(ValueError, match="the data set lies on meta, the training on cpu"):
        Training(cell(), 0, elsewhere)
