"""Functions in C: compiled once, kept, and done without where that fails."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fmnist_core.cpu import native

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

SOURCE = "int number(void) { return NUMBER; }\n"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "number.c"
    path.write_text(SOURCE)
    return path


def number(source: Path, value: int = 1) -> int | None:
    library = native.compiled(source, {"number": []}, f"NUMBER={value}")
    if library is None:
        return None
    library.number.restype = ctypes.c_int
    return library.number()


def number_in_another_process(source: Path) -> int:
    program = ("import ctypes; from pathlib import Path; from fmnist_core.cpu.native import compiled; "
               f"number = compiled(Path({str(source)!r}), {{'number': []}}, 'NUMBER=1').number; "
               "number.restype = ctypes.c_int; print(number())")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(run.stdout)


def kept(tmp_path: Path) -> list[Path]:
    """By name."""
    return sorted((tmp_path / "cache/fmnist-bench").glob("*"))


def test_compiled_once_for_every_process(source, tmp_path, monkeypatch):
    assert number(source) == 1
    first, = kept(tmp_path)
    monkeypatch.setattr(native.subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert number(source) == 1
    assert kept(tmp_path) == [first]


def test_another_definition_source_or_processor_is_another_library(source, tmp_path, monkeypatch):
    assert [number(source), number(source, 2)] == [1, 2]
    source.write_text(SOURCE.replace("NUMBER;", "NUMBER + 5;"))
    assert number(source) == 6
    monkeypatch.setattr(native, "_processor", lambda: "another")
    assert number(source) == 6
    assert len(kept(tmp_path)) == 4


def test_a_broken_file_is_made_again(source, tmp_path):
    assert number_in_another_process(source) == 1  # which knows by its path what it has loaded
    kept(tmp_path)[0].write_bytes(b"no library")
    assert number(source) == 1
    assert len(kept(tmp_path)[0].read_bytes()) > 1000


def test_a_library_without_the_function_is_made_again(source, tmp_path):
    assert number_in_another_process(source) == 1
    other = source.with_name("other.c")
    other.write_text("int other(void) { return 1; }\n")
    native.compiled(other, {"other": []})
    of_other, of_number = kept(tmp_path)[::-1]
    of_number.write_bytes(of_other.read_bytes())
    assert number(source) == 1


def test_a_folder_that_others_may_write_to_is_not_trusted(source, tmp_path):
    (tmp_path / "cache/fmnist-bench").mkdir(parents=True)
    (tmp_path / "cache/fmnist-bench").chmod(0o777)
    assert number(source) == 1
    assert not kept(tmp_path)


def test_no_home_at_all(source, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert number(source) == 1


def test_a_cache_that_takes_no_files_is_done_without(source, tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    assert number(source) == 1


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", "cc '"])
def test_without_a_compiler_there_is_none(source, tmp_path, monkeypatch, compiler):
    monkeypatch.setenv("CC", compiler)
    assert number(source) is None
    assert not kept(tmp_path)


def test_source_that_does_not_compile(source):
    source.write_text("nonsense")
    assert number(source) is None


def test_the_compiler_may_have_options(source, monkeypatch):
    monkeypatch.setenv("CC", "cc -O1")
    assert number(source, 3) == 3
