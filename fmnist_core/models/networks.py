"""The report's two networks and the kernel x depth family and the staged one, as lists of layers. No torch.

Where the report pools after a monotonic activation, the pool comes first here: the result is the same to the bit.
"""

from collections.abc import Iterator

from fmnist_core.config import NUM_CLASSES, KernelDepthCNN, ModelConfig, Network1, Network2, StagedCNN
from fmnist_core.models.layers import Activate, BatchNorm, Conv, Dropout, Flatten, Layer, Linear, MaxPool, Pad

MONOTONIC = ("relu", "leaky_relu", "elu", "tanh")
"""max(f(x)) == f(max(x)) for these, exactly: pooling first saves three quarters of the activations."""


def layers_of(config: ModelConfig) -> list[Layer] | None:
    """The layers of the report's networks, of the kernel x depth family and of the staged one; None for all others."""
    match config:
        case Network1():
            return list(_network1(config))
        case Network2():
            return list(_network2(config))
        case KernelDepthCNN():
            return list(_kernel_depth_cnn(config))
        case StagedCNN():
            return list(_staged_cnn(config))
        case _:
            return None


def _network1(c: Network1) -> Iterator[Layer]:
    yield Conv(name="conv1", channels=c.conv1_channels, kernel_size=c.conv1_kernel_size, stride=c.conv1_stride)
    yield from _after_conv(1, c.batch_norm, c.activation, pool=True, dropout=c.conv_dropout)
    yield Conv(name="conv2", channels=c.conv2_channels, kernel_size=c.conv2_kernel_size, stride=c.conv2_stride)
    yield from _after_conv(2, c.batch_norm, c.activation, pool=c.num_pools == 2, dropout=c.conv_dropout)
    yield from _classifier(c.fc_sizes, c.activation, c.dropout, c.dropout_after)


def _network2(c: Network2) -> Iterator[Layer]:
    yield from _same_conv(1, c.conv1_channels, c.conv1_kernel_size, c.conv1_stride)
    yield from _after_conv(1, c.batch_norm, c.activation, pool=True, dropout=c.conv_dropout)
    yield from _same_conv(2, c.conv2_channels, c.conv2_kernel_size, c.conv2_stride)
    yield from _after_conv(2, c.batch_norm, c.activation, pool=True, dropout=c.conv_dropout)
    yield from _classifier(c.fc_sizes, c.fc_activation, c.dropout, c.dropout_after)


def _kernel_depth_cnn(c: KernelDepthCNN) -> Iterator[Layer]:
    for i in range(1, c.depth + 1):
        yield from _same_conv(i, c.width, c.kernel_size, bias=not c.batch_norm)
        yield from _after_conv(i, c.batch_norm, c.activation, pool=i <= c.num_pools)
    yield from _classifier(c.fc_sizes, c.activation, c.dropout, dropout_after=len(c.fc_sizes))


def _staged_cnn(c: StagedCNN) -> Iterator[Layer]:
    yield from _same_conv(1, c.stem_channels, c.kernel_size, bias=not c.batch_norm)
    yield from _after_conv(1, c.batch_norm, c.activation, pool=False)
    for i, width in enumerate(c.widths):
        for j in range(c.depth):
            number = 2 + i * c.depth + j
            yield from _same_conv(number, width, c.kernel_size, bias=not c.batch_norm)
            if j == 0:
                yield MaxPool(name=f"maxpool{number}")
            yield from _after_conv(number, c.batch_norm, c.activation, pool=False)
    yield from _classifier((), c.activation, c.dropout, dropout_after=0)


def _same_conv(i: int, channels: int, kernel_size: int, stride: int = 1, *, bias: bool = True) -> Iterator[Layer]:
    """Keep the map's size at stride 1. Even kernels get the odd zero after the map, as an explicit layer."""
    before, after = (kernel_size - 1) // 2, kernel_size // 2
    if before != after:
        yield Pad(name=f"pad{i}", padding=(before, after, before, after))
        before = 0
    yield Conv(name=f"conv{i}", channels=channels, kernel_size=kernel_size, stride=stride, padding=before, bias=bias)


def _after_conv(i: int, batch_norm: bool, activation: str, *, pool: bool, dropout: float = 0.0) -> Iterator[Layer]:
    if batch_norm:
        yield BatchNorm(name=f"batchnorm{i}")
    pool_first = pool and activation in MONOTONIC
    if pool_first:
        yield MaxPool(name=f"maxpool{i}")
    yield Activate(name=f"activation{i}", kind=activation)
    if pool and not pool_first:
        yield MaxPool(name=f"maxpool{i}")
    if dropout:
        yield Dropout(name=f"conv_dropout{i}", probability=dropout)


def _classifier(fc_sizes: tuple[int, ...], activation: str, dropout: float, dropout_after: int) -> Iterator[Layer]:
    """Hidden Linear layers and the last one. Dropout follows hidden layer `dropout_after`; 0: the flattened maps."""
    yield Flatten()
    if dropout and dropout_after == 0:
        yield Dropout(name="dropout", probability=dropout)
    for i, features in enumerate(fc_sizes, start=1):
        yield Linear(name=f"fc{i}", features=features)
        if activation != "none":
            yield Activate(name=f"fc_activation{i}", kind=activation)
        if dropout and i == dropout_after:
            yield Dropout(name="dropout", probability=dropout)
    yield Linear(name=f"fc{len(fc_sizes) + 1}", features=NUM_CLASSES)
