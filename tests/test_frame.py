"""Results as a DataFrame: one row per cell and machine, every column documented and computed from raw samples."""

import math

import msgspec
import pytest

from bench import experiment, frame
from bench.record import Inference
from bench.records.lines import encode
from tests.made import GPU, ONE_FACTOR, complete, experiment_of, failed, timed, trained

MADE = experiment_of()
K2, K3 = MADE.cells


def test_columns_are_the_documented_ones():
    table = frame.rows([], [MADE])
    assert list(table.columns) == list(frame.COLUMNS)
    assert all(frame.COLUMNS.values())
    assert table["seeds"].tolist() == [0, 0]
    assert table["seeds_missing"].tolist() == [3, 3]
    assert table["test_last_mean"].isna().all()


def test_values_of_a_cell():
    records = [*(trained(MADE, K2, seed, test=accuracy) for seed, accuracy in enumerate((0.90, 0.91, 0.92))),
               failed(MADE, K3, 0, "oom", "no memory"), timed(MADE, K2)]
    row, other = (one for _, one in frame.rows(records, [MADE]).iterrows())
    assert (row["experiment"], row["cell"], row["seeds"]) == ("made", "kernel_size 2", 3)
    assert (other["seeds"], other["seeds_failed"], other["seeds_missing"]) == (0, 1, 2)
    assert row["test_last_mean"] == pytest.approx(0.91)
    assert row["test_last_sd"] == pytest.approx(0.01)
    assert row["test_last_low"] == pytest.approx(0.885159, abs=1e-6)
    assert row["gap_last_mean"] == pytest.approx(0.05)
    assert row["train_s"] == pytest.approx(12.0)
    assert row["train_machine"].startswith("Test CPU")
    assert row["config"] == {"model.name": "cnn", "model.kernel_size": 2}
    assert row["train_images_per_s"] == pytest.approx(10_000)
    assert (row["inference_images_per_s"], row["inference_batch_size"]) == (pytest.approx(25_000), 50)
    assert (row["latency_s"], row["times_limit"]) == (pytest.approx(0.0002), pytest.approx(2.0))
    assert not row["machine_shared"]
    assert math.isnan(other["train_images_per_s"])


def test_each_figure_is_in_its_own_column():
    curve = {"validation": [0.5, 0.6, 0.9, 0.7, 0.8, 0.75], "test": [0.1, 0.2, 0.3, 0.95, 0.5, 0.4], "train": 0.97}
    records = [trained(MADE, K2, seed, **curve) for seed in range(3)]
    slow = msgspec.structs.replace(records[2].epochs, train_s=[9.0] * 6)
    records[2] = msgspec.structs.replace(records[2], epochs=slow)
    steps = [0.005, 0.005, *[0.01] * 6, 0.03, 0.03]
    row = frame.rows([*records, timed(MADE, K2, steps)], [MADE]).iloc[0]
    figures = {"validation_last": 0.75, "validation_best": 0.9, "test_last": 0.4, "test_selected": 0.3,
               "test_best": 0.95, "train_last": 0.97, "gap_last": 0.22}
    assert {name: row[f"{name}_mean"] for name in frame.OUTCOMES} == pytest.approx(figures)
    assert row["arithmetic"] == "float32"
    assert (row["train_s"], row["train_s_shared"]) == (pytest.approx(12.0), False)  # seconds 12, 12 and 54
    assert (row["num_parameters"], row["multiply_adds"]) == (1234, 56789)
    assert row[["step_s", "first_step_s", "times_limit"]].tolist() == pytest.approx([0.01, 0.5, 2.0])
    rates = [row[f"train_images_per_s{end}"] for end in ("", "_low", "_high")]
    assert rates == pytest.approx([10_000, math.nan, math.nan], nan_ok=True)  # of one timing no interval
    assert (row["train_noisy"], row["peak_memory_bytes"], row["reserved_memory_bytes"]) == (False, 3e6, 4.5e6)


def test_the_best_inference_is_of_the_batch_with_the_highest_throughput_and_a_latency_is_a_median():
    passes = {1: [0.0002, 0.0002, 0.01], 50: [0.002], 100: [0.001], 200: [0.008], 400: []}
    inference = [Inference(batch_size=size, batch_s=seconds) for size, seconds in passes.items()]
    row = frame.rows([timed(MADE, K2, inference=inference)], [MADE]).iloc[0]
    assert (row["inference_images_per_s"], row["inference_batch_size"]) == (pytest.approx(100_000), 100)
    assert row["latency_s"] == pytest.approx(0.0002)
    single = frame.rows([timed(MADE, K2, inference=inference[:1])], [MADE]).iloc[0]
    assert single[["inference_images_per_s", "inference_batch_size"]].isna().all()


