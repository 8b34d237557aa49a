"""Comparisons of records and of revisions: what is compared, what is refused and why, and the verdicts."""

import contextlib
import json
import math
import os
import re
import subprocess
import time

import msgspec
import numpy as np
import pytest

from bench import compare
from bench.formatting import significant
from bench.judging import record_sets
from bench.record import Environment, Epochs, Inference, Labels, SpeedRecord, TrainRecord
from bench.records import timings
from bench.records.lines import encode
from bench.records.noise import pairs_to_find, resolvable, resolvable_text
from bench.records.side_records import METRICS, PAIRS, THRESHOLD, Calibration, Pairs, save
from bench.timing import revisions, side_runs
from bench.timing.block import Subject
from bench.timing.block import main as time_block
from fmnist_core import data
from fmnist_core.config import (
    CellConfig,
    CustomModel,
    ExecutionConfig,
    KernelDepthCNN,
    TrainConfig,
    quality_key,
    speed_key,
    to_dict,
)
from fmnist_core.steps import Steps
from fmnist_core.train import Training
from tests.small import small_dataset

HERE = Environment(host="abc", cpu="x", num_cpus=2, num_threads=2, libraries={"torch": "2.14.1"})
LABELS = Labels(precision="float32", weight_memory_format="contiguous", activation_memory_format="contiguous")


def cell_of(depth=2, **execution):
    return CellConfig(model=KernelDepthCNN(depth=depth), execution=ExecutionConfig(**execution))


def timing(step_s=0.010, depth=2, warnings=(), environment=HERE, execution=None, **labels):
    cell = cell_of(depth, **(execution or {}))
    return SpeedRecord(
        experiment="e", speed_key=speed_key(cell, {}), cell=to_dict(cell), step_s=[step_s] * 3, batch_s=[0.001] * 3,
        evaluate_s=[0.5] * 3, inference=[Inference(batch_size=n, batch_s=[0.002 * n] * 3) for n in (1, 128, 1000)],
        labels=msgspec.structs.replace(LABELS, **labels), environment=environment, warnings=list(warnings))


def trainings(accuracies, depth=2, train_s=(), environment=HERE, **labels):
    cell = cell_of(depth)
    return [TrainRecord(experiment="e", quality_key=quality_key(cell, seed), seed=seed, cell=to_dict(cell),
                        epochs=Epochs(test_accuracy=[0.1, accuracy], train_s=list(train_s)), environment=environment,
                        labels=msgspec.structs.replace(LABELS, **labels)) for seed, accuracy in enumerate(accuracies)]


def calibration(noise=0.005):
    rng = np.random.default_rng(0)
    pairs = lambda: Pairs(a_s=np.exp(noise * rng.standard_normal(10)).tolist(),
                          b_s=np.exp(noise * rng.standard_normal(10)).tolist())
    return Calibration(own_processes=True, environment=HERE, started_at="", cell={},
                       metrics={metric: pairs() for metric in METRICS})


def sets(a, b, *, known=calibration, **options):
    return record_sets.compare(a, b, calibration_for=lambda environment: known() if known else None,
                               **{"threshold": 0.025, "accuracy_threshold": 0.001} | options)


def verdict(a, b, metric="train step", **options):
    return {answer.metric: answer.verdict for answer in sets(a, b, **options).answers}[metric]


def test_what_failed_in_one_set_is_said_and_is_no_cell_of_the_other_alone():
    good, bad = trainings([0.9, 0.91, 0.92]), trainings([0.9, 0.91, 0.92])
    bad[1] = msgspec.structs.replace(bad[1], status="timeout", reason="longer than 1 s\nor so", epochs=Epochs())
    found = sets(good, bad)
    assert len(found.failed) == 1
    assert found.failed[0].endswith(": B: seed 1 failed, timeout: longer than 1 s")
    all_bad = [msgspec.structs.replace(each, status="oom", epochs=Epochs()) for each in good]
    found = sets(all_bad, good)
    assert [line.rpartition(": A: ")[2] for line in found.failed] == [f"seed {seed} failed, oom" for seed in range(3)]
    assert (found.only_a, found.only_b, found.answers, found.refused) == ([], [], [], {})
    assert [sets(*pair).num_failed_in_b_alone for pair in ((good, bad), (bad, good), (bad, bad), (good, all_bad))] == [
        1, 0, 0, 3]


# Speeds


@pytest.mark.parametrize(("step_s", "said"), [
    (0.010, "the same within 2.5 %"), (0.008, "faster"), (0.012, "slower"), (0.0102, "not resolved")])
def test_verdicts_of_two_timings(step_s, said):
    assert verdict([timing(0.010)], [timing(step_s)]) == said


