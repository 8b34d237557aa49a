"""Weights kept and pictures classified."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file

from fmnist_core import predict, weights
from fmnist_core.config import CellConfig, DataConfig, KernelDepthCNN, TrainConfig
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


def test_damaged_or_foreign_weights_are_refused(trained, tmp_path):
    _, path = trained
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-100])
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    for name in ("cut", "foreign", "missing"):
        with pytest.raises(ValueError, match=f"weights .*{name}"):
            weights.load(tmp_path / name)


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
    (tmp_path / "text.png").write_text("no picture")
    assert predict.main(["--weights", str(path), str(tmp_path / "text.png")]) == 2
    assert "predict: " in capsys.readouterr().err
