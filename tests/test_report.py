"""RESULTS.md from records made by hand: what it must say, and that --check sees every change."""

import re
import shutil
import subprocess
import sys

import msgspec
import pandas as pd
import pytest

from bench import experiment, frame, report
from bench.formatting import escape, significant
from bench.pages import explorer, pictures, readme, tables
from bench.pages.tables import settings_table, shared_settings
from bench.record import Epochs, Inference, Labels, TrainRecord
from bench.records.lines import encode
from bench.records.machines import Machine
from bench.records.noise import resolvable_unpaired
from bench.records.rows import collect, comparable
from bench.records.side_records import Calibration, Pairs, Peer, PeerRun, Peers
from bench.store import Store, read
from fmnist_core import files
from fmnist_core.config import ExecutionConfig, to_dict
from tests.made import CPU, GPU, LABELS, ONE_FACTOR, complete, experiment_of, failed, timed, trained

pytestmark = pytest.mark.usefixtures("some_images")

MADE = experiment_of()
K2, K3 = MADE.cells


def text_of(records, *experiments):
    return report.render(records, experiments or [MADE]).text


NOT_LEARNT = "Not learnt (seeds that end at 50 % on test or less), and so not compared"
SPEED_COLUMNS = 15
"""Of a speed table: no other has as many."""


def rows_of(text, start):
    """The cells of each table row that starts with `start`."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()
            if line.startswith(f"| {start} |")]


@pytest.fixture(scope="module")
def full_store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    (folder / "all.jsonl").write_bytes(b"".join(map(encode, complete(["final", "kernel_size_network1"]))))
    return folder


@pytest.fixture(scope="module")
def written(full_store, some_images, tmp_path_factory):
    output = tmp_path_factory.mktemp("written") / "RESULTS.md"
    assert report.main(["--store", str(full_store), "--output", str(output)]) == 0
    return output


def test_every_experiment_of_the_project_with_all_its_records():
    """Some hold nothing out, some ask for no timing: every chapter has to meet that."""
    experiments = [experiment.load(name) for name in experiment.names()]
    records = complete(experiment.names())
    text = text_of(records, *experiments)
    assert "**waiting**" not in text
    assert {made.label for one in experiments for made in one.cells if f"| {escape(made.label)} |" not in text} == set()


# Accuracy


def test_accuracy_row_has_mean_sd_interval_and_seeds():
    records = [trained(MADE, K2, seed, test=accuracy, validation=[0.8, 0.93, 0.92, 0.91, 0.91, 0.905], train=0.97)
               for seed, accuracy in enumerate((0.90, 0.91, 0.92))]
    [row, *_] = rows_of(text_of(records), "kernel_size 2")
    # columns: cell, seeds, validation last, validation best, test last, test selected, best on test, train, time
    assert row[1:5] == ["3", "90.50 ± 0.00 [90.50, 90.50]", "93.00 ± 0.00 [93.00, 93.00]",
                        "91.00 ± 1.00 [88.52, 93.48]"]
    assert row[5:] == [row[4], row[4], "97.00 ± 0.00 [97.00, 97.00]", "12.0"]


def test_selection_by_validation_and_by_test_are_told_apart():
    record = trained(MADE, K2, validation=[0.1, 0.5, 0.3, 0.3, 0.3, 0.3], test=[0.1, 0.6, 0.2, 0.9, 0.2, 0.7])
    [row, *_] = rows_of(text_of([record]), "kernel_size 2")
    assert row[2:7] == ["30.00", "50.00", "70.00", "60.00", "90.00"]


def test_reported_figure_stands_beside_ours():
    made = experiment_of(ONE_FACTOR.split("[grid]")[0] + """
        [[cells]]
        label = "as reported"
        reported = { validation_accuracy = 0.916, test_accuracy = 0.904, source = "a table" }
        """)
    text = text_of([trained(made, made.cells[0])], made)
    [row, *_] = rows_of(text, "as reported")
    assert row[2:4] == ["91.6", "90.00"]
    assert row[5] == "90.4"
    assert "Reported figures: a table" in text


def test_cells_without_records_wait_and_missing_seeds_are_counted():
    text = text_of([trained(MADE, K2, 0)])
    assert rows_of(text, "kernel_size 2")[0][1] == "1, 2 waiting"
    assert rows_of(text, "kernel_size 3")[0][1:3] == ["waiting (3)", "-"]
    assert rows_of(text, "`made`")[0][2:] == ["One factor", "2", "1", "5", "0", "0 of 2"][1:]


def test_records_of_a_gpu_ask_for_the_seeds_of_a_gpu():
    text = text_of([trained(MADE, K2, 0, environment=GPU)])
    assert rows_of(text, "kernel_size 2")[0][1] == "1, 15 waiting"


def test_failed_seeds_are_rows_with_their_reason():
    text = text_of([trained(MADE, K2, 0), failed(MADE, K2, 1, "diverged", "loss | nan\nat step 3"),
                    failed(MADE, K3, 0, "oom", "")])
    assert rows_of(text, "kernel_size 2")[0][1] == "1, 1 waiting, 1 diverged"
    assert rows_of(text, "kernel_size 3")[0][1] == "2 waiting, 1 oom"
    assert "- kernel_size 2: diverged, 1 seed (first: 1): loss \\| nan at step 3" in text
    assert "- kernel_size 3: oom, 1 seed (first: 0): no reason recorded" in text


def test_the_epochs_before_a_failure_enter_no_figure():
    final = experiment.load("final")
    records = complete(["final"])
    texts, tables_of = [], []
    for epochs in ({}, {"test": 0.1, "validation": 0.1, "train": 0.2}):
        told = [trained(final, cell, 3, **epochs) for cell in final.cells]
        if not epochs:
            told = [msgspec.structs.replace(one, epochs=Epochs()) for one in told]
        told = [*records, *(msgspec.structs.replace(one, status="diverged", reason="inf") for one in told)]
        texts.append(text_of(told, final))
        tables_of.append(frame.rows(told, [final]))
    assert texts[0] == texts[1]
    assert "1 diverged" in texts[0]
    pd.testing.assert_frame_equal(*tables_of)


def test_the_last_record_of_a_key_counts():
    [row, *_] = rows_of(text_of([trained(MADE, K2, test=0.5), trained(MADE, K2, test=0.7)]), "kernel_size 2")
    assert row[4] == "70.00"


def test_stale_records_are_counted_and_left_out():
    stale = msgspec.structs.replace(trained(MADE, K2, 1, test=0.1), quality_key="0" * 16)
    unreadable = msgspec.structs.replace(trained(MADE, K3, 1), cell={"model": {"name": "gone"}}, quality_key="1" * 16)
    text = text_of([trained(MADE, K2, 0, test=0.7), stale, unreadable])
    assert "Left out: 2 stale records" in text
    assert rows_of(text, "kernel_size 2")[0][4] == "70.00"


def test_records_of_other_cells_and_data_sets_stand_apart():
    other = experiment_of(ONE_FACTOR.replace("[2, 3]", "[3, 5]") + 'data.dataset = ["synthetic"]', name="mine")
    records = [trained(MADE, K2, 0, test=0.7), *(trained(other, cell, 0, test=0.6) for cell in other.cells)]
    own, apart = text_of(records).split("## Other configurations")
    assert "synthetic" not in own
    assert "### mine, synthetic: other cells" in apart
    assert rows_of(apart, "kernel_size 3")[0][4] == rows_of(apart, "kernel_size 5")[0][4] == "60.00"
    assert not rows_of(apart, "kernel_size 2")


def test_data_sets_of_one_experiment_never_share_a_table():
    both = experiment_of(ONE_FACTOR.replace("[2, 3]", "[2]") + 'data.dataset = ["fashion-mnist", "synthetic"]')
    text = text_of([trained(both, cell) for cell in both.cells], both)
    tables = text.split("### One factor")[1].split("**Accuracy (%)**")[1:]
    assert len(tables) == 2
    assert "synthetic" not in tables[0].split("**Data set: synthetic**")[0]


def test_seeds_of_different_arithmetic_are_rows_of_their_own():
    tf32 = Labels(precision="float32", cudnn_tf32=True)
    records = [*(trained(MADE, K2, seed, test=0.8) for seed in range(2)),
               *(trained(MADE, K3, seed, test=0.9) for seed in range(2)),
               trained(MADE, K2, 2, test=0.5, environment=GPU, labels=tf32)]
    text = text_of(records)
    assert rows_of(text, "kernel_size 2 (float32)")[0][4].startswith("80.00")
    assert rows_of(text, "kernel_size 2 (float32 with TF32)")[0][4] == "50.00"
    assert ("are compared within each kind only.** float32: kernel_size 2, kernel_size 3; float32 with TF32: "
            "kernel_size 2.") in text
    assert "Not compared, because their arithmetic (float32 with TF32) differs from the others': 1 row: " in text
    assert [row.label for row in comparable(collect(records, [MADE]).rows["made"])] == ["kernel_size 2 (float32)",
                                                                                       "kernel_size 3"]


def test_a_failed_seed_is_of_its_cell_whatever_the_arithmetic_of_the_others():
    tf32 = Labels(precision="float32", cudnn_tf32=True)
    diverged, good = failed(MADE, K2, 1, "diverged", "inf"), trained(MADE, K2, 0)
    counts = lambda rows: [(row.label, len(row.trained), len(row.failed), row.num_missing) for row in rows]
    [row, _] = collect([good, diverged], [MADE]).rows["made"]
    assert counts([row]) == [("kernel_size 2", 1, 1, 1)]
    results = collect([good, diverged, *(trained(MADE, K2, seed, environment=GPU, labels=tf32) for seed in (2, 3))],
                      [MADE])
    assert counts(results.rows["made"][:2]) == [
        ("kernel_size 2 (float32)", 1, 1, 1), ("kernel_size 2 (float32 with TF32)", 2, 0, 14)]
    assert counts(results.of("made")[:1]) == [("kernel_size 2", 2, 1, 13)]


def test_a_cell_of_two_arithmetics_has_one_row_of_speed():
    tf32 = Labels(precision="float32", cudnn_tf32=True)
    text = text_of([trained(MADE, K2, 0), trained(MADE, K2, 1, environment=GPU, labels=tf32), timed(MADE, K2)])
    _, speeds = text.split(": one cell</summary>")
    assert len(rows_of(speeds, "kernel_size 2")) == 1
    assert "- Not timed: kernel_size 3" in speeds
    assert not rows_of(speeds, "kernel_size 2 (float32)") + rows_of(speeds, "kernel_size 2 (float32 with TF32)")


def test_of_two_timings_of_a_cell_the_later_one_counts_whatever_file_holds_it(tmp_path):
    for name, step_s, hour in (("a", 0.01, 15), ("z", 0.02, 6)):
        one = timed(MADE, K2, [step_s] * 10, started_at=f"2026-11-26T{hour:02}:00:00+00:00")
        (tmp_path / f"{name}.jsonl").write_bytes(encode(one))
    [speed] = [speed for row in collect(read(tmp_path), [MADE]).of(MADE.name) for speed in row.speeds]
    assert speed.step_s == [0.01] * 10


def test_seeds_of_one_arithmetic_do_not_hide_those_of_another(tmp_path):
    """A cell's seeds on a CPU stay when it is trained on a GPU; what failed gives way to whatever follows."""
    tf32 = Labels(precision="float32", cudnn_tf32=True)
    store = Store(tmp_path)
    for record in (trained(MADE, K2, 0, test=0.8), failed(MADE, K2, 1, "diverged", "inf"),
                   trained(MADE, K2, 0, test=0.7, environment=GPU, labels=tf32),
                   trained(MADE, K2, 1, test=0.6, environment=GPU, labels=tf32), trained(MADE, K2, 0, test=0.9)):
        store.append(record)
    assert [record.epochs.test_accuracy[-1] for record in read(tmp_path)] == [0.9, 0.7, 0.6]
    rows = collect(read(tmp_path), [MADE])
    assert [(row.label, len(row.trained), len(row.failed)) for row in rows.rows["made"][:2]] == [
        ("kernel_size 2 (float32)", 1, 0), ("kernel_size 2 (float32 with TF32)", 2, 0)]
    main, other = rows.of("made")
    assert (main.label, str(main.numerics), other.label) == ("kernel_size 2", "float32 with TF32", "kernel_size 3")
    assert len(store.latest()) == 2