@pytest.mark.parametrize(("epoch_s", "said"), [(5.0, "the same within 2.5 %"), (4.0, "faster"), (6.5, "slower")])
def test_epochs_of_trainings_tell_what_no_step_does(epoch_s, said):
    """Time between the steps: a slower training loop, whose steps are as fast as ever."""
    a, b = ([timing(), *trainings([0.9, 0.91], train_s=[9.0, each, each, 1.001 * each])] for each in (5.0, epoch_s))
    found = sets(a, b)
    assert {one.metric: one.verdict for one in found.answers}["epoch"] == said
    assert {one.metric: one.verdict for one in found.answers}["train step"] == "the same within 2.5 %"
    assert not found.refused
    older = calibration()
    older.metrics.pop("epoch")  # before there was this metric: by the noise of a step
    assert verdict(a, b, "epoch", known=lambda: older) == said
    assert "no calibration" in verdict(a, b, "epoch", known=None)


@pytest.mark.parametrize(("change", "reason"), [
    ({"environment": msgspec.structs.replace(HERE, num_threads=1)}, "speed: num_threads: 2 against 1"),
    ({"fused_seeds": 2}, "speed: fused_seeds: 1 against 2"),
    ({"machine_shared": True}, f"speed: {record_sets.CUT_OR_SHARED}"),
    ({"num_resumes": 1}, f"speed: {record_sets.CUT_OR_SHARED}"),
    ({"train_s": [5.0, 5.0, 7.0, 9.0]}, f"speed: {record_sets.CUT_OR_SHARED}"),
])
def test_epochs_are_compared_where_the_conditions_agree(change, reason):
    undisturbed = {"train_s": [5.0, 5.0, 5.0, 5.0]}
    found = sets(trainings([0.9, 0.91], **undisturbed), trainings([0.9, 0.91], **undisturbed | change))
    assert found.refused == {reason: ["name cnn"]}
    assert [one.metric for one in found.answers] == [record_sets.ACCURACY]


def test_a_disturbed_or_resumed_training_does_not_hide_the_others():
    quiet, disturbed = {"train_s": [5.0] * 4}, {"train_s": [5.0, 5.0, 7.0, 9.0]}
    one = trainings([0.9, 0.91], **quiet) + trainings([0.9, 0.91, 0.92], machine_shared=True, **disturbed)[2:]
    found = sets(one, trainings([0.9, 0.91], **quiet) + trainings([0.9, 0.91, 0.92], num_resumes=1, **quiet)[2:])
    assert not found.refused
    assert [one.metric for one in found.answers] == [record_sets.ACCURACY, "epoch"]


def test_a_change_carries_the_interval_that_the_calibration_gives_it():
    epochs = trainings([0.9, 0.91], train_s=[5.0] * 4)
    changes = {one.metric: one.change for one in sets([timing(), *epochs], [timing(0.02), *epochs]).answers}
    assert re.fullmatch(r"0\.500 \[0\.4\d\d, 0\.5\d\d\], resolvable: [\d.]+ %", changes["train step"])
    assert re.fullmatch(r"1\.000 \[0\.9\d\d, 1\.0\d\d\]", changes["epoch"])


def test_a_noisy_machine_resolves_less():
    assert verdict([timing(0.010)], [timing(0.012)], known=lambda: calibration(noise=0.2)) == "not resolved"


def test_a_calibration_of_one_process_does_not_know_how_two_differ():
    of_one = lambda: msgspec.structs.replace(calibration(), own_processes=False)
    a, b = [timing()], [timing(step_s=0.02)]
    said = "not resolved: the calibration is of one process, and knows nothing of how two differ"
    assert verdict(a, b, "train step", known=of_one).startswith(said)
    assert verdict(a, b, "train step", known=of_one, allowed=["warnings"]).startswith(said)
    both = lambda: msgspec.structs.replace(of_one(), warnings=["other work"])
    assert verdict(a, b, "train step", known=both, allowed=["warnings"]).startswith("not resolved: ")


def test_a_disturbed_calibration_says_nothing_of_quiet_timings():
    disturbed = lambda: msgspec.structs.replace(calibration(), warnings=["other processes used 1.00 CPUs meanwhile"])
    a, b = ([timing(step_s), *trainings([0.9, 0.91], train_s=[100 * step_s] * 4)] for step_s in (0.010, 0.020))
    for metric in ("train step", "epoch"):
        assert verdict(a, b, metric, known=disturbed).startswith("not resolved: the calibration was disturbed")
        assert verdict(a, b, metric, known=disturbed, allowed=["warnings"]) == "slower"


def test_without_a_calibration_nothing_is_resolved():
    assert "no calibration" in verdict([timing(0.010)], [timing(0.012)], known=None)


