"""Sweeps whose processes are stopped, killed, stalled or out of memory: real ones, on gloo."""

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bench import experiment, run
from bench.record import TrainRecord
from bench.store import Store
from bench.sweep import attempts
from bench.sweep.attempts import Attempt
from fmnist_core.config import quality_key
from tests import pretend_sweep
from tests.distributed.launching import RUN, finish, start, torchrun

pytestmark = [pytest.mark.distributed, pytest.mark.faults]

HEAD = """question = "What happens?"
timings = 0
seeds = { cpu = 1, cuda = 1 }
[base]
data = { dataset = "synthetic", validation_size = 59000 }
train = { epochs = 2, global_batch_size = 64, learning_rate = 0.01 }
"""


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """An experiment with a cell for each set of options of `tests.misbehaving`, labelled by how it misbehaves."""
    def of(*cells: dict[str, object]) -> Path:
        text = HEAD
        for options in cells:
            model = {"name": "tests.misbehaving:linear", **options}
            pairs = ", ".join(f"{key} = {json.dumps(value)}" for key, value in model.items())
            text += f"[[cells]]\nlabel = {json.dumps(options.get('how', 'fine'))}\nmodel = {{ {pairs} }}\n"
        path = tmp_path / "trouble.toml"
        path.write_text(text)
        return path
    return of


def records(store: Path) -> dict[str, TrainRecord]:
    """By label of the cell, and its batch if it was halved; each is there once, and nothing is left of the attempts."""
    lines = (store / "trouble.jsonl").read_bytes().splitlines()
    latest = Store(store).latest()
    assert len(lines) == len(latest)
    left = [path.name for name in ("attempts", "checkpoints") for path in (store / name).glob("*")]
    assert not left
    return {name_of(record): record for record in latest.values()}


def name_of(record: TrainRecord) -> str:
    batch_size = record.cell["train"]["global_batch_size"]
    return record.cell["model"].get("options", {}).get("how", "fine") + ("" if batch_size == 64 else f", {batch_size}")


def key_of_first_cell(path: Path, num_processes: int = 1) -> str:
    return quality_key(experiment.load(str(path)).cells[0].config, 0, num_processes=num_processes)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.05)


def learnt(record: TrainRecord) -> object:
    return msgspec.structs.replace(record.epochs, train_s=[]), record.test


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_sweep_goes_on_where_it_was(number, code, write, tmp_path, survived):
    marker, store = tmp_path / "reached", tmp_path / "store"
    path = write({"how": "pause", "after": 20, "once": str(marker)}, {})
    process = start(RUN, path, "--store", store)
    wait_for(marker)
    process.send_signal(number)
    ended, output = finish(process)
    assert ended == code, output
    last_line = output.strip().splitlines()[-1]
    assert last_line.endswith(f"Finished records are in {store}; the same command goes on from there.")
    assert "Traceback" not in output
    checkpoint = Attempt(store, key_of_first_cell(path)).checkpoint
    assert [each.name for each in (store / "checkpoints").iterdir()] == [checkpoint.name]
    assert run.main([str(path), "--store", str(store)]) == 0
    assert run.main([str(path), "--store", str(tmp_path / "alone")]) == 0
    resumed, alone = records(store), records(tmp_path / "alone")
    assert learnt(resumed["pause"]) == learnt(alone["pause"])
    # 16 steps an epoch: the pause was in the second, which the second call did not begin anew.
    assert resumed["pause"].epochs.train_s[1] > 2
    survived("notices obeyed within a cell, and gone on from")


def test_what_a_dead_process_was_at_returns_to_the_pool(write, tmp_path, survived):
    """Two sweeps on one store; the one that gets the bad cell is killed by it, the other takes it over."""
    store = tmp_path / "store"
    path = write({"how": "kill", "once": str(tmp_path / "done")}, {}, {"how": "slow"}, {"how": "raise"})
    both = [start(RUN, path, "--store", store) for _ in range(2)]
    ends = [finish(process) for process in both]
    assert sorted(code for code, _ in ends) == [-signal.SIGKILL, 1], ends
    assert {how: record.status for how, record in records(store).items()} == {
        "kill": "ok", "fine": "ok", "slow": "ok", "raise": "error"}
    survived("processes killed by their cell")


def test_a_cell_that_kills_its_process_every_time_is_given_up(write, tmp_path, capfd, survived):
    store = tmp_path / "store"
    path = write({"how": "kill"}, {})
    for _ in range(attempts.MAX_DEATHS - 1):
        store.mkdir(exist_ok=True)
        Attempt(store, key_of_first_cell(path)).begin()
    code, output = finish(start(RUN, path, "--store", store))
    assert code == -signal.SIGKILL, output
    assert not (store / "trouble.jsonl").exists()
    assert run.main([str(path), "--store", str(store)]) == 1
    given_up = records(store)["kill"]
    assert (given_up.status, given_up.reason) == ("error", "its process died without a word, 3 times")
    assert records(store)["fine"].status == "ok"
    assert given_up.environment.host
    assert "[1/2] trouble: kill, seed 0: error: its process died" in capfd.readouterr().out
    survived("processes killed by their cell")


