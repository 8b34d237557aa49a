"""What the network of a cell is: one frozen struct per family of models. No torch."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=1, le=1 << 20)]
Natural = Annotated[int, Meta(ge=0, le=1 << 20)]
KernelSize = Annotated[int, Meta(ge=1, le=11)]
Stride = Annotated[int, Meta(ge=1, le=4)]
Probability = Annotated[float, Meta(ge=0.0, lt=1.0)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, Meta(gt=0.0, le=1e6)]
NonNegative = Annotated[float, Meta(ge=0.0, le=1e6)]
Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh"]
Estimator = Literal[
    "gaussian_nb", "decision_tree", "extra_tree", "random_forest", "gradient_boosting", "k_nearest_neighbors",
    "logistic_regression", "linear_svm", "svm", "passive_aggressive", "perceptron", "sgd", "mlp"]

NUM_CLASSES = 10


class Config(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Frozen and strict; equal configurations encode to equal bytes."""

    def __post_init__(self) -> None:
        # msgspec leaves out what IS the default object, not what equals it: 0.001 read from a file would stay.
        for info in msgspec.structs.fields(type(self)):
            if getattr(self, info.name) == info.default:
                msgspec.structs.force_setattr(self, info.name, info.default)


class Network1(Config, tag_field="name", tag="network1", frozen=True, kw_only=True):
    """The report's first network: conv - pool - conv (- pool) - Linear layers. Defaults as printed there."""

    conv1_channels: Count = 8
    """Output channels of the first convolution."""
    conv1_kernel_size: KernelSize = 5
    conv1_stride: Stride = 1
    conv2_channels: Count = 12
    """Output channels of the second one."""
    conv2_kernel_size: KernelSize = 5
    conv2_stride: Stride = 1
    num_pools: Annotated[int, Meta(ge=1, le=2)] = 2
    """2x2 max-pools: 2 as printed; 1 (after conv1 alone) as the sizes of Table 1.1 require."""
    fc_sizes: tuple[Count, ...] = (120, 60, 40)
    """Outputs of the hidden Linear layers; the last Linear, to the classes, is implied."""
    dropout: Probability = 0.25
    """Probability, at the place that `dropout_after` says."""
    dropout_after: Natural = 1
    """Dropout follows the activation of this hidden Linear layer, counted from 1; 0: the flattened maps."""
    conv_dropout: Probability = 0.0
    """Dropout after each convolution block."""
    batch_norm: bool = False
    """After each convolution."""
    activation: Activation = "relu"
    """After each convolution and hidden Linear layer."""


class Network2(Config, tag_field="name", tag="network2", frozen=True, kw_only=True):
    """The report's second network: twice conv - BatchNorm - ReLU - pool, then Linear layers. Defaults as printed."""

    conv1_channels: Count = 4
    """Output channels of the first convolution."""
    conv1_kernel_size: KernelSize = 3
    conv1_stride: Stride = 1
    conv2_channels: Count = 16
    """Output channels of the second one."""
    conv2_kernel_size: KernelSize = 5
    conv2_stride: Stride = 1
    fc_sizes: tuple[Count, ...] = (392,)
    """Outputs of the hidden Linear layers; the last Linear, to the classes, is implied."""
    dropout: Probability = 0.25
    """Probability, at the place that `dropout_after` says."""
    dropout_after: Natural = 1
    """Dropout follows this hidden Linear layer (and its activation), counted from 1; 0: the flattened maps."""
    conv_dropout: Probability = 0.0
    """Dropout after each convolution block."""
    batch_norm: bool = True
    """After each convolution."""
    activation: Activation = "relu"
    """After each convolution."""
    fc_activation: Activation | Literal["none"] = "relu"
    """Between the Linear layers. The report prints neither reading beyond doubt: both are run."""


class KernelDepthCNN(Config, tag_field="name", tag="cnn", frozen=True, kw_only=True):
    """The sweep's family: `depth` convolutions of one kernel size, whose maps have the same size for every kernel.

    A convolution pads k - 1 pixels in all, (k - 1) // 2 before and k // 2 after: for even k the odd pixel goes
    after, by a padding layer of its own that the costs and the clock see.
    """

    kernel_size: KernelSize = 3
    """Of every convolution."""
    depth: Annotated[int, Meta(ge=1, le=8)] = 2
    """Convolutions."""
    width: Count = 16
    """Output channels of every convolution."""
    num_pools: Annotated[int, Meta(ge=0, le=4)] = 2
    """The first `num_pools` convolutions are followed by a 2x2 max-pool."""
    fc_sizes: tuple[Count, ...] = ()
    """Outputs of hidden Linear layers; none by default."""
    dropout: Probability = 0.0
    """Before the last Linear layer."""
    batch_norm: bool = True
    """After each convolution."""
    activation: Activation = "relu"
    """After each convolution and hidden Linear layer."""


class StagedCNN(Config, tag_field="name", tag="staged", frozen=True, kw_only=True):
    """Few parameters, well spent: a stem, then a stage per entry of `widths`, each at half the size of the one before.

    The stem is a convolution. A stage is `depth` convolutions, the first with a 2x2 max-pool right after it: what
    follows, batch norm included, has a quarter of the work. The order is that of KellerJordan/cifar10-airbench.
    """

    stem_channels: Count = 16
    """Output channels of the stem."""
    kernel_size: KernelSize = 3
    """Of every convolution."""
    widths: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=4)] = (32, 48, 48)
    """Output channels of the convolutions of each stage."""
    depth: Annotated[int, Meta(ge=1, le=8)] = 2
    """Convolutions of each stage."""
    dropout: Probability = 0.0
    """Before the last Linear layer."""
    batch_norm: bool = True
    """After each convolution."""
    activation: Activation = "relu"
    """After each convolution."""


class CitedModel(Config, tag_field="name", tag="cited", frozen=True, kw_only=True):
    """A system that the report cites, by the name it has in `fmnist_core.models.cited`."""

    system: str
    options: dict[str, bool | int | float | str] = {}
    """Keyword arguments of its factory."""


class CustomModel(Config, tag_field="name", tag="custom", frozen=True, kw_only=True):
    """Your own network: any factory that returns an `nn.Module` from (N, C, H, W) images to (N, 10) logits."""

    factory: Annotated[str, Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """`package.module:factory`."""
    options: dict[str, bool | int | float | str] = {}
    """Keyword arguments of the factory."""
    source: str = ""
    """Digest of the module's file and of what it imports of its own package or from beside it, found when an experiment
    is read: what an edited file makes is another network. Empty for the networks of this project."""


class Baseline(Config, tag_field="name", tag="baseline", frozen=True, kw_only=True):
    """No network: a model of the data set's own benchmark, fitted once by scikit-learn. See `fmnist_core.baselines`."""

    estimator: Estimator
    options: dict[str, bool | int | float | str] = {}
    """Keyword arguments of scikit-learn's class; the string `none` stands for None."""


ModelConfig = Network1 | Network2 | KernelDepthCNN | StagedCNN | CitedModel | CustomModel | Baseline
