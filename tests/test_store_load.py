"""The store under load: 100,000 records, many cells. Bounds are generous: they tell linear from quadratic."""

import os
import shutil
import statistics
import time
from pathlib import Path

import pytest

from bench import record
from bench.record import TrainRecord
from bench.store import Store

KEY = "0123456789abcdef"


def trained(key: str = KEY) -> TrainRecord:
    return TrainRecord(experiment="quick", quality_key=key, seed=0, cell={}, wall_s=1.5)


def bytes_read() -> int:
    """By this process's system calls so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def write_many(folder, number):
    template = record.encode(trained())
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
