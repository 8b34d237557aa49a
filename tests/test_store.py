"""The store in good health: what is appended is read, once; names; locks. Faults are in `test_faults`."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading

import msgspec
import pytest

from bench.record import SpeedRecord, TrainRecord
from bench.records.lines import decode, encode, key_of
from bench.store import Store, StoreError, read

KEY = "0123456789abcdef"
OTHER_KEY = "fedcba9876543210"


def trained(key: str = KEY, experiment: str = "quick", **fields: object) -> TrainRecord:
    return TrainRecord(experiment=experiment, quality_key=key, seed=0, cell={}, **fields)  # type: ignore[arg-type]


@contextlib.contextmanager
def other_process(folder, code):
    """Run `code` with a `store` in another process; yields it, after its first line of output, `process.said`."""
    script = f"import sys; from bench.store import Store; store = Store({str(folder)!r})\n{code}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        process.said = process.stdout.readline().strip()
        yield process
        process.kill()


# Reading and appending


def test_what_is_appended_is_read_by_a_later_process(tmp_path):
    speed = SpeedRecord(experiment="quick", speed_key=OTHER_KEY, cell={"a": 1}, step_s=[0.25, 0.5])
    writer = Store(tmp_path)
    writer.append(trained(reason="one\ntwo\N{BULLET}"))
    writer.append(speed)
    assert Store(tmp_path).latest() == {KEY: trained(reason="one\ntwo\N{BULLET}"), OTHER_KEY: speed}
    assert (tmp_path / "quick.jsonl").read_bytes().count(b"\n") == 2


def test_a_reader_sees_what_others_append_meanwhile(tmp_path):
    reader, writer = Store(tmp_path / "store"), Store(tmp_path / "store")
    assert reader.latest() == {}
    writer.check_writable()
    assert reader.latest() == {}
    writer.append(trained())
    first = reader.latest()[KEY]
    writer.append(trained(OTHER_KEY, experiment="depth"))
    assert set(reader.latest()) == {KEY, OTHER_KEY}
    assert reader.latest()[KEY] is first


def test_heads_say_what_their_records_say(tmp_path):
    reader, writer = Store(tmp_path), Store(tmp_path)
    writer.append(trained(status="oom"))
    writer.append(SpeedRecord(experiment="quick", speed_key=OTHER_KEY, cell={"a": 1}))
    with (tmp_path / "quick.jsonl").open("ab") as file:  # of an older schema, which is upgraded
        file.write(encode(trained("0" * 16, status="timeout")).replace(b'"schema":2', b'"schema":1'))
    first = reader.heads()[KEY]
    said = {key: (head.status, key_of(head)) for key, head in reader.heads().items()}
    assert said == {key: (each.status, key) for key, each in Store(tmp_path).latest().items()}
    assert set(said) == {KEY, OTHER_KEY, "0" * 16}
    assert reader.heads()[KEY] is first  # `run` tells a new record from an old one by identity
    writer.append(trained(status="ok"))
    assert reader.heads()[KEY].status == "ok"


@pytest.mark.parametrize("find", [Store.latest, Store.heads])
def test_the_newest_record_of_a_key_wins_in_whatever_order_the_files_are_read(tmp_path, find):
    Store(tmp_path).append(trained(experiment="b", status="oom", started_at="2026-02-01T00:00:00+00:00"))
    later = Store(tmp_path)
    find(later)
    later.append(trained(experiment="a", status="ok", started_at="2026-02-01T00:00:01+00:00"))
    assert later.latest()[KEY].status == "ok"
    assert Store(tmp_path).latest()[KEY].status == "ok"
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize("find", [Store.latest, Store.heads])
def test_of_a_key_the_record_last_begun_counts_as_in_a_report(tmp_path, find):
    first, later = "2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00"
    (tmp_path / "a.jsonl").write_bytes(encode(trained(started_at=later)))
    (tmp_path / "b.jsonl").write_bytes(encode(trained(status="error", started_at=first)))
    store = Store(tmp_path)
    assert find(store)[KEY].status == "ok"
    (tmp_path / "c.jsonl").write_bytes(encode(trained(status="oom", started_at=later)))  # of the same second
    assert find(store)[KEY].status == find(Store(tmp_path))[KEY].status == "oom"
    assert [record.status for record in read(tmp_path)] == ["oom"]


@pytest.mark.parametrize("find", [Store.latest, Store.heads])
@pytest.mark.parametrize("began", ["2026-01-15T00:00:00+00:00", "2026-02-01T00:00:00+00:00"])
def test_what_is_run_again_by_a_clock_that_was_set_back_takes_the_place_of_the_old(tmp_path, began, find):
    (tmp_path / "z.jsonl").write_bytes(encode(trained(status="oom", started_at="2026-02-01T00:00:00+00:00")))
    store = Store(tmp_path)
    old = find(store)[KEY]
    store.append(trained(status="ok", started_at=began))
    assert find(store)[KEY] is not old  # else a sweep would do it again and again
    assert [(one.status, one.started_at) for one in read(tmp_path)] == [("ok", "2026-02-01T00:00:01+00:00")]


def test_files_of_others_are_only_read(tmp_path):
    (tmp_path / "alice.jsonl").write_bytes(encode(trained(experiment="quick", status="oom")))
    before = (tmp_path / "alice.jsonl").read_bytes()
    store = Store(tmp_path)
    assert store.latest()[KEY].status == "oom"
    store.append(trained(experiment="quick", status="ok"))
    assert (tmp_path / "alice.jsonl").read_bytes() == before
    assert (tmp_path / "quick.jsonl").exists()


@pytest.mark.parametrize("torn", [b"{", encode(trained(OTHER_KEY))[:-2], b"x" * 200_000, b"\0" * 70_000])
def test_a_torn_last_line_is_passed_over_and_then_cut_off(tmp_path, torn):
    Store(tmp_path).append(trained())
    with (tmp_path / "quick.jsonl").open("ab") as file:
        file.write(torn)
    reader = Store(tmp_path)
    assert set(reader.latest()) == {KEY}
    Store(tmp_path).append(trained(OTHER_KEY))
    assert set(reader.latest()) == set(Store(tmp_path).latest()) == {KEY, OTHER_KEY}
    assert (tmp_path / "quick.jsonl").read_bytes() == encode(trained()) + encode(trained(OTHER_KEY))


@pytest.mark.parametrize("find", [Store.latest, Store.heads])
def test_a_whole_last_line_without_its_end_counts_and_stays(tmp_path, find):
    (tmp_path / "quick.jsonl").write_bytes(encode(trained()).removesuffix(b"\n"))
    store = Store(tmp_path)
    first = find(store)[KEY]
    assert find(store)[KEY] is first  # `run` tells a new record from an old one by identity
    store.append(trained(OTHER_KEY))
    assert (tmp_path / "quick.jsonl").read_bytes() == encode(trained()) + encode(trained(OTHER_KEY))
    assert find(store)[KEY] is first
    assert set(find(store)) == set(find(Store(tmp_path))) == {KEY, OTHER_KEY}
    assert len(read(tmp_path)) == 2


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path):
    (tmp_path / "quick.jsonl").write_bytes(b"{" * 65536)
    Store(tmp_path).append(trained())
    assert (tmp_path / "quick.jsonl").read_bytes() == encode(trained())


def test_only_files_of_records_are_read(tmp_path):
    (tmp_path / "RESULTS.md").write_text("text")
    (tmp_path / "quick.jsonl.part").write_text("text")
    assert Store(tmp_path).latest() == {}


# What is refused


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{}\n", "schema = None"),
        (b"nonsense\n", "not a record"),
        (b'{"kind":"train","schema":999}\n', "schema 999 is newer than"),
        (b'{"kind":"other","schema":1}\n', "not a record"),
        (b"\n", "not a record"),
        (b"\xff\xfe\n", "not a record"),
    ],
)
def test_an_unreadable_line_is_named(tmp_path, line, message):
    (tmp_path / "quick.jsonl").write_bytes(encode(trained()) + encode(trained(OTHER_KEY)) + line)
    for find in (Store(tmp_path).latest, Store(tmp_path).heads):
        with pytest.raises(StoreError, match=rf"quick\.jsonl, line 3: .*{message}") as error:
            find()
        assert ("; mend or delete this line" in str(error.value)) == ("not a record" in str(error.value))


BAD_NAMES = ["../x", "a/b", "/etc/x", "", ".", "..", ".hidden", "-x", "a\nb", "a\n", "a\0b", "\ud800", "é", "a" * 101]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_leave_the_folder_or_not_be_a_file_is_refused(tmp_path, name):
    folder = tmp_path / "store"
    with pytest.raises(StoreError, match="cannot name a file; allowed: up to 100"):
        Store(folder).check_writable(["quick", name])
    assert not folder.exists()
    folder.mkdir()
    with pytest.raises(StoreError, match="cannot name a file"):
        Store(folder).append(trained(experiment=name))
    assert [path.name for path in tmp_path.rglob("*")] == ["store"]


def test_a_record_that_could_not_be_read_back_is_not_written(tmp_path):
    Store(tmp_path).append(trained())
    unreadable = msgspec.structs.replace(trained(OTHER_KEY), wall_s=float("nan"))
    with pytest.raises(StoreError, match=f"record {OTHER_KEY} cannot be kept: .*wall_s"):
        Store(tmp_path).append(unreadable)
    assert set(Store(tmp_path).latest()) == {KEY}


@pytest.mark.parametrize(("folder", "reason"), [("file", "File exists"), ("file/below", "Not a directory"),
                                                ("x" * 300, "File name too long")])
def test_a_folder_that_cannot_be_is_named(tmp_path, folder, reason):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=f"store .*{folder} cannot be written: {reason}"):
        Store(tmp_path / folder).check_writable()
    with pytest.raises(StoreError, match=f"store .*{folder}.* cannot be written"):
        Store(tmp_path / folder).append(trained())


def test_a_store_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be read: Not a directory"):
        Store(tmp_path / "file").latest()
    (tmp_path / "quick.jsonl").mkdir()
    with pytest.raises(StoreError, match="cannot be read: Is a directory"):
        Store(tmp_path).latest()
    with pytest.raises(StoreError, match="cannot be written: Is a directory"):
        Store(tmp_path).check_writable(["quick"])


def test_a_file_that_lost_lines_while_in_use_is_not_read_from_the_middle(tmp_path):
    store = Store(tmp_path)
    store.append(trained())
    store.latest()
    os.truncate(tmp_path / "quick.jsonl", 5)
    with pytest.raises(StoreError, match="shortened while in use"):
        store.latest()


def test_checking_writes_nothing_into_the_files_of_records(tmp_path):
    store = Store(tmp_path / "deep" / "store")
    store.check_writable(["quick"])
    store.check_writable(["quick"])
    store.append(trained())
    Store(store.folder).check_writable(["quick"])
    assert sorted(path.name for path in store.folder.iterdir()) == [".claims", "quick.jsonl"]
    assert (store.folder / "quick.jsonl").read_bytes() == encode(trained())


# Locks


def test_two_processes_never_hold_the_same_claim(tmp_path):
    store = Store(tmp_path)
    with other_process(tmp_path, f"print(store.claim('{KEY}'), flush=True); sys.stdin.read()") as process:
        assert process.said == "True"
        assert not store.claim(KEY)
        assert store.claim(OTHER_KEY)


def test_a_claim_is_free_again_when_its_process_is_killed(tmp_path):
    store = Store(tmp_path)
    with other_process(tmp_path, f"print(store.claim('{KEY}'), flush=True); sys.stdin.read()") as process:
        assert not store.claim(KEY)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert store.claim(KEY)


def test_a_claim_is_free_again_when_released_and_no_other(tmp_path):
    code = f"""
