"""What decides a cell: its model, its data, its training, and how it is executed. No torch.

Every struct is frozen, keyword-only and strict: an unknown key or a value out of range is an error.
Keys are hashes of canonical JSON from which default values are left out, so an option that is added
later, with a default that means "as before", leaves the key of every earlier cell as it was.
"""

import hashlib
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from fmnist_core.data_config import DATASETS as DATASETS
from fmnist_core.data_config import DataConfig as DataConfig
from fmnist_core.model_config import NUM_CLASSES as NUM_CLASSES
from fmnist_core.model_config import Baseline as Baseline
from fmnist_core.model_config import CitedModel as CitedModel
from fmnist_core.model_config import Config, Count, Fraction, Natural, NonNegative, Positive
from fmnist_core.model_config import CustomModel as CustomModel
from fmnist_core.model_config import Estimator as Estimator
from fmnist_core.model_config import KernelDepthCNN as KernelDepthCNN
from fmnist_core.model_config import ModelConfig as ModelConfig
from fmnist_core.model_config import Network1 as Network1
from fmnist_core.model_config import Network2 as Network2
from fmnist_core.model_config import StagedCNN as StagedCNN

TRAINING_VERSION = 1
"""Raised by hand when a change to the training code changes what a cell learns; part of every quality key.

Cells that normalize and also shift, rotate or erase count one more: once they were normalized first, and grey instead
of black moved into their images."""

Precision = Literal["no", "bf16", "fp16"]
MemoryFormat = Literal["contiguous", "channels_last"]


class TrainConfig(Config, frozen=True, kw_only=True):
    epochs: Count = 10
    """Passes over all training images."""
    global_batch_size: Count = 128
    """Images per optimizer step over all processes. A last, smaller batch is trained too."""
    gradient_accumulation: Count = 1
    """Parts into which each process cuts its batch; the step is the same but for rounding and batch norm."""
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop", "muon"] = "adam"
    """PyTorch's, with its defaults but for the keys below; `muon` (Jordan 2024) is `fmnist_core.optimizers.Muon`."""
    learning_rate: Positive = 1e-3
    """The peak, where the schedule has one. Of `muon`: of the convolutions."""
    other_learning_rate: Positive = 1e-3
    """Of `muon`: the peak for all other parameters, which AdamW trains."""
    momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    """Of `sgd`, `rmsprop` and `muon`."""
    nesterov: bool = False
    """Nesterov's form of the momentum of `sgd` and `muon`."""
    weight_decay: NonNegative = 0.0
    """Coupled (L2) for adam, sgd and rmsprop; decoupled for adamw and muon."""
    schedule: Literal["constant", "cosine", "one_cycle", "step"] = "constant"
    """Of the learning rate, step by step. `cosine`: from the peak to 0; `one_cycle`: up, then down to 0, in lines."""
    warmup: Annotated[float, Meta(ge=0.0, le=0.9)] = 0.3
    """Of `one_cycle`: fraction of all steps that rise linearly to the peak."""
    steps: tuple[tuple[Fraction, Positive], ...] = ()
    """Of `step`: from this fraction of all optimizer steps on, the learning rate is so many times the peak."""
    loss: Literal["cross_entropy", "mse", "squared_hinge"] = "cross_entropy"
    """Mean over the batch; `mse` of the logits against one-hot labels, `squared_hinge` against labels of 1 and -1."""
    label_smoothing: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    """Of `cross_entropy`."""
    gradient_clip_norm: NonNegative = 0.0
    """0: no clipping."""
    ema: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    """Decay, per step, of the exponential moving average of the weights that is evaluated and kept; 0: the weights."""
    initialization: Literal["torch", "kaiming", "xavier"] = "torch"
    """Of convolutions and Linear layers: PyTorch's default; normal for ReLU (He et al. 2015) or uniform (Glorot and
    Bengio 2010), both with biases of 0."""
    whitening: Literal["no", "initial", "frozen"] = "no"
    """The first convolution begins, or stays, as the map that decorrelates the patches of the training images."""
    identity: bool = False
    """Each later convolution begins by passing its inputs on; filters beyond its inputs begin at random."""
    early_stopping_patience: Natural = 0
    """Epochs without a better validation accuracy before training stops; 0: never."""
    sync_batch_norm: bool = False
    """Under DDP: batch statistics over all processes instead of each its own."""
    precision: Precision = "no"
    """Accelerate's words; `no` is float32."""


class ExecutionConfig(Config, frozen=True, kw_only=True):
    """How the same training is carried out: decides speed, not what is learnt."""

    memory_format: MemoryFormat = "channels_last"
    """Order of the maps and of the convolutions' weights in memory."""
    compile: Literal["no", "auto", "default", "reduce-overhead", "max-autotune"] = "no"
    """`torch.compile` mode; `auto`: `no` or `default`, by timing steps of both before the run."""
    capture: bool = False
    """Replay the whole step: as one CUDA graph, on a CPU as a tape of its operators. What Python decides is frozen."""
    deterministic: bool = False
    """Deterministic algorithms only; slower, bit-equal from run to run on one machine."""


