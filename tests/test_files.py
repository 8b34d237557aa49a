"""Finding, verifying and reading the data set's files."""

import gzip
import hashlib
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from fmnist_core import files
from fmnist_core.files import DEBIAN, SHA256, DataError, decode_idx, find, load_arrays, read, synthetic

DOWNLOAD = files._download
real_data = pytest.mark.skipif(not DEBIAN.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")


def idx(shape, content):
    return struct.pack(">HBB", 0, 8, len(shape)) + struct.pack(f">{len(shape)}I", *shape) + bytes(content)


@pytest.fixture
def fake_release(tmp_path, monkeypatch):
    """Four small files and their checksums in the place of the real ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FMNIST_DATA_DIR", raising=False)
    monkeypatch.setattr(files, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(files, "_download", lambda to: False)
    checksums = {}
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in SHA256:
        content = idx((2, 28, 28), range(256)) + bytes(2 * 784 - 256) if "images" in name else idx((2,), [3, 9])
        (folder / name).write_bytes(content)
        checksums[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(files, "SHA256", checksums)
    load_arrays.cache_clear()
    return folder


@real_data
def test_the_real_data_set_is_read_whole_and_known_by_sight():
    arrays = load_arrays("fashion-mnist")
    assert arrays.train_images_NCHW.shape == (60_000, 1, 28, 28)
    assert arrays.test_images_NCHW.shape == (10_000, 1, 28, 28)
    assert np.bincount(arrays.train_labels_N).tolist() == [6000] * 10
    assert np.bincount(arrays.test_labels_N).tolist() == [1000] * 10
    assert arrays.test_labels_N[:5].tolist() == [9, 2, 1, 1, 6]


@pytest.fixture
def download(fake_release, tmp_path, monkeypatch):
    """A download of the small files in two halves; `between` runs in its midst."""
    datasets = pytest.importorskip("torchvision.datasets")

    def fashion_mnist(root, download):
        raw = Path(root) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for i, path in enumerate(sorted(fake_release.iterdir())):
            if i == 2:
                fetch.between()
            (raw / path.name).write_bytes(path.read_bytes())
        fetch.number += 1

    def fetch():
        return DOWNLOAD(files.RAW)

    fetch.between, fetch.number = lambda: None, 0
    monkeypatch.setattr(datasets, "FashionMNIST", fashion_mnist)
    return fetch


def test_nobody_finds_half_a_download(download):
    found = []
    download.between = lambda: found.extend(path for path in files.RAW.iterdir() if path.name in SHA256)
    assert download()
    assert found == []
    assert sorted(path.name for path in files.RAW.iterdir()) == sorted([*SHA256, ".lock"])
    assert load_arrays("fashion-mnist").train_labels_N.tolist() == [3, 9]
    assert download()
    assert download.number == 1, "what is there is not fetched again"


def test_a_download_that_is_cut_off_leaves_nothing_to_be_found(download):
    def cut():
        raise OSError("no route to host")

    download.between = cut
    assert not download()
    with pytest.raises(DataError, match="could not be downloaded"):
        find()
    download.between = lambda: None
    assert download()
    assert find() == files.RAW


def test_one_process_downloads_and_the_others_wait_for_it(download):
    began = threading.Event()

    def slowly():
        began.set()
        other.join(0.5)
        assert other.is_alive()

    download.between = slowly
    other = threading.Thread(target=lambda: began.wait() and results.append(download()))
    results = []
    other.start()
    assert download()
    other.join()
    assert results == [True]
    assert download.number == 1


def test_search_order(fake_release, tmp_path, monkeypatch):
    assert find(str(fake_release)) == fake_release
    monkeypatch.setenv("FMNIST_DATA_DIR", str(fake_release))
    assert find() == fake_release
    with pytest.raises(DataError, match="elsewhere"):
        find("elsewhere")  # what was asked for comes first, and alone
    monkeypatch.delenv("FMNIST_DATA_DIR")
    fake_release.rename(tmp_path / "debian")
    assert find() == tmp_path / "debian"
    (tmp_path / "data").mkdir()
    for path in (tmp_path / "debian").iterdir():
        (tmp_path / "data" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert str(find()) == "data"
    assert load_arrays("fashion-mnist").train_labels_N.tolist() == [3, 9]


def test_nothing_found_names_every_place_and_the_ways_out(fake_release):
    with pytest.raises(DataError) as error:
        find()
    for word in ("data", "debian", "dataset-fashion-mnist", "--data-dir", "FMNIST_DATA_DIR", "--dataset synthetic"):
        assert word in str(error.value)


def test_a_folder_that_lacks_a_file_is_told_which(fake_release, monkeypatch):
    monkeypatch.setenv("FMNIST_DATA_DIR", str(fake_release))
    missing = list(SHA256)[2]
    (fake_release / missing).unlink()
    with pytest.raises(DataError) as error:
        find()
    assert f"was not found in {fake_release} (which has no {missing}). Install" in str(error.value)


def test_a_changed_byte_is_not_the_release(fake_release):
    name = next(iter(SHA256))
    path = fake_release / name
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="before September 2017"):
        read(fake_release, name)
    path.unlink()
    (fake_release / f"{name}.gz").write_bytes(gzip.compress(bytes(content))[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        read(fake_release, name)


def test_idx_known_answer_and_errors():
    assert decode_idx(idx((2, 2), [1, 2, 3, 4]), "x").tolist() == [[1, 2], [3, 4]]
    for bad, message in ((b"", "not an IDX"), (idx((2, 2), [1, 2, 3]), "truncated: 3 bytes of data, its header says 4"),
                         (b"\0\0\x0d\x01" + bytes(8), "unsigned bytes"), (idx((4,), range(4))[:6], "not an IDX")):
        with pytest.raises(DataError, match=message):
            decode_idx(bad, "x")


def test_synthetic_data_is_the_same_each_time_and_balanced():
    first, second = synthetic(200, 100), synthetic(200, 100)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.bincount(first.train_labels_N).tolist() == [20] * 10


def test_your_own_idx_files_are_known_by_their_digest(fake_release):
    with pytest.raises(DataError, match=r"needs data.sha256, the digest of the files") as error:
        load_arrays("idx", str(fake_release))
    digest = str(error.value).rpartition("=")[2]
    assert load_arrays("idx", str(fake_release), digest).train_labels_N.tolist() == [3, 9]
    (fake_release / "t10k-labels-idx1-ubyte").write_bytes(idx((2,), [3, 8]))
    load_arrays.cache_clear()
    with pytest.raises(DataError, match=f"data.sha256 = '{digest}': the files in .* have another digest"):
        load_arrays("idx", str(fake_release), digest)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("t10k-labels", b"P5 2 2 255 abcd", "t10k-labels-idx1-ubyte is not an IDX file of unsigned bytes"),
    ("t10k-labels", idx((2,), [3, 10]), "t10k-labels-idx1-ubyte has the label 10: expected labels 0 to 9"),
    ("t10k-labels", idx((3,), [3, 9]), "t10k-labels-idx1-ubyte is truncated: 2 bytes of data, its header says 3"),
    ("train-labels", idx((3,), [3, 9, 1]), "train-images-idx3-ubyte has the shape (2, 28, 28) and "),
    ("train-labels", idx((0,), []), "(0,): expected (N, H, W) for images and (N,) for as many labels"),
    ("t10k-images", idx((2, 3, 2), range(12)), "t10k-images-idx3-ubyte of (3, 2): expected one size"),
    ("train-images", idx((2, 28), range(56)), "train-images-idx3-ubyte has the shape (2, 28) and "),
])
def test_files_that_are_no_data_set_get_no_digest_to_paste(fake_release, name, content, message):
    (path,) = fake_release.glob(f"{name}*")
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load_arrays("idx", str(fake_release))
    assert message in str(error.value)
    assert "sha256" not in str(error.value)


def test_your_own_idx_files_are_looked_for_where_they_are_said_to_be_and_nowhere_else(fake_release, monkeypatch):
    monkeypatch.setenv("FMNIST_DATA_DIR", str(fake_release))
    with pytest.raises(DataError, match=r"^data.dataset = 'idx' needs --data-dir"):
        load_arrays("idx")
    (fake_release / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match=r"mine lacks files \(t10k-images-idx3-ubyte\); .*: train-images-idx3-ubyte, "):
        load_arrays("idx", str(fake_release))
    with pytest.raises(DataError, match=r"idx.*nowhere lacks files \(it is no folder\)"):
        load_arrays("idx", "nowhere")


def test_torchvisions_data_sets(fake_release, tmp_path):
    raw = tmp_path / "data" / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in fake_release.iterdir():
        (raw / path.name).write_bytes(path.read_bytes())
    arrays = load_arrays("kmnist")
    assert arrays.test_images_NCHW.shape == (2, 1, 28, 28)
    assert arrays.train_labels_N.tolist() == [3, 9]
    with pytest.raises(DataError, match=r"data.dataset = 'mnist': torchvision can neither find it"):
        load_arrays("mnist")
