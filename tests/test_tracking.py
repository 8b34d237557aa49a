"""What trackers are told of a training: TensorBoard's files are read back."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import LoggerType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bench import experiment
from bench.sweep import one_task, tracking
from bench.sweep.attempts import Attempt
from bench.sweep.conditions import Conditions
from bench.sweep.plan import Task
from fmnist_core.config import CellConfig, KernelDepthCNN, TrainConfig, quality_key
from fmnist_core.train import Training, fit
from tests.small import small_dataset

NOTHING = lambda training: None


pytestmark = pytest.mark.usefixtures("small_data")


def task_of(seed=0, **train) -> Task:
    config = CellConfig(model=KernelDepthCNN(width=2, depth=1), data=small_dataset().config,
                        train=TrainConfig(epochs=3, global_batch_size=100, **train))
    return Task("mine", experiment.Cell(config=config, label="3x3 / small"), quality_key(config, seed), seed)


def run(task, store, names=("tensorboard",)):
    attempt = Attempt(store, task.key)
    with tracking.tracked(names, store, task, NOTHING) as on_epoch:
        return one_task.run(task, attempt, Conditions(num_threads=1, on_epoch=on_epoch))


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag to (epoch, value) of each event, as TensorBoard shows them."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_each_epoch_as_the_record_has_it(tmp_path):
    task = task_of(schedule="cosine")
    record = run(task, tmp_path)
    shown = read(tmp_path / "tracking" / task.folder)
    epochs = record.epochs
    expected = {"loss/train": epochs.train_loss, "loss/train_subset": epochs.train_subset_loss,
                "loss/validation": epochs.validation_loss, "loss/test": epochs.test_loss,
                "accuracy/train_subset": epochs.train_subset_accuracy,
                "accuracy/validation": epochs.validation_accuracy, "accuracy/test": epochs.test_accuracy,
                "images_per_s": [230 / seconds for seconds in epochs.train_s],
                # Cosine over 9 steps, of which an epoch takes 3: the rate of its last step.
                "learning_rate": [0.0005 * (1 + torch.cos(torch.tensor(step / 9 * torch.pi)).item())
                                  for step in (2, 5, 8)]}
    assert set(shown) == set(expected)
    for tag, values in expected.items():
        assert [step for step, _ in shown[tag]] == [1, 2, 3]
        assert [value for _, value in shown[tag]] == pytest.approx(values, rel=1e-5), tag


def test_the_configuration_is_kept_as_hyperparameters(tmp_path):
    task = task_of(seed=5)
    run(task, tmp_path)
    written = next((tmp_path / "tracking" / task.folder).rglob("hparams.yml")).read_text()
    for line in ("train.epochs: 3", "model.width: 2", "data.dataset: synthetic", "seed: 5", "label: 3x3 / small"):
        assert f"{line}\n" in written


def test_each_cell_and_seed_has_a_folder_that_any_file_system_takes(tmp_path):
    folders = {task_of(seed).folder for seed in range(3)} | {task_of(learning_rate=0.1).folder}
    assert len(folders) == 4
    assert all(re.fullmatch(r"mine/3x3 _ small, seed \d \([0-9a-f]{8}\)", folder) for folder in folders)


def test_a_training_that_begins_again_replaces_what_was_shown(tmp_path):
    task = task_of()
    run(task, tmp_path)
    record = run(task, tmp_path)
    shown = read(tmp_path / "tracking" / task.folder)["accuracy/test"]
    assert shown == [(i, pytest.approx(value)) for i, value in enumerate(record.epochs.test_accuracy, start=1)]


def test_tracking_is_off_the_clock_and_changes_no_result(tmp_path, monkeypatch, small_data):
    task = task_of()
    alone = run(task, tmp_path / "alone", names=())
    assert not (tmp_path / "alone" / "tracking").exists()
    assert run(task, tmp_path).epochs.test_loss == alone.epochs.test_loss
    now = [0.0]
    monkeypatch.setattr("fmnist_core.train.time.perf_counter", lambda: now[0])

    def slow(self, training):
        now[0] += 1000.0

    monkeypatch.setattr(tracking._Run, "epoch", slow)
    with tracking.tracked(("tensorboard",), tmp_path, task, NOTHING) as on_epoch:
        history = fit(Training(task.cell.config, 0, small_data), on_epoch=on_epoch)
    assert history.train_s == [0.0] * 3


def test_a_tracker_that_fails_stops_no_training(tmp_path):
    task = task_of()
    (tmp_path / "tracking").write_text("in the way")
    with pytest.warns(UserWarning, match="3x3 / small, seed 0: no longer tracked: .*Error") as caught:
        assert run(task, tmp_path).status == "ok"
    assert len(caught) == 1


def test_the_names_are_those_of_accelerate():
    assert set(tracking.TRACKERS) == set(map(str, LOGGER_TYPE_TO_CLASS)) - {"all"}


def test_every_tracker_takes_what_it_is_given(monkeypatch, tmp_path):
    """Of those that are not installed, at least their classes are."""
    begun = []

    class Silent:
        def __init__(self, project, *folder, **options):
            begun.append((project, options))

        start = finish = lambda self: None
        store_init_configuration = lambda self, values: None
        log = lambda self, values, step: begun.append((step, sorted(values)[0]))
        name = "silent"
        requires_logging_directory = True

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Silent)
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.WANDB])
    monkeypatch.setattr(tracking, "find_spec", lambda package: package)
    tracking.check(["wandb"])
    assert run(task_of(), tmp_path, names=("wandb", "wandb")).status == "ok"
    assert begun == [("mine", {"name": Path(task_of().folder).name, "dir": str(tmp_path / "tracking")}),
                     (1, "accuracy/test"), (2, "accuracy/test"), (3, "accuracy/test")]


@pytest.mark.parametrize(("name", "parts"), [
    ("tensorbord", ["--track tensorbord", "did you mean 'tensorboard'?", "wandb"]),
    ("mlflow", ["--track mlflow", "the package mlflow is not installed", "pip install mlflow"]),
])
def test_a_tracker_that_is_not_there_is_refused_before_any_work(call_run, monkeypatch, tmp_path, name, parts):
    there = importlib.util.find_spec
    monkeypatch.setattr(tracking, "find_spec", lambda package: None if package == "mlflow" else there(package))
    code, out, err = call_run("--dataset", "synthetic", "--track", "tensorboard", "--track", name)
    assert (code, out) == (2, "")
    assert [part for part in parts if part not in err] == []
    assert list(tmp_path.iterdir()) == []