def test_several_timings_of_a_set_count_as_one_by_their_mean():
    """Their spread is that of one run, and tells nothing of how the next run differs."""
    changes = lambda a, b: [one.change for one in sets(a, b).answers]
    once = changes([timing()], [timing(step_s=0.02)])
    assert changes([timing(step_s=0.005), timing(step_s=0.02)], [timing(step_s=0.02)] * 3) == once
    assert changes([timing(), timing(step_s=9.0, warnings=["other work"])], [timing(step_s=0.02)]) == once
    later = [msgspec.structs.replace(timing(step_s=0.02, environment=msgspec.structs.replace(HERE, commit="b" * 40)),
                                     started_at="2026-01-02") for _ in range(2)]
    assert changes([timing()], [timing(), *later]) == once, "the first of B is of the code before"


def test_medians_of_a_record():
    assert timings.medians([timing()]) == {"train_step": 0.010, "batch": 0.001, "evaluate": 0.5, "inference": 2.0,
                                             "latency": 0.002}


@pytest.mark.parametrize(("change", "fact"), [
    ({"environment": msgspec.structs.replace(HERE, libraries={"torch": "2.15.0"})}, "torch: 2.14.1 against 2.15.0"),
    ({"environment": msgspec.structs.replace(HERE, num_threads=1)}, "num_threads: 2 against 1"),
    ({"environment": msgspec.structs.replace(HERE, host="other")}, "host: abc against other"),
    ({"precision": "bfloat16"}, "precision: float32 against bfloat16"),
    ({"weight_memory_format": "channels_last"}, "weight_memory_format: contiguous against channels_last"),
    ({"fused_seeds": 16}, "fused_seeds: 1 against 16"),
    ({"recompiles": 3}, "recompiles: 0 against 3"),
    ({"execution": {"deterministic": True}}, "execution.deterministic: None against True"),
])
def test_timings_that_differ_in_a_label_are_refused_with_the_reason(change, fact):
    found = sets([timing()], [timing(0.02, **change)])
    assert not found.answers
    assert found.refused == {f"speed: {fact}": ["name cnn"]}
    allowed = fact.partition(":")[0]
    assert allowed in record_sets.names_of_facts()
    assert verdict([timing()], [timing(0.02, **change)], allowed=[allowed]) == "slower"


@pytest.mark.parametrize(("change", "allowed"), [
    ({"machine_shared": True}, "machine_shared"),
    ({"warnings": ["other processes used 1.2 CPUs meanwhile"]}, "warnings")])
def test_timings_under_load_are_refused(change, allowed):
    found = sets([timing(**change)], [timing(0.02, **change)])
    assert not found.answers
    assert allowed in next(iter(found.refused))
    assert verdict([timing(**change)], [timing(0.02, **change)], allowed=[allowed]) == "slower"


def test_tf32_flags_mean_nothing_on_a_cpu():
    assert verdict([timing()], [timing(0.02, cudnn_tf32=True)]) == "slower"
    gpu = msgspec.structs.replace(HERE, device="GPU")
    found = sets([timing(environment=gpu)], [timing(environment=gpu, cudnn_tf32=True)])
    assert found.refused == {"speed: cudnn_tf32: False against True": ["name cnn"]}


def test_each_timing_meets_the_one_with_its_labels():
    last = {"memory_format": "contiguous"}
    found = sets([timing(0.010), timing(0.020, execution=last)], [timing(0.030, execution=last), timing(0.010)])
    steps = {(answer.a, answer.b): answer.verdict for answer in found.answers if answer.metric == "train step"}
    assert steps == {("10.0 ms", "10.0 ms"): "the same within 2.5 %", ("20.0 ms", "30.0 ms"): "slower"}


# Accuracies


def test_accuracies_by_welch_over_seeds():
    better = verdict(trainings([0.90, 0.901, 0.899]), trainings([0.91, 0.911, 0.909]), "test accuracy (%)")
    worse = verdict(trainings([0.91, 0.911, 0.909]), trainings([0.90, 0.901, 0.899]), "test accuracy (%)")
    unknown = verdict(trainings([0.90, 0.92]), trainings([0.91, 0.93]), "test accuracy (%)")
    assert (better, worse, unknown) == ("better", "worse", "not resolved")
    assert "two of each" in verdict(trainings([0.9]), trainings([0.95]), "test accuracy (%)")


def test_seeds_that_learn_the_same_to_the_last_digit_are_said_to_be_identical():
    one, slower = trainings([0.90, 0.92, 0.91], train_s=[1.0]), trainings([0.90, 0.92, 0.91], train_s=[2.0])
    assert verdict(one, slower, record_sets.ACCURACY) == "identical in all 3 seeds"
    assert verdict(one[:1], slower[:1], record_sets.ACCURACY) == "identical in its seed"
    [fewer] = [each for each in sets(one, slower[1:]).answers if each.metric == record_sets.ACCURACY]
    assert (fewer.verdict, fewer.a, fewer.b) == ("not resolved", "91.00 ± 1.00 [88.52, 93.48], n = 3",
                                                "91.50 ± 0.71, n = 2")
    assert fewer.change.endswith(" points; 2 of 2 common seeds identical")
    last_digit = [msgspec.structs.replace(each, epochs=msgspec.structs.replace(each.epochs, train_loss=[1e-9]))
                  for each in slower]
    assert verdict(one, last_digit, record_sets.ACCURACY) == "not resolved"