def test_cells_are_compared_by_the_arithmetic_that_both_have():
    tf32 = Labels(precision="float32", cudnn_tf32=True)
    records = [*(trained(MADE, K2, seed, test=0.7, environment=GPU, labels=tf32) for seed in range(4)),
               *(trained(MADE, K2, seed, test=0.8) for seed in range(2)), trained(MADE, K3, 0, test=0.9)]
    results = collect(records, [MADE])
    pair = results.alike(*results.of("made"))
    assert pair is not None
    assert [row.label for row in pair] == ["kernel_size 2 (float32)", "kernel_size 3"]
    results = collect(records[:4] + records[-1:], [MADE])
    assert results.alike(*results.of("made")) is None


def test_how_accuracies_were_made_is_said_where_it_is_not_one_by_one_on_a_cpu():
    fused = Labels(precision="float32", cudnn_tf32=True, captured=True, fused_seeds=2, machine_shared=True)
    records = [*(trained(MADE, K2, seed, environment=GPU, labels=fused) for seed in range(2)), trained(MADE, K3, 0)]
    text = text_of(records)
    assert ("- Trained on M1 (float32 with TF32, captured, 2 seeds as one module): 2 seeds; M2 (float32): 1 seed"
            in text)
    assert rows_of(text, "kernel_size 2")[0][-1] == "12.0‡ for 2 seeds on M1"
    assert "Trained on" not in text_of([trained(MADE, K2, 0)])


def test_timings_of_another_execution_belong_to_their_cell():
    captured = to_dict(msgspec.structs.replace(K2.config, execution=ExecutionConfig(capture=True)))
    speed = msgspec.structs.replace(timed(MADE, K2, environment=GPU), cell=captured, speed_key="0" * 16,
                                    labels=msgspec.structs.replace(LABELS, captured=True))
    results = collect([speed, timed(MADE, K3)], [MADE])
    assert [len(row.speeds) for row in results.of("made")] == [1, 1]
    assert not results.others
    assert "execution captured)" in text_of([speed])
    eager_too = collect([speed, timed(MADE, K2, environment=GPU)], [MADE]).of("made")[0]
    assert eager_too.timed(Machine.of(speed)) is not None
    assert eager_too.timed(Machine.of(speed)).labels.captured, "of a GPU an eager step tells Python's time"


def test_tf32_flags_mean_nothing_on_a_cpu():
    records = [trained(MADE, K2, 0), trained(MADE, K2, 1, labels=Labels(precision="float32", cudnn_tf32=True))]
    assert rows_of(text_of(records), "kernel_size 2")[0][1] == "2, 1 waiting"


def test_a_run_of_two_processes_is_found_by_its_own_key():
    ddp = Labels(precision="float32", num_processes=2)
    assert rows_of(text_of([trained(MADE, K2, 0, labels=ddp)]), "kernel_size 2")[0][1] == "1, 2 waiting"


