"""Weights kept and pictures classified."""

import os

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import save_file

from fmnist_core import predict, weights
from fmnist_core.config import CellConfig, DataConfig, KernelDepthCNN, TrainConfig, class_names
from fmnist_core.evaluation import evaluate
from fmnist_core.train import Training, fit
from tests.small import small_dataset


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that has learnt the synthetic patterns, and its file."""
    cell = CellConfig(model=KernelDepthCNN(width=8), data=DataConfig(dataset="synthetic", validation_size=40),
                      train=TrainConfig(epochs=6, global_batch_size=32))
    training = Training(cell, 0, small_dataset(num_train=600))
    fit(training)
    path = tmp_path_factory.mktemp("weights") / "a" / "cnn.safetensors"
    weights.save(path, training)
    return training, path


def test_loaded_weights_classify_as_the_trained_model(trained):
    training, path = trained
    loaded = weights.load(path)
    test = training.dataset.test
    expected = evaluate(training, test, keep_logits=True).logits_NK.softmax(1)
    torch.testing.assert_close(loaded.probabilities(test.images_NCHW / 255), expected, rtol=1e-4, atol=1e-5)
    assert loaded.cell == training.cell


def test_a_full_disk_leaves_the_earlier_weights(trained, tmp_path, monkeypatch):
    training, path = trained
    kept = tmp_path / "cnn.safetensors"
    kept.write_bytes(path.read_bytes())

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        weights.save(kept, training)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [(kept.name, path.read_bytes())]


def test_damaged_or_foreign_weights_are_refused(trained, tmp_path):
    _, path = trained
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-100])
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    for name, mean in (("without", {}), ("mistaken", {"mean": "zero"})):
        with safe_open(path, "pt") as file:
            about = {key: value for key, value in file.metadata().items() if key != "mean"}
            save_file({key: file.get_tensor(key) for key in file.keys()}, tmp_path / name, about | mean)  # noqa: SIM118
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        save_file({**tensors, "added": torch.zeros(2)}, tmp_path / "changed", file.metadata())
    with pytest.raises(ValueError, match=r"changed: the code of its network has changed: 'added' is of shape \(2,\) in "
                                         "the file, and of shape none in the network$"):
        weights.load(tmp_path / "changed")
    for name in ("cut", "foreign", "missing", "without", "mistaken"):
        with pytest.raises(ValueError, match=f"weights .*{name}"):
            weights.load(tmp_path / name)
    with pytest.raises(ValueError, match=r"^weights .*: a folder, not a \.safetensors file$"):
        weights.load(tmp_path)


def test_a_dark_picture_on_white_becomes_light_on_black_and_fills_the_square():
    pixels = np.full((200, 100), 255, np.uint8)
    pixels[60:140, 20:60] = 30
    prepared = predict.prepare(Image.fromarray(pixels).convert("RGB"))
    assert prepared.shape == (1, 1, 28, 28)
    assert prepared[0, 0, 14, 14] == pytest.approx((255 - 30) / 255, abs=0.02)
    assert prepared[0, 0, :, 0].max() == 0
    assert prepared[0, 0, 0, 14] > 0.5  # 80 pixels high, cut to its content: it reaches the edge
    inverted = ImageOps.invert(Image.fromarray(pixels))
    torch.testing.assert_close(predict.prepare(inverted), prepared)


def test_the_command_names_the_class_of_a_picture(trained, tmp_path, capsys):
    training, path = trained
    image = training.dataset.test.images_NCHW[0, 0]
    expected = weights.load(path).probabilities(image[None, None] / 255).argmax().item()
    Image.fromarray(image.numpy()).save(tmp_path / "one.png")
    assert predict.main(["--weights", str(path), str(tmp_path / "one.png")]) == 0
    assert f"one.png: {expected} " in capsys.readouterr().out


@pytest.mark.parametrize(("name", "reason"), [
    ("text.png", "not a picture of a kind that can be read, such as PNG or JPEG"),
    ("nowhere.png", "there is no such file"), ("folder", "a folder, not a picture"),
    ("cut.png", "the picture cannot be read: "),
    ("deep.png", "the picture cannot be read: it has more than 8 bits a channel (mode I;16); expected 8"),
    ("x" * 300, "the picture cannot be read: [Errno 36]")])
def test_a_file_that_is_no_picture_is_named_in_one_sentence(trained, tmp_path, monkeypatch, capsys, name, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder").mkdir()
    Image.fromarray(np.arange(10_000, dtype=np.uint8).reshape(100, 100)).save("whole.png")
    Image.fromarray(np.arange(10_000, dtype=np.uint16).reshape(100, 100)).save("deep.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    assert predict.main(["--weights", str(trained[1]), name]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"predict: {name}: {reason}")
    assert said.count("\n") == 1


def test_options_are_taken_by_their_whole_names_and_the_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        predict.main(["--weight", "x", "y.png"])
    assert "--weights" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        predict.main(["--help"])
    assert capsys.readouterr().out.count("    python -m fmnist_core.predict --weights") == 2


def test_own_data_without_names_has_classes_by_number():
    assert class_names(DataConfig(dataset="idx"))[1] == "class 1"
