"""Records made by hand for the tests of tables, figures and claims: every value in them is known."""

import itertools
from collections.abc import Sequence

import msgspec

from bench import experiment
from bench.environment import speed_identity
from bench.experiment import Cell, Experiment
from bench.record import Environment, Epochs, Inference, Labels, Layer, SpeedRecord, TestDetail, TrainRecord
from bench.records.side_records import Point, Reduction, Scaling
from fmnist_core.config import quality_key, speed_key, to_dict

CPU = Environment(host="a" * 12, cpu="Test CPU", num_cpus=2, num_threads=1, libraries={"torch": "2.14.1"},
                  commit="c" * 40)
GPU = Environment(host="b" * 12, cpu="Host CPU", num_cpus=8, num_threads=8, libraries={"torch": "2.14.1"},
                  device="Test GPU", driver="570")
LABELS = Labels(precision="float32", weight_memory_format="channels_last", activation_memory_format="channels_last")
NUM_EPOCHS = 6
ONE_FACTOR = """
title = "One factor"
question = "Does it matter?"
[base.model]
name = "cnn"
[grid]
model.kernel_size = [2, 3]
"""


def experiment_of(toml: str = ONE_FACTOR, name: str = "made") -> Experiment:
    return experiment.parse(experiment.tomllib.loads(toml), name=name)


def trained(
    of: Experiment, cell: Cell, seed: int = 0, *, test: Sequence[float] | float = 0.9,
    validation: Sequence[float] | float = 0.9, train: Sequence[float] | float = 0.95,
    validation_loss: Sequence[float] | float = 0.3, environment: Environment = CPU, labels: Labels = LABELS,
    **fields: object,
) -> TrainRecord:
    """Figures that are single numbers hold in each of 6 epochs. Nothing held out, nothing of validation."""
    series = lambda values: [values] * NUM_EPOCHS if isinstance(values, float) else list(values)
    if not cell.config.data.validation_size:
        validation = validation_loss = ()
    epochs = Epochs(train_loss=series(0.25), train_subset_loss=series(0.2), train_subset_accuracy=series(train),
                    validation_loss=series(validation_loss), validation_accuracy=series(validation),
                    test_loss=series(0.3), test_accuracy=series(test), train_s=series(2.0))
    known = {"num_parameters": 1234, "multiply_adds": 56789} | fields
    return TrainRecord(experiment=of.name, seed=seed, cell=to_dict(cell.config), epochs=epochs, environment=environment,
                       quality_key=quality_key(cell.config, seed, num_processes=labels.num_processes), labels=labels,
                       **known)


def failed(of: Experiment, cell: Cell, seed: int, status: str, reason: str) -> TrainRecord:
    """As a sweep leaves it: nobody observed how it was computed."""
    whole = trained(of, cell, seed)
    return msgspec.structs.replace(whole, status=status, reason=reason, epochs=Epochs(), labels=Labels())


def timed(
    of: Experiment, cell: Cell, step_s: Sequence[float] = (0.01,) * 10, *, environment: Environment = CPU,
    labels: Labels = LABELS, images_per_step: int = 100, repeat: int = 0, **fields: object,
) -> SpeedRecord:
    key = speed_key(cell.config, speed_identity(environment), repeat, num_processes=labels.num_processes)
    inference = [Inference(batch_size=1, batch_s=[0.0002] * 10), Inference(batch_size=50, batch_s=[0.002] * 10)]
    known = {"first_step_s": 0.5, "batch_s": [], "num_parameters": 1234, "multiply_adds": 56789,
             "peak_memory_bytes": 3_000_000, "reserved_memory_bytes": 4_500_000, "evaluate_s": [0.25] * 3,
             "floor_s": 0.005, "operators_per_step": 99, "host_syncs_per_step": 2, "inference": inference}
    return SpeedRecord(experiment=of.name, speed_key=key, repeat=repeat, cell=to_dict(cell.config),
                       step_s=list(step_s), labels=labels, environment=environment, images_per_step=images_per_step,
                       **(known | fields))


ALL = ("kernel_depth", "kernel_size_network1", "kernel_size_network2", "network1_printed", "table_1_1",
       "network2_printed", "table_1_2", "final")


def complete(names: Sequence[str] = ALL) -> list[TrainRecord | SpeedRecord]:
    """Three seeds and a timing for each cell of the report's own experiments, accuracies a little apart."""
    records: dict[str, TrainRecord | SpeedRecord] = {}
    for name in names:
        of = experiment.load(name)
        for (i, cell), seed in itertools.product(enumerate(of.cells), range(3)):
            accuracy = 0.88 + 0.001 * i + 0.0005 * seed
            curve = [accuracy - 0.01 * (NUM_EPOCHS - 1 - epoch) for epoch in range(NUM_EPOCHS)]
            record = trained(of, cell, seed, test=curve, validation=curve)
            # Trial-2 of Table 1.2 and the final network are one cell: it keeps its first record.
            record = msgspec.structs.replace(record, test=TestDetail(
                confusion=confusion(), mistakes=[(7, 6, 0, 0.99)], examples=[(0, 9, 9, 0.9), (1, 2, 3, 0.8)]))
            records.setdefault(record.quality_key, record)
        for i, cell in enumerate(of.cells):
            layers = [Layer(name="conv1", kind="Conv2d", in_shape=[1, 28, 28], out_shape=[4, 28, 28], kernel_size=3,
                            stride=1, padding="1", num_parameters=40, multiply_adds=28_224)]
            speed = timed(of, cell, [0.01 + 0.001 * i] * 10, layers=layers)
            records.setdefault(speed.speed_key, speed)
    return list(records.values())


def confusion() -> list[list[int]]:
    """91 % right in every class, the others spread evenly."""
    return [[910 if i == j else 10 for j in range(10)] for i in range(10)]


def scaling() -> Scaling:
    """Steps of 2 ms and 0.01 ms an image; an all-reduce of 1 ms whatever its size, and steps of DDP a tenth slower."""
    point = lambda axis, value, images, step_s, n=1: Point(
        axis=axis, value=value, num_processes=n, num_parameters=1000, images_per_step=images, step_s=[step_s] * 2)
    step = lambda images: 0.002 + 0.00001 * images
    return Scaling(environment=CPU, started_at="", cell={}, points=[
        *[point("global_batch_size", size, size, step(size)) for size in (10, 100, 1000)],
        point("processes, cells", 1, 100, step(100)), point("processes, cells", 2, 200, step(100), 2),
        point("processes, ddp", 2, 1000, 1.1 * (step(500) + 0.001), 2),
        Point(axis="width", value=8, skipped="out of luck"),
    ], reductions=[Reduction(num_processes=2, num_bytes=size, seconds=[0.001]) for size in (4, 4096)])
