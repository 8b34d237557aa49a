"""Each epoch of a training reported to TensorBoard, Weights & Biases and others, through Accelerate's interface.

Trackers that write files do so below the store: `tracking/<experiment>/<cell>, seed <seed> (<key>)/`. What Accelerate
needs is imported when the first epoch is over. No torch before that.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.inputs.settings import every_setting
from bench.sweep.plan import Task
from fmnist_core.nearest import nearest
from fmnist_core.schedule import learning_rate

TRACKERS = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")
"""Accelerate's names of them, which are also those of the packages that they need."""
FOLDER = "tracking"

OnEpoch = Callable[[Any], None]
"""Called with the `Training`."""


def check(names: Sequence[str]) -> None:
    """Raises ValueError for a tracker that is not known, or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"--track {name}: unknown{nearest(name, TRACKERS)}; allowed: {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise ValueError(f"--track {name}: the package {name} is not installed; type: pip install {name}")


@contextlib.contextmanager
def tracked(names: Sequence[str], store: Path, task: Task, also: OnEpoch) -> Iterator[OnEpoch]:
    """What to call after each epoch of the task's training: `also`, and each of the trackers until the block ends.

    A tracker that fails is no reason to stop: there is a warning, and the rest of the training is not tracked.
    """
    run = _Run(names, store / FOLDER, task)

    def on_epoch(training: Any) -> None:
        also(training)
        run.epoch(training)

    try:
        yield on_epoch if names else also
    finally:
        run.end()


def values(training: Any) -> dict[str, float]:
    """Of the epoch that is over: losses, accuracies (fractions), training images per second and learning rate."""
    history = training.history
    series = {
        "loss/train": history.train_loss, "loss/train_subset": history.train_subset_loss,
        "loss/validation": history.validation_loss, "loss/test": history.test_loss,
        "accuracy/train_subset": history.train_subset_accuracy, "accuracy/validation": history.validation_accuracy,
        "accuracy/test": history.test_accuracy,
    }
    rate = learning_rate(training.step - 1, training.num_steps, training.cell.train)
    return {**{name: each[-1] for name, each in series.items() if each}, "learning_rate": rate,
            "images_per_s": len(training.dataset.train) / history.train_s[-1]}


def hyperparameters(task: Task) -> dict[str, bool | int | float | str]:
    """The whole configuration of the task's cell, by dotted key, and the seed."""
    plain = {key: value if isinstance(value, bool | int | float | str) else str(value)
             for key, value in every_setting(task.cell.config).items()}
    return {**plain, "experiment": task.experiment, "label": task.cell.label, "seed": task.seed or 0}


class _Run:
    """The trackers of one training, begun when its first epoch is over."""

    def __init__(self, names: Sequence[str], folder: Path, task: Task) -> None:
        self._names, self._folder, self._task = names, folder, task
        self._accelerator: Any = None

    def epoch(self, training: Any) -> None:
        with self._no_reason_to_stop():
            if self._names and self._accelerator is None:
                self._begin(training)
            if self._accelerator is not None:
                self._accelerator.log(values(training), step=training.epoch)

    def end(self) -> None:
        """Not by `end_training`, which would take the process group from the cells that follow."""
        accelerator, self._accelerator = self._accelerator, None
        if accelerator is not None:
            with self._no_reason_to_stop():
                for tracker in accelerator.trackers:
                    tracker.finish()

    def _begin(self, training: Any) -> None:
        from accelerate.tracking import TensorBoardTracker  # brings torch along

        from fmnist_core.accelerator import accelerator_for

        task, run = self._task, Path(self._task.folder).name
        # What an earlier attempt wrote of this epoch and later ones is no longer shown.
        board = TensorBoardTracker(task.folder, self._folder, purge_step=training.epoch)
        trackers = [board if name == "tensorboard" else name for name in dict.fromkeys(self._names)]
        self._folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{self._folder.resolve()}/mlflow.db")
        accelerator = accelerator_for(task.cell.config.train.precision, log_with=trackers, project_dir=self._folder)
        own = {"wandb": {"name": run, "dir": str(self._folder)}, "mlflow": {"run_name": run}, "trackio": {"name": run},
               "swanlab": {"experiment_name": run, "logdir": str(self._folder)}, "clearml": {"task_name": run},
               "comet_ml": {}, "aim": {}, "dvclive": {"dir": str(self._folder / task.folder)}}
        accelerator.init_trackers(task.experiment, hyperparameters(task), own)
        self._accelerator = accelerator

    @contextlib.contextmanager
    def _no_reason_to_stop(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._names, self._accelerator = (), None
            warnings.warn(f"{self._task.name}: no longer tracked: {type(error).__name__}: {error}", stacklevel=1)
