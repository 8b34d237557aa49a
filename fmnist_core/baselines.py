"""The non-neural models of the data set's own benchmark, fitted by scikit-learn on the same split as the networks.

N images, P pixels, K classes. As in that benchmark, each pixel is standardized over the training images.
"""

import importlib
import re
import time
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fmnist_core.config import NUM_CLASSES, Baseline, CellConfig, Estimator
from fmnist_core.data import Dataset, Split
from fmnist_core.evaluation import History, parts
from fmnist_core.nearest import nearest
from fmnist_core.seeds import stream

OLDEST = (1, 8)
"""Of scikit-learn: before it SGDClassifier has no passive-aggressive steps, and LogisticRegression ignores `l1_ratio`
without `penalty`, which is deprecated since."""
EPSILON = float(np.finfo(np.float64).eps)
"""Least probability that enters a loss, as in scikit-learn's `log_loss`: trees are certain, and at times wrong."""


class Kind(NamedTuple):
    module: str
    name: str
    settings: dict[str, Any] = {}
    """Other than scikit-learn's defaults; `options` come on top."""


KINDS: dict[Estimator, Kind] = {
    "gaussian_nb": Kind("naive_bayes", "GaussianNB"),
    "decision_tree": Kind("tree", "DecisionTreeClassifier"),
    "extra_tree": Kind("tree", "ExtraTreeClassifier"),
    "random_forest": Kind("ensemble", "RandomForestClassifier"),
    "gradient_boosting": Kind("ensemble", "GradientBoostingClassifier"),
    "k_nearest_neighbors": Kind("neighbors", "KNeighborsClassifier"),
    "logistic_regression": Kind("linear_model", "LogisticRegression"),
    "linear_svm": Kind("svm", "LinearSVC"),
    "svm": Kind("svm", "SVC"),
    # PassiveAggressiveClassifier, which goes with 1.10, is this; its C is eta0.
    "passive_aggressive": Kind("linear_model", "SGDClassifier",
                               {"loss": "hinge", "penalty": None, "learning_rate": "pa1", "eta0": 1.0}),
    "perceptron": Kind("linear_model", "Perceptron"),
    "sgd": Kind("linear_model", "SGDClassifier"),
    "mlp": Kind("neural_network", "MLPClassifier"),
}


@dataclass(frozen=True)
class Fitted:
    """What a fit came to."""

    history: History
    """One epoch, which is the whole fit; no losses from an estimator without probabilities."""
    confusion_KK: list[list[int]]
    """Of the test set. Row: true class, column: predicted class."""
    precision: str
    """Data type of the pixels; the trees round them to float32."""
    extra: dict[str, float]
    """`converged`: 1, or 0 where the solver ran into `max_iter`; of solvers that look whether they have converged."""


def fit(cell: CellConfig, seed: int, dataset: Dataset) -> Fitted:
    """Fit the cell's baseline on `dataset.train` and evaluate it, with as many threads as torch has.

    Raises ValueError like `estimator_for`, and for the value of an option that scikit-learn refuses.
    """
    assert isinstance(cell.model, Baseline)
    estimator = estimator_for(cell.model, seed)
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    history, scaler = History(), StandardScaler(copy=False)
    with threadpool_limits(torch.get_num_threads()):
        train_NP, labels_N = scaler.fit_transform(_pixels(dataset.train)), _labels(dataset.train)
        start = time.perf_counter()
        converged = _fit(estimator, train_NP, labels_N)
        history.train_s.append(time.perf_counter() - start)
        for part, split, limit in parts(dataset):
            images_NP = train_NP[:limit] if split is dataset.train else scaler.transform(_pixels(split))
            true_N = _labels(split)[:limit]
            predicted_N, loss = _predict(estimator, images_NP, true_N)
            history.add(part, loss, float((predicted_N == true_N).mean()))
    # Of the last part, the test set.
    confusion = np.bincount(true_N * NUM_CLASSES + predicted_N, minlength=NUM_CLASSES**2)
    return Fitted(history, confusion.reshape(NUM_CLASSES, NUM_CLASSES).tolist(), str(train_NP.dtype),
                  {} if converged is None else {"converged": float(converged)})


def estimator_for(model: Baseline, seed: int) -> Any:
    """scikit-learn's estimator, not fitted. Raises ValueError for an unknown option, or without scikit-learn."""
    _check_installed()
    kind = KINDS[model.estimator]
    options = {key: None if value == "none" else value for key, value in model.options.items()}
    made = getattr(importlib.import_module(f"sklearn.{kind.module}"), kind.name)()
    known = made.get_params()
    draws = "random_state" in known
    known.pop("random_state", None)  # the seed's
    for key in options:
        if key not in known:
            raise ValueError(f"unknown key 'model.options.{key}' of estimator '{model.estimator}'"
                             f"{nearest(key, known)}; options: {', '.join(known)}")
    made.set_params(**{**kind.settings, **options})
    if draws:
        made.set_params(random_state=stream(seed, "init") % 2**32)  # all that numpy's RandomState takes
    if model.estimator == "logistic_regression" and made.solver == "liblinear":
        from sklearn.multiclass import OneVsRestClassifier
        return OneVsRestClassifier(made)  # that solver separates two classes
    return made


def _check_installed() -> None:
    install = "pip install 'fmnist-bench[baselines]'"
    try:
        import sklearn
    except ImportError as error:
        raise ValueError(f"model.name = 'baseline' needs scikit-learn: {install}") from error
    if tuple(int(number) for number in re.findall(r"\d+", sklearn.__version__)[:2]) < OLDEST:
        raise ValueError(f"model.name = 'baseline' needs scikit-learn {'.'.join(map(str, OLDEST))} or newer, "
                         f"found {sklearn.__version__}: {install}")


def _fit(estimator: Any, images_NP: NDArray[np.float64], labels_N: NDArray[np.int64]) -> bool | None:
    """Whether the solver stopped by its own criterion; None where it has none."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        estimator.fit(images_NP, labels_N)
    others = [each for each in caught if not issubclass(each.category, ConvergenceWarning)]
    for each in others:
        warnings.warn(each.message, stacklevel=2)
    params = getattr(estimator, "estimator", estimator).get_params()
    if "max_iter" not in params or params["tol"] is None:
        return None
    return len(others) == len(caught)


def _predict(estimator: Any, images_NP: NDArray[np.float64],
             labels_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], float | None]:
    """The predicted class of each image and, of an estimator with probabilities, the mean cross-entropy in nats."""
    if not hasattr(estimator, "predict_proba"):
        return estimator.predict(images_NP), None
    probability_NK = np.zeros((len(images_NP), NUM_CLASSES))
    probability_NK[:, estimator.classes_] = estimator.predict_proba(images_NP)
    true_N = probability_NK[np.arange(len(labels_N)), labels_N]
    return probability_NK.argmax(1), float(-np.log(true_N.clip(EPSILON, 1)).mean())


def _pixels(split: Split) -> NDArray[np.float64]:
    """(N, P); their range does not matter to a standardized pixel."""
    pixels: NDArray[np.float64] = split.images_NCHW.flatten(1).to("cpu", torch.float64).numpy()
    return pixels


def _labels(split: Split) -> NDArray[np.int64]:
    labels: NDArray[np.int64] = split.labels_N.cpu().numpy()
    return labels
