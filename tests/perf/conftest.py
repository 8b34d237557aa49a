"""Timed checks: `make perf`. Each round times the reference and then the check; the verdict is on their ratio."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from bench import environment
from bench.record import Environment
from fmnist_core.clock import synchronize
from fmnist_core.cpu.heap import keep_freed_memory
from tests.perf import gate

JUDGED = pytest.StashKey[list[gate.Judged]]()
WARMUP_ROUNDS = 3

Check = Callable[[Callable[[], Any], Callable[[], Any], torch.device], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--perf-rounds", type=int, default=30, help="timed rounds of each check; default: 30")
    parser.addoption("--perf-baseline", type=Path, default=gate.BASELINES, help="the file of baselines")
    parser.addoption("--perf-threshold", type=float, default=gate.THRESHOLD, metavar="X",
                     help=f"least relative change that counts; default: {gate.THRESHOLD}")
    parser.addoption("--perf-require-baseline", action="store_true", help="fail where there is no baseline")
    parser.addoption("--write-baseline", action="store_true", help="add this process to this machine's baseline")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[JUDGED] = []
    if config.getoption("--perf-require-baseline") and not config.getoption("--benchmark-enable"):
        raise pytest.UsageError("--perf-require-baseline needs --benchmark-enable: nothing would be timed")
    if config.getoption("--benchmark-enable"):
        keep_freed_memory()


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """The plugin's own identity has neither processor nor GPU in it."""
    machine_info["id"] = gate.machine_id(here())
    machine_info["environment"] = msgspec.to_builtins(here())


def here() -> Environment:
    return environment.collect(torch.get_num_threads())


@pytest.fixture
def check(benchmark: Any, request: pytest.FixtureRequest) -> Check:
    """`check(work, reference, device)`: fails if `work` has become slower, or faster than anyone has said."""
    option = request.config.getoption

    def run(work: Callable[[], Any], reference: Callable[[], Any], device: torch.device) -> None:
        reference_s: list[float] = []

        def time_reference() -> None:
            synchronize(device)
            start = time.perf_counter()
            reference()
            synchronize(device)
            reference_s.append(time.perf_counter() - start)

        def timed() -> None:
            work()
            synchronize(device)

        benchmark.pedantic(timed, setup=time_reference, rounds=option("--perf-rounds", 1), warmup_rounds=WARMUP_ROUNDS)
        if benchmark.disabled:
            return
        known = gate.load(option("--perf-baseline")).get(gate.machine_id(here()))
        judged = gate.judge(request.node.name, benchmark.stats.stats.data, reference_s[WARMUP_ROUNDS:],
                            known.checks.get(request.node.name) if known else None, option("--perf-threshold"))
        request.config.stash[JUDGED].append(judged)
        benchmark.extra_info.update(verdict=judged.verdict, said=judged.said, reference_s=reference_s[WARMUP_ROUNDS:])
        if option("--write-baseline"):
            return
        if judged.verdict == gate.NO_BASELINE:
            said = "measured, but this machine has no baseline to judge it by: `make baseline` makes one"
            if option("--perf-require-baseline"):
                pytest.fail(said, pytrace=False)
            pytest.skip(said)
        if judged.verdict in ("slower", "faster"):
            pytest.fail(f"{judged.verdict}: {judged.said}. If that is meant, `make baseline` and commit what it writes",
                        pytrace=False)

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    judged = config.stash.get(JUDGED, [])
    if not judged:
        return
    terminalreporter.section("timed checks against their baseline")
    for one in judged:
        terminalreporter.write_line(f"{one.check}: {one.verdict} ({one.said})")
    path = config.getoption("--perf-baseline")
    if config.getoption("--write-baseline"):
        path.write_text(gate.lines(gate.merged(gate.load(path), here(), judged)))
        terminalreporter.write_line(f"this process was added to {path}")
    elif any(one.verdict == gate.NO_BASELINE for one in judged):
        terminalreporter.write_line("WARNING: NO BASELINE on this machine: no verdict was given on these checks",
                                    yellow=True, bold=True)