def test_what_tf32_comes_to_is_told_over_the_cells_that_learnt():
    made = experiment_of(ONE_FACTOR.replace("[2, 3]", "[2, 3, 4, 5, 6, 7]"))
    tf32 = Labels(precision="float32", cudnn_tf32=True)
    lost = lambda cell: cell is made.cells[5]
    records = [trained(made, cell, seed, test=0.1 if lost(cell) else 0.9 + higher, environment=where, labels=labels)
               for cell in made.cells for seed in range(2)
               for where, labels, higher in ((CPU, LABELS, 0.0), (GPU, tf32, 0.002))]
    text = text_of(records, made)
    assert "**float32 with TF32 less float32**, mean over the 5 cells" in text
    assert "last epoch: test +0.20 points [+0.20, +0.20]; validation +0.00 points [+0.00, +0.00]." in text
    assert "less float32" not in text_of(records[:16], made), "four cells are few"


# Speed


def test_speed_row_is_computed_from_raw_samples():
    text = text_of([timed(MADE, K2, [0.009] * 10, batch_s=[0.001] * 10)])
    [row] = [row for row in rows_of(text, "kernel_size 2") if len(row) == SPEED_COLUMNS + 1]  # that of batches
    # 100 images in 0.001 and 0.009 s; floor 0.005 s; 50 images in 0.002 s; one in 0.0002 s; 3,000,000 bytes
    assert row[1:] == ["1,234", "56,789", "10,000", "1", "9.00", "0", "9.00", "1.00", "1.80", "0.500",
                       "0.250", "25,000 (batch 50)", "0.200", "3.00 (4.50)", "99 (2)"]
    assert [row for row in rows_of(text, "kernel_size 3") if len(row) >= SPEED_COLUMNS] == []
    assert "- Not timed: kernel_size 3\n" in text
    assert "(precision float32; weights channels_last; activations channels_last; execution eager), timed" in text


def test_spread_of_a_step_and_every_inference_batch_by_hand():
    inference = [Inference(batch_size=n, batch_s=[0.001 * n ** 0.5] * 10) for n in (1, 4, 100)]
    text = text_of([timed(MADE, K2, [0.001 * step for step in range(1, 102)], inference=inference,
                          peak_memory_bytes=0, reserved_memory_bytes=0, operators_per_step=0)])
    [row] = [row for row in rows_of(text, "kernel_size 2") if len(row) == SPEED_COLUMNS - 2]
    assert row[4:8] == ["1", "51.0", "50.0", "100"]  # 1 to 101 ms: quartiles 26 and 76
    assert row[11:] == ["2,000 (batch 4); 10,000 (batch 100)", "1.00"]  # no columns of what nobody knows


def test_noisy_and_shared_timings_are_marked():
    shared = msgspec.structs.replace(LABELS, machine_shared=True)
    text = text_of([timed(MADE, K2, [0.01, 0.02] * 5), timed(MADE, K3, labels=shared)])
    marks = [row[3] for k in (2, 3) for row in rows_of(text, f"kernel_size {k}") if len(row) == SPEED_COLUMNS]
    assert marks[0].endswith("†")
    assert marks[1] == "10,000‡"


def test_a_timing_alone_is_preferred_to_a_shared_one():
    shared = timed(MADE, K2, [0.02] * 10, labels=msgspec.structs.replace(LABELS, machine_shared=True))
    shared = msgspec.structs.replace(shared, speed_key="f" * 16)
    [row] = [row for row in rows_of(text_of([timed(MADE, K2), shared]), "kernel_size 2") if len(row) == SPEED_COLUMNS]
    assert row[3] == "10,000"


def test_each_machine_has_its_own_speed_table():
    threads = msgspec.structs.replace(CPU, num_threads=2)
    text = text_of([timed(MADE, K2), timed(MADE, K2, environment=GPU), timed(MADE, K2, environment=threads)])
    assert [f"Speed on M{i}: one cell" in text for i in (1, 2, 3, 4)] == [True, True, True, False]
    assert "| M1 | Test GPU (driver 570), Host CPU, processors: 8, processes that share a batch: 1" in text
    assert "| M3 | Test CPU, processors: 2, threads: 2, " in text
    both = text_of([timed(MADE, K2), timed(MADE, K3)])
    assert "**Speed on M1** (precision float32;" in both
    assert "Speed on M1: one cell" not in both


def test_the_one_timing_of_a_cell_that_stands_elsewhere_is_not_shown_again():
    other = experiment_of(name="other")
    text = text_of([timed(MADE, K2)], MADE, other)
    assert text.count("<summary>Speed on M1: one cell</summary>") == 1
    assert text.index("Speed on M1: one cell") < text.index("**Speed on M1**: of one cell, in the section of `made`.")
    assert "<summary>Speed on M1: one cell</summary>" in text_of([timed(MADE, K2)], other)
    assert text_of([timed(MADE, K2), timed(MADE, K3)], MADE, other).count("**Speed on M1** (precision float32;") == 2


def test_a_timing_at_another_commit_is_marked_and_left_out_of_the_answer():
    made = experiment_of(ONE_FACTOR.replace("[2, 3]", "[2, 3, 4]"))
    later = msgspec.structs.replace(CPU, commit="b" * 40)
    text = text_of([timed(made, made.cells[0]), timed(made, made.cells[1], [0.02] * 10),
                    timed(made, made.cells[2], [0.001] * 10, environment=later)], made)
    rates = [row[3] for k in (2, 3, 4) for row in rows_of(text, f"kernel_size {k}") if len(row) == SPEED_COLUMNS]
    assert rates == ["10,000", "5,000", "100,000§"]
    assert "fastest in training is *kernel_size 2* with 10,000 images/s" in text


def test_rows_that_differ_in_what_was_observed_are_not_compared_silently():
    bf16 = msgspec.structs.replace(LABELS, precision="bfloat16")
    text = text_of([timed(MADE, K2), timed(MADE, K3, [0.02] * 10, labels=bf16)])
    assert "**precision differ: bfloat16, float32; such rows are not comparable**" in text
    assert "training is not compared" in text
    assert "slowest" not in text


def test_a_memory_format_that_suits_both_is_compared_with_either():
    either = msgspec.structs.replace(LABELS, weight_memory_format="any")
    text = text_of([timed(MADE, K2), timed(MADE, K3, [0.02] * 10, labels=either)])
    assert "weights channels_last;" in text
    assert "slowest *kernel_size 3* with" in text
    contiguous = msgspec.structs.replace(LABELS, weight_memory_format="contiguous")
    text = text_of([timed(MADE, K2), timed(MADE, K3, [0.02] * 10, labels=contiguous)])
    assert "**weights differ: channels_last, contiguous; such rows are not comparable**" in text
    assert "training is not compared" in text


def test_training_times_name_their_machine():
    one, both = text_of([trained(MADE, K2)]), text_of([trained(MADE, K2), trained(MADE, K2, 1, environment=GPU),
                                                       trained(MADE, K3, environment=GPU)])
    assert "training time on M1 (s) |" in one
    assert rows_of(one, "kernel_size 2")[0][-1] == "12.0"
    assert "training time (s) |" in both
    assert [rows_of(both, f"kernel_size {k}")[0][-1] for k in (2, 3)] == ["12.0 on M1; 12.0 on M2", "12.0 on M1"]


def test_failed_timings_and_warnings_are_told():
    broken = msgspec.structs.replace(timed(MADE, K3), status="timeout", reason="too slow", step_s=[])
    text = text_of([timed(MADE, K2, warnings=["samples | add up"]), broken])
    assert "- kernel_size 2: samples \\| add up" in text
    assert "timeout: too slow" in text


# Answers


def answer_of(records, *experiments):
    text = text_of(records, *experiments).split("### One factor")[1]
    return f"**Answer.**{re.split(r'(?m)^(?:All cells|#|[*|])', text.split('**Answer.**')[1])[0]}"


def seeds_of(cell, accuracies):
    return [trained(MADE, cell, seed, test=accuracy) for seed, accuracy in enumerate(accuracies)]


