"""Two "machines": two agents of torchrun on loopback with one rendezvous; one of them is lost midway, agent and all.

The first holds the rendezvous and stays: without it no agent can go on, and the same command begins anew.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.store import Store
from tests.distributed.launching import RUN, finish, torchrun

pytestmark = [pytest.mark.distributed, pytest.mark.faults]

OPTIONS = "--nnodes 2 --nproc-per-node {} --max-restarts 3 --rdzv-backend c10d --rdzv-endpoint {} --rdzv-id sweep"
"""Of torchrun, as docs/many-machines.md has them: processes on a machine, and where the machines meet."""
WITHIN_S = 120
"""All that is waited for comes within this time; most of it goes into starting processes."""
EXPERIMENT = """
question = "Who is still there?"
timings = 0
seeds = { cpu = 1, cuda = 1 }
base.data = { dataset = "synthetic", validation_size = 59000 }
base.train = { epochs = 2, global_batch_size = 64 }
"""
NUM_STEPS = 32


@pytest.fixture
def machine(tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start one: `machine(experiment, options of the sweep)`. All are gone after the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    agents: list[subprocess.Popen[str]] = []

    def start(path: Path, *options: object) -> subprocess.Popen[str]:
        if agents:
            wait_until(lambda: listens(address))
        agents.append(torchrun(
            *OPTIONS.format(1, "{}:{}".format(*address)).split(), RUN, path, "--store", tmp_path / "store", *options,
            TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1", FMNIST_DDP_TIMEOUT_S="20"))
        return agents[-1]

    yield start
    for agent in agents:
        lose(agent)


def listens(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


def lose(agent: subprocess.Popen[str]) -> None:
    """As when the power fails: SIGKILL to the agent and to all that it has started."""
    for number in [agent.pid, *descendants(agent.pid)] if agent.poll() is None else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    agent.wait()
    assert agent.stdout is not None
    agent.stdout.close()


def descendants(number: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    children = [child for child, parent in parents.items() if parent == number]
    return [*children, *(below for child in children for below in descendants(child))]


def wait_until(happened: Callable[[], object]) -> None:
    end = time.monotonic() + WITHIN_S
    while not happened():
        assert time.monotonic() < end, f"not within {WITHIN_S} s"
        time.sleep(0.05)


def written(folder: Path, *options: str) -> Path:
    """An experiment with a cell for each set of options of `tests.misbehaving`."""
    path = folder / "lost.toml"
    path.write_text(EXPERIMENT + "".join(
        f'[[cells]]\nlabel = "{i}"\nmodel = {{ name = "tests.misbehaving:linear", {each} }}\n'
        for i, each in enumerate(options)))
    return path


def endings(store: Path) -> list[tuple[str, str]]:
    """Status and reason of each record, in the order of the lines; each key is there once."""
    found = Store(store).latest().values()
    assert len((store / "lost.jsonl").read_bytes().splitlines()) == len(found)
    return [(record.status, record.reason) for record in found]


def test_cells_of_a_lost_machine_are_done_by_the_other(machine, tmp_path, survived):
    """One pause of 2 s in each cell, so that both machines are within one when one is lost."""
    store = tmp_path / "store"
    path = written(tmp_path, *[f'how = "pause", after = {NUM_STEPS - 1}, room = {1000 + i}' for i in range(5)])
    _, goes = machine(path), machine(path)
    wait_until(lambda: len(list((store / "attempts").glob("*.json"))) == 2)
    lose(goes)
    assert len(Store(store).latest()) <= 3
    wait_until(lambda: len(Store(store).latest()) == 5)
    assert endings(store) == [("ok", "")] * 5
    wait_until(lambda: not list((store / "attempts").iterdir()))
    survived("machines lost")


def test_a_shared_cell_ends_with_its_machine_and_the_sweep_goes_on(machine, tmp_path, survived):
    marker, store = tmp_path / "reached", tmp_path / "store"
    path = written(tmp_path, f'how = "pause", after = 20, once = "{marker}"', 'how = ""')
    stays, goes = (machine(path, "--set", "launch.mode=ddp") for _ in range(2))
    wait_until(marker.exists)
    lose(goes)
    machine(path, "--set", "launch.mode=ddp")  # as the scheduler sends another machine
    code, output = finish(stays, WITHIN_S)
    assert code == 1, output
    [lost, other] = endings(store)
    assert re.match(r"rank [01] of 2 died; rank [01] saw: (Connection closed by peer|Read error|Write error)", lost[1])
    assert (lost[0], other) == ("error", ("ok", ""))
    survived("machines lost")