def test_accuracies_of_another_arithmetic_are_refused():
    found = sets(trainings([0.9, 0.91]), trainings([0.9, 0.91], precision="bfloat16"))
    assert found.refused == {"accuracy: precision: float32 against bfloat16": ["name cnn"]}


def test_trainings_of_another_version_are_left_out_and_counted(monkeypatch):
    new = trainings([0.90, 0.901, 0.899])
    with monkeypatch.context() as earlier:
        earlier.setattr("fmnist_core.config.TRAINING_VERSION", 0)
        old = trainings([0.5, 0.6])
    unreadable = msgspec.structs.replace(new[0], cell={"model": {"name": "no longer there"}})
    found = sets([*old, *new], [*new, unreadable])
    assert [answer.a for answer in found.answers] == [answer.b for answer in found.answers]
    assert (found.stale_a, found.stale_b, found.only_a, found.only_b) == (2, 1, [], [])


def test_holm_over_many_cells_keeps_chance_from_speaking():
    # p of a single cell is 0.02 to 0.03: one of eight such is no discovery
    a = [record for depth in range(1, 9) for record in trainings([0.900, 0.902, 0.901], depth)]
    b = trainings([0.9045, 0.9025, 0.9035], 1) + [r for d in range(2, 9) for r in trainings([0.901, 0.900, 0.902], d)]
    alone = verdict(a[:3], b[:3], "test accuracy (%)")
    assert alone == "better"
    assert "better" not in {answer.verdict for answer in sets(a, b).answers}


def test_cells_are_named_by_what_differs():
    found = sets([timing(depth=1), timing(depth=3)], [timing(depth=3), timing(depth=1), timing(depth=4)])
    assert list(dict.fromkeys(answer.what for answer in found.answers)) == ["depth 1", "depth 3"]
    assert (len(found.only_a), len(found.only_b)) == (0, 1)


def test_a_failed_timing_hides_none_of_another_execution():
    good, bad = (lambda form: timing(execution={"memory_format": form}),
                 lambda form: msgspec.structs.replace(timing(execution={"memory_format": form}), status="error"))
    found = sets([bad("channels_last"), good("contiguous")], [good("channels_last"), bad("contiguous")])
    assert found.num_failed_in_b_alone == 1


def test_an_undisturbed_calibration_is_taken_before_a_disturbed_one(tmp_path):
    a, b = write(tmp_path / "a", [timing()]), write(tmp_path / "b", [timing(0.02)])
    save(tmp_path, msgspec.structs.replace(calibration(), warnings=["other processes used 1.00 CPUs meanwhile"]))
    save(tmp_path / "a", calibration())
    assert compare.main([a, b, "--store", str(tmp_path)]) == 1


def test_of_many_commits_a_few_are_named():
    grown = [msgspec.structs.replace(timing(), environment=msgspec.structs.replace(HERE, commit=f"{i}" * 12))
             for i in range(5)]
    assert record_sets.software_differences(grown, [timing()]) == [
        "commit 000000000000, 111111111111, 222222222222, and 2 more against none"]


def test_failed_records_are_no_measurements():
    failed = msgspec.structs.replace(timing(0.001), status="error")
    assert sets([timing(), failed], [failed]).answers == []


# The command


def write(folder, records):
    folder.mkdir(exist_ok=True)
    (folder / "e.jsonl").write_bytes(b"".join(encode(record) for record in records))
    return str(folder)


@pytest.mark.parametrize(("b", "code"), [
    ([*trainings([0.901, 0.902, 0.903])], 0), ([*trainings([0.801, 0.802, 0.803])], 1)])
def test_the_exit_code_tells_a_loss(tmp_path, capsys, b, code):
    a, b = write(tmp_path / "a", trainings([0.90, 0.901, 0.899])), write(tmp_path / "b", b)
    assert compare.main([a, b, "--store", str(tmp_path)]) == code
    assert compare.main([f"{a}/e.jsonl", f"{b}/e.jsonl", "--store", str(tmp_path)]) == code
    assert ("worse" in capsys.readouterr().out) == bool(code)


def test_sets_that_differ_in_a_setting_are_compared_when_that_is_allowed(tmp_path, capsys):
    """Two arms, each in a store of its own."""
    a = write(tmp_path / "a", trainings([0.90, 0.901, 0.899]))
    b = write(tmp_path / "b", trainings([0.80, 0.801, 0.802], 3))
    store = ["--store", str(tmp_path)]
    assert compare.main([a, b, *store]) == 2
    assert capsys.readouterr().err.endswith("no cell in common; the most alike differ in model.depth: 2 against 3; to "
                                            "compare such cells: --allow model.depth\n")
    assert compare.main([a, b, "--allow", "model.depth", *store]) == 1
    assert "-9.90 [-10.1" in capsys.readouterr().out
    assert compare.main([a, b, "--allow", "model.dept", *store]) == 2
    assert "--allow model.dept: no cell has this setting; did you mean 'model.depth'?" in capsys.readouterr().err
    both = write(tmp_path / "c", [*trainings([0.90, 0.901]), *trainings([0.90, 0.901], 3)])
    assert compare.main([a, both, "--allow", "model.depth", *store]) == 2
    assert "--allow model.depth: cells of one set differ in nothing else" in capsys.readouterr().err