def test_answer_names_best_and_worst_with_the_test():
    line = answer_of([*seeds_of(K2, (0.899, 0.900, 0.901)), *seeds_of(K3, (0.919, 0.920, 0.921))])
    # t = 0.02 / sqrt(2 x 0.001^2 / 3) = 24.49, 4 degrees of freedom: p = 1.6e-5
    assert "Test accuracy differs between the cells (Welch's test of 2 cells, p < 0.001, n = 3 a cell)" in line
    assert ("highest *kernel_size 3* with 92.00 [91.75, 92.25] %, lowest *kernel_size 2* with 90.00 [89.75, 90.25] %"
            in line)
    assert "The highest is above every other" in line


def test_answer_says_when_nothing_is_resolved_and_what_would_be():
    line = answer_of([*seeds_of(K2, (0.89, 0.90, 0.91)), *seeds_of(K3, (0.891, 0.901, 0.911))])
    assert line.startswith("**Answer.** Not resolved")
    assert "With this spread (sd 1.00 points), 3 seeds a cell find a difference of" in line


def test_answer_calls_a_tiny_difference_none():
    many = [0.9 + 1e-5 * i for i in range(-2, 3)]
    line = answer_of([*seeds_of(K2, many), *seeds_of(K3, [value + 0.0009 for value in many])])
    assert "but by less than 0.1 points, which is called no effect" in line


def test_answer_tests_no_cell_of_seeds_that_did_not_learn_and_names_the_best_of_one_seed():
    made = experiment_of(ONE_FACTOR.replace("[2, 3]", "[2, 3, 4, 5]"))
    accuracies = ((0.899, 0.900, 0.901), (0.919, 0.920, 0.921), (0.1, 0.1, 0.9), (0.93,))
    line = text_of([trained(made, cell, seed, test=value) for cell, values in zip(made.cells, accuracies, strict=True)
                    for seed, value in enumerate(values)], made)
    assert "The highest is above every other of two seeds or more." in line
    assert f"- {NOT_LEARNT}: *kernel_size 4* (2 of 3 seeds)." in line
    assert "One seed, no test: 1 cell, the highest of them *kernel_size 5* with 93.00 %." in line


def test_answer_counts_an_svms_hits_as_its_author_does():
    agarap = experiment.load("cited_agarap")
    softmax, svm = agarap.cells[:2]
    records = [record for seed in range(3) for record in (
        trained(agarap, softmax, seed, test=0.93 + 0.0001 * seed),
        trained(agarap, svm, seed, test=0.92 + 0.0001 * seed, extra={"sign_argmax_accuracy": 0.907 + 0.0001 * seed}))]
    text = text_of(records, agarap)
    assert "Counted as right by the sign of the logits alone: *CNN-SVM* 90.71 [90.69, 90.73] %." in text
    assert "(95 % prediction interval, last epoch): 1 of 2 (*CNN-SVM*); ours is higher for 1 and lower for 0." in text


def test_answer_counts_reported_figures_that_one_run_would_give():
    made = experiment_of(ONE_FACTOR.split("[grid]")[0] + "".join(f"""
        [[cells]]
        label = "{k}"
        model.kernel_size = {k}
        reported = {{ validation_accuracy = {reported}, test_accuracy = 0.5 }}
        """ for k, reported in ((2, 0.9), (3, 0.92), (4, 0.88))))
    records = [trained(made, cell, seed, validation=0.9 + 0.001 * seed) for cell in made.cells for seed in range(3)]
    text = text_of(records, made)
    # Student's t of 2 degrees of freedom, 4.303, times 0.001 and the root of 4 / 3: 0.901 +- 0.005
    inside = "accuracy one run of ours may give (95 % prediction interval, last epoch)"
    assert f"Cells whose reported validation {inside}: 1 of 3 (*2*); ours is higher for 1 and lower for 1." in text
    assert f"Cells whose reported test {inside}: 0 of 3; ours is higher for 3 and lower for 0." in text
    few = [record for record in records if record.seed < 2 or record.cell == records[0].cell]
    assert (f"Cells whose reported validation {inside}: 1 of 3 (*2*); ours is higher for 0 and lower for 0; too few "
            "seeds or too wide a spread to say for 2.") in text_of(few, made)
    other = [trained(made, made.cells[0], seed, validation=0.95, environment=GPU,
                     labels=Labels(precision="float32", cudnn_tf32=True)) for seed in range(3, 5)]
    inside = inside.replace("epoch", "epoch, each cell by its arithmetic of most seeds")
    once = text_of([*records, *other], made)
    assert f"Cells whose reported validation {inside}: 1 of 3 (*2*); ours" in once, "a cell counts once"


def test_answer_of_single_seeds_and_of_none():
    assert "a test needs two seeds in at least two cells" in answer_of([*seeds_of(K2, (0.9,)), *seeds_of(K3, (0.8,))])
    assert "No answer yet: 2 cells waiting or failed." in answer_of([])


def test_answer_where_one_seed_is_all_that_is_asked_for():
    made = experiment_of(ONE_FACTOR.replace("[grid]", "[seeds]\ncpu = 1\n[grid]"))
    records = [trained(made, cell, 0, test=accuracy) for cell, accuracy in zip(made.cells, (0.8, 0.9), strict=True)]
    twice = [*records, trained(made, made.cells[1], 1, test=0.92)]  # more than was asked for: the mean
    assert "The highest test accuracy is 91.00 % (*kernel_size 3*). One seed a cell" in text_of(twice, made)
    assert "The highest test accuracy is 90.00 % (*kernel_size 3*). One seed a cell is asked for: no test." in text_of(
        records, made)


def test_answer_names_the_waiting_cells():
    assert "Waiting: 1 of 2 cells." in answer_of(seeds_of(K2, (0.9, 0.91)))


def test_trend_is_told_for_a_grid_of_numbers():
    made = experiment_of(ONE_FACTOR.replace("[2, 3]", "[2, 3, 4, 5]"))
    rising = [trained(made, cell, seed, test=0.8 + 0.02 * i + 0.001 * seed)
              for i, cell in enumerate(made.cells) for seed in range(3)]
    assert ("Test accuracy rises with kernel size: 80.10 at 2, 82.10 at 3, 84.10 at 4, 86.10 at 5 % (Spearman by "
            "permutation, p < 0.001)") in text_of(rising, made)
    hump = [trained(made, cell, seed, test=value + 0.001 * seed)
            for cell, value in zip(made.cells, (0.80, 0.83, 0.87, 0.86), strict=True) for seed in range(8)]
    assert "Test accuracy rises with kernel size on the whole, but is highest at 4: 80.35 at 2, 83.35 at" in text_of(
        hump, made)
    dented = [trained(made, cell, seed, test=value + 0.001 * seed)
              for cell, value in zip(made.cells, (0.80, 0.83, 0.82, 0.86), strict=True) for seed in range(3)]
    assert "rises with kernel size on the whole, but not from each value to the next" in text_of(dented, made)
    course = lambda *means: text_of([trained(made, cell, seed, test=value + 0.00001 * seed) for cell, value
                                     in zip(made.cells, means, strict=True) for seed in range(6)], made)
    beyond = "beyond it by less than 0.1 points"
    assert f"rises with kernel size up to 3, {beyond}: 80.00 at" in course(0.80, 0.83, 0.8304, 0.8308)
    assert f"falls with kernel size up to 4, {beyond}: 84.00 at" in course(0.84, 0.83, 0.81, 0.8098)
    assert f"rises with kernel size up to 4, {beyond}: 80.00 at" in course(0.80, 0.8008, 0.8016, 0.8024)
    assert "rises with kernel size, by less than 0.1 points, which is called no effect: 80.00 at" in course(
        0.80, 0.8002, 0.8004, 0.8006)
    assert "rises with kernel size: 80.00 at" in course(0.80, 0.8009, 0.8018, 0.8029)
    level = [trained(made, cell, seed, test=0.8 + 0.01 * ((i + seed) % 2)) for i, cell in enumerate(made.cells)
             for seed in range(4)]
    assert "No trend with kernel size is resolved" in text_of(level, made)


