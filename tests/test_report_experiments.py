"""The report's experiments against its printed tables, against closed forms, and against torch.

The tables stand here a second time, as the report prints them, and are compared with what the cells build.
"""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import experiment
from bench.experiment import Cell
from bench.inputs import settings
from fmnist_core.config import CellConfig, Network1, Network2, TrainConfig, quality_key
from fmnist_core.models import layers as spec
from fmnist_core.models.build import build
from fmnist_core.models.layers import BatchNorm, Conv, Dropout, Linear, MaxPool, Row, trace
from fmnist_core.models.networks import layers_of

TABLE_1_1 = """
    learning_rate       0.0001 0.001 0.001 0.01  0.0001 0.0001 0.1
    batch_size          30     100   120   40    200    256    64
    epochs              15     15    15    15    15     15     15
    conv1_in            1      1     1     1     1      1      1
    conv1_kernel_size   5      5     5     5     5      5      5
    conv1_out           32     40    48    16    64     72     80
    conv1_stride        1      1     1     1     1      1      1
    conv2_in            32     40    48    56    64     72     80
    conv2_kernel_size   5      5     5     5     5      5      5
    conv2_out           64     80    88    96    104    112    120
    conv2_stride        2      2     2     2     2      2      2
    fc1_in              1024   1280  1408  1536  1664   1792   1920
    dropout             0.3    0.5   0.4   0.2   0.25   0.5    0.5
    fc1_out             512    640   704   768   832    896    960
    fc2_in              512    640   704   768   832    896    960
    fc2_out             256    320   352   384   416    448    480
    fc3_in              256    320   352   384   416    448    480
    fc3_out             128    160   176   192   208    224    240
    fc4_in              128    160   176   192   208    224    240
    fc4_out             10     10    10    10    10     10     10
    activation          relu   relu  relu  relu  relu   relu   relu
    optimizer           adam   adam  adam  sgd   adam   sgd    adam
    validation_accuracy 0.884  0.837 0.872 0.876 0.881  0.868  0.879
"""
TABLE_1_2 = """
    learning_rate       0.001  0.0001 0.0001 0.0001 0.0001 0.0001 0.0001
    batch_size          90     90     100    256    190    100    230
    epochs              30     30     30     30     30     30     30
    conv1_in            1      1      1      1      1      1      1
    conv1_kernel_size   3      3      3      3      3      3      3
    conv1_out           4      4      8      16     24     48     56
    conv1_stride        1      1      1      1      1      1      1
    conv1_padding       1      1      1      1      1      1      1
    conv2_in            4      4      8      16     24     48     56
    conv2_kernel_size   5      5      5      5      5      5      5
    conv2_out           16     16     24     32     40     72     80
    conv2_stride        1      1      1      1      1      1      1
    conv2_padding       2      2      2      2      2      2      2
    fc1_in              784    784    1176   1568   1960   3528   3920
    fc1_out             392    392    588    784    980    448    512
    dropout             0.5    0.5    0.4    0.2    0.1    0.5    0.5
    fc2_in              392    392    588    784    980    448    512
    fc2_out             10     10     10     10     10     10     10
    activation          relu   relu   relu   relu   relu   relu   relu
    optimizer           adam   adam   adam   adam   adam   adam   adam
    validation_accuracy 0.893  0.916  0.903  0.904  0.897  0.889  0.887
"""


def columns(table: str) -> dict[str, dict[str, float | str]]:
    """One dict per trial."""
    number = lambda text: float(text) if text[0].isdigit() else text
    rows = [line.split() for line in table.split("\n") if line.strip()]
    return {f"Trial-{i}": {name: number(values[i - 1]) for name, *values in rows} for i in range(1, 8)}


TRIALS = {"table_1_1": columns(TABLE_1_1), "table_1_2": columns(TABLE_1_2)}
PRINTED = [column for trials in TRIALS.values() for column in trials.values()]
TRIAL_CELLS = [(name, cell) for name in TRIALS for cell in experiment.load(name).cells]

BASE = CellConfig(model=Network2(dropout=0.5), train=TrainConfig(epochs=5, global_batch_size=90))
"""The point that the sweeps of section 1.3 share: the final network, five epochs at Adam's own learning rate."""
PRINTED_1 = CellConfig(model=Network1(), train=TrainConfig(epochs=15, global_batch_size=30, learning_rate=1e-4))
TRIAL_1 = CellConfig(model=Network2(dropout=0.5), train=TrainConfig(epochs=30, global_batch_size=90))
KERNEL_SIZES = {"model.conv1_kernel_size": {2, 3, 4, 5}, "model.conv2_kernel_size": {2, 3, 4, 5}}
ACTIVATIONS = {"relu", "leaky_relu", "elu", "gelu", "silu", "tanh"}

