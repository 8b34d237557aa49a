"""Options and fixtures that all tests share."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import bench
from bench import environment
from fmnist_core import files

FAULTS = pytest.StashKey[Counter[str]]()

# Other work on the machine must not fail a test: no deadlines. The short form tries the same cases each time.
settings.register_profile("short", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("short"), derandomize=False, max_examples=15_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long-faults", action="store_true", help="50 kills and some 100,000 fuzzed inputs: half an hour")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FAULTS] = Counter()
    settings.load_profile("long" if config.getoption("--long-faults") else "short")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for what, number in sorted(config.stash[FAULTS].items()):
        terminalreporter.write_line(f"faults: {number:,} {what}")


@pytest.fixture(scope="session")
def long_faults(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long-faults"))


@pytest.fixture(scope="session")
def survived(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`survived("kills")` counts one; the counts are printed after the run."""
    counter = request.config.stash[FAULTS]
    return lambda what, number=1: counter.update({what: number})


@pytest.fixture
def bare_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, on a machine without GPU, data and launcher, where training is only pretended."""
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "FMNIST_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(environment, "uses_gpu", lambda: False)
    from tests import pretend_sweep

    for name, module in pretend_sweep.modules().items():
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(bench, name, module, raising=False)
    monkeypatch.setattr(files, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(files, "_download", lambda: False)
    files.load_arrays.cache_clear()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call_run(bare_folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """Call `bench/run.py`; gives its exit code and what it said on either stream."""

    from bench import run

    def run_it(*arguments: str) -> tuple[object, str, str]:
        try:
            code: object = run.main(arguments)
        except SystemExit as exit_:  # argparse's way
            code = exit_.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run_it