def test_where_nothing_learnt_no_trend_is_looked_for():
    text = text_of([trained(MADE, cell, seed, test=0.1 + 0.001 * seed) for cell in (K2, K3) for seed in range(2)], MADE)
    assert "**Answer.** Not resolved: fewer than two cells with two seeds learnt." in text
    assert f"- {NOT_LEARNT}: *kernel_size 2* (2 of 2 seeds), *kernel_size 3* (2 of 2 seeds)." in text
    assert "trend" not in text.split("**Settings**")[0]


def test_each_cell_is_compared_with_the_control():
    made = experiment_of(ONE_FACTOR.replace("[base.model]", 'control = "kernel_size 3"\n[base.model]').replace(
        "[2, 3]", "[2, 3, 4]"))
    values = {2: (0.80, 0.801, 0.802), 3: (0.81, 0.811, 0.812), 4: (0.8105, 0.811, 0.8125)}
    text = text_of([trained(made, cell, seed, test=value) for cell, own in zip(made.cells, values.values(), strict=True)
                    for seed, value in enumerate(own)], made)
    # variance (1e-6 + 1e-6 + 1.083e-6) / 3, df 6: half width 2.4469 x sqrt(1.0278e-6 x 2 / 3) = 0.00203
    assert ("Against *kernel_size 3* (t-tests by the spread of all, Holm): *kernel_size 2* -1.00 points [-1.20, -0.80]"
            ", "
            "p < 0.001; *kernel_size 4* +0.03 points [-0.17, +0.24], p = 0.701.") in text
    assert "Not told apart" not in text.split("**Answer.**")[1].split("**Accuracy")[0]  # not asked for
    assert "Against" not in text_of(seeds_of(K2, (0.9, 0.91)), MADE)
    dead = [trained(made, cell, seed, test=(0.1 if cell is made.cells[1] else 0.8) + 0.001 * seed)
            for cell in made.cells for seed in range(3)]
    text = text_of(dead, made)
    assert "Nothing is compared with *kernel_size 3*: it has not two seeds of this arithmetic that all learnt." in text
    assert "Against" not in text
    dead_other = [trained(made, cell, seed, test=0.1 if cell is made.cells[0] else 0.8 + 0.001 * seed)
                  for cell in made.cells for seed in range(3)]
    assert "Against *kernel_size 3* (t-tests by the spread of all, Holm): *kernel_size 4* +0.00 points" in text_of(
        dead_other, made)


def test_a_cell_that_did_not_learn_makes_no_trend():
    made = experiment_of(ONE_FACTOR.replace("[2, 3]", "[2, 3, 4, 5]"))
    values = {2: (0.8, 0.82, 0.81), 3: (0.81, 0.82, 0.8), 4: (0.8, 0.81, 0.82), 5: (0.8, 0.1, 0.1)}
    text = text_of([trained(made, cell, seed, test=value) for cell, own in zip(made.cells, values.values(), strict=True)
                    for seed, value in enumerate(own)], made)
    assert re.search(r"No trend with kernel size is resolved \(p = [01]\.\d+\)", text)


def test_an_experiment_says_what_its_answer_compares():
    by_gap, by_validation = (experiment_of(ONE_FACTOR.replace("[base.model]", f'outcome = "{outcome}"\n[base.model]'))
                             for outcome in ("gap", "validation"))
    values = {0: (0.95, 0.90), 1: (0.92, 0.91)}  # accuracy on training and on validation images
    text = lambda made: text_of([trained(made, cell, seed, train=train + 0.001 * seed, validation=validation)
                                 for cell, (train, validation) in zip(made.cells, values.values(), strict=True)
                                 for seed in range(3)], made)
    # sd 0.1 points; 4.30265 / sqrt(3) = 2.48414
    assert ("Training less validation accuracy differs between the cells (Welch's test of 2 cells, p < 0.001, n = 3 a "
            "cell): highest *kernel_size 2* with 5.10 [4.85, 5.35] points, lowest *kernel_size 3* with 1.10 [0.85, "
            "1.35] "
            "points.") in text(by_gap)
    assert "The highest is above every other." in text(by_gap)
    assert "Validation accuracy differs between the cells" in text(by_validation)
    with pytest.raises(ValueError, match=r"outcome = 'best': .*allowed: test, validation, gap"):
        experiment_of(ONE_FACTOR.replace("[base.model]", 'outcome = "best"\n[base.model]'))


def test_figures_of_several_sources_name_their_cells():
    made = experiment_of(ONE_FACTOR.split("[grid]")[0] + "".join(f"""
        [[cells]]
        label = "k{k}"
        model.kernel_size = {k}
        reported = {{ validation_accuracy = 0.9, source = "{source}" }}
        """ for k, source in ((2, "one; two"), (3, "one; two"), (4, "three"))))
    text = text_of([trained(made, made.cells[0])], made)
    assert "- Reported figures of k2, k3: one; two\n- Reported figures of k4: three\n" in text


def test_the_arithmetic_that_is_compared_is_that_of_most_cells():
    made = experiment_of(ONE_FACTOR.replace("[2, 3]", "[2, 3, 4, 5]"))
    tf32 = {"environment": GPU, "labels": Labels(precision="float32", cudnn_tf32=True)}
    records = [trained(made, cell, seed, test=0.8 + 0.01 * i + 0.001 * seed)
               for i, cell in enumerate(made.cells[:3]) for seed in range(2)]
    records += [trained(made, cell, seed, test=0.9 + 0.001 * seed, **tf32)
                for cell in made.cells[2:] for seed in range(8)]
    text = text_of(records, made)
    assert "permutation over 3 cells" in text
    assert "highest *kernel_size 4 (float32)* with" in text
    assert ("Not compared, because their arithmetic (float32 with TF32) differs from the others': 2 rows: "
            "*kernel_size 4 (float32 with TF32)*; *kernel_size 5*.") in text
    apart = [trained(made, cell, seed, test=0.8 + 0.05 * i + 0.001 * seed)
             for i, cell in enumerate(made.cells[:3]) for seed in range(6)]
    assert "The highest is above every other that is compared." in text_of([*apart, *records[6:]], made)


def test_trainings_done_once_more_are_told():
    first = trained(MADE, K2, 0, test=0.9, started_at="2026-01-01T00:00:00Z")
    other = trained(MADE, K3, 0, test=0.9, started_at="2026-01-01T00:00:00Z")
    again = [trained(MADE, K2, 0, test=0.8975, started_at="2026-01-02T00:00:00Z"),
             trained(MADE, K3, 0, test=0.9, started_at="2026-01-02T00:00:00Z")]
    assert "Done once more" not in text_of([first, other], MADE)
    same = "Repeated later, so that the later result counts: 1 training, with the same test accuracy."
    assert same in text_of([first, other, again[1]], MADE)
    text = text_of([*again, first, other], MADE)
    assert "later result counts: 2 trainings, 1 of them with another test accuracy, by up to 0.25 points" in text
    assert "2 trainings and 0 timings belong" in text


def test_what_a_reader_must_know_stands_beside_the_question():
    made = experiment_of(ONE_FACTOR.replace("[base.model]", 'note = "Two changes | at once"\n[base.model]'))
    text = text_of([trained(made, made.cells[0])], made)
    assert "**Question.** Does it matter? Two changes \\| at once.\n\n**Answer.**" in text


