"""Options and fixtures that all tests share."""

import importlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import bench.sweep
from bench import environment
from bench.sweep.notice import SIGNALS
from fmnist_core import files
from tests import promises
from tests.promises import FaultRun

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads of one worker would wait for other workers' threads

FAULTS = pytest.StashKey[Counter[str]]()
BEGAN = pytest.StashKey[float]()

# Other work on the machine must not fail a test: no deadlines. The short form tries the same cases each time.
settings.register_profile("short", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long-faults", nargs="?", type=float, const=1.0, metavar="SHARE", help="twice 50 kills and some "
                     "100,000 fuzzed inputs, or that share of both")
    parser.addoption("--faults-record", type=Path, metavar="FILE", help="where the counts of faults are kept, after "
                     "those of earlier runs, if no test fails")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FAULTS], config.stash[BEGAN] = Counter(), time.time()
    if share := config.getoption("--long-faults"):
        settings.register_profile("long", settings.get_profile("short"), derandomize=False,
                                  max_examples=round(15_000 * share))
        settings.load_profile("long")
    else:
        settings.load_profile("short")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands its counts to the process that prints them."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["faults"] = dict(session.config.stash[FAULTS])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what a worker counted; one that crashed has nothing to say."""
    node.config.stash[FAULTS].update(getattr(node, "workeroutput", {}).get("faults", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    counts = dict(sorted(config.stash[FAULTS].items()))
    for what, number in counts.items():
        terminalreporter.write_line(f"faults: {number:,} {what}")
    path, passed = config.getoption("--faults-record"), terminalreporter.stats.get("passed", [])
    good = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.INTERRUPTED) and not terminalreporter.stats.get("failed")
    if path is None or not good:
        return
    began = config.stash[BEGAN]
    run = FaultRun(files=sorted({report.nodeid.partition("::")[0] for report in passed}), num_tests=len(passed),
                   share=config.getoption("--long-faults") or 0.0, stopped=exitstatus == pytest.ExitCode.INTERRUPTED,
                   seconds=round(time.time() - began, 1), counts=counts, environment=environment.collect(),
                   started_at=datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"))
    promises.add(path, run)


@pytest.fixture(scope="session")
def num_kills(request: pytest.FixtureRequest) -> int:
    """Of each of the sweeps that are killed again and again."""
    return round(50 * (request.config.getoption("--long-faults") or 0)) or 2


@pytest.fixture(scope="session")
def survived(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`survived("kills")` counts one; the counts are printed after the run."""
    counter = request.config.stash[FAULTS]
    return lambda what, number=1: counter.update({what: number})


@pytest.fixture(scope="module")
def some_images() -> Iterator[None]:
    """Pictures of test images can be drawn, whether the data set is installed or not."""
    from bench.pages import pictures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "find", lambda **_: Path())
        patch.setattr(pictures, "load_arrays", lambda *_: files.synthetic(10, 100))
        yield


@pytest.fixture
def bare_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, on a machine without GPU, data and launcher, where training is only pretended."""
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "FMNIST_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(environment, "uses_gpu", lambda: False)
    from tests import pretend_sweep

    for name, module in pretend_sweep.modules().items():
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(bench.sweep, name, module, raising=False)
    monkeypatch.setitem(sys.modules, "bench.sweep.loop", None)
    monkeypatch.setattr(bench.sweep, "loop", None, raising=False)
    del sys.modules["bench.sweep.loop"]  # to be read anew: now with what is pretended, and after the test without
    importlib.import_module("bench.sweep.loop")
    monkeypatch.setattr(files, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(files, "_download", lambda to: False)
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


@pytest.fixture
def small_data(monkeypatch):
    """A few synthetic images, for tasks that are run in this process."""
    import torch  # not for the tests that do without

    from bench.sweep import device
    from tests.small import small_dataset

    torch.set_num_threads(1)
    dataset = small_dataset()
    monkeypatch.setattr(device, "dataset_of", lambda task, data_dir: dataset)
    return dataset


@pytest.fixture
def handlers():
    """A notice that was obeyed leaves the process deaf; the tests go on."""
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