def test_sets_that_differ_in_how_many_processes_share_a_cell(tmp_path, capsys):
    a = write(tmp_path / "a", trainings([0.90, 0.901, 0.899]))
    key = lambda seed: quality_key(cell_of(2), seed, num_processes=2)
    b = write(tmp_path / "b", [msgspec.structs.replace(one, quality_key=key(one.seed))
                               for one in trainings([0.80, 0.801, 0.802], num_processes=2)])
    store = ["--store", str(tmp_path)]
    assert compare.main([a, b, *store]) == 2
    assert capsys.readouterr().err.endswith("no cell in common; the most alike differ in num_processes: 1 against 2; "
                                            "to compare such cells: --allow num_processes\n")
    assert compare.main([a, b, "--allow", "num_processes", *store]) == 1
    assert "-9.90 [-10.1" in capsys.readouterr().out


def test_two_networks_of_ones_own_are_compared_by_name(tmp_path, capsys):
    def of(factory, source, accuracies):
        cell = CellConfig(model=CustomModel(factory=factory, options={"width": 3}, source=source))
        return [TrainRecord(experiment="e", quality_key=quality_key(cell, seed), seed=seed, cell=to_dict(cell),
                            epochs=Epochs(test_accuracy=[accuracy]), labels=LABELS, environment=HERE)
                for seed, accuracy in enumerate(accuracies)]

    a = write(tmp_path / "a", of("my.nets:a", "1" * 16, [0.90, 0.901]))
    b = write(tmp_path / "b", of("my.nets:b", "2" * 16, [0.8, 0.801]))
    edited = write(tmp_path / "edited", of("my.nets:a", "2" * 16, [0.90, 0.901]))
    store = ["--store", str(tmp_path)]
    assert compare.main([a, edited, *store]) == 2
    differ = f"the most alike differ in code: {'1' * 16} against {'2' * 16}; to compare such cells: --allow code\n"
    assert capsys.readouterr().err.endswith(differ)
    assert compare.main([a, edited, "--allow", "code", *store]) == 0
    assert compare.main([a, b, "--allow", "model.name", *store]) == 1
    assert compare.main([a, b, "--allow", "model.width", *store]) == 2


def test_what_cannot_be_compared_is_wrong_input(tmp_path, capsys):
    a, b = write(tmp_path / "a", [timing(depth=1)]), write(tmp_path / "b", [timing(depth=2)])
    for sides, said in [([a, b], "no cell in common"), ([a, "no-such-thing"], "'no-such-thing' is neither"),
                        (["HEAD", a], "compare records with records"),
                        ([str(tmp_path), a], f"{tmp_path} holds no records"),
                        ([str(compare.revisions.ROOT), a], "; it is a checkout: in one, name two of its revisions"),
                        ([a, b, "--rounds", "3"], "--rounds has no effect on a comparison of records"),
                        ([a, b, "--set", "train.epochs=1"], "--set has no effect on a comparison of records"),
                        (["HEAD", "HEAD", "--set", "train.epoch=1"], "did you mean 'train.epochs'?"),
                        (["HEAD", "HEAD", "--allow", "torch"], "--allow has no effect on a comparison of revisions")]:
        assert compare.main([*sides, "--store", str(tmp_path)]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "broken.jsonl").write_text("{}\n")
    assert compare.main([a, str(tmp_path / "broken.jsonl")]) == 2
    assert "broken.jsonl, line 1: not a record" in capsys.readouterr().err


def test_a_file_is_read_as_its_folder_is(tmp_path):
    gpu = msgspec.structs.replace(HERE, device="GPU")
    on_cpu, on_gpu = trainings([0.90]), trainings([0.91], cudnn_tf32=True)
    folder = write(tmp_path / "a", [*on_cpu, *(msgspec.structs.replace(one, environment=gpu) for one in on_gpu)])
    with (tmp_path / "a" / "e.jsonl").open("ab") as file:
        file.write(encode(timing())[:100])  # torn: its writer was killed
    assert compare.read(f"{folder}/e.jsonl") == compare.read(folder)
    assert len(compare.read(folder)) == 2