def test_settings_that_change_together_have_no_trend_of_their_own():
    made = experiment_of(ONE_FACTOR.split("[grid]")[0] + "".join(f"""
        [[cells]]
        label = "{k}"
        model = {{ kernel_size = {k}, width = {8 * k} }}
        """ for k in (2, 3, 4, 5)))
    rising = [trained(made, cell, seed, test=0.8 + 0.02 * i + 0.001 * seed)
              for i, cell in enumerate(made.cells) for seed in range(3)]
    text = text_of(rising, made)
    assert "differs between the cells (Kruskal and Wallis's test by permutation over 4 cells, p < 0.001" in text
    assert "rises with" not in text


def test_speed_answer_compares_only_what_had_the_machine_alone():
    line = answer_of([timed(MADE, K2), timed(MADE, K3, [0.02] * 10)])
    assert ("fastest in training is *kernel_size 2* with 10,000 images/s, slowest *kernel_size 3* with 5,000 images"
            in line)
    assert "a factor of 2.00; neither timings in turns nor a calibration tells how far two runs" in line
    shared = msgspec.structs.replace(LABELS, machine_shared=True)
    assert "fastest" not in answer_of([timed(MADE, K2), timed(MADE, K3, [0.02] * 10, labels=shared)])


def test_speed_answer_compares_what_was_timed_at_one_commit():
    made = experiment_of(ONE_FACTOR.replace("[2, 3]", "[2, 3, 4]"))
    later = msgspec.structs.replace(CPU, commit="d" * 40)
    k2, k3, k4 = made.cells
    line = answer_of([timed(made, k2, [0.03] * 10), timed(made, k3, [0.02] * 10, environment=later),
                      timed(made, k4, environment=later)], made)
    assert "fastest in training is *kernel_size 4* with 10,000 images/s, slowest *kernel_size 3* with 5,000" in line
    assert ". Left out, timed at another commit: *kernel_size 2*." in line


@pytest.mark.parametrize(("spread", "expected"), [
    (0.02, "fastest in training is *kernel_size 2* with 10,000 images/s, slowest *kernel_size 3* with 5,000 images/s"
            ", a factor of 2.00 [1.95, 2.05] between runs."),
    (2.0, "training speeds are not resolved: highest *kernel_size 2* with 10,000 images/s, lowest *kernel_size 3* "
           "with"),
])
def test_speed_answer_is_judged_by_the_noise_between_runs(spread, expected):
    pairs = Pairs(a_s=[0.01 * (1 + spread * (i % 2)) for i in range(20)], b_s=[0.01] * 20)
    noise = Calibration(own_processes=True, environment=CPU, started_at="", cell={}, metrics={"train_step": pairs})
    text = report.render([timed(MADE, K2), timed(MADE, K3, [0.02] * 10)], [MADE], [noise]).text
    assert expected in text.split("### One factor")[1]
    least = significant(100 * resolvable_unpaired(pairs))
    assert f"steps of two cells that differ by {least} % are told apart nine times in ten" in text


def test_what_is_measured_beside_the_cells_is_dated_and_the_newest_comes_first():
    pairs = {"train_step": Pairs(a_s=[0.01] * 3, b_s=[0.01] * 3)}
    sides = [Calibration(environment=msgspec.structs.replace(CPU, num_threads=threads), started_at=f"{day}T00:00:00Z",
                         cell={}, metrics=pairs) for threads, day in ((1, "2026-01-01"), (2, "2026-01-02"))]
    text = report.render([timed(MADE, K2)], [MADE], sides).text
    dates = re.findall(r"Measured on (\S+) at commit `(\w{8})`\.", text)
    assert dates == [("2026-01-02", CPU.commit[:8]), ("2026-01-01", CPU.commit[:8])]
    assert re.search(r"(?m)^\| M\d \| Test CPU, .* \| - \| - \| 1 \|$", text)  # nothing but a calibration of it


def test_the_readme_has_the_newest_speeds_of_the_final_network_on_each_kind_of_device():
    final = experiment.load("final")
    cell = to_dict(final.cells[0].config)
    run = lambda images, accuracy: PeerRun(images=images, train_s=1.0, num_steps=1, test_accuracy=[accuracy])
    peers = lambda day, where, of=cell, **rates: Peers(
        environment=where, started_at=f"2026-01-0{day}", cell=of, epochs=2, images_per_epoch=10,
        systems=[Peer(name=name, what=f"the {name}", runs=[run(rate, 0.8 + 0.01 * i)] * 3 if rate else [])
                 for i, (name, rate) in enumerate(rates.items())])
    other = {"model": {"name": "cnn"}, "train": cell["train"]}
    sides = [peers(1, CPU, loop=1000), peers(2, CPU, loop=2000, ours=9000), peers(3, CPU, of=other, loop=7000),
             peers(1, GPU, loop=3000, ours=0, fused=90_000)]
    named_otherwise = msgspec.structs.replace(sides[0].systems[0], what="the loop, before")
    sides.append(msgspec.structs.replace(sides[0], systems=[named_otherwise],
                                         environment=msgspec.structs.replace(CPU, cpu="Old CPU")))
    short = report.render([trained(final, final.cells[0])], [final], sides).short
    assert "| the highest over the tutorial |  | 1.000 [1.000, 1.000] | 4.500 [4.500, 4.500] | 30.000" in short
    lines = [line for line in short.splitlines() if "| the " in line and "report" not in line and "over" not in line]
    assert lines == ["| loop | the loop, before | 1,000 [1,000, 1,000] | - | - |",
                     "| loop | the loop | - | 2,000 [2,000, 2,000] | 3,000 [3,000, 3,000] |",
                     "| ours | the ours | - | 9,000 [9,000, 9,000] | - |",
                     "| fused | the fused | - | - | 90,000 [90,000, 90,000] |"]
    assert short.endswith("| equal work | 80.00 to 80.00 | 80.00 to 81.00 | 80.00 to 82.00 |")
    assert "Test CPU, 2 processors: 2 epochs of 10 images, 2026-01-02 | Test GPU: 2 epochs of 10 images, " in short
    assert "equal work" not in report.render([trained(final, final.cells[0])], [final], sides[2:3]).short


# The document


def test_foreign_text_cannot_break_the_page():
    evil = experiment_of(ONE_FACTOR.replace("One factor", "a | b `c` <d>").split("[grid]")[0] + """
        [[cells]]
        label = "x|y\\n# heading"
        note = "<img src=x> | *"
        """)
    text = text_of([trained(evil, evil.cells[0], environment=msgspec.structs.replace(CPU, cpu="C|P<U"))], evil)
    assert "### a \\| b \\`c\\` &lt;d&gt;" in text
    assert "| x\\|y # heading | 1, 2 waiting |" in text
    assert "- x\\|y # heading: &lt;img src=x&gt; \\| \\*" in text
    assert "C\\|P&lt;U" in text
    assert "<img" not in text
    assert "\n# heading" not in text


def test_the_order_of_records_does_not_matter_and_bytes_repeat(written, full_store):
    records = list(Store(full_store).latest().values())
    loaded = [report.experiments_.load(name) for name in report.experiments_.names()]
    document = report.render(records[::-1], loaded, own=f"python -m bench.report --store {full_store}")
    assert document.text.encode() == written.read_bytes()
    figures = {path.name: path.read_bytes() for path in (written.parent / "docs/figures").iterdir()}
    assert document.figures == figures


def test_final_section_has_layers_classes_and_mistakes(written):
    text = written.read_text()
    assert "| conv1 | Conv2d | (1, 28, 28) | 3 | 1 | 1 | (4, 28, 28) | 40 | 28,224 |" in text
    assert "| 9 | Ankle boot | 91.00 ± 0.00 [91.00, 91.00] |" in text
    assert "Images per seed: 10,000" in text
    assert "| 7 | Shirt | T-shirt/top | 0.9900 | 3 of 3 |" in text
    assert "| learning rate | 0.0001 |" in text


