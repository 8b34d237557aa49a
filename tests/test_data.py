"""Splits, batches, resizing, normalisation and augmentation, on the device."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from fmnist_core import augment, data
from fmnist_core.config import DataConfig
from fmnist_core.files import load_arrays
from tests.small import small_dataset


def load(**options):
    return data.load(DataConfig(dataset="synthetic", **options))


def test_split_parts_the_training_set_by_its_seed_alone():
    one, same, other = (load(validation_size=10_000, split_seed=seed) for seed in (0, 0, 1))
    assert (len(one.train), len(one.validation), len(one.test)) == (50_000, 10_000, 10_000)
    assert torch.equal(one.validation.images_NCHW, same.validation.images_NCHW)
    assert not torch.equal(one.validation.labels_N, other.validation.labels_N)
    whole = torch.cat([one.train.images_NCHW, one.validation.images_NCHW]).flatten(1)
    key = lambda images: sorted(images.to(torch.int64).mul(torch.arange(1, 785)).sum(1).tolist())
    assert key(whole) == key(torch.from_numpy(load_arrays("synthetic").train_images_NCHW.copy()).flatten(1))


def test_an_image_keeps_its_label_in_either_part_of_a_split():
    whole, parts = load_arrays("synthetic"), load(validation_size=59_000)
    labels = dict(zip(map(bytes, whole.train_images_NCHW), whole.train_labels_N, strict=True))
    for part in (parts.train, parts.validation):
        assert [labels[bytes(image)] for image in part.images_NCHW.numpy()] == part.labels_N.tolist()
    assert torch.equal(parts.test.images_NCHW, torch.from_numpy(whole.test_images_NCHW.copy()))
    assert parts.test.labels_N.tolist() == whole.test_labels_N.tolist()


def test_the_split_of_a_seed_stays_what_it_was():
    """Records of all versions are of the same images."""
    places = {bytes(image): i for i, image in enumerate(load_arrays("synthetic").train_images_NCHW)}
    validation = load(validation_size=10_000).validation.images_NCHW[:4].numpy()
    assert [places[bytes(image)] for image in validation] == [39467, 53581, 54761, 24706]


def test_a_split_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match=r"data.validation_size = 60000 leaves nothing of 60000 .*_size=10000$"):
        load(validation_size=60_000)


def test_batches_are_torchvisions_tensors():
    """ToTensor's float images in [0, 1] are the oracle."""
    dataset = small_dataset()
    index = torch.tensor([3, 0, 7])
    images, labels = dataset.train_batch(index)
    to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    expected = torch.stack([to_tensor(dataset.train.images_NCHW[i, 0].numpy()[..., None]) for i in index])
    torch.testing.assert_close(images, expected)
    assert labels.tolist() == dataset.train.labels_N[index].tolist()


def test_normalized_training_pixels_have_mean_0_and_deviation_1():
    dataset = load(validation_size=58_000, normalize=True)
    images = dataset.images(dataset.train, torch.arange(2000))
    assert images.mean().item() == pytest.approx(0, abs=1e-4)
    assert images.std().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("scale", [1, 0.7])
def test_mean_and_deviation_are_those_of_all_pixels_at_once(monkeypatch, scale):
    monkeypatch.setattr(data, "PART", 7)
    images = small_dataset(50).train.images_NCHW
    images = images if scale == 1 else images * scale  # as resized ones are: float32
    pixels = images.to(torch.float64) / 255
    assert data._mean_and_std(images) == pytest.approx((pixels.mean().item(), pixels.std().item()), rel=1e-12)


@pytest.mark.parametrize("size", [20, 40])
def test_resizing_keeps_the_mean_and_flips_like_the_image(size):
    dataset = load(validation_size=59_990, input_size=size)
    assert dataset.input_shape == (1, size, size)
    small = load(validation_size=59_990)
    large = dataset.images(dataset.train, torch.arange(10))
    plain = small.images(small.train, torch.arange(10))
    assert large.mean().item() == pytest.approx(plain.mean().item(), abs=0.01)
    expected = F.interpolate(plain.flip(-1), size=(size, size), mode="bilinear", antialias=True)
    torch.testing.assert_close(large.flip(-1), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(20, 28), (28, 20), (20, 20)])
def test_images_that_are_not_square_are_resized_to_what_the_network_gets(height, width):
    assert data._resize(torch.zeros(3, 1, height, width), 28).shape == (3, 1, 28, 28)


def test_shift_moves_whole_images_and_brings_in_zeros():
    torch.manual_seed(0)
    image = torch.arange(1.0, 26.0).view(1, 1, 5, 5)
    shifted = augment.shift(image.expand(200, 1, 5, 5), 1)
    padded = F.pad(image, (1, 1, 1, 1))
    windows = {tuple(padded[0, 0, y : y + 5, x : x + 5].flatten().tolist()) for y in range(3) for x in range(3)}
    assert {tuple(each.flatten().tolist()) for each in shifted} == windows


