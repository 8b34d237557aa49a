"""THE schema of a result: every field's name, unit and meaning. One record is one line of JSON. No torch.

Two kinds: a `TrainRecord` says what one seed of a cell learnt; a `SpeedRecord` says how fast the cell runs on one
machine. Records hold raw samples in base units; medians, intervals and rounding come later, in `stats` and `report`.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

SCHEMA_VERSION = 3

Status = Literal["ok", "oom", "diverged", "timeout", "error"]
PositiveInt = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Fractions = list[Annotated[float, Meta(ge=0.0, le=1.0)]]


class _Part(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Records are frozen and strict, like configurations."""


class Environment(_Part, frozen=True, kw_only=True):
    """Where a record comes from."""

    host: str = ""
    """Digest of the machine's name and processor: equal on one machine, names nobody."""
    cpu: str = ""
    """Name of the processor, with its family and model."""
    num_cpus: int = 0
    """Processors that this process may use."""
    device: str = "cpu"
    """`cpu`, or the accelerator's name as its driver gives it."""
    num_devices: int = 0
    """Accelerators visible to the process; in cells mode its own."""
    driver: str = ""
    """Version of the accelerator's driver."""
    power_limit_w: float | None = None
    """Of the accelerator."""
    clock_mhz: float | None = None
    """Of the streaming multiprocessors, once, before any work: of a GPU that mostly idled."""
    memory_bytes: int = 0
    """Of the host."""
    os: str = ""
    """Name and version of the operating system."""
    python: str = ""
    """Its version."""
    libraries: dict[str, str] = {}
    """Name to version: torch, which brings CUDA and cuDNN, accelerate, numpy ..."""
    commit: str = ""
    """Of the source tree; empty outside a checkout."""
    dirty: bool = False
    """The source tree differed from that commit."""
    num_threads: int = 0
    """Intra-operator threads of each process."""
    load: float = 0.0
    """Runnable processes, one-minute mean, at the start."""


class Labels(_Part, frozen=True, kw_only=True):
    """What was in effect, observed and not copied from the request."""

    precision: str = ""
    """Data type that a convolution or Linear layer really computed in, e.g. `float32`, `bfloat16`."""
    matmul_tf32: bool = False
    """Whether CUDA's matrix products of float32 may round their factors to TF32."""
    cudnn_tf32: bool = False
    """Whether cuDNN's convolutions of float32 may."""
    tf32_before_prepare: bool = False
    """Either TF32 flag, before Accelerate prepared the model; a difference means that Accelerate changed it."""
    weight_memory_format: str = ""
    """Of the convolution weights: `channels_last`, `contiguous`, `mixed`, or `any` where strides cannot differ."""
    activation_memory_format: str = ""
    """Likewise, of what the convolutions give."""
    compiled: bool = False
    """`torch.compile` compiled the model."""
    compile_timings_s: dict[str, float] = {}
    """Of `execution.compile = "auto"`: seconds of a step, eager (`no`) and compiled, by which it was chosen."""
    captured: bool = False
    """Replayed as a CUDA graph, on a CPU as a tape."""
    native_layers: bool = False
    """On a CPU: layers ran as functions in C, which a compiler on the machine had made."""
    graph_breaks: int = 0
    """Places where `torch.compile` fell back to Python."""
    recompiles: int = 0
    """How often it compiled again, for other shapes."""
    fused_seeds: int = 1
    """Seeds trained as one module, this one among them."""
    num_processes: int = 1
    """Of a DDP run; 1 otherwise."""
    machine_shared: bool = False
    """Other work ran on the machine meanwhile: times are no measurements of speed. Of this harness; or any, where a
    training on a CPU had less than nine tenths of a processor for it."""
    num_resumes: int = 0
    """How often this training was stopped, or its process died, and it went on from a checkpoint."""


class Epochs(_Part, frozen=True, kw_only=True):
    """One entry per finished epoch. Accuracies are fractions. Evaluation is in evaluation mode, after the epoch."""

    train_loss: list[float] = []
    """Mean over the epoch's steps, in training mode (with dropout and augmentation)."""
    train_subset_loss: list[float] = []
    """On the first 10,000 training images, in evaluation mode."""
    train_subset_accuracy: Fractions = []
    """On the same."""
    validation_loss: list[float] = []
    """Empty where nothing was held out."""
    validation_accuracy: Fractions = []
    """Likewise."""
    test_loss: list[float] = []
    """Over all test images."""
    test_accuracy: Fractions = []
    """No choice is made by it; the best of these is shown as `best on test`, never as the result."""
    train_s: list[float] = []
    """Training alone, evaluation excluded. A duration on a shared machine, see `Labels.machine_shared`."""


class TestDetail(_Part, frozen=True, kw_only=True):
    """The test set after the last epoch."""

    confusion: list[list[int]] = []
    """Row: true class, column: predicted class, entry: images."""
    mistakes: list[tuple[int, int, int, float]] = []
    """The most confident ones: index in the test set, true class, predicted class, probability of the prediction."""
    examples: list[tuple[int, int, int, float]] = []
    """The same of the first test images, right or wrong. Empty in records older than schema 3."""