@pytest.mark.parametrize(("options", "said"), [
    (["--threshold", "-1"], "argument --threshold: '-1': expected a number from 0 to 1"),
    (["--threshold", "nan"], "argument --threshold: 'nan': expected a number from 0 to 1"),
    (["--accuracy-threshold", "5"], "argument --accuracy-threshold: '5': expected a number from 0 to 1"),
    (["--block-s", "long"], "argument --block-s: 'long': expected a number from 0 to 3600"),
    (["--allow", "trch"], "argument --allow: 'trch': unknown; did you mean 'torch'?; allowed: activation_memory"),
])
def test_a_wrong_option_is_refused_before_any_work(capsys, monkeypatch, options, said):
    monkeypatch.setattr(compare, "_compare", lambda *_: pytest.fail("work was done"))
    with pytest.raises(SystemExit) as stopped:
        compare.main(["a", "b", *options])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_refusals_are_printed(tmp_path, capsys):
    a, b = write(tmp_path / "a", [timing()]), write(tmp_path / "b", [timing(0.02, precision="bfloat16")])
    assert compare.main([a, b, "--store", str(tmp_path)]) == 0
    assert "not compared: speed: precision: float32 against bfloat16: name cnn" in capsys.readouterr().out


def test_what_is_left_out_is_told(tmp_path, capsys):
    old = [msgspec.structs.replace(record, quality_key="0" * 16) for record in trainings([0.5])]
    a, b = write(tmp_path / "a", [*trainings([0.9]), *old]), write(tmp_path / "b", trainings([0.9]))
    assert compare.main([a, b, "--store", str(tmp_path)]) == 0
    assert "Left out, of another version" in (out := capsys.readouterr().out)
    assert ": 1 trainings of A, 0 of B." in out


