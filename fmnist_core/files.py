"""Find, verify and read the data set's files. No torch.

Search order: the folder asked for, $FMNIST_DATA_DIR, ./data, the Debian package `dataset-fashion-mnist`, and at last
torchvision's download into ./data. The checksums are of the uncompressed IDX files of the release in use since
September 2017; the older one scores about 0.4 points higher and must never slip in.
"""

import contextlib
import fcntl
import gzip
import hashlib
import math
import os
import tempfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmnist_core.seeds import stream

SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
RAW = Path("data/FashionMNIST/raw")
"""Where torchvision keeps what it has downloaded."""
DEBIAN = Path("/usr/share/datasets/fashion-mnist")

Bytes = NDArray[np.uint8]


class DataError(ValueError):
    """The data set is missing, damaged, or not the release that this project measures."""


class Arrays(NamedTuple):
    """A data set as it is on disk: images (N, C, H, W) and labels (N,), both uint8."""

    train_images_NCHW: Bytes
    train_labels_N: Bytes
    test_images_NCHW: Bytes
    test_labels_N: Bytes


@lru_cache(maxsize=2)
def load_arrays(dataset: str, data_dir: str | None = None, sha256: str = "") -> Arrays:
    """The images and labels of a name of `config.DATASETS`. Raises DataError.

    `sha256`: of an `idx` folder, what its four files must have together.
    """
    if dataset == "synthetic":
        return synthetic()
    if dataset == "fashion-mnist":
        folder = find(data_dir)
        return _arrays({str(_path(folder, name)): read(folder, name) for name in SHA256})
    if dataset == "idx":
        return _own_files(data_dir, sha256)
    return _torchvision(dataset, data_dir or "data")


def find(data_dir: str | None = None, *, download: bool = True) -> Path:
    """The folder that holds all four files, plain or gzipped. Raises DataError that names every place looked in."""
    asked_for = data_dir or os.environ.get("FMNIST_DATA_DIR")
    places = [Path(asked_for)] if asked_for else [Path("data"), RAW, DEBIAN]
    for place in places:
        if all(_path(place, name) for name in SHA256):
            return place
    if not asked_for and download and _download(RAW):
        return RAW
    raise DataError(
        f"Fashion-MNIST was not found in {', '.join(str(place) + _what_is_missing(place) for place in places)}"
        + ("" if asked_for else ", and could not be downloaded")
        + ". Install the Debian package dataset-fashion-mnist, or put the four IDX files "
        f"({', '.join(SHA256)}; gzipped or not) into a folder and name it with --data-dir or FMNIST_DATA_DIR, "
        "or try without data: --dataset synthetic."
    )


def _what_is_missing(place: Path) -> str:
    """Of a folder that has some of the files."""
    missing = [name for name in SHA256 if not _path(place, name)]
    return f" (which has no {' and no '.join(missing)})" if len(missing) < len(SHA256) else ""


def read(folder: Path, name: str) -> bytes:
    """The uncompressed content of one file, checked. Raises DataError."""
    path = _path(folder, name)
    assert path is not None
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise DataError(f"{path} is not the current release of Fashion-MNIST: its SHA-256 differs "
                        "(damaged, truncated, or the release in use before September 2017)")
    return content


