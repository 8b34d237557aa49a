"""Every command in the README: parsed by what it calls, so that an option that is gone or misspelt is found."""

import importlib
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from bench import experiment, run

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [line.split("  #")[0].strip() for line in README.splitlines() if line.startswith("    ")]
TOML = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
LAUNCHERS = ("accelerate launch", "torchrun", "python bench/run.py")


def commands(*starts):
    chosen = [command for command in COMMANDS if command.startswith(starts)]
    assert chosen, starts
    return chosen


@pytest.fixture
def mine(tmp_path):
    """The README's own example of an experiment, as a file."""
    path = tmp_path / "mine.toml"
    path.write_text(TOML[0])
    return path


def make_net(width: int):
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))


@pytest.mark.parametrize("command", commands(*LAUNCHERS))
def test_run_commands_plan_something(command, mine, tmp_path, capsys, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    words = shlex.split(command)
    arguments = words[words.index("bench/run.py") + 1 :]
    arguments = [str(mine) if word == "path/to/mine.toml" else word for word in arguments]
    code = run.main([*arguments, "--list", "--store", str(tmp_path)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert re.search(r"[1-9]\d* training", captured.out)


@pytest.mark.parametrize("command", commands("python -m"))
def test_module_commands_take_their_options(command, capsys):
    words = shlex.split(command)
    module = importlib.import_module(words[2])
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in words[3:] if word.startswith("--"))


@pytest.mark.parametrize("command", commands("make"))
def test_make_targets_exist(command):
    subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_what_pip_is_told_to_install_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for command in commands("pip install"):
        for extra in re.findall(r"\[(.*?)\]", command):
            assert set(extra.split(",")) <= set(extras)


def test_every_command_is_of_a_kind_that_is_tested_here():
    known = (*LAUNCHERS, "python -m", "make ", "pip install", "apt-get install dataset-fashion-mnist", "pytest")
    assert [command for command in COMMANDS if command and not command.startswith(known)] == []


def test_files_that_it_points_to_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_your_own_network_is_swept_by_the_arguments_of_its_function(tmp_path):
    from fmnist_core.models.build import build
    from fmnist_core.summary import num_parameters

    path = tmp_path / "own.toml"
    path.write_text(TOML[1].replace("my_package.nets", "tests.test_readme"))
    cells = experiment.load(str(path)).cells
    assert [num_parameters(build(cell.config.model, (1, 28, 28))) for cell in cells] == [12730, 50890]


def test_its_experiment_is_the_grid_it_looks_like(mine):
    assert len(experiment.load(str(mine)).cells) == 4
