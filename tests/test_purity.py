"""What may import what: the torch-free half of the house, the one arrow between the packages, names of modules.

Each check is seen to fail on something that breaks it.
"""

import ast
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH_FREE = {"fmnist_core.config", "bench.experiment", "bench.stats", "bench.record", "bench.store", "bench.report",
              "bench.claims", "bench.pages.figures", "bench.sweep.plan", "bench.sweep.launch", "bench.environment",
              "bench.run"}
"""Besides these: every module whose docstring says "No torch"."""

WITHOUT_TORCH = """
import importlib, sys

class NoTorch:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, NoTorch)
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(name, error)
"""


def modules_that_need_torch(names: Iterable[str]) -> set[str]:
    """Those that cannot be imported where torch is missing; each says so on a line of its own."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *sorted(names)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all("torch" in line for line in answer.splitlines()), answer
    return {line.split()[0] for line in answer.splitlines()}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported_packages(module: ast.Module) -> set[str]:
    """Top-level packages that a module imports, wherever in it."""
    packages = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add("." * node.level + (node.module or "").split(".")[0])
    return packages


UNPICKLING = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
RUNNING = {"eval", "exec", "torch.load", "np.load", "numpy.load", "read_pickle"}


def trust_in_files(module: ast.Module) -> set[str]:
    """What of a module could run code from a file: modules that unpickle, calls that do or that evaluate text."""
    calls = {ast.unparse(node.func) for node in ast.walk(module) if isinstance(node, ast.Call)}
    return (imported_packages(module) & UNPICKLING) | {call for call in calls if call in RUNNING
                                                       or call.rpartition(".")[2] == "read_pickle"}


def shadowing(names: Iterable[str]) -> set[str]:
    """Under the launcher `bench/` comes first on `sys.path`: these modules would stand before others of their name."""
    return set(names) & (set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions()))


def test_the_harness_is_read_without_torch():
    say_so = {".".join(path.relative_to(ROOT).with_suffix("").parts) for package in ("bench", "fmnist_core")
              for path in (ROOT / package).rglob("*.py") if "No torch" in (ast.get_docstring(parsed(path)) or "")}
    assert say_so >= {"fmnist_core.config", "fmnist_core.seeds", "fmnist_core.models.layers", "bench.store"}
    assert modules_that_need_torch(TORCH_FREE | say_so) == set()


def test_a_module_that_needs_torch_is_found_out_directly_and_through_another():
    names = {"fmnist_core.train", "bench.sweep.one_task", "bench.record"}
    assert modules_that_need_torch(names) == {"fmnist_core.train", "bench.sweep.one_task"}


def test_the_core_never_imports_the_harness():
    files = list((ROOT / "fmnist_core").rglob("*.py"))
    assert len(files) > 10
    for path in files:
        packages = imported_packages(parsed(path))
        assert "bench" not in packages, path
        assert not any(package.startswith(".") for package in packages), f"{path}: imports are absolute"


def test_an_import_of_the_harness_is_found_out_wherever_it_stands():
    imports = lambda source: imported_packages(ast.parse(source))
    assert "bench" in imports("from bench import store")
    assert "bench" in imports("import numpy, bench.store as s")
    assert "bench" in imports("def f():\n    if True:\n        from bench.store import Store")
    assert "." in imports("from . import store")
    assert "bench" not in imports("import torch.utils.bench\nfrom benchmark import bench")


def test_imports_of_the_harness_are_absolute():
    for path in (ROOT / "bench").rglob("*.py"):
        assert not any(package.startswith(".") for package in imported_packages(parsed(path))), path


def test_nothing_from_a_file_is_unpickled_or_run():
    files = [path for package in ("bench", "fmnist_core") for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 50
    assert {path.name: found for path in files if (found := trust_in_files(parsed(path)))} == {}


def test_what_could_run_code_from_a_file_is_found_out():
    source = "import pickle\nfrom joblib import load\ntorch.load(f)\npd.read_pickle(f)\neval(text)\nmodel.eval()"
    assert trust_in_files(ast.parse(source)) == {"pickle", "joblib", "torch.load", "pd.read_pickle", "eval"}


def test_no_module_of_the_harness_stands_before_one_of_another_package():
    assert shadowing(path.stem for path in (ROOT / "bench").iterdir() if path.suffix in ("", ".py")) == set()


def test_a_module_with_a_taken_name_is_found_out():
    assert shadowing(["store", "statistics", "platform", "accelerate"]) == {"statistics", "platform", "accelerate"}
