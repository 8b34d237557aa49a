"""Baselines against scikit-learn used directly, against loops in numpy, and by what the split must leave out."""

import sys
import time
import warnings
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
import sklearn
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from bench import experiment
from bench.record import Epochs
from fmnist_core import baselines, data, evaluation
from fmnist_core.baselines import KINDS, Fitted, estimator_for
from fmnist_core.config import Baseline, CellConfig, DataConfig, Estimator, ExecutionConfig, TrainConfig, quality_key
from fmnist_core.data import Dataset
from fmnist_core.models.catalogue import CITED, NON_NEURAL, by_cell
from fmnist_core.seeds import stream
from tests.small import small_dataset

SMALL: dict[str, dict[str, Any]] = {
    "gradient_boosting": {"n_estimators": 3, "max_features": "sqrt"}, "random_forest": {"n_estimators": 30},
    "mlp": {"max_iter": 30}}
"""Options that keep a fit below a second; scikit-learn's defaults for the others."""
WITHOUT_PROBABILITIES = {"linear_svm", "svm", "passive_aggressive", "perceptron", "sgd"}
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)


@pytest.fixture(autouse=True)
def one_thread():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return small_dataset(300, 60, 200)


def fit(dataset: Dataset, estimator: Estimator, seed: int = 0, **options: Any) -> Fitted:
    return baselines.fit(CellConfig(model=Baseline(estimator=estimator, options=options)), seed, dataset)


def pixels(split: data.Split) -> tuple[np.ndarray, np.ndarray]:
    return split.images_NCHW.flatten(1).double().numpy(), split.labels_N.numpy()


def test_thirteen_estimators_have_a_class_each():
    assert set(KINDS) == set(ESTIMATORS)
    assert len(ESTIMATORS) == 13