store.claim('{KEY}'), store.claim('{OTHER_KEY}')
store.release('{KEY}')
print('ok', flush=True)
sys.stdin.read()
"""
    with other_process(tmp_path, code):
        assert Store(tmp_path).claim(KEY)
        assert not Store(tmp_path).claim(OTHER_KEY)


def test_reading_and_appending_keep_the_claims(tmp_path):
    store = Store(tmp_path)
    store.check_writable(["quick"])
    assert store.claim(KEY)
    store.append(trained())
    store.latest()
    store.check_writable(["quick"])
    with store.machine("host", alone=True):
        pass
    with other_process(tmp_path, f"print(store.claim('{KEY}'), flush=True)") as process:
        assert process.said == "False"


@pytest.mark.parametrize(("held_alone", "alone"), [(False, False), (False, True), (True, False), (True, True)])
def test_a_timing_has_the_machine_alone_and_trainings_share_it(tmp_path, held_alone, alone):
    waits = held_alone or alone
    code = f"with store.machine('host', alone={held_alone}): print('holds', flush=True); sys.stdin.read()"
    entered = threading.Event()

    def enter() -> None:
        with Store(tmp_path).machine("host", alone=alone):
            entered.set()

    with other_process(tmp_path, code) as process:
        thread = threading.Thread(target=enter)
        thread.start()
        assert entered.wait(0.3 if waits else 10) is not waits
        process.kill()
        thread.join(10)
        assert entered.is_set()


def test_a_training_sees_others_on_the_same_machine_and_store_come_and_go(tmp_path):
    def with_another(host: str) -> str:
        return f"with store.machine('{host}', alone=False): print('holds', flush=True); sys.stdin.read()"

    with Store(tmp_path).machine("host", alone=False) as held_by_others:
        assert not held_by_others()
        with other_process(tmp_path, with_another("host")):
            assert [held_by_others(), held_by_others()] == [True, True]
        assert not held_by_others()
        with other_process(tmp_path, with_another("another")):
            assert not held_by_others()


def test_asking_who_else_trains_leaves_the_own_lock(tmp_path):
    code = "with store.machine('host', alone=False) as held_by_others: print(held_by_others(), flush=True)"
    with Store(tmp_path).machine("host", alone=False) as held_by_others:
        assert not held_by_others()
        with other_process(tmp_path, code) as process:
            assert process.said == "True"
    with other_process(tmp_path, code) as process:
        assert process.said == "False"


def test_different_machines_do_not_wait_for_each_other(tmp_path):
    with Store(tmp_path).machine("one", alone=True), Store(tmp_path).machine("two", alone=True):
        pass


# Several writers


def test_an_append_waits_for_another_writer_of_the_file(tmp_path):
    thread = threading.Thread(target=Store(tmp_path).append, args=[trained()])
    with (tmp_path / "quick.jsonl").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(10)
    assert set(Store(tmp_path).latest()) == {KEY}


def test_two_processes_append_at_once_and_nothing_is_lost_or_mixed(tmp_path):
    code = """
from bench.record import TrainRecord
print("ready", flush=True)
sys.stdin.readline()
for i in range(100):
    key = f"{sys.argv[-1]}{i:015}"
    store.append(TrainRecord(experiment="quick", quality_key=key, seed=i, cell={}, reason="x" * (i * 97 % 5000)))
"""
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(other_process(tmp_path, code.replace("sys.argv[-1]", str(n)))) for n in (1, 2)]
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
        assert [writer.wait(60) for writer in writers] == [0, 0]
    lines = (tmp_path / "quick.jsonl").read_bytes().splitlines(keepends=True)
    records = [decode(line) for line in lines]
    assert sorted(map(key_of, records)) == [f"{n}{i:015}" for n in (1, 2) for i in range(100)]
    assert all(each.reason == "x" * (each.seed * 97 % 5000) for each in records)
