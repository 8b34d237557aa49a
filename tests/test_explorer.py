"""What the explorer's page holds: values checked by hand, and a document that no record can break."""

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import report
from bench.pages import explorer
from bench.records import unlisted
from fmnist_core.config import CellConfig, CustomModel
from tests.explorer_records import GPU, GRID, HOSTILE, other, small_store, speed, train


def column(content: dict[str, Any], key: str) -> list[Any]:
    found = next(one for one in content["columns"] if one["key"] == key)
    return [found["levels"][value] if "levels" in found and value is not None else value for value in found["values"]]


def test_a_line_has_the_units_of_its_titles() -> None:
    content = explorer.content(small_store(), [GRID])
    # One line per machine of cell 0 (GPU first, by name), and one for each of the five others.
    assert column(content, "device") == ["A GPU", "A CPU", *[None] * 5]
    assert content["cell_of"] == [0, 0, 1, 2, 3, 4, 5]
    assert column(content, "test")[:3] == [62.5, 62.5, 87.5]
    test = next(one for one in content["columns"] if one["key"] == "test")
    assert test["sd"][:3] == [pytest.approx(25 / 2**0.5), pytest.approx(25 / 2**0.5), None]
    # Student's t with one degree of freedom, 97.5 %: 12.7062; times sd / sqrt(2) = 12.5.
    assert test["low"][0] == pytest.approx(62.5 - 12.5 * 12.7062, rel=1e-5)
    assert column(content, "step_ms")[:3] == [3.0, 1.0, None]
    assert column(content, "images_per_s")[:2] == [pytest.approx(128 / 0.003), pytest.approx(128_000)]
    assert column(content, "parameters")[:4] == [123_456_789] * 3 + [31_546]  # in closed form, where no record says it
    assert column(content, "kernel_size") == ["2", "2", "2", "3", "3", "10", "10"]
    assert column(content, "precision")[:4] == ["float32", "float32", "float32", None]


def test_a_training_time_names_the_machine_that_trained() -> None:
    one, two = (GRID.cells[i].config for i in (3, 4))
    more = [train(one, 0, 0.5, environment=GPU, shared=True), train(two, 0, 0.5), train(two, 1, 0.5, environment=GPU)]
    content = explorer.content([*small_store(), *more], [GRID])
    short = lambda key: [value and value.split(":")[0] for value in column(content, key)]
    marks = {one["key"]: one["marks"] for one in content["columns"] if "marks" in one}
    # Cell 0 was trained on the CPU, and timed on the GPU (other work beside, noisy) and on the CPU.
    assert short("machine") == ["M1", "M2", *[None] * 5]
    assert short("train_machine") == ["M2", "M2", "M2", None, "M1", "several", None]
    assert column(content, "machine")[0].startswith("M1: A GPU")
    assert column(content, "train_s") == [2.0, 2.0, 2.0, None, 2.0, None, None]
    assert marks["train_s"] == [" on M2", " on M2", " on M2", "", "‡ on M1", " on several", ""]
    assert marks["images_per_s"] == marks["step_ms"] == ["†‡", *[""] * 6]
    assert {one["key"]: one["clock"] for one in content["columns"] if one.get("clock")} == {
        "train_s": "train_machine", **dict.fromkeys(("images_per_s", "step_ms", "first_step_s", "times_limit",
                                                     "inference_images_per_s", "latency_ms"), "machine")}
    assert {"machine", "train_machine"} <= set(content["filters"])


def test_with_one_machine_times_need_not_name_it() -> None:
    content = explorer.content([train(GRID.cells[0].config, 0, 0.5, shared=True)], [GRID])
    assert next(one for one in content["columns"] if one["key"] == "train_s")["marks"] == ["‡", *[""] * 5]


def test_a_training_time_of_several_seeds_says_so() -> None:
    one, two = (GRID.cells[i].config for i in (0, 1))
    records = [train(one, seed, 0.5, fused_seeds=2) for seed in range(2)] + [train(two, 0, 0.5),
                                                                            train(two, 1, 0.5, fused_seeds=2)]
    content = explorer.content(records, [GRID])
    [marks] = [each["marks"] for each in content["columns"] if each["key"] == "train_s"]
    assert marks[:3] == [" for 2 seeds", "", ""]
    assert column(content, "train_s")[:3] == [2.0, None, None]
    assert column(content, "train_machine")[1:3] == ["several", None]


