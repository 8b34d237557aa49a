"""A/A calibration: its noise by known samples, its file, and what it lets others conclude."""

import importlib
import json
import math
import subprocess
import sys
import time

import msgspec
import numpy as np
import pytest

from bench import calibrate, environment, stats
from bench.pages import side_tables
from bench.pages.side_tables import headers_and_rows
from bench.record import Environment
from bench.records import noise, side_records
from bench.records.side_records import (
    METRICS,
    THRESHOLD,
    Calibration,
    Ledger,
    Pairs,
    PeerRun,
    Peers,
    load,
    save,
)
from bench.timing import revisions, side_runs
from bench.timing.interleave import interleave
from tests import made

HERE = Environment(host="abc", cpu="x", num_cpus=2, num_threads=2, libraries={"torch": "2.14.1"})


def drifting_pairs(rng, n, noise=0.01, drift=0.0):
    """Blocks A B, B A, ... of one speed, whose logarithm rises by `drift` from block to block."""
    times = iter(np.exp(drift * np.arange(2 * n) + noise * rng.standard_normal(2 * n)).tolist())
    blocks = interleave({"a": lambda: next(times), "b": lambda: next(times)}, n)
    return Pairs(a_s=blocks["a"], b_s=blocks["b"])


def calibration(**metrics):
    rng = np.random.default_rng(0)
    return Calibration(own_processes=True, environment=HERE, started_at="2026-01-01T00:00:00+00:00", cell={},
                       metrics={metric: drifting_pairs(rng, 12) for metric in METRICS} | metrics)


def test_turns_alternate_and_keep_their_order():
    calls = []
    measured = interleave({name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}, 3)
    assert "".join(calls) == "abccbaabc"
    assert measured == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_blocks_that_take_long_are_told_where_no_bar_is(monkeypatch, capsys):
    clock = iter(range(0, 10_000, 25))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    interleave({"a": lambda: 0, "b": lambda: 0}, 3)
    assert capsys.readouterr().err == "block 2 of 6, about 2 min left\nblock 4 of 6, about 50 s left\n"


def test_noise_of_a_pair_by_hand():
    pairs = Pairs(a_s=[1.0, 2.0, 4.0], b_s=[2.0, 2.0, 2.0])
    assert noise.paired_noise(pairs) == pytest.approx([-math.log(2), 0, math.log(2)])


def test_each_metric_of_each_block_goes_to_its_list(monkeypatch):
    blocks = iter(range(100))
    monkeypatch.setattr(revisions, "_block", lambda *asked: {metric: 1.0 + next(blocks) for metric in METRICS})
    metrics = revisions.time_in_turns([revisions.WORKING_TREE] * 2, {}, 2)
    assert metrics["train_step"].a_s == [1.0, 1.0 + 3 * len(METRICS)]
    assert metrics["latency"].b_s == [2.0 * len(METRICS), 3.0 * len(METRICS)]


def test_a_captured_step_has_no_batch(monkeypatch):
    block = {"train_step": 1.0, "evaluate": 1.0, "inference": 1.0, "latency": 1.0}
    monkeypatch.setattr(revisions, "_block", lambda *asked: block)
    assert "batch" not in revisions.time_in_turns([revisions.WORKING_TREE] * 2, {}, 2)


def test_what_is_called_resolvable_is_found_nine_times_in_ten():
    rng = np.random.default_rng(0)
    effect = noise.resolvable(drifting_pairs(rng, 200))
    change = lambda pairs: stats.paired_ratio(pairs.a_s, [(1 + effect) * b for b in pairs.b_s])
    found = [stats.verdict(change(pairs), THRESHOLD, noise.ALPHA_EACH) == "less"
             for pairs in (drifting_pairs(rng, side_records.PAIRS) for _ in range(300))]
    assert np.mean(found) > 0.9 - 3 * math.sqrt(0.09 / 300)


def test_two_records_are_told_apart_only_beyond_drift():
    rng = np.random.default_rng(0)
    steady, drifting = drifting_pairs(rng, 10), drifting_pairs(rng, 10, drift=0.02)
    assert noise.record_ratio(1.1, 1.0, steady).p < 0.001
    assert noise.record_ratio(1.1, 1.0, drifting).p > 0.05
    assert noise.resolvable_unpaired(steady) < 0.1 < noise.resolvable_unpaired(drifting)


def test_two_records_of_one_speed_rarely_differ():
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(400):
        a, b = np.exp(0.05 * rng.standard_normal(2))
        ratio = noise.record_ratio(a, b, drifting_pairs(rng, 10, noise=0.05))
        assert ratio.low < ratio.ratio < ratio.high
        alarms.append(ratio.p < 0.05)
    assert np.mean(alarms) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_the_file_comes_back_as_it_was(tmp_path):
    record = calibration()
    path = save(tmp_path / "store", record)
    assert path.name == "calibration-abc.json"
    assert load(tmp_path / "store", Calibration, "abc") == record
    assert load(tmp_path / "store", Calibration, "other") is None
    assert load(tmp_path / "store", Ledger, "abc") is None
    assert side_records.load_all(tmp_path / "store", Calibration) == [record]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("change", "said"), [
    (lambda content: content | {"schema": 2}, "schema"), (lambda content: content | {"kind": "ledger"}, "kind"),
    (lambda content: content | {"unknown": 1}, "unknown"),
    (lambda content: content | {"metrics": {"train_step": {"a_s": [0.0], "b_s": [1.0]}}}, "a_s"),
])
def test_a_file_of_another_kind_or_version_is_an_error_that_names_it(tmp_path, change, said):
    path = save(tmp_path, calibration())
    path.write_text(json.dumps(change(json.loads(path.read_bytes()))))
    with pytest.raises(ValueError, match=rf"calibration-abc\.json.*{said}"):
        load(tmp_path, Calibration, "abc")


