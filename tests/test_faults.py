"""Faults injected at every step of an append: no finished record is lost or doubled, the store can always be read."""

import contextlib
import errno
import fcntl
import itertools
import os
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import store
from bench.record import TrainRecord
from bench.records.lines import decode, encode, key_of
from bench.store import Store, StoreError

pytestmark = pytest.mark.faults

def key(number):
    return f"{number:016x}"


def made(number, length=0):
    return TrainRecord(experiment="quick", quality_key=key(number), seed=0, cell={}, reason="x" * length)


def stored(folder):
    """How often each key is in the files; every whole line must be readable."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines(keepends=True)]
    return Counter(key_of(decode(line)) for line in lines if line.endswith(b"\n"))


def once(*numbers):
    return {key(number): 1 for number in numbers}


# Faults, injected at each system call that an append makes


class Killed(BaseException):
    """Nothing of ours runs after a kill: the store must catch nothing of this kind."""


class Faulty:
    """A module whose system calls fail when `fault(name, arguments)` says so, by raising or by what it returns."""

    def __init__(self, module, fault):
        self.module, self.fault = module, fault

    def __getattr__(self, name):
        known = getattr(self.module, name)
        if name not in ("open", "write", "fsync", "ftruncate", "flock", "lockf"):
            return known

        def call(*arguments):
            answer = self.fault(name, arguments)
            return known(*arguments) if answer is None else answer

        return call


@contextlib.contextmanager
def injected(fault):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "os", Faulty(os, fault))
        patch.setattr(store, "fcntl", Faulty(fcntl, fault))
        yield


def append_with(fault, folder, each):
    """Append; gives what was raised, if anything."""
    with injected(fault):
        try:
            Store(folder).append(each)
        except (StoreError, Killed) as error:
            return error
    return None


def at_call(number, error, *, for_good=False):
    """The fault that one call fails, and `for_good` all calls after it."""
    count = itertools.count(1)

    def fault(name, arguments):
        here = next(count)
        if here == number or (for_good and here > number):
            raise error

    return fault


def torn_after(length):
    """A kill when so many bytes of the line are written."""

    def fault(name, arguments):
        if name == "write":
            os.write(arguments[0], arguments[1][:length])
            raise Killed

    return fault


def calls_of_an_append(folder):
    names = []
    assert append_with(lambda name, arguments: names.append(name), folder, made(9)) is None
    return names


def test_an_append_locks_syncs_the_folder_writes_and_syncs(tmp_path):
    assert calls_of_an_append(tmp_path) == ["flock", "open", "fsync", "write", "fsync"]


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("error", [OSError(code, os.strerror(code)) for code in (errno.ENOSPC, errno.EIO, errno.EROFS)]
                         + [Killed()], ids=["disk full", "bad disk", "read-only", "kill"])
@pytest.mark.parametrize("number", range(1, 6))
def test_a_fault_at_any_call_loses_and_doubles_nothing(tmp_path, survived, number, error, for_good):
    Store(tmp_path).append(made(1))
    raised = append_with(at_call(number, error, for_good=for_good), tmp_path, made(2))
    assert raised is not None
    if isinstance(raised, StoreError):
        assert f"quick.jsonl cannot be written: {error.strerror}" in str(raised)
    # A line that was written whole before a kill, or that no call could take back, is a record: it is not run again.
    whole = number == 5 and (for_good or isinstance(error, Killed))
    assert stored(tmp_path) == (once(1, 2) if whole else once(1))
    assert len(Store(tmp_path).latest()) == 1 + whole
    for again in [3] if whole else [2, 3]:
        Store(tmp_path).append(made(again))
    assert stored(tmp_path) == once(1, 2, 3)
    assert len(Store(tmp_path).latest()) == 3
    survived("faults injected")


def test_a_kill_after_any_byte_loses_only_the_record_in_flight(tmp_path, survived):
    line = encode(made(2))
    for length in range(len(line) + 1):
        folder = tmp_path / str(length)
        folder.mkdir()
        Store(folder).append(made(1))
        reader = Store(folder)

        assert isinstance(append_with(torn_after(length), folder, made(2)), Killed)
        whole = length >= len(line) - 1  # whatever its end
        assert len(reader.latest()) == 1 + whole
        Store(folder).append(made(3))
        assert stored(folder) == (once(1, 2, 3) if whole else once(1, 3))
        assert len(reader.latest()) == 2 + whole
        survived("faults injected")


@pytest.mark.parametrize("most", [1, 7, 4096])
def test_short_writes_are_carried_on(tmp_path, survived, most):
    fault = lambda name, arguments: os.write(arguments[0], arguments[1][:most]) if name == "write" else None
    assert append_with(fault, tmp_path, made(1, 10_000)) is None
    assert Store(tmp_path).latest() == {key(1): made(1, 10_000)}
    survived("faults injected")


def test_a_disk_that_fills_in_the_middle_of_a_line_leaves_the_file_as_it_was(tmp_path, survived):
    Store(tmp_path).append(made(1))
    before = (tmp_path / "quick.jsonl").read_bytes()
    written = []

    def fault(name, arguments):
        if name != "write":
            return None
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(os.write(arguments[0], arguments[1][:20]))
        return written[0]

    assert "No space left" in str(append_with(fault, tmp_path, made(2)))
    assert written == [20]
    assert (tmp_path / "quick.jsonl").read_bytes() == before
    survived("faults injected")


@pytest.mark.parametrize("call", ["fsync", "open", "lockf"])  # of the parent's entry, the file of claims, a lock
def test_a_store_that_could_not_do_its_work_is_refused_before_any(tmp_path, survived, call):
    def fault(name, arguments):
        if name == call:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with injected(fault), pytest.raises(StoreError, match=r"store .* cannot be written: No locks available"):
        Store(tmp_path / "store").check_writable(["quick"])
    survived("faults injected")


def test_nobody_sees_a_record_that_may_yet_be_taken_back(tmp_path, survived):
    Store(tmp_path).append(made(1))
    reader, seen = Store(tmp_path), []
    assert len(reader.latest()) == 1
    thread = threading.Thread(target=lambda: seen.append(len(reader.latest())))
    count = itertools.count()

    def fault(name, arguments):
        if name == "fsync" and next(count) == 1:  # the folder's comes first
            thread.start()
            thread.join(0.2)  # long enough to read, were it allowed
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    assert isinstance(append_with(fault, tmp_path, made(2)), StoreError)
    thread.join()
    assert seen == [1]
    Store(tmp_path).append(made(3))
    assert set(reader.latest()) == set(once(1, 3))
    survived("faults injected")


faults = st.none() | st.builds(
    lambda *arguments, for_good: lambda: at_call(*arguments, for_good=for_good), st.integers(1, 6),
    st.sampled_from([Killed(), OSError(errno.EIO, "bad disk")]), for_good=st.booleans(),
) | st.builds(lambda length: lambda: torn_after(length), st.integers(0, 300))


@given(st.lists(st.tuples(faults, st.integers(0, 300), st.booleans()), max_size=6))
def test_any_sequence_of_faults(tmp_path_factory, survived, steps):
    folder = tmp_path_factory.mktemp("store")
    reader, finished, maybe = Store(folder), set(), set()
    for number, (fault, length, look) in enumerate(steps):
        raised = append_with(fault() if fault else lambda *call: None, folder, made(number, length))
        (maybe if raised else finished).add(key(number))
        survived("faults injected", bool(raised))
        if look:
            assert finished <= set(reader.latest()) <= finished | maybe
    found = stored(folder)
    assert finished <= set(found) <= finished | maybe
    assert set(found.values()) <= {1}
    assert set(reader.latest()) == set(found)
    assert Store(folder).latest() == reader.latest()