def test_a_calibration_under_load_is_told(tmp_path, capsys):
    a, b = write(tmp_path / "a", [timing()]), write(tmp_path / "b", [timing(0.02)])
    save(tmp_path / "a", msgspec.structs.replace(calibration(), warnings=["other processes used 1.00 CPUs meanwhile"]))
    assert compare.main([a, b, "--store", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("WARNING: the calibration of") == 1
    assert compare.main([a, b, "--store", str(tmp_path), "--allow", "warnings"]) == 1


def test_what_could_not_be_told_has_an_exit_code_of_its_own(tmp_path, capsys):
    known, store = trainings([0.90, 0.901, 0.899]), str(tmp_path)
    a, same = write(tmp_path / "a", known), write(tmp_path / "same", known)
    assert compare.main([a, same, "--store", store, "--strict"]) == 0
    assert capsys.readouterr().out.endswith("\nIn short: 1 identical.\n")
    for name, records, told in (("unclear", trainings([0.90, 0.902]), "1 not resolved."),
                                ("more", [*known, *trainings([0.9], depth=3)], "1 identical; 1 in one set alone."),
                                ("bf16", trainings([0.9, 0.91], precision="bfloat16"), "1 not compared.")):
        b = write(tmp_path / name, records)
        assert (compare.main([a, b, "--store", store]), compare.main([a, b, "--store", store, "--strict"])) == (0, 3)
        assert f"\nIn short: {told}\n" in capsys.readouterr().out
    timed, untimed = write(tmp_path / "timed", [*known, timing()]), a
    assert compare.main([timed, untimed, "--store", store, "--strict"]) == 3
    assert "not compared: speed: in A alone: name cnn" in capsys.readouterr().out
    old = [msgspec.structs.replace(record, quality_key="0" * 16) for record in known[:1]]
    assert compare.main([a, write(tmp_path / "old", [*known, *old]), "--store", store, "--strict"]) == 3
    assert "In short: 1 identical; 1 left out." in capsys.readouterr().out
    failed = [msgspec.structs.replace(each, status="error", epochs=Epochs()) for each in known]
    both = write(tmp_path / "both", failed)
    assert compare.main([both, both, "--store", store, "--strict"]) == 3
    assert "In short: 6 failed in A, too, or alone." in capsys.readouterr().out
    assert compare.main([a, write(tmp_path / "failed", failed), "--store", store]) == 1
    assert "In short: 3 failed in B alone." in capsys.readouterr().out


def test_cells_of_one_set_alone_are_named_and_so_is_other_software(tmp_path, capsys):
    other = msgspec.structs.replace(HERE, commit="0123456789abcdef", dirty=True,
                                    libraries={"torch": "2.14.1", "accelerate": "1.12.0"})
    a = write(tmp_path / "a", [*trainings([0.9, 0.91]), *trainings([0.9], depth=3)])
    b = write(tmp_path / "b", trainings([0.9, 0.91], environment=other))
    compare.main([a, b, "--store", str(tmp_path)])
    out = capsys.readouterr().out
    assert out.startswith("A against B: accelerate none against 1.12.0, commit none against 0123456789ab-dirty.\n")
    assert "\nOnly in A: depth 3.\n" in out
    assert "| depth 2 " in out


# Revisions


@pytest.fixture
def stub_blocks(monkeypatch):
    """No process is started: revision B takes `factor` times as long, both with 1 % noise."""
    rng = np.random.default_rng(0)

    def stub(factor):
        def block(tree, commit, request):
            slower = factor if commit == "b" else 1.0
            return {metric: float(slower * np.exp(0.01 * rng.standard_normal())) for metric in METRICS}

        monkeypatch.setattr(revisions, "commit_of", lambda revision: revision)
        monkeypatch.setattr(revisions, "_block", block)
        monkeypatch.setattr(revisions, "_tree", lambda commit: contextlib.nullcontext(commit))

    return stub


@pytest.mark.parametrize(("factor", "code", "said"), [(1.05, 1, "slower"), (0.95, 0, "faster"), (1.0, 0, "the same")])
def test_a_revision_that_is_slower_is_found(tmp_path, capsys, stub_blocks, factor, code, said):
    stub_blocks(factor)
    assert compare.main(["a", "b", "--store", str(tmp_path)]) == code
    out = capsys.readouterr().out
    assert out.count(said) >= 4
    assert "10 pairs find 90 times in 100" in out
    assert "Pairs (--rounds) that find 5 %" in out
    assert "no calibration" in out


def test_a_threshold_that_no_number_of_pairs_reaches_is_told_beside_the_verdicts(tmp_path, capsys, stub_blocks):
    stub_blocks(1.5)
    assert compare.main(["a", "b", "--threshold", "1e-9", "--store", str(tmp_path)]) == 1
    assert "(--rounds) that find 2e-07 %: more than 1,000,000,000 by" in capsys.readouterr().out


def test_what_noise_hides_altogether_has_no_figure():
    wild = Pairs(a_s=[1.0, 9.0, 1.0], b_s=[9.0, 1.0, 8.0])
    assert resolvable_text(wild, 3) == "more than 100"
    calm = Pairs(a_s=[1.0, 1.01, 1.0, 1.02, 1.0, 1.0], b_s=[1.01, 1.0, 1.0, 1.0, 1.01, 1.0])
    assert resolvable_text(calm, 6) == significant(100 * resolvable(calm, 6))


# The whole decision, simulated: five metrics, Holm, both gates


def noisy_pairs(rng, n, slower=1.0, noise=0.03):
    """A and B of one metric, B `slower`, with a drift that strikes both."""
    drift = np.exp(np.linspace(0.0, 0.3, n))
    a, b = (drift * np.exp(noise / math.sqrt(2) * rng.standard_normal(n)) for _ in range(2))
    return Pairs(a_s=a.tolist(), b_s=(slower * b).tolist())


def test_five_percent_are_found_nine_times_in_ten_by_the_pairs_that_the_calibration_asks_for():
    """Of one metric, the others being as before. Each trial has a calibration of its own, as noisy as any."""
    rng, trials, found, alarms = np.random.default_rng(0), 200, 0, 0
    for _ in range(trials):
        n = pairs_to_find(noisy_pairs(rng, 20))
        metrics = {metric: noisy_pairs(rng, n, 1.05 if metric == "train_step" else 1.0) for metric in METRICS}
        said = {answer.metric: answer.verdict for answer in compare.judge_revisions("", metrics, THRESHOLD)}
        found += said.pop("train step") == "slower"
        alarms += bool({"slower", "faster"} & {*said.values()})
    assert found / trials >= 0.9 - 3 * math.sqrt(0.9 * 0.1 / trials)
    assert alarms / trials < 0.05


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("n", [3, PAIRS])
def test_equal_revisions_rarely_alarm_in_any_metric(n, noise):
    rng, trials = np.random.default_rng(n), 300
    said = [compare.judge_revisions("", {metric: noisy_pairs(rng, n, noise=noise) for metric in METRICS}, THRESHOLD)
            for _ in range(trials)]
    share = lambda *verdicts: np.mean([any(answer.verdict in verdicts for answer in one) for one in said])
    assert share("slower") < 0.05  # an alarm: exit code 1
    assert share("slower", "faster") < 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def noisy_timing(rng, noise):
    """A record whose medians differ from the cell's own by the noise of a block, metric by metric."""
    factor = lambda: float(np.exp(noise * rng.standard_normal()))
    inference = [Inference(batch_size=n, batch_s=[0.002 * n * factor()]) for n in (1, 1000)]
    return msgspec.structs.replace(timing(0.010 * factor()), batch_s=[0.001 * factor()], evaluate_s=[0.5 * factor()],
                                   inference=inference)


def test_equal_records_rarely_alarm_in_any_metric():
    rng, trials, noise = np.random.default_rng(0), 300, 0.05
    block = lambda: np.exp(noise * rng.standard_normal(10)).tolist()
    known = lambda: Calibration(own_processes=True, environment=HERE, started_at="", cell={},
                                metrics={metric: Pairs(a_s=block(), b_s=block()) for metric in METRICS})
    alarms = [bool({answer.verdict for answer in sets([noisy_timing(rng, noise)], [noisy_timing(rng, noise)],
                                                        known=known).answers} & {"slower", "faster"})
              for _ in range(trials)]
    assert np.mean(alarms) < 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def test_revisions_are_commits_or_the_working_tree():
    head = subprocess.run(["git", "-C", str(revisions.ROOT), "rev-parse", "HEAD"], capture_output=True, text=True,
                          check=False).stdout.strip()
    if not head:
        pytest.skip("no git checkout")
    assert revisions.commit_of("HEAD") == head
    assert revisions.commit_of("no-such-revision") is None
    assert revisions.commit_of("--all") is None
    with revisions._tree(head) as tree:
        assert (tree / "fmnist_core" / "train.py").is_file()
        assert not (tree / "bench").exists()
    assert not tree.exists()
    with revisions._tree(revisions.WORKING_TREE) as tree:
        assert tree == revisions.ROOT


def test_the_process_of_a_block_takes_the_revisions_core(tmp_path):
    (tmp_path / "fmnist_core").mkdir()
    (tmp_path / "fmnist_core" / "__init__.py").write_text("raise RuntimeError('the core of that revision')")
    with pytest.raises(ValueError, match=r"abcdef cannot be timed.*the core of that revision"):
        revisions._block(tmp_path, "abcdef", {"threads": 1})


def test_of_code_that_cannot_be_read_the_place_is_named(tmp_path):
    (tmp_path / "fmnist_core").mkdir()
    (tmp_path / "fmnist_core" / "__init__.py").write_text("x = 1\nthis is no Python\n")
    with pytest.raises(ValueError, match=r"cannot be timed by this harness: SyntaxError: .*\(__init__.py, line 2\)$"):
        revisions._block(tmp_path, "abcdef", {"threads": 1})


def test_a_setting_is_of_the_cell_that_is_timed(tmp_path):
    """And of no other, which it may not suit, or make the same as the first."""
    path = tmp_path / "mine.toml"
    path.write_text('question = "?"\nbase.model.name = "cnn"\ngrid.train.optimizer = ["sgd", "adam"]\n')
    asked = compare._parser().parse_args(["a", "b", "--experiment", str(path), "--set", "train.momentum=0.9"])
    assert side_runs.cell_of(asked).train.momentum == 0.9
    asked.set = ["train.optimizer=rmsprop"]
    assert side_runs.cell_of(asked).train.optimizer == "rmsprop"
    asked.set = ["train.momentum=2"]
    with pytest.raises(ValueError, match=r"train\.momentum = 2"):
        side_runs.cell_of(asked)


def test_a_block_as_json(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("bench.timing.block.load", lambda *arguments: asked.append(arguments[2]) or small_dataset())
    monkeypatch.setattr("bench.timing.block.NUM_SINGLE_PASSES", 3)
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    cell = CellConfig(model=KernelDepthCNN(depth=1), data=data.DataConfig(dataset="synthetic", validation_size=40))
    time_block(json.dumps({"cell": to_dict(cell), "threads": 7, "data_dir": "here", "min_block_s": 0.0}))
    assert asked == [7, "here"]
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["seconds"]) == set(METRICS)
    assert all(seconds > 0 for seconds in answer["seconds"].values())
    assert answer["core"].startswith(str(revisions.ROOT))


@pytest.mark.parametrize("capture", [False, True])
def test_an_epoch_holds_what_the_training_loop_does_between_its_steps(monkeypatch, capture):
    cell = CellConfig(model=KernelDepthCNN(depth=1), data=data.DataConfig(dataset="synthetic", validation_size=40),
                      train=TrainConfig(global_batch_size=30), execution=ExecutionConfig(capture=capture))
    training = Training(cell, 0, small_dataset(num_train=100))
    subject = Subject(training, min_block_s=0.0)
    assert training.steps_per_epoch == 4  # of them the last with 10 images
    advance = Steps.advance

    def slow(self, batches):
        time.sleep(0.05)
        advance(self, batches)

    monkeypatch.setattr(Steps, "advance", slow)
    assert subject.epoch_s() > 4 * 0.05
    assert subject.step_s() < 0.05, "of which the steps tell nothing"
    assert (training.epoch, training.step_in_epoch) == (0, 0)


def test_a_revision_is_timed_with_the_users_own_folders(monkeypatch):
    """A network of one's own, and data in a folder that is named from here."""
    asked = {}

    def run(command, *, env, **options):
        asked.update(env=env, options=options)
        answer = {"core": str(revisions.ROOT / "fmnist_core"), "seconds": {"train_step": 1.0}}
        return subprocess.CompletedProcess(command, 0, json.dumps(answer), "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("PYTHONPATH", "mine")
    assert revisions._block(revisions.ROOT, revisions.WORKING_TREE, {"threads": 1}) == {"train_step": 1.0}
    assert asked["env"]["PYTHONPATH"].split(os.pathsep)[-2:] == ["mine", os.getcwd()]
    assert asked["options"].get("cwd") is None
