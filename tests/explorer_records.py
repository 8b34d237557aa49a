"""Made-up records for the tests of the explorer: a few in which everything can be counted by hand, and ten thousand."""

from typing import Any

import msgspec

from bench import experiment
from bench.environment import speed_identity
from bench.record import Environment, Epochs, Labels, Record, SpeedRecord, TrainRecord
from fmnist_core.config import CellConfig, KernelDepthCNN, TrainConfig, quality_key, speed_key, to_dict

GRID = experiment.parse(
    {"question": "?", "seeds": {"cpu": 2}, "base": {"model": {"name": "cnn"}},
     "grid": {"model": {"kernel_size": [2, 3, 10], "depth": [1, 2]}}}, name="grid")
CPU = Environment(device="cpu", cpu="A CPU", num_cpus=2, num_threads=1, libraries={"torch": "2.14"}, commit="c" * 40)
GPU = msgspec.structs.replace(CPU, device="A GPU")
HOSTILE = "</script><script>window.hacked = 1</script><!--<script> <b id=hacked>bold</b> & \" ' ${1} \u2028"
NUM_RECORDS = 10_000
NUM_OTHERS = 400
"""Cells of the large store that no experiment has."""


def train(config: CellConfig, seed: int, test: float | None, *, environment: Environment = CPU, shared: bool = False,
          fused_seeds: int = 1, **fields: Any) -> TrainRecord:
    curve = [] if test is None else [test / 2, test]
    epochs = Epochs(test_accuracy=curve, validation_accuracy=curve, train_subset_accuracy=curve, test_loss=curve,
                    train_s=[1.0 for _ in curve])
    return TrainRecord(experiment="grid", quality_key=quality_key(config, seed), seed=seed, cell=to_dict(config),
                       epochs=epochs, num_parameters=123_456_789, environment=environment,
                       labels=Labels(precision="float32", machine_shared=shared, fused_seeds=fused_seeds), **fields)


def speed(config: CellConfig, step_s: list[float], environment: Environment = CPU, **fields: Any) -> SpeedRecord:
    key = speed_key(config, speed_identity(environment))
    return SpeedRecord(experiment="grid", speed_key=key, cell=to_dict(config), step_s=step_s,
                       images_per_step=128, environment=environment, **fields)


def other(i: int) -> CellConfig:
    return CellConfig(model=KernelDepthCNN(), train=TrainConfig(epochs=7, learning_rate=(i + 1) / 1000))


def small_store() -> list[Record]:
    """Cell 0: two seeds, timings on two machines; cell 1: one seed and one failure; cell 2: a timing that failed."""
    configs = [cell.config for cell in GRID.cells]
    return [train(configs[0], 0, 0.75), train(configs[0], 1, 0.5), speed(configs[0], [0.001] * 600),
            speed(configs[0], [0.002, 0.002, 0.004, 0.004], GPU, labels=Labels(machine_shared=True)),
            train(configs[1], 0, 0.875), train(configs[1], 1, None, status="diverged", reason=HOSTILE),
            speed(configs[2], [], status="oom", reason="of 1 GiB")]


def large_store() -> list[Record]:
    """The small one, and other cells with many seeds each whose test accuracy is the cell's number in basis points."""
    few = small_store()
    many = (divmod(i, NUM_OTHERS) for i in range(NUM_RECORDS - len(few)))
    return few + [train(other(i), seed, i / 10_000) for seed, i in many]
