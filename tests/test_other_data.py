"""Data sets of the same kind, to the end of a run: records, RESULTS.md and predictions have their own class names."""

import hashlib
import pickle
import re
import struct

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from bench import report, run
from bench.store import Store
from bench.sweep import device
from fmnist_core import files, predict
from fmnist_core.config import DATASETS, DataConfig
from fmnist_core.data import load

EXPERIMENT = """
question = "Which class is which?"
timings = 0
seeds = {{ cpu = 1, cuda = 1 }}
base.data = {{ {data}, validation_size = 10 }}
base.model = {{ name = "cnn", depth = 1, width = 2 }}
base.train = {{ epochs = 3, global_batch_size = 10, learning_rate = 0.02 }}
"""
FASHION = tuple(files.SHA256)
FRUIT = ("apple", "banana", "cherry", "date", "elder|berry", "fig", "grape", "hip", "ilama", "jujube")


def drawn(num: int, size: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, size, size) in which the bright column tells the label, and labels."""
    labels = (np.arange(num) % 10).astype(np.uint8)
    images = np.zeros((num, size, size), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 2 * label : 2 * label + 3] = 255
    return images, labels


def write_idx(folder, names=FASHION, *, turned=False):
    """The four files, as the project's own data set names them or as `names` does."""
    folder.mkdir(parents=True)
    contents = []
    for num in (110, 40):
        images, labels = drawn(num)
        contents += [images.transpose(0, 2, 1) if turned else images, labels]
    for name, array in zip(names, contents, strict=True):
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / name).write_bytes(header + array.tobytes())


def write_cifar(folder, monkeypatch):
    """Batches as CIFAR-10 has them, and their digests in torchvision's lists."""
    folder.mkdir(parents=True)
    lists = {"train_list": ([*CIFAR10.train_list], 22), "test_list": ([*CIFAR10.test_list], 40)}
    known = {name for names, _ in lists.values() for name, _ in names} | {CIFAR10.meta["filename"]}
    digests = {}
    for name in known:
        images, labels = drawn(40 if name == "test_batch" else 22, size=32)
        batch = {"data": np.stack([images] * 3, 1).reshape(len(images), -1), "labels": labels.tolist(),
                 "label_names": list(DATASETS["cifar10"].classes)}
        content = pickle.dumps(batch)
        (folder / name).write_bytes(content)
        digests[name] = hashlib.md5(content).hexdigest()
    for attribute, (names, _) in lists.items():
        monkeypatch.setattr(CIFAR10, attribute, [[name, digests[name]] for name, _ in names])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": digests[CIFAR10.meta["filename"]]})


def emnist(part):
    return [f"emnist-digits-{part}-images-idx3-ubyte", f"emnist-digits-{part}-labels-idx1-ubyte"]


@pytest.fixture
def prepared(tmp_path, monkeypatch, request):
    """A folder with the data set's files: its name, its classes, and what `[base.data]` says."""
    for variable in ("RANK", "WORLD_SIZE", "FMNIST_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    files.load_arrays.cache_clear()
    device._datasets.clear()
    name, data = request.param, f'dataset = "{request.param}"'
    match name:
        case "idx":
            write_idx(tmp_path / "data")
            digest = hashlib.sha256(b"".join((tmp_path / "data" / each).read_bytes() for each in FASHION)).hexdigest()
            data += f', sha256 = "{digest}", class_names = {list(FRUIT)}'.replace("'", '"')
        case "mnist" | "kmnist":
            write_idx(tmp_path / "data" / name.upper() / "raw")
        case "emnist-digits":
            write_idx(tmp_path / "data" / "EMNIST" / "raw", [*emnist("train"), *emnist("test")], turned=True)
        case "cifar10":
            write_cifar(tmp_path / "data" / "cifar-10-batches-py", monkeypatch)
    yield name, FRUIT if name == "idx" else DATASETS[name].classes, data
    files.load_arrays.cache_clear()
    device._datasets.clear()


@pytest.mark.parametrize("prepared", ["idx", "mnist", "kmnist", "emnist-digits", "cifar10"], indirect=True)
def test_a_run_from_files_to_results_and_predictions(prepared, tmp_path, capsys):
    name, classes, data = prepared
    (tmp_path / "mine.toml").write_text(EXPERIMENT.format(data=data))
    assert run.main(["mine.toml", "--data-dir", "data", "--keep-weights"]) == 0
    (record,) = Store("runs").latest().values()
    assert f"; runs/weights/{record.quality_key}.safetensors\n" in capsys.readouterr().out
    assert (record.num_train, record.num_validation, record.num_test) == (100, 10, 40)
    assert record.epochs.test_accuracy[-1] == 1.0

    assert report.main(["--store", "runs", "--output", "out/RESULTS.md"]) == 0
    text = (tmp_path / "out" / "RESULTS.md").read_text()
    section = text[text.index("**Accuracy per class**", text.index("## Other configurations")) :]
    rows = re.findall(r"^\| (\d) \| (.*) \| 100.00 \|$", section, re.MULTILINE)
    assert rows == [(str(label), one.replace("|", "\\|")) for label, one in enumerate(classes)]

    pixels = drawn(4, 32 if name == "cifar10" else 28)[0][3]
    pixels[0, 0] = pixels[-1, -1] = 20  # content up to the edges: nothing to cut off
    Image.fromarray(pixels).resize((200, 200), Image.Resampling.NEAREST).save("three.png")
    capsys.readouterr()
    (weights,) = (tmp_path / "runs" / "weights").iterdir()
    assert predict.main(["--weights", str(weights), "three.png"]) == 0
    assert capsys.readouterr().out.startswith(f"three.png: {classes[3]} ")


@pytest.mark.parametrize(("setting", "message"), [
    ('data.class_names=["a"]',
     r'data.class_names = \["a"\] has no effect on data.dataset = \'fashion-mnist\'; allowed with \'idx\''),
    ('data.dataset=idx',
     r"needs data.sha256, the digest of the files in data; where they are meant: --set data.sha256=[0-9a-f]{64}"),
    ('data.class_names=["a", "a"]', r"data.class_names = \['a', 'a'\]: expected 10 different names"),
])
def test_what_is_wrong_with_own_files_is_said(setting, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FMNIST_DATA_DIR", raising=False)
    write_idx(tmp_path / "data")
    also = ["--set", "data.dataset=idx"] if "'a', 'a'" in message.replace("\\", "") else []
    assert run.main(["--set", setting, *also, "--data-dir", "data"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_small_set_gets_a_validation_size_that_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / "data")
    digest = hashlib.sha256(b"".join((tmp_path / "data" / each).read_bytes() for each in FASHION)).hexdigest()
    asked = ["--dataset", "idx", "--data-dir", "data", "--set", f"data.sha256={digest}"]
    assert run.main(asked) == 2
    said = capsys.readouterr().err
    assert said == ("bench/run.py: data.validation_size = 10000 leaves nothing of 110 training images; "
                    "a sixth of them: --set data.validation_size=18\n")
    config_ = DataConfig(dataset="idx", sha256=digest, validation_size=int(said.rpartition("=")[2]))
    assert len(load(config_, data_dir="data").train) == 92
