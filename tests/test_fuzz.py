"""Broken and hostile input: always a right result or a ValueError with a message, and nothing written anywhere.

A hundred cases of each kind; 15,000 with `--long-faults`.
"""

import contextlib
import datetime
import gzip
import io
import json
import struct

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench import experiment, run
from bench.record import SpeedRecord, TrainRecord
from bench.records.lines import encode
from bench.store import Store, StoreError
from fmnist_core import config
from fmnist_core.config import CellConfig
from fmnist_core.files import DataError, decode_idx, read

pytestmark = pytest.mark.faults

PLAUSIBLE = {
    "model.kernel_size": [1, 2, 3, 5, 11], "model.depth": [1, 2, 8], "model.width": [1, 16], "model.num_pools": [0, 1],
    "model.conv1_kernel_size": [1, 3, 11], "model.conv2_kernel_size": [1, 3, 11], "model.conv1_stride": [1, 4],
    "model.fc_sizes": [[], [1], [120, 60]], "model.dropout": [0.0, 0.5], "model.batch_norm": [True, False],
    "model.activation": ["relu", "gelu"], "data.dataset": ["synthetic", "mnist", "cifar10"], "data.normalize": [True],
    "data.validation_size": [0, 1, 49_999], "data.input_size": [8, 28, 256], "data.shift": [0, 8],
    "data.erasing": [1.0], "data.mixup": [0.5], "data.cutmix": [0.5, 1.0],
    "data.test_views": ["flip", "flip_shift"], "train.ema": [0.999], "train.whitening": ["initial", "frozen"],
    "train.identity": [True], "train.schedule": ["step", "cosine"], "train.steps": [[[0.5, 0.1]]],
    "train.epochs": [1, 10, 1 << 20], "train.global_batch_size": [1, 128],
    "train.optimizer": ["adam", "sgd", "muon"], "train.learning_rate": [1e-300, 0.1, 1], "train.momentum": [0.0, 0.9],
    "train.nesterov": [True, False], "train.loss": ["mse", "cross_entropy"], "train.label_smoothing": [0.0, 0.1],
    "train.early_stopping_patience": [0, 3], "train.precision": ["no", "bf16", "fp16"], "execution.capture": [True],
    "execution.memory_format": ["contiguous"], "launch.mode": ["cells", "ddp"], "launch.num_processes": [0, 4096],
    "launch.device": ["any", "cpu", "cuda"],
}
"""Values that are allowed, alone at least."""
KEYS = [*PLAUSIBLE, *dict.fromkeys(part for key in PLAUSIBLE for part in key.split(".")), "model.name", "name", "title",
        "question", "base", "grid", "cells", "label", "reported", "seeds", "cpu", "timings", "options", "system", ""]
WORDS = ["adam", "sgd", "cnn", "network1", "network2", "cited", "custom", "a.b:c", "synthetic", "idx", "none", "../x"]
PARTS = ["=", "[", "]", "{", "}", "[[", '"', "'''", "\n", ".", "-", "#", ",", "\\u0000", "\0", "\r", "nan", "inf",
         "1e400", "0x", "true", "2024-01-01", "9" * 5000, "[" * 500, "model.", "grid", "a.b.c.", "..", "é"]

numbers = st.integers() | st.floats() | st.sampled_from([0, 1, 2, 3, -1, 28, 10**30, 1 << 20, 0.5, 1e-3])
words = st.sampled_from(WORDS) | st.text(max_size=8)
scalars = numbers | words | st.booleans() | st.none() | st.dates() | st.just(datetime.time(1))
keys = st.lists(st.sampled_from(KEYS), min_size=1, max_size=3).map(".".join) | st.text(max_size=8)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
                        max_leaves=8)
networks = st.sampled_from(["cnn", "cnn", "cnn", "network1", "network2", "a.b:c"])


