"""The moving average of weights: by its sum written out, in evaluation, in a file, and captured or not."""

import pytest
import torch

from fmnist_core import checkpoint, weights
from fmnist_core.average import Average, averaged
from fmnist_core.config import CellConfig, DataConfig, Network2, TrainConfig
from fmnist_core.evaluation import evaluate
from fmnist_core.fused.training import FusedTraining, fused_fit
from fmnist_core.train import Training, fit, train_epoch
from tests.small import small_dataset


class Stopped(Exception):
    pass


def cell(**train) -> CellConfig:
    return CellConfig(model=Network2(dropout=0.0), data=DataConfig(dataset="synthetic", validation_size=40),
                      train=TrainConfig(**{"epochs": 2, "global_batch_size": 32, "ema": 0.9, **train}))


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().double().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("epochs", "last"), [(1, 9 / 17), (20, 0.1)])
def test_it_is_the_weighted_sum_of_all_that_the_weights_were(epochs, last):
    """Weights of the sum in closed form: step t keeps w_t of its own times what all later steps leave of it."""
    training = Training(cell(epochs=epochs), 0, small_dataset())
    seen = [snapshot(training.model)]
    fit(training, on_step=lambda running: seen.append(snapshot(running.model)))
    taken = [max(0.1, 9 / (10 + step)) for step in range(len(seen) - 1)]
    assert taken[0] == 0.9
    assert taken[-1] == last
    for name, mean in training.average.means.items():
        expected = seen[0][name]
        for share, value in zip(taken, seen[1:], strict=True):
            expected = (1 - share) * expected + share * value[name]
        torch.testing.assert_close(mean.double(), expected, rtol=1e-4, atol=1e-5)
    assert "batchnorm1.running_var" in training.average.means


def test_evaluation_sees_the_average_and_training_does_not():
    averaging, plain = Training(cell(), 0, small_dataset()), Training(cell(ema=0.0), 0, small_dataset())
    histories = fit(averaging), fit(plain)
    assert histories[0].train_loss == histories[1].train_loss
    assert histories[0].test_loss != histories[1].test_loss
    assert all(torch.equal(a, b) for a, b in zip(averaging.model.parameters(), plain.model.parameters(), strict=True))
    mean = plain.model
    mean.load_state_dict({**mean.state_dict(), **averaging.average.means})
    assert evaluate(plain, plain.dataset.test).loss == histories[0].test_loss[-1]


def test_what_is_swapped_in_is_taken_out_again_after_an_error_too():
    model = torch.nn.Linear(2, 2)
    average = Average(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(5.0)
    inside = []

    def look_and_fail():
        with averaged(average):
            inside.append(model.weight.detach().clone())
            raise Stopped

    with pytest.raises(Stopped):
        look_and_fail()
    assert not (inside[0] == 5).any()
    assert (model.weight == 5).all()


def test_a_training_that_goes_on_from_a_file_has_the_same_average(tmp_path):
    whole = Training(cell(), 0, small_dataset())
    history = fit(whole)
    begun, file = Training(cell(), 0, small_dataset()), tmp_path / "checkpoint"

    def stop(training):
        if training.step == 11:
            checkpoint.save(training, file)
            raise Stopped

    with pytest.raises(Stopped):
        fit(begun, on_step=stop)
    resumed = Training(cell(), 0, small_dataset())
    assert checkpoint.load(resumed, file) is not None
    assert fit(resumed).test_loss == history.test_loss
    for name, value in whole.average.tensors().items():
        assert torch.equal(value, resumed.average.tensors()[name]), name


def test_the_average_is_what_is_kept_and_what_fused_seeds_evaluate(tmp_path):
    by_sgd = cell(optimizer="sgd", learning_rate=0.05)  # Adam would make steps of rounding noise
    training = Training(by_sgd, 0, small_dataset())
    history = fit(training)
    weights.save(tmp_path / "weights", training)
    kept = weights.load(tmp_path / "weights").model.state_dict()
    assert torch.equal(kept["conv1.weight"], training.average.means["conv1.weight"])
    fused = FusedTraining(by_sgd, (0, 1), small_dataset())
    outcomes = fused_fit(fused)
    assert outcomes[0].test_loss == pytest.approx(history.test_loss, rel=1e-3)
    torch.testing.assert_close(fused.single(0).state_dict()["conv1.weight"], kept["conv1.weight"], rtol=1e-3, atol=1e-4)


def test_an_epoch_more_moves_it():
    training = Training(cell(), 0, small_dataset())
    train_epoch(training)
    before = {name: value.clone() for name, value in training.average.means.items()}
    train_epoch(training)
    assert not any(torch.equal(value, before[name]) for name, value in training.average.means.items())
