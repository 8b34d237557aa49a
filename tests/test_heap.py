"""Page faults of a process that frees large tensors, counted by the system."""

import os
import subprocess
import sys

import pytest

from fmnist_core import train
from fmnist_core.config import CellConfig, KernelDepthCNN
from tests.small import small_dataset

NUM_PAGES = 60_000_000 // 4096
"""Of each tensor: more than glibc keeps by itself."""
PROGRAM = """
import resource, sys, torch
from fmnist_core.cpu.heap import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(20):  # until the heap has grown
    torch.empty(15_000_000).fill_(1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.empty(15_000_000).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=120,
                          env={**os.environ, **environment})
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the GNU C library")
def test_memory_that_is_freed_is_had_again_without_page_faults():
    assert faults("keep") < NUM_PAGES / 10
    assert faults("leave") > 4 * NUM_PAGES  # what it is for
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="131072") > 4 * NUM_PAGES, "the user's own wish counts"


def test_a_training_on_a_cpu_asks_for_it(monkeypatch):
    asked = []
    monkeypatch.setattr(train, "keep_freed_memory", lambda: asked.append(True))
    dataset = small_dataset()
    train.Training(CellConfig(model=KernelDepthCNN(), data=dataset.config), 0, dataset)
    assert asked == [True]