@st.composite
def structures(draw):
    """An experiment that may well be right, but for up to two damages anywhere."""
    chosen = draw(st.lists(st.sampled_from([key for key in PLAUSIBLE if "launch" not in key]), unique=True, max_size=4))
    values = {key: draw(st.lists(st.sampled_from(PLAUSIBLE[key]), min_size=1, max_size=2)) for key in chosen}
    base = {"model": {"name": draw(networks)}}
    content = {"question": "?", "base": base}
    match draw(st.sampled_from(["base", "grid", "cells"])):
        case "base":
            for key, (value, *_) in values.items():
                base.setdefault(key.split(".")[0], {})[key.split(".")[1]] = value
        case "grid":
            content["grid"] = values
        case "cells":
            content["cells"] = [{"label": key, key.split(".")[0]: {key.split(".")[1]: value[0]}}
                                for key, value in values.items()]
    for _ in range(draw(st.integers(0, 2))):
        damage(draw, content)
    return content


def damage(draw, content):
    """Walk down at random, and put anything in the place of what is there, or beside it."""
    while True:
        places = list(content) if isinstance(content, dict) else list(range(len(content)))
        place = draw(st.sampled_from(places)) if places and draw(st.booleans()) else None
        if place is None and isinstance(content, dict):
            content[draw(keys)] = draw(anything)
        elif place is None:
            content.append(draw(anything))
        elif isinstance(content[place], dict | list) and draw(st.booleans()):
            content = content[place]
            continue
        else:
            content[place] = draw(anything)
        return


def check(chosen):
    """What is read without an error is whole: cells that fit, survive storing, and have a key."""
    assert chosen.cells
    for cell in chosen.cells:
        assert msgspec.convert(json.loads(json.dumps(config.to_dict(cell.config))), CellConfig) == cell.config
        assert len(config.quality_key(cell.config, 0)) == 16


def attempt(function, *arguments):
    """The result and no message, or no result and the message of the refusal. Anything else that is raised is a bug."""
    try:
        return function(*arguments), ""
    except ValueError as error:
        return None, str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@st.composite
def mangled(draw, originals, parts):
    """An original with up to three pieces cut out and others put in."""
    content = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        content = content[:start] + draw(parts) + content[start + draw(st.integers(0, 20)):]
    return content


files = [path.read_bytes() for path in sorted(experiment.FOLDER.glob("*.toml"))]
toml_parts = (st.sampled_from(PARTS) | st.text(max_size=3)).map(str.encode)


@given(mangled(files, toml_parts) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"question = " + b"[" * 100_000)
@example(b"question = '\xff'")
@example(b"question = '?'\na" + b".a" * 5000 + b" = 1")
@example(b"question = '?'\nbase.train.epochs = " + b"9" * 5000)
def test_text_of_an_experiment(folder, survived, content):
    path = folder / "fuzzed.toml"
    path.write_bytes(content)
    survived("inputs tried")
    chosen, message = attempt(experiment.load, str(path))
    if chosen:
        check(chosen)
    else:
        assert message.startswith(f"experiment {path}: ")


@given(structures(), st.none() | st.dictionaries(keys, anything, max_size=2))
def test_structure_of_an_experiment(survived, content, overrides):
    survived("inputs tried")
    chosen, message = attempt(lambda: experiment.parse(content, name="fuzzed", overrides=overrides))
    if chosen:
        check(chosen)
    else:
        assert message


right = st.sampled_from([f"{key}={json.dumps(value)}" for key, values in PLAUSIBLE.items() for value in values])
texts = words | anything.map(lambda value: json.dumps(value, default=str)) | st.sampled_from(PARTS)
pairs = st.tuples(keys, st.sampled_from(["=", "=", "=", "", "=="]), texts).map("".join)


options_ = st.tuples(st.sampled_from(["--set", "--set", "--only"]), right | right | pairs)


