"""A small data set, held whole, for tests of the core."""

import torch

from fmnist_core.config import DataConfig
from fmnist_core.data import Dataset, Split
from fmnist_core.files import synthetic


def small_dataset(num_train: int = 230, num_validation: int = 40, num_test: int = 70, **options: object) -> Dataset:
    """Synthetic images; sizes that no usual batch size divides."""
    arrays = synthetic(num_train + num_validation, num_test)
    images, labels = torch.from_numpy(arrays.train_images_NCHW), torch.from_numpy(arrays.train_labels_N).long()
    test = Split(torch.from_numpy(arrays.test_images_NCHW), torch.from_numpy(arrays.test_labels_N).long())
    config = DataConfig(dataset="synthetic", validation_size=num_validation, **options)  # type: ignore[arg-type]
    return Dataset(config, Split(images[:num_train], labels[:num_train]), Split(images[num_train:], labels[num_train:]),
                   test, *((0.25, 0.5) if config.normalize else (0.0, 1.0)))
