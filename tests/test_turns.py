"""Cells of an experiment timed in turns: what is stored, shown and concluded."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch._dynamo

from bench import environment, experiment, turns
from bench.pages.document import render
from bench.pages.overview import beside
from bench.records.machines import machine_names
from bench.records.side_records import TimedCell, Turns, load_every
from fmnist_core.config import to_dict
from tests.made import CPU, timed

EXPERIMENT = """
    question = "Which is faster?"
    base.data.dataset = "synthetic"
    base.model = { name = "cnn", depth = 1 }
    base.train.global_batch_size = 10
    grid.model.width = [1, 3]
"""


def test_the_command_stores_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(EXPERIMENT)
    asked = ["--experiment", str(path), "--rounds", "2", "--block-s", "0", "--threads", "1", "--store", str(tmp_path),
             "--set", "train.global_batch_size=20"]
    assert turns.main(asked) == 0
    assert (tmp_path / f"turns-{environment.collect().host}-mine-train.global_batch_size=20.json").exists()
    [stored] = load_every(tmp_path)
    assert isinstance(stored, Turns)
    assert (stored.experiment, stored.environment.num_threads) == ("mine", 1)
    assert [one.label for one in stored.cells] == ["width 1", "width 3"]
    changed = experiment.load(str(path), {"train.global_batch_size": 20})
    assert [one.cell for one in stored.cells] == [to_dict(cell.config) for cell in changed.cells]
    assert [len(one.step_s) for one in stored.cells] == [2, 2]
    printed = capsys.readouterr().out
    assert "| width 1 | 2 |" in printed
    assert "times the first's step" in printed


def test_of_many_compiled_cells_the_last_is_compiled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler counts over all models of a class, and gives up at its limit."""
    compiled, original = [], torch.compile

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model, **_: original(model, backend=backend, dynamic=False))
    torch.compiler.reset()
    most = torch._dynamo.config.recompile_limit
    base = {"model": {"name": "cnn", "depth": 1, "width": 1}, "data": {"dataset": "synthetic"},
            "execution": {"compile": "default"}}
    many = experiment.parse({"question": "?", "base": base,
                             "grid": {"train.global_batch_size": list(range(2, most + 4))}}, name="mine")
    turns.measure(many, rounds=1, num_threads=1, data_dir=None, block_s=0)
    assert len(compiled) >= len(many.cells) == most + 2
    assert torch._dynamo.config.recompile_limit == most, "as it was"


@pytest.mark.parametrize(("other_s", "said"), [
    ([0.020, 0.041, 0.079], "Steps on M1, in turns: shortest *width 1*, longest *width 3* with 2.008 [1.9"),
    ([0.010, 0.030, 0.020], "Steps on M1, in turns: training steps are not told apart: shortest *width 3*, longest"),
])
def test_the_section_of_the_experiment_shows_and_answers(other_s: list[float], said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(EXPERIMENT)
    mine = experiment.load(str(path))
    one, other = (to_dict(cell.config) for cell in mine.cells)
    made = Turns(environment=CPU, started_at="", experiment="mine", cells=[
        TimedCell(label="width 1", cell=one, step_s=[0.010, 0.020, 0.040]),
        TimedCell(label="width 3", cell=other, step_s=other_s)])
    text = render([timed(mine, cell) for cell in mine.cells], [mine], [made]).text
    assert said in text
    assert "On M1: fastest" not in text, "turns on a machine tell more than what was timed in a row"
    assert "**Steps on M1, in turns**" in text
    assert "### Cells in turns" not in text
    unknown = render([], [], [made]).text
    assert "### Cells in turns of `mine`, M1" in unknown


@pytest.mark.parametrize(("more", "said"), [
    ("grid.execution.deterministic = [false, true]", "differ in execution.deterministic, of which a process has one"),
    ("grid.train.precision = ['no', 'bf16']", "its cells differ in train.precision, of which a process has one"),
    ("cells = [{ model = { name = 'baseline', estimator = 'sgd' } }]", "'baseline' has no training steps"),
])
def test_what_cannot_take_turns_is_wrong_input(more: str, said: str, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'question = "?"\nbase.data.dataset = "synthetic"\n{more}'
                    + ("\nbase.model.name = 'cnn'" if "grid" in more else ""))
    assert turns.main(["--experiment", str(path), "--store", str(tmp_path / "store")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_ratios_by_hand() -> None:
    """Drift strikes both alike: of 10, 20 and 40 ms against 5, 10 and 20 it is 2, without doubt."""
    made = Turns(environment=CPU, started_at="", experiment="made", cells=[
        TimedCell(label="one", cell={"a": 1}, step_s=[0.005, 0.010, 0.020]),
        TimedCell(label="other", cell={"a": 2}, step_s=[0.010, 0.020, 0.040])])
    assert made.step_s_of({"a": 2}) == [0.010, 0.020, 0.040]
    assert made.step_s_of({"a": 3}) == []
    two = [TimedCell(label=str(i), cell={"execution": {"memory_format": i}}, step_s=[float(i)]) for i in (1, 2)]
    both = Turns(environment=CPU, started_at="", experiment="made", cells=two)
    assert both.step_s_of({"execution": {"memory_format": 2}}) == [2.0], "its own, where there is one"
    assert made.step_s_of({"a": 2, "execution": {"capture": False}}) == [0.010, 0.020, 0.040], "the same training"
    page = beside([made], machine_names([], [made]))
    assert page.startswith("### Cells in turns of `made`, M1\n\n")
    assert "| one | 3 | 10.0 | - |\n| other | 3 | 20.0 | 2.000 \\[2.000, 2.000\\] |" in page
