"""Options and fixtures that all tests share."""

import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings

import bench
from bench import environment
from bench.promises import FaultRun
from fmnist_core import files

FAULTS = pytest.StashKey[Counter[str]]()
BEGAN = pytest.StashKey[float]()

# Other work on the machine must not fail a test: no deadlines. The short form tries the same cases each time.
settings.register_profile("short", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long-faults", nargs="?", type=float, const=1.0, metavar="SHARE", help="twice 50 kills and some "
                     "100,000 fuzzed inputs, or that share of both")
    parser.addoption("--faults-record", type=Path, metavar="FILE", help="where the counts of faults are kept, if all "
                     "tests pass")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FAULTS], config.stash[BEGAN] = Counter(), time.time()
    if share := config.getoption("--long-faults"):
        settings.register_profile("long", settings.get_profile("short"), derandomize=False,
                                  max_examples=round(15_000 * share))
        settings.load_profile("long")
    else:
        settings.load_profile("short")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path, config = session.config.getoption("--faults-record"), session.config
    if path is None or exitstatus != pytest.ExitCode.OK:
        return
    began = datetime.fromtimestamp(config.stash[BEGAN], UTC).isoformat(timespec="seconds")
    run = FaultRun(share=config.getoption("--long-faults") or 0.0, num_tests=session.testscollected, started_at=began,
                   seconds=round(time.time() - config.stash[BEGAN], 1), environment=environment.collect(),
                   counts=dict(sorted(config.stash[FAULTS].items())))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for what, number in sorted(config.stash[FAULTS].items()):
        terminalreporter.write_line(f"faults: {number:,} {what}")


@pytest.fixture(scope="session")
def num_kills(request: pytest.FixtureRequest) -> int:
    """Of each of the sweeps that are killed again and again."""
    return round(50 * (request.config.getoption("--long-faults") or 0)) or 2


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