def test_the_readme_beside_the_published_results_has_them_in_short(full_store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "PUBLISHED", full_store.resolve())
    assert report.main(["--store", str(full_store), "--output", str(tmp_path / "RESULTS.md")]) == 0
    arguments = ["--store", str(full_store), "--output", str(tmp_path / "RESULTS.md")]
    page = tmp_path / "README.md"
    page.write_text(f"# Mine\n\n{readme.BEGIN}\nwhat was there\n{readme.END}\n\nmore\n")
    assert report.main([*arguments, "--check"]) == 1
    assert "README.md: stale" in capsys.readouterr().err
    assert report.main(arguments) == 0
    text = page.read_text()
    assert text.startswith(f"# Mine\n\n{readme.BEGIN}\n\nOf 9 claims: ")
    assert (" A run of the final network ends at 88.0 % on validation and 88.0 % on test on average "
            "(ReLU after fc1, n = 3); the report's one run at 91.6 % and 90.4 or 90.8 %. Trial-2, which the report "
            "selects as the best of Table 1.2, takes place ") in text
    assert "\n\n| the report's claim | verdict here |" in text
    assert text.endswith(f"{readme.END}\n\nmore\n")
    assert "what was there" not in text
    # of three seeds, made so that seed s of the first cell has 0.88 + 0.0005 s
    assert "| here, ReLU after fc1 | 88.05 ± 0.05 [87.93, 88.17] | 88.05 ± 0.05 [87.93, 88.17] | 3 |" in text
    assert "| here, all 60,000 images | - | " in text
    assert "| section 1.8 | all 60,000 images | test | 90.8 | " in (tmp_path / "RESULTS.md").read_text()
    assert "Kaiming" not in text  # a reading of its own, not the network as printed
    assert "| Dropout between the two Linear layers reduces over-fitting | **contradicted** (2 of 2 parts) |" in text
    assert "| Batch normalization speeds up learning | **waiting** |" in text
    assert report.main([*arguments, "--check"]) == 0


@pytest.mark.parametrize("text", ["# Mine\n", f"{readme.BEGIN}\nno end\n", f"{readme.END}\n{readme.BEGIN}\n"])
def test_a_readme_without_the_marks_is_left_alone(text):
    assert readme.inserted(text, "block") == text


