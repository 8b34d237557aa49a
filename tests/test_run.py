"""The command line: what it does, and how it ends. Wrong requests are in `test_bad_input`, kills in `test_kills`."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from bench import environment, experiment, run
from bench.record import Epochs, SpeedRecord, TrainRecord
from bench.records.lines import decode
from bench.store import Store, StoreError
from bench.sweep import tracking
from bench.sweep.notice import Stopped
from bench.sweep.plan import tasks
from tests.swept import ONE_CELL

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENT = f"{ONE_CELL}grid.model.depth = [1, 2]\n"


def written(bare_folder, text):
    path = bare_folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_listing_needs_neither_data_nor_torch_and_writes_nothing(call_run, bare_folder):
    code, out, err = call_run("kernel_depth", "--list", "--seeds", "2")
    assert (code, err) == (0, "")
    assert "\n32 trainings and 48 timings, 80 without a record." in out  # 16 cells, 2 seeds and 3 timings each
    assert (out.count("0/2"), out.count("0/3")) == (16, 16)
    assert list(bare_folder.iterdir()) == []


def test_a_list_whose_reader_leaves_ends_quietly(tmp_path):
    """Whatever is written after the reader has left."""
    program = [sys.executable, str(ROOT / "bench" / "run.py"), "kernel_depth", "--list", "--store", str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_what_is_done_is_not_done_again(call_run, bare_folder, monkeypatch):
    path = written(bare_folder, EXPERIMENT)
    monkeypatch.setenv("PRETEND_LOG", str(bare_folder / "log"))
    assert "2 trainings and 0 timings, 2 without a record" in call_run(path, "--list")[1]
    assert [call_run(path)[0], call_run(path)[0]] == [0, 0]
    assert "2 trainings and 0 timings, 0 without a record" in call_run(path, "--list")[1]
    keys = (bare_folder / "log").read_text().split()
    assert len(set(keys)) == len(keys) == 2
    lines = (bare_folder / "runs" / "mine.jsonl").read_bytes().splitlines()
    assert [decode(line).quality_key for line in lines] == keys


def test_rank_0_alone_tells_the_launcher_of_failed_cells(call_run, bare_folder, monkeypatch):
    """A launcher ends the others as soon as one process has failed: rank 0 could be in the midst of its summary."""
    path = written(bare_folder, EXPERIMENT)
    assert call_run(path)[0] == 0
    done = next(iter((store := Store("runs")).heads()))
    store.append(TrainRecord(experiment="mine", quality_key=done, seed=0, cell={}, status="oom"))
    for rank, code in (("0", 1), ("1", 0)):
        for name, value in {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        assert call_run(path)[0] == code


def test_what_is_wrong_on_one_machine_is_told_there(call_run, bare_folder, monkeypatch):
    monkeypatch.setattr(run, "FIRST_SPEAKS_S", 0.0)
    for local_rank, told in (("0", True), ("1", False)):
        monkeypatch.setenv("WORLD_SIZE", "4")
        monkeypatch.setenv("RANK", str(2 + int(local_rank)))  # of the second machine of two
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        code, _, err = call_run("quick", "--data-dir", "nowhere")
        assert code == 2
        assert bool(err) == told


def test_threads_are_those_asked_for_or_the_processors(call_run, bare_folder, monkeypatch):
    seen, train = [], sys.modules["bench.sweep.one_task"].run
    monkeypatch.setattr(sys.modules["bench.sweep.one_task"], "run", lambda task, attempt, conditions: (
        seen.append(conditions.num_threads) or train(task, attempt, conditions)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = written(bare_folder, EXPERIMENT)
    assert call_run(path, "--threads", "3")[0] == call_run(path, "--rerun")[0] == 0
    assert seen == [3, 3, environment.num_cpus(), environment.num_cpus()]


def test_a_timing_with_other_threads_is_another(call_run, bare_folder):
    path = written(bare_folder, EXPERIMENT.replace("timings = 0", "timings = 1"))
    with_one = environment.speed_identity(environment.collect(1))
    *_, timing = tasks([experiment.load(path)], num_seeds=1, gpu=False, machine=with_one)
    (store := Store("runs")).check_writable()
    store.append(SpeedRecord(experiment="mine", speed_key=timing.key, cell={}))
    assert "2 timings, 3 without a record" in call_run(path, "--list", "--threads", "1")[1]
    assert "2 timings, 4 without a record" in call_run(path, "--list")[1]


def test_the_work_beside_a_cell_does_not_grow_with_the_number_of_cells(call_run, bare_folder, monkeypatch):
    looks, latest = [], Store.latest
    monkeypatch.setattr(Store, "latest", lambda store: looks.append(1) or latest(store))
    monkeypatch.setenv("PRETEND_S", "0")
    assert call_run(written(bare_folder, EXPERIMENT), "--seeds", "20")[0] == 0
    assert len(looks) < 5 * 40


def test_failed_cells_are_kept_and_tried_again_when_asked(call_run, bare_folder, monkeypatch):
    path = written(bare_folder, EXPERIMENT)
    assert call_run(path)[0] == 0
    done, other = (store := Store("runs")).heads()
    store.append(TrainRecord(experiment="mine", quality_key=done, seed=0, cell={}, status="oom"))
    monkeypatch.setenv("PRETEND_LOG", str(bare_folder / "log"))
    code, out, _ = call_run(path)
    assert code == 1  # nothing to do, and a failure among the results
    assert re.search(r"^depth 1 .* oom$", out, re.MULTILINE)
    assert not (bare_folder / "log").exists()
    assert "2 trainings and 0 timings, 0 without a record, 1 to be run again" in call_run(
        path, "--list", "--retry-failed")[1]
    assert call_run(path, "--retry-failed")[0] == 0
    assert (bare_folder / "log").read_text().split() == [done]
    assert call_run(path, "--rerun")[0] == 0
    assert (bare_folder / "log").read_text().split() == [done, done, other]
    assert len((bare_folder / "runs" / "mine.jsonl").read_bytes().splitlines()) == 6


def test_what_only_trainings_do_is_said_to_be_left_out_where_none_is_left(call_run, bare_folder, monkeypatch):
    monkeypatch.setattr(tracking, "check", lambda names: None)
    path = written(bare_folder, EXPERIMENT)
    said = "nothing is left to train; --rerun trains again what has a record\n"
    assert said not in call_run(path, "--keep-weights", "--track", "tensorboard")[1]
    assert call_run(path, "--keep-weights")[1].startswith(f"--keep-weights: {said}")
    both = call_run(path, "--keep-weights", "--track", "tensorboard")[1]
    assert both.startswith(f"--keep-weights and --track: {said}")
    assert said not in call_run(path)[1]
    assert said not in call_run(path, "--keep-weights", "--rerun")[1]


def test_only_and_set_choose_and_change_cells(call_run, bare_folder):
    path = written(bare_folder, EXPERIMENT)
    assert call_run(path, "--only", "model.depth=2", "--set", "train.epochs=3", "--seeds", "2")[0] == 0
    assert call_run(path, "--only", "model.depth=2")[0] == 0
    assert sorted(each.seed for each in Store("runs").latest().values()) == [0, 0, 1]
    assert call_run(path)[1].count("test accuracy") == 1 + 1  # the cell of depth 1, and the head of the table


def test_a_full_disk_ends_the_sweep_with_a_message_and_what_is_finished(call_run, bare_folder, monkeypatch):
    path, append, asked = written(bare_folder, EXPERIMENT), Store.append, []

    def refuse_the_second(store, each):
        asked.append(each)
        if len(asked) == 2:
            raise StoreError("store runs/mine.jsonl cannot be written: No space left on device")
        append(store, each)

    monkeypatch.setattr(Store, "append", refuse_the_second)
    code, _, err = call_run(path)
    assert (code, err) == (1, "bench/run.py: store runs/mine.jsonl cannot be written: No space left on device\n")
    assert len(Store("runs").latest()) == 1
    assert call_run(path)[0] == 0
    assert len(asked) == 3


def test_an_interruption_before_anything_was_begun_names_no_folder(monkeypatch, bare_folder, capsys):
    def stopped(*arguments):
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr(run, "_run", stopped)
    assert run.main(["quick", "--store", "never"]) == 130
    assert capsys.readouterr().err == "\nInterrupted. Nothing was begun.\n"


def test_an_interruption_keeps_what_is_finished_and_says_how_to_go_on(call_run, bare_folder, monkeypatch):
    arguments = (written(bare_folder, EXPERIMENT), "--seeds", "50", "--store", "mine")
    command = [sys.executable, "-m", "tests.pretend_sweep", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PRETEND_S": "0.1"}
    with subprocess.Popen(command, env=environ, **pipes) as process:
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "Interrupted. Finished records are in mine; the same command goes on from there."
    num_finished = len(Store("mine").latest())
    assert (first + rest).count("\n") <= num_finished < 100
    monkeypatch.setenv("PRETEND_S", "0")
    assert call_run(*arguments)[0] == 0
    assert len((bare_folder / "mine" / "mine.jsonl").read_bytes().splitlines()) == len(Store("mine").latest()) == 100


def test_a_cell_that_another_sweep_has_just_finished_is_not_done_again(call_run, bare_folder, monkeypatch):
    claim, taken = Store.claim, []

    def claim_a_moment_too_late(store, key):
        if not taken:
            taken.append(key)
            theirs = Epochs(test_accuracy=[0.75])
            Store("runs").append(TrainRecord(experiment="mine", quality_key=key, seed=0, cell={}, epochs=theirs))
        return claim(store, key)

    monkeypatch.setattr(Store, "claim", claim_a_moment_too_late)
    monkeypatch.setenv("PRETEND_LOG", str(bare_folder / "log"))
    assert call_run(written(bare_folder, EXPERIMENT), "--timings", "0")[0] == 0
    assert len((bare_folder / "log").read_text().split()) == 1
    assert Store("runs").latest()[taken[0]].epochs.test_accuracy == [0.75]