def test_a_calibration_holds_for_its_machine_threads_and_library_only(tmp_path):
    save(tmp_path, calibration())
    assert side_records.calibration_for(tmp_path, HERE) is not None
    for change in ({"num_threads": 1}, {"device": "GPU"}, {"libraries": {"torch": "2.15.0"}}, {"host": "other"}):
        assert side_records.calibration_for(tmp_path, msgspec.structs.replace(HERE, **change)) is None
    assert side_records.calibration_for(tmp_path, msgspec.structs.replace(HERE, load=3.0, commit="other")) is not None


def test_the_table_has_a_row_per_metric():
    headers, rows = headers_and_rows(calibration(train_step=Pairs(a_s=[0.001, 0.002], b_s=[0.001, 0.002])))
    assert [row[0] for row in rows] == ["train step", "batch", "epoch", "evaluate", "inference", "latency"]
    assert all(len(row) == len(headers) for row in rows)
    assert rows[0][1:7] == ["2", "1.50", "1.000", "0", "2.50", "2"]  # of two pairs no interval
    [once] = headers_and_rows(calibration(train_step=Pairs(a_s=[0.001], b_s=[0.001])))[1][:1]
    assert once[5:7] == ["-", "-"]


def test_more_noise_asks_for_more_pairs():
    rng = np.random.default_rng(0)
    asked = [noise.pairs_to_find(drifting_pairs(rng, 50, noise=own)) for own in (0.002, 0.02, 0.1)]
    assert asked[0] < 5 < asked[1] < 20 < asked[2]


def test_peers_are_counted_over_all_processes():
    run = PeerRun(images=6000, train_s=2.0, num_steps=10, test_accuracy=[0.5, 0.7])
    peer = side_records.Peer(name="one", what="what", num_processes=2, runs=[run] * 3, libraries={"lib": "1.0"})
    absent = side_records.Peer(name="two", what="what", skipped="not installed")
    record = Peers(environment=HERE, started_at="", cell={}, epochs=2, images_per_epoch=100, systems=[peer, absent])
    assert side_tables.rates(peer) == [3000.0] * 3
    _, rows = headers_and_rows(record)
    assert rows[0][1:5] == ["what (lib 1.0)", "2 × 1", "3", "3,000 [3,000, 3,000]"]
    assert rows[0][-1] == "60.00"
    assert rows[1][:2] == ["two", "not installed"]


def test_no_torch_until_something_is_timed():
    modules = ("records.side_records", "timing.side_runs", "calibrate", "compare", "ledger", "peers", "turns")
    code = f"import sys, {', '.join(f'bench.{module}' for module in modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_single_round_says_nothing_of_noise(tmp_path):
    with pytest.raises(SystemExit):
        calibrate.main(["--rounds", "1", "--store", str(tmp_path)])


def test_an_unknown_experiment_is_wrong_input(tmp_path, capsys):
    assert calibrate.main(["--experiment", "finel", "--store", str(tmp_path)]) == 2
    assert "did you mean 'final'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["calibrate", "compare", "ledger", "peers", "scaling"])
def test_a_model_that_is_no_network_is_wrong_input(command, tmp_path, capsys):
    revisions = ["HEAD", "working-tree"] if command == "compare" else []
    asked = [*revisions, "--experiment", "cited_non_neural", "--dataset", "synthetic", "--store", str(tmp_path)]
    assert importlib.import_module(f"bench.{command}").main(asked) == 2
    assert "its first cell has model.name = 'baseline', which is no network" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_was_measured_is_printed_where_it_cannot_be_stored(tmp_path, capsys):
    (tmp_path / "store").write_text("a file, no folder")
    assert side_runs.finish("scaling", tmp_path / "store", made.scaling()) == 1
    printed = capsys.readouterr()
    assert "33,300" in printed.out
    assert printed.err.startswith("bench.scaling: not stored: ")


def test_the_command_stores_what_it_prints(tmp_path, capsys, monkeypatch):
    times = iter(np.exp(0.01 * np.random.default_rng(0).standard_normal(1000)))
    monkeypatch.setattr(revisions, "_block", lambda *asked: {metric: float(next(times)) for metric in METRICS})
    assert calibrate.main(["--rounds", "5", "--threads", "1", "--store", str(tmp_path)]) == 0
    stored = load(tmp_path, Calibration, environment.collect().host)
    assert stored is not None
    assert len(stored.metrics["train_step"].a_s) == 5
    assert stored.environment.num_threads == 1
    assert not stored.reason_against
    assert "train step" in capsys.readouterr().out
