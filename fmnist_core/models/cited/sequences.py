"""Cited systems that are plain sequences of layers, written as such. Sources: `models.catalogue`.

Where an author pools after a ReLU, the pool comes first here: the result is the same to the bit.
"""

from collections.abc import Iterator

from torch import nn

from fmnist_core.config import NUM_CLASSES
from fmnist_core.models.build import sequential
from fmnist_core.models.cited.keras import keras_batch_norm, keras_init
from fmnist_core.models.layers import Activate, BatchNorm, Conv, Dropout, Flatten, Layer, Linear, MaxPool, Shape

MCNN15_CHANNELS = ((32, 64, 64, 32, 64), (256, 192, 128, 64, 32), (256, 256, 256, 128, 32))


def agarap(input_shape: Shape, *, init: str = "truncated_normal") -> nn.Module:
    """Agarap 2017, the one network under both of his losses: 3,274,634 parameters at 28x28.

    `init`: "truncated_normal" as in his code (standard deviation 0.1, cut at 0.2; biases 0.1), or PyTorch's "default".
    """
    if init not in ("truncated_normal", "default"):
        raise ValueError(f"model.options.init = '{init}'; allowed: truncated_normal, default")
    model = sequential([*_two_convolutions(5, 32, 64), *_hidden(1024), Dropout(name="dropout", probability=0.5),
                        _classifier()], input_shape)
    if init == "truncated_normal":
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.trunc_normal_(module.weight, std=0.1, a=-0.2, b=0.2)
                nn.init.constant_(module.bias, 0.1)
    return model


def bhatnagar_cnn2(input_shape: Shape) -> nn.Module:
    """Bhatnagar, Ghosal and Kolekar 2017, two layers without normalization: 113,386 parameters at 28x28."""
    model = sequential([*_valid_convolution(1), *_valid_convolution(2), *_bhatnagar_head()], input_shape)
    return keras_init(model, small_uniform=("conv1",))


def bhatnagar_bn(input_shape: Shape) -> nn.Module:
    """The same authors' batch-normalized network: BN before each convolution, 158,508 parameters at 28x28."""
    model = sequential([
        BatchNorm(name="batchnorm1"), Conv(name="conv1", channels=32, kernel_size=3, padding=1), *_pool_and_relu(1),
        BatchNorm(name="batchnorm2"), *_valid_convolution(2), *_bhatnagar_head()], input_shape)
    return keras_batch_norm(keras_init(model, small_uniform=("conv1",)))


def khanday(input_shape: Shape, *, kernel_size: int = 3) -> nn.Module:
    """A stand-in for the network of Khanday et al. 2021, whose layers could not be read: one network, any odd kernel.

    Two convolutions of 32 and 64 channels that keep the map's size, each with ReLU and pool, then 128 hidden units.
    """
    if kernel_size not in range(1, 12, 2):
        raise ValueError(f"model.options.kernel_size = {kernel_size}; allowed: 1, 3, 5, 7, 9, 11")
    return sequential([*_two_convolutions(kernel_size, 32, 64), *_hidden(128), _classifier()], input_shape)


def kefth_simplenet(input_shape: Shape) -> nn.Module:
    """`FashionSimpleNet` of github.com/kefth/fashion-mnist: 421,642 parameters at 28x28."""
    *convolutions, flatten = _two_convolutions(3, 32, 64)
    dropout = Dropout(name="dropout", probability=0.5)
    return sequential([*convolutions, flatten, dropout, *_hidden(128), _classifier()], input_shape)


def hardmaru(input_shape: Shape) -> nn.Module:
    """The two 5x5 convolutions of the dataset's own list of results, entry of hardmaru: 83,466 parameters at 28x28."""
    return sequential([*_two_convolutions(5, 32, 64), _classifier()], input_shape)


def mcnn15(input_shape: Shape) -> nn.Module:
    """Nocentini et al. 2022, from their code: 15 convolutions in three groups, 2,595,914 parameters at 28x28.

    There is no activation between the two Linear layers; a ReLU after the last pool, of values that are already
    non-negative, is left out.
    """
    layers: list[Layer] = []
    for group, widths in enumerate(MCNN15_CHANNELS, start=1):
        for i, channels in enumerate(widths, start=1):
            name = f"{group}_{i}"
            layers += [Conv(name=f"conv{name}", channels=channels, kernel_size=3, padding=1),
                       BatchNorm(name=f"batchnorm{name}"), Activate(name=f"activation{name}", kind="relu")]
        layers.append(MaxPool(name=f"maxpool{group}"))
    return sequential([*layers, Flatten(), Linear(name="fc", features=32), _classifier()], input_shape)


def _two_convolutions(kernel_size: int, *widths: int) -> Iterator[Layer]:
    """Convolutions that keep the map's size, each with ReLU and pool, flattened."""
    for i, channels in enumerate(widths, start=1):
        yield Conv(name=f"conv{i}", channels=channels, kernel_size=kernel_size, padding=kernel_size // 2)
        yield from _pool_and_relu(i)
    yield Flatten()


def _valid_convolution(i: int) -> Iterator[Layer]:
    yield Conv(name=f"conv{i}", channels=32, kernel_size=3)
    yield from _pool_and_relu(i)


def _pool_and_relu(i: int) -> Iterator[Layer]:
    yield MaxPool(name=f"maxpool{i}")
    yield Activate(name=f"activation{i}", kind="relu")


def _bhatnagar_head() -> Iterator[Layer]:
    yield Flatten()
    yield from _hidden(128)
    yield Dropout(name="dropout", probability=0.5)
    yield _classifier()


def _hidden(features: int) -> Iterator[Layer]:
    yield Linear(name="hidden", features=features)
    yield Activate(name="hidden_activation", kind="relu")


def _classifier() -> Layer:
    return Linear(name="classifier", features=NUM_CLASSES)