SWEEPS: dict[str, tuple[CellConfig, dict[str, set[Any]]]] = {
    "kernel_size_network1": (PRINTED_1, KERNEL_SIZES),
    "kernel_size_network2": (BASE, KERNEL_SIZES),
    "fc_layers": (BASE, {"model.fc_sizes": {(), (392,), (392, 196), (392, 196, 98)}, "model.dropout": {0.0, 0.5}}),
    "feature_maps": (BASE, {"model.conv1_channels": {column["conv1_out"] for column in TRIALS["table_1_2"].values()},
                            "model.conv2_channels": {column["conv2_out"] for column in TRIALS["table_1_2"].values()}}),
    "stride": (BASE, {"model.conv1_stride": {1, 2}, "model.conv2_stride": {1, 2}}),
    "batch_size": (BASE, {"train.global_batch_size": {column["batch_size"] for column in PRINTED}}),
    "learning_rate": (BASE, {"train.learning_rate": {column["learning_rate"] for column in PRINTED}}),
    "dropout": (BASE, {"model.dropout": {column["dropout"] for column in PRINTED} | {0.0, 0.6},
                       "model.conv_dropout": {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6}}),
    "activation": (BASE, {"model.activation": ACTIVATIONS, "model.fc_activation": ACTIVATIONS}),
    "optimizer": (BASE, {"train.optimizer": {"sgd", "adam", "adamw", "rmsprop"}, "train.momentum": {0.0, 0.9},
                         "train.learning_rate": {0.001, 0.01, 0.1}, "train.weight_decay": {0.0, 0.01}}),
    "batch_norm": (BASE, {"model.batch_norm": {True, False}}),
    "augmentation": (TRIAL_1, {"data.flip": {"none", "random"}, "data.shift": {0, 2}, "data.rotation": {0.0, 10.0},
                               "data.erasing": {0.0, 0.5}}),
    "loss": (BASE, {"train.loss": {"cross_entropy", "mse"}}),
    "input_size": (BASE, {"data.input_size": {28, 32, 40, 56}}),
}
REPORT = ["network1_printed", "network2_printed", "final", "depth", *TRIALS, *SWEEPS]


def rows_of(cell: CellConfig) -> list[Row]:
    layers = layers_of(cell.model)
    assert layers is not None
    return trace(layers, (1, cell.data.input_size, cell.data.input_size))


def as_printed(cell: Cell) -> dict[str, Any]:
    """What the report's tables list, read off the network that the cell builds."""
    model, train = cell.config.model, cell.config.train
    assert isinstance(model, Network1 | Network2)
    found: dict[str, Any] = {
        "learning_rate": train.learning_rate, "batch_size": train.global_batch_size, "epochs": train.epochs,
        "optimizer": train.optimizer, "activation": model.activation,
        "validation_accuracy": cell.reported.validation_accuracy,
    }
    for row in rows_of(cell.config):
        match row.layer:
            case Conv(name=name) as conv:
                found |= {f"{name}_in": row.in_shape[0], f"{name}_out": row.out_shape[0], f"{name}_stride": conv.stride,
                          f"{name}_kernel_size": conv.kernel_size, f"{name}_padding": conv.padding}
            case Linear(name=name):
                found |= {f"{name}_in": row.in_shape[0], f"{name}_out": row.out_shape[0]}
            case Dropout(name="dropout") as dropout:
                found["dropout"] = dropout.probability
    return found


def test_every_experiment_loads_and_asks_one_question() -> None:
    for name in experiment.names():
        loaded = experiment.load(name)
        assert loaded.cells
        assert loaded.question.endswith("?"), name
        assert len({cell.label for cell in loaded.cells}) == len(loaded.cells), name


@pytest.mark.parametrize("name", REPORT)
def test_each_cell_is_its_own_and_runs_on_enough_seeds(name: str) -> None:
    loaded = experiment.load(name)
    assert len({quality_key(cell.config, 0) for cell in loaded.cells}) == len(loaded.cells)
    assert (loaded.seeds.cpu, loaded.seeds.cuda) == (5 if name == "final" else 3, 16)