class CellConfig(Config, frozen=True, kw_only=True):
    """One point of a grid. Together with a seed: one training."""

    model: ModelConfig
    """The network, chosen by `model.name`."""
    data: DataConfig = DataConfig()
    """Its images."""
    train: TrainConfig = TrainConfig()
    """What it learns them by."""
    execution: ExecutionConfig = ExecutionConfig()
    """What the machine does for it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self)


ONLY_WITH = {
    "train.momentum": ("train.optimizer", ("sgd", "rmsprop", "muon")),
    "train.nesterov": ("train.optimizer", ("sgd", "muon")),
    "train.other_learning_rate": ("train.optimizer", ("muon",)),
    "train.label_smoothing": ("train.loss", ("cross_entropy",)),
    "train.warmup": ("train.schedule", ("one_cycle",)),
    "data.sha256": ("data.dataset", ("idx",)),
    "data.class_names": ("data.dataset", ("idx",)),
}
"""Of a key: the other key, and its values, without which it has no effect."""


def check(cell: CellConfig) -> None:
    """Raise ValueError for settings that contradict each other or would have no effect."""
    train, data = cell.train, cell.data
    if isinstance(cell.model, Baseline):
        _check_baseline(cell)
    _check_effects(cell)
    if train.optimizer == "muon" and train.precision == "fp16":
        raise ValueError("train.optimizer = 'muon' does not go with train.precision = 'fp16': gradients are "
                         "orthogonalised before their scale is taken off; allowed: 'no', 'bf16'")
    _check_steps(train)
    _check_mixing(cell)
    if train.gradient_accumulation > train.global_batch_size:
        raise ValueError(f"train.gradient_accumulation = {train.gradient_accumulation} is more than "
                         f"train.global_batch_size = {train.global_batch_size}")
    if train.early_stopping_patience and not data.validation_size:
        raise ValueError("train.early_stopping_patience needs data.validation_size above 0")
    if (num_train := DATASETS[data.dataset].num_train) is not None:
        check_validation_size(data.validation_size, num_train)
    if data.class_names and len(set(data.class_names)) != NUM_CLASSES:
        raise ValueError(f"data.class_names = {list(data.class_names)}: expected {NUM_CLASSES} different names")
    if data.erasing and data.erasing_size > data.input_size:
        raise ValueError(f"data.erasing_size = {data.erasing_size} is larger than data.input_size = {data.input_size}")
    if cell.execution.deterministic and cell.execution.compile == "auto":
        raise ValueError("execution.deterministic = true does not go with execution.compile = 'auto', which a timing "
                         "decides; allowed: any other")
    model = cell.model
    if isinstance(model, Network1 | Network2) and model.dropout and model.dropout_after > len(model.fc_sizes):
        raise ValueError(f"model.dropout_after = {model.dropout_after} but model.fc_sizes has "
                         f"{len(model.fc_sizes)} hidden layers")


def check_validation_size(size: int, num_images: int) -> None:
    """Raise ValueError, with a size that works, where nothing is left to train on."""
    if size >= num_images:
        raise ValueError(f"data.validation_size = {size} leaves nothing of {num_images} training images; "
                         f"a sixth of them: --set data.validation_size={num_images // 6}")


def check_capture(cell: CellConfig, device: str, num_processes: int) -> None:
    """Raise ValueError for a cell whose step cannot be captured where it runs. `num_processes`: that share the cell."""
    reason, compile_ = "", cell.execution.compile
    if device not in ("cuda", "cpu"):
        reason = f"needs a CUDA device or a CPU, this is '{device}'"
    elif cell.train.precision == "fp16":
        reason = "does not go with train.precision = 'fp16': the gradient scaler asks the host whether to step"
    elif num_processes > 1:
        reason = f"does not go with {num_processes} processes on one cell; allowed: launch.mode = 'cells'"
    elif compile_ in ("reduce-overhead", "max-autotune"):
        reason = f"does not go with execution.compile = '{compile_}', which captures graphs of its own"
    elif compile_ != "no" and device == "cpu":
        reason = f"does not go with execution.compile = '{compile_}' on a CPU; allowed: 'no'"
    elif cell.train.optimizer == "rmsprop" and device == "cpu":
        reason = "does not go with train.optimizer = 'rmsprop' on a CPU, where its step asks for the learning rate"
    if cell.execution.capture and reason:
        raise ValueError(f"execution.capture = true {reason}")


def _check_effects(cell: CellConfig) -> None:
    """Raise ValueError for a setting that changes nothing: it would give the same training a second quality key, and
    so train it twice."""
    data = cell.data
    for key, (other, values) in ONLY_WITH.items():
        section, name = key.split(".")
        setting, value_of_other = to_dict(attrgetter(section)(cell)).get(name), attrgetter(other)(cell)
        if setting is not None and value_of_other not in values:
            raise ValueError(f"{key} = {msgspec.json.encode(setting).decode()} has no effect on "
                             f"{other} = '{value_of_other}'; allowed with {', '.join(map(repr, values))}")
    if cell.train.nesterov and not cell.train.momentum:
        raise ValueError("train.nesterov = true has no effect without train.momentum above 0")
    if "erasing_size" in to_dict(data) and not data.erasing:
        raise ValueError(f"data.erasing_size = {data.erasing_size} has no effect without data.erasing above 0")
    if data.augment_test and data.flip == "none" and not (data.shift or data.rotation or data.erasing):
        raise ValueError("data.augment_test = true has no effect without data.flip, data.shift, data.rotation or "
                         "data.erasing")


def _check_steps(train: TrainConfig) -> None:
    if (train.schedule == "step") != bool(train.steps):
        raise ValueError(f"train.steps = {list(train.steps)} with train.schedule = '{train.schedule}': 'step' needs "
                         "steps, and only it has them")
    starts = [start for start, _ in train.steps]
    if starts != sorted(set(starts)):
        raise ValueError(f"train.steps = {[list(step) for step in train.steps]}: expected fractions that rise")


def _check_mixing(cell: CellConfig) -> None:
    train, data = cell.train, cell.data
    if data.mixup + data.cutmix > 1:
        raise ValueError(f"data.mixup = {data.mixup} and data.cutmix = {data.cutmix}: an image is mixed in one way; "
                         "expected a sum of at most 1")
    if (data.mixup or data.cutmix) and train.loss == "squared_hinge":
        raise ValueError(f"data.{'mixup' if data.mixup else 'cutmix'} does not go with train.loss = 'squared_hinge', "
                         "which has no mixed labels; allowed: 'cross_entropy', 'mse'")


def _check_baseline(cell: CellConfig) -> None:
    """One fit on plain pixels, each standardized: nothing of training and execution applies, little of the data."""
    sections = {"data": cell.data, "train": cell.train, "execution": cell.execution}
    allowed = ("data.dataset", "data.sha256", "data.validation_size", "data.split_seed", "data.input_size")
    for section, config in sections.items():
        for key, value in to_dict(config).items():
            if f"{section}.{key}" not in allowed:
                raise ValueError(f"{section}.{key} = {value} has no effect on model.name = 'baseline'; "
                                 f"allowed: {', '.join(allowed)}")


def input_shape(data: DataConfig) -> tuple[int, int, int]:
    """(C, H, W) of the images that a model gets."""
    return DATASETS[data.dataset].channels, data.input_size, data.input_size


def class_names(data: DataConfig) -> tuple[str, ...]:
    """By label."""
    return data.class_names or DATASETS[data.dataset].classes


def to_dict(config: Struct) -> dict[str, Any]:
    """The configuration as JSON types, values that equal their default left out."""
    content: dict[str, Any] = msgspec.to_builtins(config)
    return content


def canonical_json(content: Any) -> bytes:
    """Equal for what is equal: sorted keys, no white space."""
    return msgspec.json.encode(content, order="sorted")


def digest(content: Any) -> str:
    """First 16 hex digits of the SHA-256 of its canonical JSON."""
    return hashlib.sha256(canonical_json(content)).hexdigest()[:16]


def quality_key(cell: CellConfig, seed: int, *, num_processes: int = 1) -> str:
    """Identity of what decides accuracy: model, data, training, seed and version of the training code.

    `num_processes` is that of a DDP run; it counts because each process has its own batch statistics.
    """
    return digest({**_training_identity(cell, num_processes), "seed": seed})


def speed_key(cell: CellConfig, machine: dict[str, Any], repeat: int = 0, *, num_processes: int = 1) -> str:
    """Identity of what decides speed: the training without its seed, its execution, and the machine; and of the repeat.

    `machine` holds the facts of `bench.environment.speed_identity`: device, driver, torch, threads.
    """
    identity = {**_training_identity(cell, num_processes), "execution": to_dict(cell.execution), "machine": machine}
    return digest({**identity, "repeat": repeat} if repeat else identity)


def _training_identity(cell: CellConfig, num_processes: int) -> dict[str, Any]:
    data = cell.data
    version = TRAINING_VERSION + (data.normalize and bool(data.shift or data.rotation or data.erasing))
    identity = {"model": to_dict(cell.model), "data": to_dict(data), "train": to_dict(cell.train),
                "training_version": version}
    return identity if num_processes == 1 else {**identity, "num_processes": num_processes}