class TrainRecord(_Part, tag_field="kind", tag="train", frozen=True, kw_only=True):
    """What one seed of one cell learnt."""

    schema: PositiveInt = SCHEMA_VERSION
    """Version of this schema that the record was written in."""
    experiment: str
    """The one that ran it first; others with the same cell share the record."""
    quality_key: str
    """Digest of model, data, training and seed: what decides accuracy."""
    seed: Natural
    """It decides initialisation, order, dropout and augmentation; not the split."""
    cell: dict[str, Any]
    """The configuration, values that equal their default left out."""
    status: Status = "ok"
    """`ok`, or how the training failed."""
    reason: str = ""
    """Why the status is not `ok`."""
    epochs: Epochs = Epochs()
    """What was measured after each epoch. Of a failure: of those before it, which are no result."""
    test: TestDetail = TestDetail()
    """The mistakes of the last epoch."""
    num_parameters: int = 0
    """Trainable ones."""
    multiply_adds: int = 0
    """Of one image's forward pass."""
    num_train: int = 0
    """Distinct images trained on."""
    num_validation: int = 0
    """Distinct images held out."""
    num_test: int = 0
    """Distinct images evaluated at the end."""
    extra: dict[str, float] = {}
    """Figures that only some systems have, e.g. accuracy by another decision rule."""
    labels: Labels = Labels()
    """How it was computed."""
    environment: Environment = Environment()
    """On what."""
    started_at: str = ""
    """UTC, ISO 8601."""
    wall_s: float = 0.0
    """From start to record, evaluation included."""


class Inference(_Part, frozen=True, kw_only=True):
    batch_size: int
    """Images of a pass."""
    batch_s: list[float]
    """Seconds for one forward pass of the batch in evaluation mode, one entry per pass."""


class Layer(_Part, frozen=True, kw_only=True):
    """One row of a model summary. Shapes leave the batch out."""

    name: str
    """Path of the module in the model."""
    kind: str
    """Its class."""
    in_shape: list[int]
    """Of what it is given."""
    out_shape: list[int]
    """Of what it gives."""
    kernel_size: int | None = None
    """Of convolutions and pools; none where its sides differ."""
    stride: int | None = None
    """Likewise."""
    padding: str = ""
    """Pixels on every side, of a padding layer (left, right, top, bottom); empty where there is none."""
    num_parameters: int = 0
    """Trainable ones."""
    multiply_adds: int = 0
    """Of one image's forward pass."""


class SpeedRecord(_Part, tag_field="kind", tag="speed", frozen=True, kw_only=True):
    """How fast one cell runs on one machine, alone on it unless `labels.machine_shared`."""

    schema: PositiveInt = SCHEMA_VERSION
    """Version of this schema that the record was written in."""
    experiment: str
    """The one that measured it first."""
    speed_key: str
    """Digest of model, data, training, execution and machine, which decide speed, and of `repeat` above 0."""
    repeat: Natural = 0
    """Which of the cell's timings it is, as the seed of a training; 0 is the first."""
    cell: dict[str, Any]
    """The configuration, values that equal their default left out."""
    status: Status = "ok"
    """`ok`, or how the measurement failed."""
    reason: str = ""
    """Why the status is not `ok`."""
    first_step_s: float = 0.0
    """The first training step: compilation, autotuning and allocation included."""
    step_s: list[float] = []
    """One entry per training step after warm-up: forward, loss, backward, optimizer step, zeroed gradients."""
    batch_s: list[float] = []
    """One entry per step: gathering and augmenting the batch on the device. Not part of `step_s`."""
    block_s: float = 0.0
    """Wall time of the block in which `step_s` and `batch_s` were taken."""
    evaluate_s: list[float] = []
    """One entry per evaluation of the whole test set."""
    inference: list[Inference] = []
    """Forward passes, by batch size."""
    images_per_step: int = 0
    """Over all processes."""
    images_per_evaluation: int = 0
    """Images of the whole test set."""
    num_parameters: int = 0
    """Trainable ones."""
    multiply_adds: int = 0
    """Of one image's forward pass."""
    operators_per_step: int = 0
    """Operator calls that the dispatcher saw in one training step."""
    host_syncs_per_step: int = 0
    """Calls in one training step that make the host wait for the device."""
    peak_memory_bytes: int = 0
    """Most bytes of tensors alive at once: what the allocator of a GPU counts, the data set among it; on a CPU model,
    optimizer and one training step, counted operator by operator. 0: not known, as of a compiled model on a CPU."""
    reserved_memory_bytes: int = 0
    """What the allocator of a GPU holds; on a CPU model, optimizer and the growth of the process's resident set in
    training steps. 0: not known."""
    matmul_flops_per_s: float = 0.0
    """The machine's ceiling, measured beside: largest matrix product in the cell's precision, with TF32 where
    any of its products may use it, two per multiply-add."""
    copy_bytes_per_s: float = 0.0
    """The machine's ceiling, measured beside: largest copy, bytes read plus bytes written."""
    floor_s: float = 0.0
    """The least time of a step that those ceilings allow: `bench.measure.floor_s`."""
    layers: list[Layer] = []
    """The model, layer by layer."""
    labels: Labels = Labels()
    """How it was computed."""
    environment: Environment = Environment()
    """On what."""
    started_at: str = ""
    """UTC, ISO 8601."""
    warnings: list[str] = []
    """What speaks against the measurement, e.g. other processes."""


Record = TrainRecord | SpeedRecord