def test_rotation_by_nothing_is_nothing_and_mass_stays_near():
    torch.manual_seed(0)
    images = torch.zeros(50, 1, 28, 28)
    images[:, :, 8:20, 8:20] = 1
    torch.testing.assert_close(augment.rotate(images, 1e-4), images, rtol=0, atol=1e-3)
    turned = augment.rotate(images, 45)
    assert turned.sum((1, 2, 3)).sub(144).abs().max() < 6
    assert len({round(float(value), 3) for value in turned[:, 0, 8, 8]}) > 8


def test_rotation_reaches_its_angle_either_way_and_no_further():
    """By the angle at which a dot above the centre ends."""
    torch.manual_seed(0)
    images = torch.zeros(500, 1, 28, 28)
    images[:, :, 3:5, 13:15] = 1
    mass = augment.rotate(images, 30.0)[:, 0] / 4
    from_centre = torch.arange(28) - 13.5
    degrees = torch.atan2((mass.sum(1) * from_centre).sum(1), -(mass.sum(2) * from_centre).sum(1)).rad2deg()
    assert (degrees.min().item(), degrees.max().item()) == pytest.approx((-30, 30), abs=1)
    assert degrees.mean().item() == pytest.approx(0, abs=3)


def test_erasing_overwrites_one_square_of_the_chosen_images():
    torch.manual_seed(0)
    images = torch.full((400, 1, 28, 28), -1.0)
    erased = augment.erase(images, 0.25, 6)
    touched = (erased != -1).flatten(1).sum(1)
    assert set(touched.tolist()) == {0, 36}
    assert 70 < (touched > 0).sum() < 130
    rows = (erased != -1).any(3).sum(2).flatten()
    assert set(rows.tolist()) == {0, 6}
    inside = (erased != -1)[:, 0]
    assert not torch.equal(inside.any(2), inside.any(1)), "rows and columns are drawn apart"


def test_black_moves_into_normalised_images_too():
    dataset = small_dataset(normalize=True, shift=2)
    images = dataset.augmented(dataset.train, torch.arange(200))
    black = (0 - dataset.mean) / dataset.std
    moved = [image for image, plain in zip(images, dataset.images(dataset.train, torch.arange(200)), strict=True)
             if torch.allclose(image[:, :, 2:], plain[:, :, :-2])]
    assert len(moved) > 3
    for image in moved:
        torch.testing.assert_close(image[:, :, :2], torch.full_like(image[:, :, :2], black))


def test_noise_of_erasing_is_made_of_pixels_and_then_normalised():
    dataset = small_dataset(normalize=True, erasing=1.0, erasing_size=28)
    images = dataset.augmented(dataset.train, torch.arange(200)) * dataset.std + dataset.mean
    assert -1e-6 < images.min() < 0.01
    assert 0.99 < images.max() < 1 + 1e-6


@pytest.mark.parametrize("flip", ["random", "alternating"])  # the latter where no epoch says which
def test_random_flip_flips_half_and_only_the_training_set(flip):
    torch.manual_seed(0)
    dataset = small_dataset(flip=flip)
    images, _ = dataset.train_batch(torch.arange(200))
    plain = dataset.images(dataset.train, torch.arange(200))
    flipped = sum(torch.equal(a, b.flip(-1)) for a, b in zip(images, plain, strict=True))
    assert 85 < flipped < 115
    assert all(torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(images, plain, strict=True))


@pytest.mark.parametrize("options", [{"flip": "random"}, {"rotation": 20.0}, {"shift": 3}, {"erasing": 0.5}])
def test_each_augmentation_is_there_where_it_is_asked_for(options):
    torch.manual_seed(0)
    dataset = small_dataset(**options)
    assert not torch.equal(dataset.train_batch(torch.arange(200))[0], dataset.images(dataset.train, torch.arange(200)))


def test_an_image_is_flipped_and_rotated_and_shifted_and_erased_in_this_order():
    dataset, flip_N = small_dataset(shift=3, rotation=20.0, erasing=0.5), torch.arange(32) % 2 == 0
    images = dataset.images(dataset.train, torch.arange(32))
    torch.manual_seed(0)
    augmented = augment.augment(images, dataset.config, flip_N)
    torch.manual_seed(0)
    flipped = torch.where(flip_N[:, None, None, None], images.flip(-1), images)
    assert torch.equal(augmented, augment.erase(augment.shift(augment.rotate(flipped, 20.0), 3), 0.5, 8))


def test_augmentation_is_fresh_for_each_batch():
    dataset = small_dataset(shift=3, rotation=20.0, erasing=0.5)
    first, second = (dataset.train_batch(torch.arange(32))[0] for _ in range(2))
    assert not torch.equal(first, second)
    assert np.isfinite(first.numpy()).all()
