"""Records of tasks that gave no result."""

from bench import experiment
from bench.sweep import new_record
from bench.sweep.plan import Task
from fmnist_core.config import CellConfig, KernelDepthCNN


def test_a_failure_is_filed_under_the_processes_that_shared_the_cell():
    task = Task("e", experiment.Cell(config=CellConfig(model=KernelDepthCNN())), "k", 0)
    record = new_record.failed(task, "error", "rank 1 of 2 died", 2)
    assert record.labels.num_processes == 2
