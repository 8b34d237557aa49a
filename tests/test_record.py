"""The schema of results: what is written is read back, old lines stay readable, nothing else passes for a record."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import record
from bench.record import Environment, Epochs, Inference, Labels, Layer, SpeedRecord, TrainRecord
from bench.records import lines
from bench.records.lines import UPGRADES, SchemaError, decode, encode, key_of

TRAIN = TrainRecord(experiment="quick", quality_key="0" * 16, seed=3, cell={"model": {"name": "cnn"}})
SPEED = SpeedRecord(experiment="quick", speed_key="f" * 16, cell={"model": {"name": "cnn"}})

PUBLISHED = (
    b'{"kind":"train","schema":1,"experiment":"quick","quality_key":"f8fd76b1077d962e","seed":0,'
    b'"cell":{"model":{"name":"cnn","kernel_size":2}},"epochs":{"train_loss":[2.5],"test_accuracy":[0.177]},'
    b'"test":{"confusion":[[1,0],[0,1]],"mistakes":[[7,3,5,0.75]]},"num_parameters":1973,'
    b'"labels":{"precision":"float32"},"environment":{"libraries":{"torch":"2.11.0"}},"wall_s":32.5}\n'
)
"""A line of schema 1, written out by hand: records that are published must stay readable."""

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**53)
samples = st.lists(numbers, max_size=4)
accuracies = st.lists(st.floats(0.0, 1.0), max_size=4)
shapes = st.lists(counts, max_size=3)
tables = lambda values: st.dictionaries(texts, values, max_size=3)
cells = tables(st.recursive(texts | counts | st.booleans() | samples, tables, max_leaves=5))
environments = st.builds(Environment, host=texts, num_cpus=counts, power_limit_w=st.none() | numbers,
                         libraries=tables(texts), dirty=st.booleans(), load=numbers)
shared = {"experiment": texts, "cell": cells, "status": st.sampled_from(["ok", "oom", "diverged", "timeout", "error"]),
          "reason": texts, "labels": st.builds(Labels, precision=texts, captured=st.booleans()),
          "environment": environments, "started_at": texts}
train_records = st.builds(
    TrainRecord, quality_key=texts, seed=counts, epochs=st.builds(Epochs, train_loss=samples, test_accuracy=accuracies),
    test=st.builds(record.TestDetail, mistakes=st.lists(st.tuples(counts, counts, counts, numbers), max_size=2)),
    extra=tables(numbers), wall_s=numbers, **shared)
speed_records = st.builds(
    SpeedRecord, speed_key=texts, step_s=samples, warnings=st.lists(texts, max_size=2),
    inference=st.lists(st.builds(Inference, batch_size=counts, batch_s=samples), max_size=2),
    layers=st.lists(st.builds(Layer, name=texts, kind=texts, in_shape=shapes, out_shape=shapes), max_size=2),
    **shared)


@given(train_records | speed_records)
def test_what_is_written_is_read_back_to_the_last_bit(each):
    line = encode(each)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1  # whatever the texts hold: a line is a record
    again = decode(line)
    assert again == each
    assert type(again) is type(each)
    assert encode(again) == line


def test_a_published_line_stays_readable():
    each = decode(PUBLISHED)
    assert isinstance(each, TrainRecord)
    assert (each.schema, each.seed, each.status, each.quality_key) == (3, 0, "ok", "f8fd76b1077d962e")
    assert each.epochs.test_accuracy == [0.177]
    assert each.test.mistakes == [(7, 3, 5, 0.75)]
    assert each.environment.libraries == {"torch": "2.11.0"}
    assert encode(each) == PUBLISHED.replace(b'"schema":1', b'"schema":3')


@pytest.mark.parametrize(("device", "kept"), [(b"", 0), (b'"device":"cpu"', 0), (b'"device":"Some GPU"', 9)])
def test_peaks_of_a_cpu_in_schema_1_were_none(device, kept):
    line = (b'{"kind":"speed","schema":1,"experiment":"e","speed_key":"00","cell":{},"step_s":[0.5],'
            b'"peak_memory_bytes":9,"environment":{' + device + b"}}")
    assert (decode(line).peak_memory_bytes, decode(line).step_s) == (kept, [0.5])
    assert decode(line.replace(b'"schema":1', b'"schema":2')).peak_memory_bytes == 9


def test_a_line_holds_its_kind_and_schema_first_and_no_defaults():
    assert encode(TRAIN) == (b'{"kind":"train","schema":3,"experiment":"quick","quality_key":"0000000000000000",'
                             b'"seed":3,"cell":{"model":{"name":"cnn"}}}\n')
    assert encode(SPEED) == (b'{"kind":"speed","schema":3,"experiment":"quick","speed_key":"ffffffffffffffff",'
                             b'"cell":{"model":{"name":"cnn"}}}\n')


def test_the_key_is_the_one_of_its_kind():
    assert key_of(TRAIN) == "0" * 16
    assert key_of(SPEED) == "f" * 16


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "not a record"),
        (b"{", "not a record"),
        (b"[]", "not a record: list"),
        (b"null", "not a record: NoneType"),
        (b"{}", "schema = None"),
        (b'{"schema":0}', "schema = 0"),
        (b'{"schema":"1"}', "schema = '1'"),
        (b'{"schema":1e400}', "not a record"),
        (b'{"schema":true}', "not a record"),
        (b'{"schema":4}', "schema 4 is newer than 3, the newest that this version reads"),
        (b'{"schema":99999999999999999999999}', "is newer than 3"),
        (PUBLISHED.replace(b'"seed":0', b'"seed":"0"'), "seed"),
        (PUBLISHED.replace(b'"seed":0,', b""), "seed"),
        (PUBLISHED.replace(b'"seed":0', b'"seed":0,"sead":0'), "sead"),
        (PUBLISHED.replace(b'"train_loss"', b'"trainloss"'), "trainloss"),
        (PUBLISHED.replace(b'"train"', b'"speed"'), "not a record"),
        (PUBLISHED.replace(b'"train"', b'"dance"'), "dance"),
        (PUBLISHED.replace(b"0.177", b"NaN"), "not a record"),
        (PUBLISHED.replace(b"quick", b"\xff"), "not a record"),
        (PUBLISHED.replace(b"quick", b"\\ud800"), "not a record"),
        (b"[" * 100_000, "not a record"),
        (b'{"schema":1,"cell":' + b"[" * 100_000, "not a record"),
    ],
)
def test_what_is_no_record_is_refused(line, message):
    with pytest.raises(SchemaError, match=message):
        decode(line)


@pytest.mark.parametrize("change", [{"epochs": {"test_accuracy": [0.5, 7.5]}}, {"seed": -5}])
def test_what_no_training_gives_is_no_record(change):
    line = {**msgspec.json.decode(encode(TRAIN)), **change}
    with pytest.raises(SchemaError, match=r"not a record: Expected `(float|int)` [<>]= "):
        decode(msgspec.json.encode(line))


def test_older_lines_are_upgraded_step_by_step(monkeypatch):
    def rename(content):
        return {"quality_key": content.pop("key"), **content, "schema": 2}

    def add_seed(content):
        return {**content, "seed": 7, "schema": 3}

    monkeypatch.setattr(lines, "UPGRADES", [rename, add_seed])
    monkeypatch.setattr(lines, "SCHEMA_VERSION", 3)
    oldest = decode(b'{"kind":"train","schema":1,"experiment":"quick","key":"00","cell":{}}')
    assert (oldest.quality_key, oldest.seed) == ("00", 7)
    assert decode(b'{"kind":"train","schema":2,"experiment":"quick","quality_key":"01","cell":{}}').seed == 7
    assert decode(b'{"kind":"train","schema":3,"experiment":"quick","quality_key":"02","seed":5,"cell":{}}').seed == 5
    with pytest.raises(SchemaError, match="schema 4 is newer than 3"):
        decode(b'{"kind":"train","schema":4}')


def test_there_is_an_upgrade_from_every_older_schema():
    assert len(UPGRADES) == record.SCHEMA_VERSION - 1


def test_records_cannot_be_changed():
    with pytest.raises(AttributeError):
        TRAIN.seed = 4
    assert msgspec.structs.replace(TRAIN, seed=4).seed == 4