@pytest.mark.parametrize(("name", "cell"), TRIAL_CELLS, ids=[f"{name}: {cell.label}" for name, cell in TRIAL_CELLS])
def test_a_trial_is_what_its_table_prints(name: str, cell: Cell) -> None:
    trial = cell.label.partition(",")[0]
    printed = dict(TRIALS[name][trial])
    if printed["conv1_out"] != printed["conv2_in"]:
        assert (name, trial) == ("table_1_1", "Trial-4")
        printed["conv1_out"] = printed["conv2_in"]
        assert "56, not 16 as printed" in cell.note
    found = as_printed(cell)
    assert {key: found[key] for key in printed} == printed
    assert cell.config.train == TrainConfig(  # nothing that the report does not mention, but for SGD's momentum
        learning_rate=found["learning_rate"], global_batch_size=found["batch_size"], epochs=found["epochs"],
        optimizer=found["optimizer"], momentum=0.9 if "momentum" in cell.label else 0.0)


def test_the_tables_are_complete_and_sgd_has_both_readings() -> None:
    labels = {name: [cell.label for cell in experiment.load(name).cells] for name in TRIALS}
    assert labels["table_1_2"] == list(TRIALS["table_1_2"])
    sgd = [trial for trial, column in TRIALS["table_1_1"].items() if column["optimizer"] == "sgd"]
    assert sorted(labels["table_1_1"]) == sorted([*TRIALS["table_1_1"], *(f"{trial}, momentum 0.9" for trial in sgd)])


@pytest.mark.parametrize(("name", "cell"), TRIAL_CELLS, ids=[f"{name}: {cell.label}" for name, cell in TRIAL_CELLS])
def test_parameters_of_a_trial_follow_from_the_printed_sizes(name: str, cell: Cell) -> None:
    size = lambda key: int(TRIALS[name][cell.label.partition(",")[0]][key])
    linear = sum((size(f"fc{i}_in") + 1) * size(f"fc{i}_out") for i in range(1, 5 if name == "table_1_1" else 3))
    # conv1's feature maps are read off conv2_in: what Table 1.1 prints for conv1 of Trial-4 cannot be built.
    if name == "table_1_1":
        convolutions = (25 + 1) * size("conv2_in") + (25 * size("conv2_in") + 1) * size("conv2_out")
    else:  # the 2 is the scale and shift of BatchNorm
        convolutions = (9 + 1 + 2) * size("conv2_in") + (25 * size("conv2_in") + 1 + 2) * size("conv2_out")
    assert sum(row.num_parameters for row in rows_of(cell.config)) == convolutions + linear


def test_the_final_network_is_tables_1_3_and_1_4() -> None:
    final = experiment.load("final")
    by_label = {cell.label: cell for cell in final.cells}
    for label, fc_activation in (("ReLU after fc1", "relu"), ("nothing after fc1", "none")):
        cell = by_label[label].config
        assert (cell.train.learning_rate, cell.train.global_batch_size, cell.train.epochs) == (1e-4, 90, 30)
        assert isinstance(cell.model, Network2)
        assert cell.model.fc_activation == fc_activation
        rows = [row for row in rows_of(cell) if isinstance(row.layer, Conv | BatchNorm | MaxPool | Linear | Dropout)]
        assert [(row.in_shape, row.out_shape, row.num_parameters) for row in rows] == [
            ((1, 28, 28), (4, 28, 28), 40), ((4, 28, 28), (4, 28, 28), 8), ((4, 28, 28), (4, 14, 14), 0),
            ((4, 14, 14), (16, 14, 14), 1616), ((16, 14, 14), (16, 14, 14), 32), ((16, 14, 14), (16, 7, 7), 0),
            ((784,), (392,), 307_720), ((392,), (392,), 0), ((392,), (10,), 3930)]
        assert as_printed(by_label[label])["dropout"] == 0.5
    for label, cell_ in by_label.items():
        figures = (cell_.reported.validation_accuracy, cell_.reported.test_accuracy)
        assert figures == ((None, 0.908) if label == "all 60,000 images" else (0.916, 0.904))


def test_the_printed_networks() -> None:
    (network1,) = experiment.load("network1_printed").cells
    found = as_printed(network1)
    assert [found[f"fc{i}_in"] for i in (1, 2, 3, 4)] == [192, 120, 60, 40]
    # 208 + 2412 in the convolutions; 23,160 + 7260 + 2440 + 410 in the Linear layers
    assert sum(row.num_parameters for row in rows_of(network1.config)) == 35_890
    for cell in experiment.load("network2_printed").cells:
        found = as_printed(cell)
        assert (found["fc1_in"], found["fc1_out"], found["fc2_in"], found["dropout"]) == (784, 392, 392, 0.25)


