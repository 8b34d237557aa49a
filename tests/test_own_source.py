"""Which files are the code of a network of one's own: those that it is made of, and no others."""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

import pytest

from bench import experiment
from bench.inputs.own_source import source_of


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Write a file in a folder of one's own, from which modules are imported."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    return write


@pytest.mark.parametrize(("factory", "files", "watched"), [
    ("lone:make", {"lone.py": "import beside", "beside.py": "", "far.py": ""}, {"lone.py", "beside.py"}),
    ("lab:make", {"lab/__init__.py": "from lab.nets import make", "lab/nets.py": "from .parts import block",
                  "lab/parts.py": "", "lab/plots.py": ""}, {"lab/__init__.py", "lab/nets.py", "lab/parts.py"}),
    ("lab.nets.mine:make", {"lab/nets/mine.py": "def f():\n    from ..tools import wide",
                            "lab/tools.py": "import lab.more", "lab/more.py": "from . import nets",
                            "lab/nets/other.py": ""},
     {"lab/nets/mine.py", "lab/tools.py", "lab/more.py"}),
    ("odd:make", {"odd.py": "this is (no Python", "beside.py": ""}, {"odd.py"}),
])
def test_what_it_is_made_of_is_watched(factory: str, files: dict[str, str], watched: set[str],
                                       edit: Callable[[str, str], None]) -> None:
    for name, text in files.items():
        edit(name, text)
    before = source_of(factory)
    assert len(before) == 16
    for name, text in files.items():
        edit(name, f"{text}  # edited")
        assert (source_of(factory) != before) == (name in watched), name
        edit(name, text)
    assert source_of(factory) == before


def test_what_lies_beside_an_installed_module_is_not_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "installed_net.py").write_text("import installed_tool")
    (folder / "installed_tool.py").write_text("")
    monkeypatch.syspath_prepend(str(folder))
    before = source_of("installed_net:make")
    (folder / "installed_tool.py").write_text("x = 1")
    assert source_of("installed_net:make") == before != ""


def test_a_package_that_is_installed_to_be_edited_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pip does it, by a finder of its own."""
    (tmp_path / "lab_to_edit").mkdir()
    (tmp_path / "lab_to_edit" / "__init__.py").write_text("")
    (tmp_path / "lab_to_edit" / "nets.py").write_text("")

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            return PathFinder.find_spec(name, [str(tmp_path)]) if name == "lab_to_edit" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    before = source_of("lab_to_edit.nets:make")
    (tmp_path / "lab_to_edit" / "nets.py").write_text("x = 1")
    assert "" != before != source_of("lab_to_edit.nets:make")


def test_it_is_read_once_for_all_cells_of_an_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(experiment, "source_of", lambda factory: asked.append(factory) or "1" * 16)
    made = experiment.parse({"question": "?", "base": {"model": {"name": "tests.nets:make"}},
                             "grid": {"model.width": [*range(50)]}}, name="e")
    assert len(made.cells) == 50
    assert asked == ["tests.nets:make"]


@pytest.mark.parametrize("factory", ["fmnist_core.models.wide_resnet:wide_resnet", "not_there:make", "sys:exit",
                                     "not_there.at_all:make"])
def test_of_this_project_and_of_what_is_not_there_there_is_none(factory: str) -> None:
    assert source_of(factory) == ""
