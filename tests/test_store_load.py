"""The store under load: 100,000 records, many cells. Bounds are generous: they tell linear from quadratic."""

import gc
import os
import shutil
import statistics
import time
import tracemalloc
from pathlib import Path

import pytest

from bench import experiment
from bench.record import Epochs, TrainRecord
from bench.records.lines import encode
from bench.report import render
from bench.store import Store
from bench.sweep import plan
from fmnist_core.config import to_dict

KEY = "0123456789abcdef"


def trained(key: str = KEY) -> TrainRecord:
    return TrainRecord(experiment="quick", quality_key=key, seed=0, cell={}, wall_s=1.5)


def bytes_read() -> int:
    """By this process's system calls so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def write_many(folder, number):
    template = encode(trained())
    folder.mkdir()
    (folder / "quick.jsonl").write_bytes(b"".join(template.replace(KEY.encode(), b"%016x" % i) for i in range(number)))
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return write_many(tmp_path_factory.mktemp("large") / "store", 100_000)


def seconds_to_read(folder, number):
    start = time.process_time()
    assert len(Store(folder).latest()) == number
    return time.process_time() - start


def test_reading_100_000_records_takes_linear_time(tmp_path, large):
    write_many(tmp_path / "tenth", 10_000)
    tenth = min(seconds_to_read(tmp_path / "tenth", 10_000) for _ in range(3))
    whole = seconds_to_read(large, 100_000)
    assert whole < 20  # seconds of processor time; about one where this was written
    assert whole < 30 * tenth  # ten times the records; a hundredfold would be quadratic


def test_what_an_append_and_a_look_cost_does_not_grow_with_the_store(tmp_path, large):
    store = Store(shutil.copytree(large, tmp_path / "store"))
    before = bytes_read()
    store.latest()
    assert bytes_read() - before >= (large / "quick.jsonl").stat().st_size
    before = bytes_read()
    for i in range(10):
        store.append(trained(f"f{i:015}"))
        assert f"f{i:015}" in store.latest()
    assert bytes_read() - before < 10 * 3 * 65536


def test_appending_stays_as_fast_as_it_was(tmp_path):
    def seconds_to_append(folder):
        store, times = Store(folder), []
        for i in range(15):
            start = time.perf_counter()
            store.append(trained(f"f{i:015}"))
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    write_many(tmp_path / "few", 10)
    write_many(tmp_path / "many", 50_000)
    assert seconds_to_append(tmp_path / "many") < 20 * seconds_to_append(tmp_path / "few") + 0.05


def test_many_cells_leave_no_files_open(tmp_path):
    store = Store(tmp_path)
    store.check_writable()
    before = num_open_files()
    for i in range(200):
        key = f"{i:016x}"
        assert store.claim(key)
        with store.machine("host", alone=False):
            store.append(trained(key))
        store.release(key)
        store.latest()
    assert num_open_files() == before
    del store
    assert num_open_files() == before - 1  # the file of claims


def seconds_to_plan_and_report(num_seeds):
    """Processor time, for an experiment of ten cells of which every seed but one has its record."""
    content = {"question": "?", "base": {"model": {"name": "cnn"}}, "timings": 0,
               "seeds": {"cpu": num_seeds, "cuda": 1}, "grid": {"model.width": list(range(1, 11))}}
    chosen = experiment.parse(content, name="quick")
    planned = plan.tasks([chosen], num_seeds=None, gpu=False, machine={})
    epochs = Epochs(**{name: [0.5, 0.75] for name in Epochs.__struct_fields__})  # type: ignore[arg-type]
    records = [TrainRecord(experiment="quick", quality_key=task.key, seed=task.seed, cell=to_dict(task.cell.config),
                           epochs=epochs) for task in planned]
    latest = {each.quality_key: each for each in records[1:]}
    start = time.process_time()
    assert plan.missing(planned, latest, {}) == planned[:1]
    assert "# Results" in render(records, [chosen]).text
    return time.process_time() - start


def test_planning_and_reporting_with_100_000_records_take_linear_time():
    tenth, whole = seconds_to_plan_and_report(1_000), seconds_to_plan_and_report(10_000)
    assert whole < 30 * tenth


def test_a_thousand_cells_leave_no_memory_and_no_files_open(call_run, bare_folder, monkeypatch):
    """One sweep, whose cells are pretended; measured at its 200th, its 600th and its last.

    A leak would show in both halves; that a table of Python's own, as of interned strings, doubles, in one.
    """
    seen, append = [], Store.append

    def watched(store, each):
        append(store, each)
        if len(store.heads()) in (200, 600, 1000):
            gc.collect()
            seen.append((tracemalloc.get_traced_memory()[0], num_open_files()))

    monkeypatch.setattr(Store, "append", watched)
    monkeypatch.setenv("PRETEND_S", "0")
    path = bare_folder / "many.toml"
    path.write_text(f"""
        question = "?"
        timings = 0
        seeds = {{ cpu = 1, cuda = 1 }}
        base.data.dataset = "synthetic"
        base.model.name = "cnn"
        grid.model.width = {list(range(1, 1001))}
    """)
    tracemalloc.start()
    try:
        assert call_run(str(path))[0] == 0
    finally:
        tracemalloc.stop()
    memory, files = zip(*seen, strict=True)
    assert len(set(files)) == 1
    assert min(memory[1] - memory[0], memory[2] - memory[1]) < 400 * 2_000  # bytes; the store keeps 500 of a record
