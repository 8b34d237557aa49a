"""The commands that the explorer offers, read back by the program that they start."""

import shlex
import subprocess
from pathlib import Path

import msgspec
import pytest

from bench import experiment
from bench.experiment import Cell, Experiment
from bench.inputs import options
from bench.record import Labels, SpeedRecord
from bench.records import reproduce
from bench.records.rows import collect
from fmnist_core.config import CellConfig, CustomModel, ExecutionConfig, TrainConfig, quality_key
from tests.explorer_records import GRID, other, speed, train


@pytest.mark.parametrize("name", experiment.names())
def test_the_command_selects_its_cell_alone(name: str) -> None:
    one = experiment.load(name)
    for row in collect([], [one]).rows[name]:
        words = shlex.split(reproduce.command(row, reproduce.selections(one)[id(row.cell)]))
        processes = one.launch.num_processes
        start = ["torchrun", "--nproc-per-node", str(processes)] if processes > 1 else ["accelerate", "launch"]
        assert words[: words.index("bench/run.py")] == start
        asked = options.parser("").parse_args(words[words.index("bench/run.py") + 1 :])
        assert asked.experiments == [name]
        assert asked.seeds == (one.seeds.cuda if one.launch.device == "cuda" else one.seeds.cpu)
        chosen = experiment.select(one, options.filters(asked)).cells
        assert [cell.config for cell in chosen] == [row.cell.config]


def odd_experiment() -> Experiment:
    """Labels that read as JSON or as shell, twice the same label, and none."""
    labels = ["2", "true", "it's $HOME; `ls`", "twice", "twice", ""]
    axes = lambda i: {"train.epochs": 7} if i else {}
    return msgspec.structs.replace(GRID, name="odd", cells=[Cell(config=other(i), label=label, axes=axes(i))
                                                            for i, label in enumerate(labels)])


def test_labels_are_quoted_and_ambiguous_ones_not_used() -> None:
    odd = odd_experiment()
    found = reproduce.selections(odd)
    assert [cell.label for cell in odd.cells if id(cell) in found] == ["2", "true", "it's $HOME; `ls`"]
    for row in collect([], [odd]).rows["odd"][:3]:
        words = shlex.split(reproduce.command(row, found[id(row.cell)]))
        key, value = options.setting(words[words.index("--only") + 1], "--only")
        assert (key, value) == ("label", row.label)


def test_settings_that_the_option_cannot_compare_are_not_used() -> None:
    content = {"question": "?", "base": {"model": {"name": "cnn"}}, "grid": {"model.fc_sizes": [[], [20, 10]]}}
    lists = experiment.parse(content, name="lists")
    assert [reproduce.selections(lists)[id(cell)] for cell in lists.cells] == [{"label": "fc_sizes "},
                                                                              {"label": "fc_sizes 20 10"}]


def test_a_cell_of_no_experiment_is_written_out(tmp_path: Path) -> None:
    odd = CellConfig(model=CustomModel(factory="my.own:network", options={"a b": 1, "c": "it's \"\\\n"}),
                     train=TrainConfig(learning_rate=1e-5, precision="bf16"))
    networks = [odd, other(0), experiment.load("table_1_2").cells[0].config]
    rows = collect([], [msgspec.structs.replace(GRID, cells=[Cell(config=one) for one in networks])]).rows["grid"]
    for row in rows:
        write, _, launch = reproduce.command(row, None).partition(" && ")
        subprocess.run(["sh", "-c", write], cwd=tmp_path, check=True)
        assert [cell.config for cell in experiment.load(str(tmp_path / "cell.toml")).cells] == [row.cell.config]
        assert launch == "accelerate launch bench/run.py cell.toml --seeds 2"


def test_several_processes_are_started_by_torchrun() -> None:
    config = GRID.cells[0].config
    shared = msgspec.structs.replace(train(config, 4, 0.5), quality_key=quality_key(config, 4, num_processes=2),
                                     labels=Labels(num_processes=2))
    row = collect([shared], [GRID]).rows["grid"][0]
    assert reproduce.command(row, {"model.depth": 1}) == (
        "torchrun --nproc-per-node 2 bench/run.py grid --only model.depth=1 --set launch.mode=ddp --seeds 5")


def test_a_timing_by_another_execution_is_asked_for_with_it(tmp_path: Path) -> None:
    config = GRID.cells[0].config
    captured = msgspec.structs.replace(config, execution=ExecutionConfig(capture=True, memory_format="contiguous"))
    rows = collect([speed(captured, [0.001] * 3)], [GRID]).rows["grid"]
    [timed] = rows[0].speeds
    assert isinstance(timed, SpeedRecord)
    assert reproduce.command(rows[0], {"model.depth": 1}, timed) == (
        "accelerate launch bench/run.py grid --only model.depth=1 --set execution.memory_format=contiguous "
        "--set execution.capture=true --seeds 2")
    write, _, _ = reproduce.command(rows[0], None, timed).partition(" && ")
    subprocess.run(["sh", "-c", write], cwd=tmp_path, check=True)
    assert [cell.config for cell in experiment.load(str(tmp_path / "cell.toml")).cells] == [captured]
    plain = speed(config, [0.001] * 3)
    assert "--set" not in reproduce.command(rows[0], {"model.depth": 1}, plain)


def test_a_timing_by_an_execution_that_its_experiment_varies_is_written_out(tmp_path: Path) -> None:
    one = experiment.parse({"question": "?", "base": {"model": {"name": "cnn"}},
                            "grid": {"execution": {"memory_format": ["channels_last", "contiguous"]}}}, name="mine")
    row = collect([], [one]).rows["mine"][1]
    captured = msgspec.structs.replace(row.cell.config, execution=ExecutionConfig(capture=True))
    write, _, launch = reproduce.command(row, reproduce.selections(one)[id(row.cell)],
                                         speed(captured, [0.001] * 3)).partition(" && ")
    subprocess.run(["sh", "-c", write], cwd=tmp_path, check=True)
    assert [cell.config for cell in experiment.load(str(tmp_path / "cell.toml")).cells] == [captured]
    assert "--set" not in launch