def test_failures_are_told_with_their_reason() -> None:
    content = explorer.content(small_store(), [GRID])
    assert column(content, "status") == ["ok", "ok", "diverged", "oom", "waiting", "waiting", "waiting"]
    assert column(content, "reason")[2:4] == [f"seed 1: diverged: {HOSTILE}", "timing on cpu: oom: of 1 GiB"]
    assert column(content, "timing")[:3] == ["†‡ noisy, shared", "quiet", None]


def test_samples_are_thinned_and_the_page_is_told() -> None:
    content = explorer.content(small_store(), [GRID])
    gpu, cpu = content["times"][:2]
    assert (cpu["of"], cpu["every"], cpu["step_ms"]) == (600, 1, [1.0] * 600)
    assert (gpu["of"], gpu["every"], gpu["step_ms"]) == (4, 1, [2.0, 2.0, 4.0, 4.0])
    [times, *_] = explorer.content([speed(GRID.cells[0].config, [0.001] * 2001)], [GRID])["times"]
    assert (times["of"], times["every"], times["step_ms"]) == (2001, 3, [1.0] * 667)
    many = [train(GRID.cells[0].config, seed, 0.5) for seed in range(explorer.MAX_SEEDS + 1)]
    curves = explorer.content(many, [GRID])["cells"][0]["curves"]
    assert (curves["of"], curves["seeds"], curves["every"]) == (33, list(range(32)), 1)
    assert curves["accuracy"][2] == [[25.0, 50.0]] * 32
    assert curves["loss"] == [[[]] * 32, [[]] * 32, [[0.25, 0.5]] * 32]


def test_the_curve_of_a_seed_that_failed_says_so() -> None:
    config = GRID.cells[0].config
    content = explorer.content([train(config, 0, 0.5), train(config, 1, 0.25, status="diverged", reason="inf")], [GRID])
    assert content["cells"][0]["curves"]["seeds"] == [0, "1 (diverged)"]
    assert column(content, "test")[0] == 50.0


def test_records_of_no_experiment_have_lines_and_stale_ones_are_counted() -> None:
    # The same cell and seed by another version of the training code has another key.
    stale = msgspec.structs.replace(train(other(2), 0, 0.5), quality_key="f" * 16)
    content = explorer.content([train(other(1), 0, 0.5), train(other(3), 0, 0.5), stale], [GRID])
    assert column(content, "experiment")[6:] == ["grid, other cells"] * 2
    assert column(content, "cell")[6:] == ["learning_rate 0.002", "learning_rate 0.004"]
    assert column(content, "status")[6:] == ["ok", "ok"]
    assert column(content, "train.learning_rate") == [0.001] * 6 + [0.002, 0.004]
    assert column(content, "train.epochs") == [10] * 6 + [7, 7]
    assert (content["num_records"], content["num_left_out"]) == (2, 1)


def test_networks_of_ones_own_are_named_by_their_options() -> None:
    models = [CustomModel(factory="my.nets:tiny", options={"width": width}) for width in (4, 8)]
    own = [train(CellConfig(model=model), 0, 0.5) for model in models]
    assert column(explorer.content(own, []), "cell") == ["width 4", "width 8"]
    assert column(explorer.content(own[:1], []), "cell") == ["my.nets:tiny"]


def test_all_cells_without_an_experiment_have_lines() -> None:
    many = [train(other(i), 0, 0.5) for i in range(unlisted.MAX_SHOWN + 1)]
    assert len(explorer.content(many, [])["times"]) == unlisted.MAX_SHOWN + 1


class Scripts(HTMLParser):
    """The contents of a document's scripts, as an HTML reader takes them apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.contents: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script"
        self.contents += [""] if self._inside else []

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.contents[-1] += data


def test_no_record_can_end_its_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "_library", lambda: "library")
    page = explorer.render(small_store(), [GRID])
    embedded, library, _ = Scripts(page).contents
    assert json.loads(embedded) == json.loads(json.dumps(explorer.content(small_store(), [GRID])))
    assert library == "library"
    assert page == explorer.render(small_store(), [GRID])


def test_without_the_library_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert report.main(["--html", "--store", str(tmp_path), "--output", str(tmp_path / "page.html")]) == 2
    assert "fmnist-bench[explorer]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
