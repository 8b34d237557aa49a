"""What whoever comes after a dead process makes of its notes."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import experiment, run
from bench.records.lines import decode
from bench.store import StoreError
from bench.sweep import device, dry_run, launch
from bench.sweep.attempts import MAX_DEATHS, Attempt, Report, blame
from fmnist_core.config import quality_key
from fmnist_core.files import Arrays
from tests.small import small_dataset

KEY = "0123456789abcdef"


def test_a_cell_is_given_up_after_its_process_died_so_often(tmp_path):
    verdicts = [Attempt(tmp_path, KEY).begin() for _ in range(MAX_DEATHS + 1)]
    assert verdicts[:-1] == [None] * MAX_DEATHS
    assert verdicts[-1] == ("error", f"its process died without a word, {MAX_DEATHS} times")


def test_deaths_before_a_new_checkpoint_do_not_count(tmp_path):
    for _ in range(3 * MAX_DEATHS):
        attempt = Attempt(tmp_path, KEY)
        assert attempt.begin() is None
        attempt.progressed()


@pytest.mark.parametrize("end", ["withdraw", "finish"])
def test_an_end_that_was_meant_is_no_death(end, tmp_path):
    for _ in range(3 * MAX_DEATHS):
        attempt = Attempt(tmp_path, KEY, 2)
        assert attempt.begin() is None
        attempt.report(Report(1, "error", "x"))
        getattr(attempt, end)()
    assert list((tmp_path / "attempts").iterdir()) == []


def test_a_stop_keeps_the_checkpoint_and_a_record_removes_it(tmp_path):
    attempt = Attempt(tmp_path, KEY)
    attempt.begin()
    attempt.checkpoint.parent.mkdir()
    attempt.checkpoint.touch()
    killed = attempt.checkpoint.with_suffix(".999.draft")  # in the middle of writing
    killed.touch()
    (tmp_path / "attempts" / f"{KEY}.999.draft").touch()
    of_a_rank = tmp_path / "attempts" / f"{KEY}.rank1.998.draft"  # which may be writing it now
    of_a_rank.touch()
    attempt.withdraw()
    assert attempt.checkpoint.exists()
    assert list((tmp_path / "attempts").iterdir()) == [of_a_rank]
    attempt.finish()
    assert not attempt.checkpoint.exists()
    assert not killed.exists()


def test_drafts_of_reports_end_with_the_cell_and_not_with_an_attempt(tmp_path):
    """A rank that was killed while it wrote one leaves it; at a stop another rank may be writing it now."""
    attempt = Attempt(tmp_path, KEY, 2)
    attempt.begin()
    drafts = [tmp_path / "attempts" / f"{key}.rank{rank}.998.draft" for key in (KEY, "f" * 16) for rank in (0, 1)]
    for draft in drafts:
        draft.touch()
    attempt.withdraw()
    assert sorted((tmp_path / "attempts").iterdir()) == drafts
    attempt.finish()
    assert sorted((tmp_path / "attempts").iterdir()) == drafts[2:]


def test_a_report_becomes_the_record_at_the_first_death(tmp_path):
    first = Attempt(tmp_path, KEY, 2)
    assert first.begin() is None
    first.report(Report(1, "oom", "no room"))
    assert Attempt(tmp_path, KEY, 2).begin() == ("oom", "rank 1 of 2: no room")


def test_keys_do_not_meddle_with_each_other(tmp_path):
    Attempt(tmp_path, KEY, 2).begin()
    Attempt(tmp_path, KEY, 2).report(Report(0, "error", "x"))
    assert Attempt(tmp_path, "f" * 16, 2).begin() is None
    Attempt(tmp_path, "f" * 16, 2).finish()
    assert Attempt(tmp_path, KEY, 2).begin() == ("error", "rank 0 of 2: x")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"num_deaths":"many"}', b'{"num_deaths":1,"more":2}',
                                     b"\xff\xfe"])
def test_a_note_that_cannot_be_read_says_nothing(content, tmp_path):
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts" / f"{KEY}.json").write_bytes(content)
    (tmp_path / "attempts" / f"{KEY}.rank0.json").write_bytes(content)
    assert Attempt(tmp_path, KEY, 2).begin() is None


def test_a_note_that_cannot_be_written_is_an_error_of_the_store(tmp_path):
    (tmp_path / "attempts").write_text("in the way")
    with pytest.raises(StoreError, match="attempts"):
        Attempt(tmp_path, KEY).begin()


LOST = "Connection closed by peer"
BLAMES = {
    "its own error goes before what others saw of it": (
        [Report(0, "error", LOST, "died"), Report(2, "oom", "no room"), Report(1, "error", LOST, "died")], 3,
        ("oom", "rank 2 of 3: no room")),
    "two failed": (
        [Report(0, "oom", "a"), Report(3, "error", "b"), Report(2, "error", LOST, "died")], 4,
        ("oom", "rank 0 of 4: a; rank 3 of 4: b")),
    "who says nothing is the one": (
        [Report(0, "error", LOST, "died"), Report(2, "error", LOST, "died")], 3,
        ("error", f"rank 1 of 3 died; rank 0 saw: {LOST}")),
    "the first witness of a stall saw it, the second saw the first leave": (
        [Report(0, "error", LOST, "died"), Report(2, "error", "Timed out", "stalled")], 3,
        ("error", "rank 1 of 3 stalled; rank 2 saw: Timed out")),
    "all still there": (
        [Report(0, "error", LOST, "died"), Report(1, "error", LOST, "died")], 2,
        ("error", f"the ranks lost each other; rank 0 saw: {LOST}")),
}


@pytest.mark.parametrize("case", BLAMES)
def test_blame(case):
    reports, num_processes, expected = BLAMES[case]
    assert blame(reports, num_processes) == expected


EXPERIMENT = """
question = "What is left of an earlier attempt?"
timings = 0
seeds = { cpu = 1, cuda = 1 }
[base]
model = { name = "tests.misbehaving:linear" }
data = { dataset = "synthetic", validation_size = 59000 }
train = { epochs = 1, global_batch_size = 100 }
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep of one cell in this process; its arguments, an attempt at the cell, and its file of records."""
    dataset = small_dataset()
    nothing = Arrays(*[bytes(60_000)] * 4)  # type: ignore[list-item]
    monkeypatch.setattr(dry_run, "load_arrays", lambda *arguments: nothing)
    monkeypatch.setattr(device, "dataset_of", lambda task, data_dir: dataset)
    path, store = tmp_path / "one.toml", tmp_path / "store"
    path.write_text(EXPERIMENT)
    key = quality_key(experiment.load(str(path)).cells[0].config, 0)
    return [str(path), "--store", str(store)], Attempt(store, key, 2), store / "one.jsonl"


def test_what_an_attempt_left_decides_and_a_second_wish_begins_anew(sweep):
    arguments, attempt, records = sweep
    attempt.begin()
    attempt.report(Report(1, "oom", "no room"))
    assert run.main(arguments) == 1
    assert '"reason":"rank 1 of 1: no room"' in records.read_text()
    attempt.begin()  # as after a kill between the record and the end of its attempt
    attempt.report(Report(1, "oom", "no room"))
    attempt.checkpoint.parent.mkdir()
    attempt.checkpoint.write_bytes(b"old")  # would be a warning, and so an error
    assert run.main(arguments) == 1
    assert len(records.read_text().splitlines()) == 1
    assert run.main([*arguments, "--retry-failed"]) == 0
    assert len(records.read_text().splitlines()) == 2
    assert not attempt.checkpoint.exists()


def test_processes_that_the_launcher_started_again_do_not_run_again_what_they_did(sweep, monkeypatch, capsys):
    arguments, _, records = sweep
    assert run.main(arguments) == 0
    capsys.readouterr()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert run.main([*arguments, "--rerun"]) == 0
    assert len(records.read_text().splitlines()) == 1
    assert capsys.readouterr().out == ""  # the summary was shown before
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert run.main([*arguments, "--rerun"]) == 0
    assert len(records.read_text().splitlines()) == 2
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setattr(launch, "began_at", lambda started: time.time() + 1)  # what is there is from before this
    assert run.main([*arguments, "--rerun"]) == 0
    assert len(records.read_text().splitlines()) == 3


def test_a_restart_hears_what_this_launch_left_and_forgets_what_was_there_before(tmp_path):
    began = time.time() - 60
    for age_s, kept in ((90, False), (30, True)):
        attempt = Attempt(tmp_path, "a" * 16)
        assert attempt.begin() is None
        os.utime(attempt._note, (time.time() - age_s,) * 2)
        attempt.forget(began)
        assert attempt._note.exists() is kept
    attempt.forget(math.inf)  # by a process alone: from the start
    assert not attempt._note.exists()
    attempt.forget(began)


@pytest.mark.parametrize("launcher", ["torchrun", "a shell"])
def test_a_launch_began_when_torchrun_did_or_the_process_itself(launcher, monkeypatch):
    code = "import time; from bench.sweep import launch; print(time.time(), launch.began_at(launch.World(0, 2)))"
    process = f"import subprocess, sys, time; time.sleep(5); subprocess.run([sys.executable, '-c', {code!r}])"
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if launcher == "torchrun":
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    before = time.time()
    done = subprocess.run([sys.executable, "-c", process], capture_output=True, text=True, check=True)
    now, began = map(float, done.stdout.split())
    assert now - before > 5
    assert began <= now
    assert (began <= before + 1.5) is (launcher == "torchrun")
    assert began >= before - 1.5


def test_where_no_system_says_when_a_launch_began_only_a_restart_keeps_what_it_finds(monkeypatch):
    monkeypatch.setattr(launch, "Path", lambda path: Path("/nowhere"))
    assert launch.began_at(launch.World(0, 2, num_restarts=1)) == 0
    assert launch.began_at(launch.World(0, 2)) == math.inf


def test_what_another_process_of_this_launch_has_done_is_not_done_again(sweep, monkeypatch):
    """A process that comes to the store after another has finished a cell; and one process alone."""
    arguments, _, records = sweep
    again = [*arguments, "--rerun"]
    assert run.main(arguments) == 0
    assert run.main(again) == 0
    assert len(records.read_text().splitlines()) == 2
    launched_at = time.time() - 60
    monkeypatch.setattr(launch, "world", lambda: launch.World(1, 2, 1, 2))
    monkeypatch.setattr(launch, "began_at", lambda started: launched_at)
    assert run.main(again) == 0
    assert len(records.read_text().splitlines()) == 2
    launched_at = time.time() + 60
    assert run.main(again) == 0
    assert len(records.read_text().splitlines()) == 3


def test_a_smaller_batch_is_tried_when_asked_and_has_a_record_of_its_own(sweep, tmp_path):
    """Room for 40 images: 100 and 50 are too many, 25 are not."""
    arguments, _, records = sweep
    path = tmp_path / "one.toml"
    path.write_text(EXPERIMENT.replace('misbehaving:linear"', 'misbehaving:linear", room = 40'))
    size_and_status = lambda: [(each.cell["train"]["global_batch_size"], each.status)
                               for each in map(decode, records.read_bytes().splitlines())]
    assert run.main(arguments) == 1
    assert size_and_status() == [(100, "oom")]
    ask = [*arguments, "--set", "launch.halve_batch_after_oom=2"]
    assert run.main(ask) == 1  # what was asked for is still not there
    assert size_and_status() == [(100, "oom"), (50, "oom"), (25, "ok")]
    assert run.main(ask) == 1
    assert len(size_and_status()) == 3
    assert run.main([*ask, "--retry-failed"]) == 1
    assert size_and_status()[3:] == [(100, "oom"), (50, "oom")]
    assert list((tmp_path / "store" / "attempts").iterdir()) == []