def test_failures_are_tried_again_when_asked_though_one_fails_again_and_the_launcher_starts_anew(write, tmp_path):
    store, command = tmp_path / "store", ("--nproc-per-node", 2, "--max-restarts", 3, RUN)
    path = write({"how": "raise", "rank": 1}, {"how": "raise alike", "rank": 1, "once": str(tmp_path / "once")}, {})
    asked = (path, "--store", store, "--set", "launch.mode=ddp")
    for options, second, num_lines in ((), "error", 3), (("--retry-failed",), "ok", 5):
        code, output = finish(torchrun(*command, *asked, *options, FMNIST_DDP_TIMEOUT_S="20"))
        assert code == 1, output
        statuses = {name_of(record): record.status for record in Store(store).latest().values()}
        assert statuses == {"raise": "error", "raise alike": second, "fine": "ok"}
        assert len((store / "trouble.jsonl").read_bytes().splitlines()) == num_lines
        assert not list((store / "attempts").iterdir())


def test_a_process_that_comes_late_runs_nothing_that_this_launch_has_run_again(write, tmp_path):
    """Twice: what the first launch has done, the second does again, once."""
    path, log = write({}), tmp_path / "log"
    for num in (1, 2):
        code, output = finish(torchrun("--nproc-per-node", 2, pretend_sweep.__file__, path, "--store",
                                       tmp_path / "store", "--rerun", PRETEND_LOG=str(log), PRETEND_LATE_S="4"))
        assert code == 0, output
        assert len(log.read_text().split()) == num


def test_a_rank_that_fails_ends_its_cell_and_not_the_sweep(write, tmp_path, survived):
    """torchrun starts the processes again; those that fail alike, or diverge, go on without.

    A network that failed in its very first step would be refused before: see `bench.sweep.dry_run`.
    Rank 1 has room for 20 images: not for its half of 64, but for its half of the 32 that are tried then, as asked.
    """
    store = tmp_path / "store"
    path = write({"how": "no room", "rank": 1, "room": 20}, {"how": "kill", "rank": 1}, {"how": "nan", "rank": 1},
                 {"how": "raise", "rank": 0, "after": 1}, {"how": "raise alike", "rank": -1}, {"rank": 1})
    code, output = finish(torchrun("--nproc-per-node", 2, "--max-restarts", 3, RUN, path, "--store", store,
                                   "--set", "launch.mode=ddp", "--set", "launch.halve_batch_after_oom=1",
                                   FMNIST_DDP_TIMEOUT_S="20"))
    assert code == 1, output
    found = records(store)
    reasons = {how: (record.status, record.reason) for how, record in found.items()}
    assert reasons["no room"] == ("oom", "rank 1 of 2: OutOfMemoryError: CUDA out of memory. No room for 32 images "
                                         "(train.global_batch_size = 64)")
    assert reasons["no room, 32"] == ("ok", "")
    assert len(found) == 7
    assert {record.labels.num_processes for record in found.values()} == {2}
    status, reason = reasons["kill"]
    assert status == "error"
    assert re.match(r"rank 1 of 2 died; rank 0 saw: (Connection closed by peer|Read error|Write error)", reason), reason
    assert reasons["nan"] == ("diverged", "the loss was nan at step 4 of 32")
    fault = r"RuntimeError: a fault of its own \(misbehaving\.py, line \d+, in _misbehave\)"
    assert re.fullmatch(rf"rank 0 of 2: {fault}", reasons["raise"][1])
    assert re.fullmatch(fault, reasons["raise alike"][1])
    assert found["fine"].status == "ok"
    assert found["fine"].epochs.test_accuracy[-1] > 0.9
    survived("ranks that raised, were killed or had no memory", 3)
    survived("smaller batches tried, as asked")


def test_stop_and_stall_of_processes_that_share_a_cell(write, tmp_path, survived):
    """Stopped, called again, stalled, called again: without restarts by torchrun."""
    marker, store = tmp_path / "reached", tmp_path / "store"
    path = write({"how": "pause", "rank": 1, "after": 20, "once": str(marker)}, {"how": "stall", "rank": 1}, {})
    timeout_s = 6
    call = lambda: torchrun("--nproc-per-node", 2, RUN, path, "--store", store, "--set", "launch.mode=ddp",
                            FMNIST_DDP_TIMEOUT_S=str(timeout_s))
    first = call()
    wait_for(marker)
    first.send_signal(signal.SIGTERM)
    code, output = finish(first)
    assert code != 0
    assert output.count("the same command goes on from there.") == 1, output
    assert list((store / "attempts").iterdir()) == []
    assert len(list((store / "checkpoints").iterdir())) == 1

    code, output = finish(call())
    assert code != 0
    assert "[1/3] trouble: pause, seed 0: test accuracy" in output
    [report] = (store / "attempts").glob("*.rank*.json")
    assert report.name.endswith(".rank0.json")
    note = report.with_name(report.name.split(".")[0] + ".json")
    assert 0 < report.stat().st_mtime - note.stat().st_mtime < 2 * timeout_s

    code, output = finish(call())
    assert code == 1, output
    found = records(store)
    assert found["pause"].epochs.train_s[1] > 2  # the pause was before the stop, the record after it
    assert found["stall"].status == "error"
    assert found["stall"].reason.startswith("rank 1 of 2 stalled; rank 0 saw: ")
    assert found["fine"].status == "ok"
    survived("notices obeyed within a cell, and gone on from")
    survived("ranks that stalled")