@pytest.mark.parametrize("name", ESTIMATORS)
def test_each_is_scikit_learns_own_on_standardized_pixels(name: Estimator, dataset: Dataset):
    """A pipeline with the same settings is the oracle, `score` and `log_loss` those of the figures; chance is 0.1."""
    options = SMALL.get(name, {})
    fitted = fit(dataset, name, **options)
    history, (test_NP, labels_N) = fitted.history, pixels(dataset.test)
    oracle = make_pipeline(StandardScaler(), estimator_for(Baseline(estimator=name, options=options), 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        oracle.fit(*pixels(dataset.train))
    assert history.test_accuracy == [pytest.approx(oracle.score(test_NP, labels_N))]
    assert history.validation_accuracy == [pytest.approx(oracle.score(*pixels(dataset.validation)))]
    assert history.train_subset_accuracy == [pytest.approx(oracle.score(*pixels(dataset.train)))]
    assert history.test_accuracy[0] > (0.3 if name in ("extra_tree", "decision_tree") else 0.6)
    confusion = sklearn.metrics.confusion_matrix(labels_N, oracle.predict(test_NP), labels=range(10))
    assert fitted.confusion_KK == confusion.tolist()
    if name in WITHOUT_PROBABILITIES:
        assert history.train_subset_loss == history.validation_loss == history.test_loss == []
    else:
        loss = sklearn.metrics.log_loss(labels_N, oracle.predict_proba(test_NP), labels=range(10))
        assert history.test_loss == [pytest.approx(loss)]
        assert len(history.train_subset_loss) == len(history.validation_loss) == 1
    assert fitted.precision == "float64"


def test_what_a_fit_gives_is_a_records(dataset: Dataset):
    """Lists of one, and nothing that JSON has no number for."""
    start = time.perf_counter()
    history = fit(dataset, "decision_tree").history
    assert 0 < history.train_s[0] < time.perf_counter() - start
    assert history.train_loss == []  # there are no steps to take a mean of
    assert history.train_subset_loss == [pytest.approx(0)]
    assert 1 < history.test_loss[0] < -np.log(2e-16)  # certain and at times wrong, but finite
    text = msgspec.json.encode(Epochs(**vars(history)))
    assert b"null" not in text
    assert msgspec.json.decode(text, type=Epochs).test_loss == history.test_loss


def test_the_split_is_that_of_the_networks():
    """The nearest training image, found by a loop over the split that `data.load` gives."""
    config = DataConfig(dataset="synthetic", validation_size=59_700, split_seed=3)
    loaded = data.load(config)
    first = lambda split: data.Split(split.images_NCHW[:50], split.labels_N[:50])
    few = Dataset(config, loaded.train, first(loaded.validation), first(loaded.test), 0.0, 1.0)
    cell = CellConfig(model=Baseline(estimator="k_nearest_neighbors", options={"n_neighbors": 1}), data=config)
    history = baselines.fit(cell, 0, few).history
    train_NP, labels_N = pixels(few.train)
    assert train_NP.shape == (300, 784)
    assert history.train_subset_accuracy == [1.0]
    for part, accuracies in ((few.validation, history.validation_accuracy), (few.test, history.test_accuracy)):
        hits = [labels_N[(((train_NP - image_P) / train_NP.std(0)) ** 2).sum(1).argmin()] == label
                for image_P, label in zip(*pixels(part), strict=True)]
        assert accuracies == [pytest.approx(np.mean(hits))]


def test_without_a_validation_set_there_is_no_validation_accuracy():
    history = fit(small_dataset(100, 0, 20), "gaussian_nb").history
    assert history.validation_accuracy == history.validation_loss == []
    assert len(history.test_accuracy) == 1


def test_only_the_first_training_images_are_evaluated(dataset: Dataset, monkeypatch: pytest.MonkeyPatch):
    accuracy_of = lambda: fit(dataset, "extra_tree", max_depth=3).history.train_subset_accuracy[0]
    everything = accuracy_of()
    assert 0.1 < everything < 0.9
    monkeypatch.setattr(evaluation, "TRAIN_SUBSET", 1)
    assert accuracy_of() in (0, 1)


def test_images_may_have_another_size(dataset: Dataset):
    smaller = lambda split: data.Split(split.images_NCHW[:, :, ::4, ::4].float() / 255, split.labels_N)
    parts = [smaller(split) for split in (dataset.train, dataset.validation, dataset.test)]
    small = Dataset(dataset.config, *parts, 0.0, 1.0)
    assert small.input_shape == (1, 7, 7)
    assert fit(small, "gaussian_nb").history.test_accuracy[0] > 0.6


@pytest.mark.parametrize("name", ["extra_tree", "random_forest", "mlp", "sgd"])
def test_the_seed_decides_and_nothing_else(name: Estimator):
    """Few images, of which nothing is learnt well."""
    few = small_dataset(20, 0, 200)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(results))
        np.random.seed(len(results))
        fitted = fit(few, name, seed, **SMALL.get(name, {}))
        results.append((fitted.confusion_KK, fitted.history.test_accuracy, fitted.history.train_subset_loss))
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_the_seed_is_the_stream_for_initialisation():
    for seed in (0, 1, 7):
        tree = estimator_for(Baseline(estimator="decision_tree"), seed)
        assert tree.random_state == stream(seed, "init") & 0xFFFFFFFF
    assert not hasattr(estimator_for(Baseline(estimator="gaussian_nb"), 0), "random_state")


def test_options_go_through_to_scikit_learn():
    made = estimator_for(Baseline(estimator="sgd", options={"tol": "none", "penalty": "l1", "max_iter": 5}), 0)
    assert (made.tol, made.penalty, made.max_iter) == (None, "l1", 5)
    assert estimator_for(Baseline(estimator="passive_aggressive", options={"eta0": 10.0}), 0).eta0 == 10


@pytest.mark.parametrize(("name", "options", "message"), [
    ("random_forest", {"max_dept": 3}, r"unknown key 'model\.options\.max_dept' of estimator 'random_forest'; did you "
                                       r"mean 'max_depth'\?; options: .*n_estimators"),
    ("gaussian_nb", {"xyzzy": 1}, r"unknown key 'model\.options\.xyzzy' of estimator 'gaussian_nb'; options: priors"),
    ("svm", {"random_state": 1}, r"unknown key 'model\.options\.random_state'"),
])
def test_an_unknown_option_is_refused(name: Estimator, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        estimator_for(Baseline(estimator=name, options=options), 0)


def test_a_wrong_value_is_scikit_learns_to_refuse(dataset: Dataset):
    with pytest.raises(ValueError, match="max_depth"):
        fit(dataset, "decision_tree", max_depth=-1)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"needs scikit-learn: pip install 'fmnist-bench\[baselines\]'"):
        estimator_for(Baseline(estimator="gaussian_nb"), 0)


@pytest.mark.parametrize(("version", "fits"), [("1.7.2", False), ("0.24", False), ("1.8.0", True), ("1.10rc1", True),
                                               ("2.0.dev0", True)])
def test_an_old_scikit_learn_is_refused(version: str, fits: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sklearn, "__version__", version)
    if fits:
        estimator_for(Baseline(estimator="gaussian_nb"), 0)
    else:
        with pytest.raises(ValueError, match=rf"1\.8 or newer, found {version}"):
            estimator_for(Baseline(estimator="gaussian_nb"), 0)


@pytest.mark.parametrize("options", [{}, {"C": 0.01}])
def test_passive_aggressive_is_the_class_that_went(options: dict[str, float], dataset: Dataset):
    if not hasattr(sklearn.linear_model, "PassiveAggressiveClassifier"):
        pytest.skip("this scikit-learn has it no longer")
    train_NP, labels_N = pixels(dataset.train)
    train_NP = StandardScaler().fit_transform(train_NP)
    ours = estimator_for(Baseline(estimator="passive_aggressive", options={"eta0": options.get("C", 1.0)}), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = sklearn.linear_model.PassiveAggressiveClassifier(**options, random_state=ours.random_state)
        theirs.fit(train_NP, labels_N)
    np.testing.assert_array_equal(ours.fit(train_NP, labels_N).coef_, theirs.coef_)


def test_liblinear_separates_each_class_from_the_rest(dataset: Dataset):
    """Ten fits of two classes; the largest score wins."""
    options = {"solver": "liblinear", "l1_ratio": 1.0, "C": 0.1}
    one_of_ten = estimator_for(Baseline(estimator="logistic_regression", options=options), 0)
    train_NP, labels_N = pixels(dataset.train)
    scaler = StandardScaler().fit(train_NP)
    scores = [sklearn.base.clone(one_of_ten.estimator).fit(scaler.transform(train_NP), labels_N == label)
              .decision_function(scaler.transform(pixels(dataset.test)[0])) for label in range(10)]
    accuracy = (np.argmax(scores, axis=0) == dataset.test.labels_N.numpy()).mean()
    assert fit(dataset, "logistic_regression", **options).history.test_accuracy == [pytest.approx(accuracy)]


@pytest.mark.parametrize(("name", "options", "extra"), [
    ("mlp", {"max_iter": 2}, {"converged": 0.0}), ("svm", {}, {"converged": 1.0}), ("gaussian_nb", {}, {}),
    ("logistic_regression", {"solver": "liblinear", "max_iter": 1}, {"converged": 0.0}),
    ("sgd", {"max_iter": 2, "tol": "none"}, {}), ("sgd", {"max_iter": 2}, {"converged": 0.0}),
])
def test_a_solver_that_ran_into_its_limit_is_marked(name: Estimator, options: dict[str, Any], extra: dict[str, float],
                                                    dataset: Dataset):
    assert fit(dataset, name, **options).extra == extra


def test_other_warnings_are_passed_on(dataset: Dataset):
    with pytest.warns(FutureWarning, match="penalty"):
        fit(dataset, "logistic_regression", penalty="l2")


def test_a_class_that_was_not_trained_has_no_probability():
    few = small_dataset(300, 20, 100)
    keep = few.train.labels_N != 4
    train = data.Split(few.train.images_NCHW[keep], few.train.labels_N[keep])
    fitted = fit(Dataset(few.config, train, few.validation, few.test, 0.0, 1.0), "gaussian_nb")
    assert sum(row[4] for row in fitted.confusion_KK) == 0
    assert fitted.history.test_loss[0] > -np.log(2.3e-16) * (few.test.labels_N == 4).float().mean().item() * 0.99


# Configuration


@pytest.mark.parametrize(("settings", "key"), [
    ({"train": TrainConfig(epochs=3)}, "train.epochs = 3"),
    ({"train": TrainConfig(precision="bf16")}, "train.precision = bf16"),
    ({"execution": ExecutionConfig(compile="default")}, "execution.compile = default"),
    ({"data": DataConfig(flip="random")}, "data.flip = random"),
    ({"data": DataConfig(normalize=True)}, "data.normalize = True"),
    ({"data": DataConfig(augment_test=True)}, "data.augment_test = True"),
])
def test_settings_without_effect_are_refused(settings: dict[str, Any], key: str):
    with pytest.raises(ValueError, match=f"{key} has no effect on model.name = 'baseline'; allowed: data.dataset, "):
        CellConfig(model=Baseline(estimator="gaussian_nb"), **settings)


def test_settings_with_an_effect_are_allowed_and_part_of_the_key():
    cell = lambda **settings: CellConfig(model=Baseline(estimator="mlp"), data=DataConfig(**settings))
    settings: list[dict[str, Any]] = [{}, {"validation_size": 0}, {"split_seed": 1}, {"input_size": 14},
                                      {"dataset": "mnist"}, {"dataset": "idx", "sha256": "0" * 64}]
    assert len({quality_key(cell(**each), 0) for each in settings}) == len(settings)


def test_an_unknown_estimator_is_refused():
    content = {"question": "?", "cells": [{"model": {"name": "baseline", "estimator": "mpl"}}]}
    with pytest.raises(ValueError, match=r"model\.estimator = 'mpl'.*allowed: gaussian_nb, .*mlp"):
        experiment.parse(content, name="mine")


# The benchmark's rows


def test_each_row_is_trained_by_a_cell_that_shows_its_number():
    loaded = experiment.load("cited_non_neural")
    assert [cell.label for cell in loaded.cells] == [entry.name for entry in NON_NEURAL]
    assert not any(cell.has_steps for cell in loaded.cells)
    for cell in loaded.cells:
        entry, model = by_cell("cited_non_neural", cell.label), cell.config.model
        assert entry is not None
        assert isinstance(model, Baseline)
        assert (model.estimator, model.options) == (entry.system, dict(entry.options))
        assert cell.reported.test_accuracy == entry.authors_accuracy
        assert cell.reported.source
        estimator_for(model, 0)
    assert {entry.system for entry in NON_NEURAL} == set(ESTIMATORS)


def test_the_reports_claim_leaves_the_best_out():
    """The report's 51 to 86.8 % ends below four of the benchmark's own rows."""
    accuracies = {entry.name: entry.authors_accuracy or 0 for entry in NON_NEURAL}
    assert min(accuracies.values()) == accuracies["Gaussian naive Bayes"] == 0.511
    above = {name for name, accuracy in accuracies.items() if accuracy > 0.868}
    assert above == {"SVM, RBF kernel", "Gradient boosting", "Random forest", "MLP"}
    assert max(accuracies, key=lambda name: accuracies[name]) == "SVM, RBF kernel"


def test_rows_read_nowhere_are_marked_as_remembered():
    read = {entry.name for entry in NON_NEURAL if entry.evidence == "secondary"}
    assert read == {"SVM, RBF kernel", "Random forest", "MLP", "k nearest neighbours", "Logistic regression",
                    "Linear SVM"}
    assert {entry.evidence for entry in NON_NEURAL} == {"secondary", "remembered"}
    assert not {entry.name for entry in NON_NEURAL} & {entry.name for entry in CITED}
