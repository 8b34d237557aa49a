"""The two-layer network with batch normalization and skip connections of Bhatnagar, Ghosal and Kolekar 2017."""

import torch
from torch import Tensor, nn

from fmnist_core.config import NUM_CLASSES
from fmnist_core.models.cited.keras import keras_batch_norm, keras_init
from fmnist_core.models.layers import Shape

WIDTH = 32


def bhatnagar_skip(input_shape: Shape) -> nn.Module:
    """211,820 parameters at 28x28. Raises ValueError for images of more than one channel."""
    return keras_batch_norm(keras_init(SkipCNN(input_shape), small_uniform=("conv1", "conv2")))


class SkipCNN(nn.Module):
    """Twice: normalize, then add to that its own convolution's ReLU, then pool. The image is added to every channel."""

    def __init__(self, input_shape: Shape) -> None:
        super().__init__()
        channels, height, width = input_shape
        if channels != 1:
            raise ValueError(f"model.system = 'bhatnagar_skip' adds the image to {WIDTH} channels and so needs images "
                             f"of 1 channel, not {channels}")
        self.batchnorm1 = nn.BatchNorm2d(1)
        self.conv1 = nn.Conv2d(1, WIDTH, 3, padding=1)
        self.batchnorm2 = nn.BatchNorm2d(WIDTH)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.batchnorm3 = nn.BatchNorm2d(WIDTH)
        self.maxpool = nn.MaxPool2d(2, ceil_mode=True)
        self.hidden = nn.Linear(WIDTH * -(-height // 4) * -(-width // 4), 128)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(128, NUM_CLASSES)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.batchnorm1(images_NCHW)
        x = self.maxpool(x + torch.relu(self.conv1(x)))
        x = self.batchnorm2(x)
        x = self.maxpool(x + torch.relu(self.conv2(x)))
        x = self.batchnorm3(x).flatten(1)
        logits_NK: Tensor = self.classifier(self.dropout(torch.relu(self.hidden(x))))
        return logits_NK