def test_records_of_ones_own_never_take_the_place_of_the_published_results(full_store, tmp_path, capsys):
    for name in ("RESULTS.md", "MINE.md"):  # beside it: the figures would go to the same folder
        assert report.main(["--store", str(full_store), "--output", str(report.ROOT / name)]) == 2
        assert "the results of the published records and their figures stand in that folder" in capsys.readouterr().err
    store = tmp_path / "mine"
    shutil.copytree(full_store, store)
    assert report.main(["--store", str(store)]) == 0
    assert (store / "RESULTS.md").exists()
    assert (store / "docs/figures/final_curves.svg").exists()


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--output", "mine.toml"], "--output mine.toml: expected a file that ends in .md"),
    (["--html", "--output", "mine.toml"], "--output mine.toml: expected a file that ends in .html"),
    (["--html", "--check"], "--check has no effect"),
])
def test_no_file_of_another_kind_is_written_over(arguments, expected, full_store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(ONE_FACTOR)
    try:
        code = report.main(["--store", str(full_store), *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert expected in capsys.readouterr().err
    assert (tmp_path / "mine.toml").read_text() == ONE_FACTOR
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_store_that_is_not_there_is_an_error(tmp_path, capsys):
    for extra in ([], ["--check"], ["--html", "--output", str(tmp_path / "page.html")]):
        assert report.main(["--store", str(tmp_path / "none"), *extra]) == 2
        assert "there is no such folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="there is no such folder"):
        frame.load(tmp_path / "none")


def test_a_document_of_ones_own_shows_what_has_records_and_ones_own_experiments(tmp_path):
    toml = ONE_FACTOR.replace('name = "cnn"', 'name = "cnn"\nwidth = 5')  # else the cells are some of kernel_depth's
    own = experiment_of(toml, name="mine")
    (tmp_path / "mine.toml").write_text(toml)
    store = tmp_path / "store"
    store.mkdir()
    (store / "mine.jsonl").write_bytes(encode(trained(own, own.cells[0])))
    assert report.main(["--store", str(store), str(tmp_path / "mine.toml")]) == 0
    text = (store / "RESULTS.md").read_text()
    assert "### One factor" in text
    assert "**Question.** Does it matter?" in text
    assert "Table 1.1" not in text
    assert "## The report's claims" not in text
    assert "1 training and 0 timings belong to experiments" in text


def test_the_page_of_ones_own_lies_in_the_store_and_knows_ones_own_experiments(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(explorer, "_library", lambda: "library")
    own = experiment_of(ONE_FACTOR.replace("[2, 3]", "[2]").replace('"cnn"', '"cnn"\nwidth = 5'), name="mine")
    (tmp_path / "mine.toml").write_text(
        'question = "?"\nbase.model = { name = "cnn", width = 5 }\n'
        '[[cells]]\nlabel = "of my own"\nmodel.kernel_size = 2')
    store = tmp_path / "store"
    store.mkdir()
    (store / "mine.jsonl").write_bytes(encode(trained(own, own.cells[0])))
    assert report.main(["--store", str(store), "--html", str(tmp_path / "mine.toml")]) == 0
    assert f"{store / 'explorer.html'}: written" in capsys.readouterr().out
    page = (store / "explorer.html").read_text()
    assert '"of my own"' in page
    assert "Trial-2" not in page  # of an experiment that the store has nothing of


def test_an_experiment_named_twice_is_there_once(tmp_path):
    quick = report.experiments_.load("quick")
    (tmp_path / "quick.jsonl").write_bytes(encode(trained(quick, quick.cells[0])))
    assert report.main(["--store", str(tmp_path)]) == 0
    once = (tmp_path / "RESULTS.md").read_text()
    assert report.main(["--store", str(tmp_path), "quick", str(report.experiments_.FOLDER / "quick.toml")]) == 0
    assert (tmp_path / "RESULTS.md").read_text() == once


def test_a_page_names_the_command_that_writes_it(tmp_path, capsys):
    """With the experiments of one's own, whose questions and labels it shows."""
    (tmp_path / "mine.toml").write_text(ONE_FACTOR)
    mine = experiment_of(ONE_FACTOR, name="mine")
    (tmp_path / "mine.jsonl").write_bytes(encode(trained(mine, mine.cells[0])))
    arguments = ["--store", str(tmp_path), str(tmp_path / "mine.toml")]
    assert report.main(arguments) == 0
    assert f"To get it again: `python -m bench.report {' '.join(arguments)}`" in (tmp_path / "RESULTS.md").read_text()
    (tmp_path / "RESULTS.md").write_text("old")
    assert report.main([*arguments, "--check"]) == 1
    assert f"RESULTS.md: stale; python -m bench.report {' '.join(arguments)} writes it anew" in capsys.readouterr().err


def test_another_experiment_of_the_same_name_is_refused(tmp_path, capsys):
    (tmp_path / "final.toml").write_text(ONE_FACTOR)
    assert report.main(["--store", str(tmp_path), str(tmp_path / "final.toml")]) == 2
    refusal = capsys.readouterr().err
    assert f"experiments {report.experiments_.FOLDER / 'final.toml'} and {tmp_path / 'final.toml'} are both" in refusal
    assert [path.name for path in tmp_path.iterdir()] == ["final.toml"]


def test_an_experiment_without_records_is_folded_up_but_there():
    text = text_of([]).split("### One factor")[1].split("\n## ")[0]
    assert "<summary>Waiting: 2 cells × 3 seeds, for a CPU or a GPU</summary>" in text
    assert "| kernel_size 3 | waiting (3) |" in text
    assert "`accelerate launch bench/run.py made`" in text
    assert "**Answer.** No answer yet: 2 cells waiting or failed.\n\n<details>" in text


def test_the_reports_figures_stand_beside_ours_with_the_order_of_the_trials():
    of = report.experiments_.load("table_1_2")
    records = [trained(of, of.cells[i], seed, validation=accuracy + 0.001 * seed)
               for i, accuracy in ((0, 0.9), (1, 0.91)) for seed in range(3)]
    text = text_of(records, of).split("## The report's figures")[1]
    rows = {row[1]: row for row in rows_of(text, "Table 1.2")}
    # 0.901 +- 4.303 x 0.001 x the root of 4 / 3; of seven trials in the report Trial-1 comes fifth
    assert rows["Trial-1"][2:] == ["validation", "89.3", "90.10 ± 0.10 [89.85, 90.35]", "89.60 to 90.60", "3", "5", "2",
                                   "0.3000 ± 0.0000"]
    assert rows["Trial-2"][-3:-1] == ["1", "1"]
    assert rows["Trial-3"][3:] == ["90.3", "waiting", "-", "0", "3", "-", "-"]


def test_without_the_data_set_the_pictures_of_it_stay_as_they_are(written, full_store, tmp_path, capsys, monkeypatch):
    shutil.copytree(written.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(pictures, "find", files.find)
    monkeypatch.setenv("FMNIST_DATA_DIR", str(tmp_path / "nowhere"))
    arguments = ["--store", str(full_store), "--output", str(tmp_path / "RESULTS.md")]
    picture = tmp_path / "docs/figures/final_images.svg"
    assert picture.exists()
    picture.write_text("as it was")
    assert report.main([*arguments, "--check"]) == 0
    assert "final_images.svg: not checked, it needs the data set" in capsys.readouterr().err
    assert report.main(arguments) == 0
    assert "final_images.svg is as it was: it needs the data set" in capsys.readouterr().out
    assert picture.read_text() == "as it was"
    assert (tmp_path / "RESULTS.md").read_bytes() == written.read_bytes()


def test_gap_and_gain_by_stopping():
    made = experiment_of(ONE_FACTOR.replace("[2, 3]", "[2]"), name="final")
    records = [trained(made, made.cells[0], seed, train=0.95 + 0.01 * seed, validation=[0.5, 0.9, 0.8, 0.8, 0.8, 0.8],
                       test=[0.5, 0.87, 0.8, 0.8, 0.8, 0.8], validation_loss=[0.5, 0.4, 0.3, 0.3, 0.35, 0.45])
               for seed in range(3)]
    text = text_of(records, made).split("## Over-fitting")[1]
    [row] = rows_of(text, "`final`")
    assert row[5] == "16.00 ± 1.00 [13.52, 18.48]"
    assert row[6] == "+0.1000 [+0.1000, +0.1000]"  # mean of 0.35, 0.45 less mean of 0.3, 0.3
    assert row[7] == "2 of 6"
    assert row[10] == "+7.00 [+7.00, +7.00]"
    assert "Of 1 configuration that learnt, with two seeds or more" in text
    assert "for the better in 1, for the worse in 0, and is not resolved in 0 (" in text


def test_check_names_what_is_stale_and_writes_nothing(written, full_store, tmp_path, capsys):
    shutil.copytree(written.parent, tmp_path, dirs_exist_ok=True)
    output = tmp_path / "RESULTS.md"
    arguments = ["--store", str(full_store), "--output", str(output)]
    assert report.main([*arguments, "--check"]) == 0
    output.write_bytes(output.read_bytes().replace(b"91.00", b"92.00", 1))
    figure = tmp_path / "docs/figures/kernel_sizes.svg"
    figure.write_bytes(figure.read_bytes() + b"\n")
    (tmp_path / "docs/figures/final_curves.svg").unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert report.main([*arguments, "--check"]) == 1
    told = capsys.readouterr().err
    assert [name in told for name in ("RESULTS.md", "kernel_sizes.svg", "final_curves.svg")] == [True] * 3
    assert "final_confusion.svg" not in told
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_new_record_makes_it_stale_and_a_figure_without_records_goes(tmp_path):
    store, output = tmp_path / "store", tmp_path / "RESULTS.md"
    store.mkdir()
    arguments = ["--store", str(store), "--output", str(output)]
    old = tmp_path / "docs/figures/final_curves.svg"
    old.parent.mkdir(parents=True)
    old.write_text("left from other records")
    assert report.main([*arguments, "--check"]) == 1
    assert report.main(arguments) == 0
    assert not old.exists()
    assert report.main([*arguments, "--check"]) == 0
    quick = report.experiments_.load("quick")
    (store / "quick.jsonl").write_bytes(encode(trained(quick, quick.cells[0])))
    assert report.main([*arguments, "--check"]) == 1


def test_an_unreadable_store_is_wrong_input(tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text("no record\n")
    assert report.main(["--store", str(tmp_path), "--output", str(tmp_path / "R.md")]) == 2
    assert "x.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "R.md").exists()


def test_empty_store_gives_a_page_of_waiting_rows(tmp_path):
    text = text_of([], *[report.experiments_.load(name) for name in ("final", "kernel_depth", "table_1_1")])
    assert "waiting (5)" in text
    assert "Figure waiting for records" in text
    assert "0 trainings and 0 timings" in text


FORBIDDEN = """
import sys
from bench import experiment, frame, report
from bench.formatting import escape
from bench.pages import explorer
report.main(["--store", sys.argv[1], "--output", sys.argv[1] + "/RESULTS.md"])
sys.exit(sys.argv[2] in sys.modules)
"""


@pytest.mark.parametrize(("module", "imported"), [("torch", 0), ("scipy", 1)])
def test_the_report_needs_no_torch(tmp_path, module, imported):
    """The second case shows that the check can fail."""
    answer = subprocess.run([sys.executable, "-c", FORBIDDEN, str(tmp_path), module], capture_output=True, text=True)
    assert answer.returncode == imported, answer.stderr


def test_many_records_take_no_longer_in_proportion():
    """2,000 seeds of one cell are joined and tested with memory and time to spare."""
    records: list[TrainRecord] = [trained(MADE, K2, seed, test=0.9 + 1e-5 * (seed % 7)) for seed in range(1000)]
    records += [trained(MADE, K3, seed, test=0.91 + 1e-5 * (seed % 7)) for seed in range(1000)]
    assert rows_of(text_of(records), "kernel_size 2")[0][1] == "1000"


def test_only_the_precision_that_mixes_none_is_called_float32():
    made = experiment_of(ONE_FACTOR.split("[grid]")[0] + """
        [base.train]
        schedule = "step"
        steps = [[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6], [0.5, 0.5], [0.6, 0.4], [0.7, 0.3]]
        [[cells]]
        label = "one"
        [[cells]]
        label = "other"
        train = { precision = "bf16", whitening = "initial" }
        """)
    rows = collect([], [made]).rows["made"]
    shown = settings_table(rows)
    [one] = [line for line in shown.splitlines() if line.startswith("| one |")]
    assert sorted(one.strip("| ").split(" | ")) == ["no", "no (float32)", "one"]
    text = shared_settings(rows)
    assert "`train.steps` = (0.1, 0.9) (0.2, 0.8) (0.3, 0.7) (0.4, 0.6) (0.5, 0.5) (0.6, 0.4) ... (7 in all)" in text


def test_speeds_say_when_those_of_their_main_commit_were_timed():
    at = lambda day, commit: msgspec.structs.replace(
        timed(MADE, K2, environment=msgspec.structs.replace(CPU, commit=commit * 40)),
        started_at=f"2026-11-{day}T08:00")
    speeds = [at(22, "a"), at(23, "a"), at(26, "b")]
    assert tables.timed_when(speeds) == "timed on 2026-11-22 to 2026-11-23 at commit `aaaaaaaa`"
    assert tables.timed_when(speeds[:1]) == "timed on 2026-11-22 at commit `aaaaaaaa`"