def test_network1_gains_parameters_as_its_kernels_shrink() -> None:
    cells = experiment.load("kernel_size_network1").cells
    inputs = [as_printed(cell)["fc1_in"] for cell in cells]
    assert inputs == [12 * 6 * 6, 12 * 5 * 5, 12 * 4 * 4, 12 * 4 * 4]
    convolutions = [8 * (k * k + 1) + 12 * (8 * k * k + 1) for k in (2, 3, 4, 5)]
    linear = [(fc1_in + 1) * 120 + 7260 + 2440 + 410 for fc1_in in inputs]
    expected = [sum(parts) for parts in zip(convolutions, linear, strict=True)]
    assert [sum(row.num_parameters for row in rows_of(cell.config)) for cell in cells] == expected


def test_depth_adds_one_convolution_at_a_time() -> None:
    counts = [sum(row.num_parameters for row in rows_of(cell.config)) for cell in experiment.load("depth").cells]
    first, further = 9 * 16 + 2 * 16, 9 * 16 * 16 + 2 * 16  # no bias before BatchNorm
    one_pool, two_pools = 16 * 14 * 14 * 10 + 10, 16 * 7 * 7 * 10 + 10
    assert counts == [first + one_pool, *(first + i * further + two_pools for i in range(1, 8))]


@pytest.mark.parametrize("name", experiment.names())
def test_parameters_and_multiply_adds_agree_with_torch(name: str) -> None:
    models = {}
    for cell in experiment.load(name).cells:
        layers = layers_of(cell.config.model)
        if layers is not None:
            models[tuple(layers), (1, cell.config.data.input_size, cell.config.data.input_size)] = cell.config.model
    for (sequence, shape), model in models.items():
        with torch.device("meta"):
            module = build(model, shape)
            with FlopCounterMode(display=False) as counter:
                logits_NK = module(torch.empty(3, *shape))
        assert logits_NK.shape == (3, 10)
        assert spec.num_parameters(sequence, shape) == sum(p.numel() for p in module.parameters() if p.requires_grad)
        assert 2 * 3 * spec.multiply_adds(sequence, shape) == counter.get_total_flops()


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_holds_everything_fixed_but_its_question(name: str) -> None:
    base, required = SWEEPS[name]
    cells = [cell.config for cell in experiment.load(name).cells]
    for key in settings.known_keys(base):
        values = {settings.value_of(cell, key) for cell in cells}
        if key in required:
            assert values >= required[key], key
        else:
            assert values == {settings.value_of(base, key)}, key
    assert quality_key(base, 0) in {quality_key(cell, 0) for cell in cells}


@pytest.mark.parametrize(("name", "pair", "exception"), [
    ("kernel_size_network1", KERNEL_SIZES, None), ("kernel_size_network2", KERNEL_SIZES, (3, 5)),
    ("activation", ("model.activation", "model.fc_activation"), None)])
def test_two_keys_move_together(name: str, pair: tuple[str, str], exception: tuple[int, int] | None) -> None:
    pairs = [tuple(settings.value_of(cell.config, key) for key in pair) for cell in experiment.load(name).cells]
    assert [values for values in pairs if values[0] != values[1]] == ([exception] if exception else [])


def test_dropout_is_in_one_place_at_a_time() -> None:
    found = {(settings.value_of(cell.config, "model.dropout"), settings.value_of(cell.config, "model.conv_dropout"))
             for cell in experiment.load("dropout").cells}
    assert all(0.0 in places for places in found)
    assert {(p, 0.0) for p in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)} <= found


@pytest.mark.parametrize(("one", "other"), [
    ("final: ReLU after fc1", "table_1_2: Trial-2"), ("final: dropout 0.25", "network2_printed: ReLU after fc1"),
    ("augmentation: none", "table_1_2: Trial-1"), ("fc_layers: 2 layers, no dropout", "dropout: no dropout"),
    ("kernel_size_network1: kernel size 5", "network1_printed: as printed"),
    *((f"depth: depth {i}", f"kernel_depth: kernel_size 3, depth {i}") for i in (1, 2, 3, 4))])
def test_cells_that_two_experiments_ask_for_are_trained_once(one: str, other: str) -> None:
    keys = []
    for name, _, label in (one.partition(": "), other.partition(": ")):
        (cell,) = experiment.select(experiment.load(name), {"label": [label]}).cells
        keys.append(quality_key(cell.config, seed=0))
    assert keys[0] == keys[1]