def test_a_timing_under_load_is_marked_and_what_it_lacks_is_nan():
    shared = msgspec.structs.replace(timed(MADE, K2).labels, machine_shared=True)
    for doubt in ({"labels": shared}, {"warnings": ["other processes used 1.00 CPUs meanwhile"]}):
        assert frame.rows([timed(MADE, K2, **doubt)], [MADE])["machine_shared"][0]
    busy = msgspec.structs.replace(trained(MADE, K2), labels=shared)
    assert frame.rows([busy], [MADE])["train_s_shared"][0]
    lacking = ["first_step_s", "peak_memory_bytes", "reserved_memory_bytes", "times_limit"]
    unknown = timed(MADE, K2, first_step_s=0.0, peak_memory_bytes=0, reserved_memory_bytes=0, floor_s=0.0)
    assert frame.rows([unknown], [MADE])[lacking].iloc[0].isna().all()
    assert frame.rows([timed(MADE, K2, [0.01, 0.02] * 5)], [MADE])["train_noisy"][0]


def test_reported_accuracies_are_those_of_the_experiment():
    row = frame.rows([], [experiment.load("final")]).iloc[0]
    assert (row["reported_validation"], row["reported_test"]) == (0.916, 0.904)


def test_a_cell_timed_on_two_machines_has_two_rows():
    table = frame.rows([timed(MADE, K2), timed(MADE, K2, [0.02] * 10, environment=GPU)], [MADE])
    assert table["cell"].tolist() == ["kernel_size 2", "kernel_size 2", "kernel_size 3"]
    assert sorted(table["train_images_per_s"].dropna().round()) == [5_000, 10_000]


def test_training_times_of_two_machines_have_no_median():
    table = frame.rows([trained(MADE, K2), trained(MADE, K2, 1, environment=GPU)], [MADE])
    assert table["seeds"].tolist() == [2, 0]
    assert table["train_s"].isna().all()
    assert table["train_machine"].tolist() == ["", ""]


def test_the_seconds_of_seeds_in_one_module_are_told_apart():
    together = msgspec.structs.replace(trained(MADE, K2).labels, fused_seeds=16)
    table = frame.rows([*(trained(MADE, K2, seed, labels=together) for seed in range(2)), trained(MADE, K3),
                        trained(MADE, K3, 1, labels=together)], [MADE])
    assert table["train_s"].tolist() == [12.0, pytest.approx(math.nan, nan_ok=True)]
    assert table["train_fused_seeds"].tolist() == [16, pytest.approx(math.nan, nan_ok=True)]
    assert table["train_machine"].tolist() == [table["train_machine"][0], ""]


def test_load_reads_a_store(tmp_path):
    (tmp_path / "final.jsonl").write_bytes(b"".join(map(encode, complete(["final"]))))
    table = frame.load(tmp_path, ["final"])
    assert table["seeds"].tolist() == [3] * len(experiment.load("final").cells)
    assert set(frame.load(tmp_path)["experiment"]) == {"final"}  # the others of the project were not run
    with pytest.raises(ValueError, match="unknown experiment 'finale'"):
        frame.load(tmp_path, ["finale"])
    (tmp_path / "final.toml").write_text(ONE_FACTOR)
    with pytest.raises(ValueError, match="are both named 'final'"):
        frame.load(tmp_path, ["final", str(tmp_path / "final.toml")])


def test_load_has_rows_for_cells_that_no_experiment_has(tmp_path):
    own = experiment_of(ONE_FACTOR.replace("[2, 3]", "[9, 10]") + 'data.dataset = ["synthetic"]', name="mine")
    changed = experiment.load("quick", {"train.epochs": 77})
    records = [*(trained(own, cell, 0, test=0.6) for cell in own.cells), timed(changed, changed.cells[0])]
    (tmp_path / "all.jsonl").write_bytes(b"".join(map(encode, records)))
    table = frame.load(tmp_path)
    others = table[table["experiment"].str.contains("other cells")]
    assert others["experiment"].tolist() == ["quick, other cells", *["mine, other cells (synthetic)"] * 2]
    assert others["cell"].tolist() == ["cnn", "kernel_size 9", "kernel_size 10"]
    assert others["test_last_mean"].tolist()[1:] == [pytest.approx(0.6)] * 2
    assert others["train_images_per_s"].notna().tolist() == [True, False, False]
    assert others["seeds_missing"].tolist() == [0, 0, 0]
    # Named experiments alone are what one asks for.
    assert set(frame.load(tmp_path, ["quick"])["experiment"]) == {"quick"}
