"""A small plan, and records of it made by hand, for the tests of what a sweep shows."""

from bench import experiment
from bench.record import Epochs, SpeedRecord, TrainRecord
from bench.sweep.plan import tasks
from fmnist_core.config import to_dict

ONE_CELL = """
question = "?"
timings = 0
seeds = { cpu = 1, cuda = 1 }
base.data.dataset = "synthetic"
base.model.name = "cnn"
"""


def sweep_of(**content):
    """An experiment of one network with a grid, as a list, and its tasks."""
    content = {"question": "Which?", "base": {"model": {"name": "cnn"}}, "timings": 1, **content}
    chosen = experiment.parse(content, name="mine")
    return [chosen], tasks([chosen], num_seeds=None, gpu=False, machine={})


def two_depths():
    """Two cells, each with two seeds and a timing."""
    return sweep_of(seeds={"cpu": 2, "cuda": 2}, grid={"model.depth": [1, 2]})


def two_executions():
    """Two cells that one training is of."""
    return sweep_of(seeds={"cpu": 1}, grid={"execution.memory_format": ["channels_last", "contiguous"]})


def trained(task, accuracy, **options):
    return TrainRecord(experiment="mine", quality_key=task.key, seed=task.seed, cell=to_dict(task.cell.config),
                       epochs=Epochs(test_accuracy=[0.1, accuracy]), num_parameters=1234,
                       **{"wall_s": 90.0, **options})


def timed(task, step_s=0.02, **options):
    return SpeedRecord(experiment="mine", speed_key=task.key, cell=to_dict(task.cell.config), step_s=[step_s] * 3,
                       images_per_step=100, num_parameters=1234, **options)