@given(st.lists(options_, min_size=1, max_size=2))
@example([("--set", "train.epochs=" + "[" * 100_000)])
@example([("--set", "train.epochs=" + "9" * 5000)])
@example([("--set", "a" + ".a" * 5000 + "=1")])
def test_options_of_the_command(folder, survived, options):
    survived("inputs tried")
    arguments = [f"{name}={text}" for name, text in options]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run.main(["quick", "--list", "--store", str(folder / "none"), *arguments])
    assert code in (run.OK, run.WRONG_INPUT)
    assert (err.getvalue() == "") == (code == run.OK)
    assert (out.getvalue() == "") == (code != run.OK)
    assert not (folder / "none").exists()


lines = [encode(TrainRecord(experiment="quick", quality_key="0" * 16, seed=0, cell={"model": {"name": "cnn"}},
                                   wall_s=1.5, reason="é")),
         encode(SpeedRecord(experiment="quick", speed_key="1" * 16, cell={}, step_s=[0.25, 1e-9]))]
json_parts = st.sampled_from([*map(str.encode, PARTS), b"null", b"\xff", b"\\ud800", b'"schema":2', b"{" * 2000])
broken_lines = mangled(lines, json_parts | st.binary(max_size=4))


@given(st.lists(st.sampled_from(lines) | broken_lines | st.binary(max_size=40), max_size=2).map(b"".join))
@example(b"[" * 100_000 + b"\n")
@example(b'{"schema":1,"cell":' + b"[" * 100_000 + b"\n")
@example(lines[0].replace(b"1.5", b"1e999"))
def test_content_of_a_store(folder, survived, content):
    (folder / "store").mkdir(exist_ok=True)
    path = folder / "store" / "quick.jsonl"
    path.write_bytes(content)
    survived("inputs tried")
    whole = content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]
    latest, message = attempt(Store(path.parent).latest)
    if latest is None:
        assert f"{path}, line " in message
    else:
        found = [json.loads(line) for line in whole]
        assert set(latest) == {each.get("quality_key", each.get("speed_key")) for each in found}
    assert path.read_bytes() == content


pieces = st.sampled_from(["..", "/", "a", ".", "\\", " ", "\n", "\0", "~", "é"])


@given(st.text(max_size=12) | st.lists(pieces).map("".join))
def test_names_of_experiments(folder, survived, name):
    survived("inputs tried")
    (folder / "below").mkdir(exist_ok=True)
    inside = Store(folder / "below" / "store")
    with contextlib.suppress(StoreError):
        inside.check_writable([name])
        inside.append(TrainRecord(experiment=name, quality_key="0" * 16, seed=0, cell={}))
        assert (inside.folder / f"{name}.jsonl").is_file()
        (inside.folder / f"{name}.jsonl").unlink()
    assert {path.name for path in (folder / "below").iterdir()} <= {"store"}
    assert not inside.folder.exists() or {path.name for path in inside.folder.iterdir()} == {".claims"}


def idx(shape, content, kind=8):
    return struct.pack(">HBB", 0, kind, len(shape)) + struct.pack(f">{len(shape)}I", *shape) + content


images = [idx((2, 2, 2), bytes(range(8))), idx((3,), b"\1\2\3"), idx((0,), b""), idx((0, 2**32 - 1), b""),
          idx((2**32 - 1,) * 4, b"\0"), idx((1,) * 4, b"\7"), idx((2,), b"\0" * 8, kind=13)]


@given(st.sampled_from(images) | mangled(images, st.binary(max_size=6)) | st.binary(max_size=40))
def test_bytes_of_a_data_file(survived, content):
    survived("inputs tried")
    array, message = attempt(decode_idx, content, "file")
    if array is None:
        assert message.startswith("file ")
    else:
        assert array.dtype == "uint8"
        assert idx(array.shape, array.tobytes()) == content


@given(st.binary(max_size=60) | mangled([gzip.compress(images[0], mtime=0)], st.binary(max_size=4)), st.booleans())
def test_data_files_that_are_not_the_release(folder, survived, content, compressed):
    survived("inputs tried")
    name = "t10k-labels-idx1-ubyte"
    for path in (folder / name, folder / f"{name}.gz"):
        path.unlink(missing_ok=True)
    (folder / (f"{name}.gz" if compressed else name)).write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read|SHA-256 differs"):
        read(folder, name)