def decode_idx(content: bytes, name: str) -> Bytes:
    """An IDX file of unsigned bytes, as an array of the shape in its header. Raises DataError."""
    num_dims = content[3] if len(content) >= 4 else 0
    header = 4 + 4 * num_dims
    if len(content) < header or content[:3] != b"\0\0\x08" or not 1 <= num_dims <= 4:
        raise DataError(f"{name} is not an IDX file of unsigned bytes")
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(num_dims))
    size = math.prod(shape)
    if len(content) != header + size:
        raise DataError(f"{name} is truncated: {len(content) - header} bytes of data, its header says {size}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def synthetic(num_train: int = 60_000, num_test: int = 10_000) -> Arrays:
    """Ten blurred patterns under noise: shaped like Fashion-MNIST, learnable, and no measure of anything."""
    rng = np.random.default_rng(stream(0, "fixture"))
    coarse = rng.integers(0, 256, (10, 7, 7))
    patterns = np.kron(coarse, np.ones((4, 4))).astype(np.uint8)

    def draw(num: int) -> tuple[Bytes, Bytes]:
        labels = (np.arange(num) % 10).astype(np.uint8)
        rng.shuffle(labels)
        noise = rng.integers(0, 256, (num, 28, 28), np.uint8)
        return (patterns[labels] // 2 + noise // 2)[:, None], labels

    return Arrays(*draw(num_train), *draw(num_test))


def _arrays(content: dict[str, bytes]) -> Arrays:
    """Decoded, and each label beside its image. `content`: of the four files, in the order of `SHA256`."""
    names, decoded = list(content), [decode_idx(content[name], name) for name in content]
    train_images, train_labels, test_images, test_labels = decoded
    for i, images, labels in ((0, train_images, train_labels), (2, test_images, test_labels)):
        if not images.size:
            raise DataError(f"{names[i]} has the shape {images.shape}: expected one image and one pixel at least")
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not labels.size:
            raise DataError(f"{names[i]} has the shape {images.shape} and {names[i + 1]} {labels.shape}: expected "
                            "(N, H, W) for images and (N,) for as many labels")
        if labels.max() > 9:
            raise DataError(f"{names[i + 1]} has the label {labels.max()}: expected labels 0 to 9")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(f"{names[0]} has images of {train_images.shape[1:]} pixels and {names[2]} of "
                        f"{test_images.shape[1:]}: expected one size")
    return Arrays(train_images[:, None], train_labels, test_images[:, None], test_labels)


def _own_files(data_dir: str | None, sha256: str) -> Arrays:
    """Four IDX files of the user's own, named as Fashion-MNIST's are."""
    if not data_dir:
        raise DataError("data.dataset = 'idx' needs --data-dir, the folder of four IDX files of your own")
    folder = Path(data_dir)
    paths = [path for name in SHA256 if (path := _path(folder, name))]
    if len(paths) < len(SHA256):
        lacking = ", ".join(name for name in SHA256 if not _path(folder, name) and folder.is_dir()) or "it is no folder"
        raise DataError(f"data.dataset = 'idx': --data-dir {folder} lacks files ({lacking}); expected four IDX files, "
                        f"gzipped or not: {', '.join(SHA256)}")
    content = {str(path): _read(path) for path in paths}
    arrays = _arrays(content)  # first: what is no data set needs no digest
    digest = hashlib.sha256(b"".join(content.values())).hexdigest()
    if digest != sha256:
        what = f"data.sha256 = '{sha256}': the files in {folder} have another digest" if sha256 else (
            f"data.dataset = 'idx' needs data.sha256, the digest of the files in {folder}")
        raise DataError(f"{what}; where they are meant: --set data.sha256={digest}")
    return arrays


def _torchvision(dataset: str, root: str) -> Arrays:
    """Another data set of the same kind, as torchvision downloads, checks and reads it."""
    from torchvision import datasets  # imported here: it brings torch along

    kind, options = {
        "mnist": (datasets.MNIST, {}),
        "kmnist": (datasets.KMNIST, {}),
        "emnist-digits": (datasets.EMNIST, {"split": "digits"}),
        "cifar10": (datasets.CIFAR10, {}),
    }[dataset]
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        with one_at_a_time(Path(root)):
            parts = [kind(root, train=train, download=True, **options) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"data.dataset = '{dataset}': torchvision can neither find it in {root} nor download it: "
                        f"{reason}") from error
    images = [np.asarray(part.data, np.uint8) for part in parts]
    images = [each.transpose(0, 3, 1, 2) if each.ndim == 4 else each[:, None] for each in images]
    if dataset == "emnist-digits":  # its files have rows for columns
        images = [each.swapaxes(2, 3) for each in images]
    labels = [np.asarray(part.targets, np.uint8) for part in parts]
    return Arrays(images[0], labels[0], images[1], labels[1])


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _path(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _download(to: Path) -> bool:
    """torchvision's own download; False where there is no network. Nobody finds a part of it: it is made elsewhere."""
    from torchvision.datasets import FashionMNIST  # imported here: it brings torch along

    try:
        to.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(to), tempfile.TemporaryDirectory(dir=to) as folder:
            if not all(_path(to, name) for name in SHA256):  # nor has another process made it meanwhile
                FashionMNIST(folder, download=True)
                for path in (Path(folder) / "FashionMNIST" / "raw").iterdir():
                    path.replace(to / path.name)
    except (RuntimeError, OSError):
        return False
    return True


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Waits while another process is in such a block with this folder; not where the folder cannot be written to."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # nor where there are no locks
            fcntl.flock(stack.enter_context((folder / ".lock").open("w")), fcntl.LOCK_EX)
        yield
