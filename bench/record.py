"""THE schema of a result: every field's name, unit and meaning. One record is one line of JSON. No torch.

Two kinds: a `TrainRecord` says what one seed of a cell learnt; a `SpeedRecord` says how fast the cell runs on one
machine. Records hold raw samples in base units; medians, intervals and rounding come later, in `stats` and `report`.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

SCHEMA_VERSION = 3

Status = Literal["ok", "oom", "diverged", "timeout", "error"]
PositiveInt = Annotated[int, Meta(ge=1)]


class SchemaError(ValueError):
    """A stored line that this version cannot read."""


class _Part(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Records are frozen and strict, like configurations."""


class Environment(_Part, frozen=True, kw_only=True):
    """Where a record comes from."""

    host: str = ""
    """Digest of the machine's name and processor: equal on one machine, names nobody."""
    cpu: str = ""
    num_cpus: int = 0
    """Processors that this process may use."""
    device: str = "cpu"
    """`cpu`, or the accelerator's name as its driver gives it."""
    num_devices: int = 0
    """Accelerators visible to the process; in cells mode its own."""
    driver: str = ""
    power_limit_w: float | None = None
    clock_mhz: float | None = None
    """Of the streaming multiprocessors, once, before any work: of a GPU that mostly idled."""
    memory_bytes: int = 0
    """Of the host."""
    os: str = ""
    python: str = ""
    libraries: dict[str, str] = {}
    """Name to version: torch, which brings CUDA and cuDNN, accelerate, numpy ..."""
    commit: str = ""
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
    cudnn_tf32: bool = False
    tf32_before_prepare: bool = False
    """Either TF32 flag, before Accelerate prepared the model; a difference means that Accelerate changed it."""
    weight_memory_format: str = ""
    """Of the convolution weights: `channels_last`, `contiguous`, `mixed`, or `any` where strides cannot differ."""
    activation_memory_format: str = ""
    compiled: bool = False
    compile_timings_s: dict[str, float] = {}
    """Of `execution.compile = "auto"`: seconds of a step, eager (`no`) and compiled, by which it was chosen."""
    captured: bool = False
    """Replayed as a CUDA graph."""
    graph_breaks: int = 0
    recompiles: int = 0
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
    train_subset_accuracy: list[float] = []
    validation_loss: list[float] = []
    """Empty where nothing was held out."""
    validation_accuracy: list[float] = []
    test_loss: list[float] = []
    test_accuracy: list[float] = []
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
    experiment: str
    """The one that ran it first; others with the same cell share the record."""
    quality_key: str
    seed: int
    cell: dict[str, Any]
    """The configuration, values that equal their default left out."""
    status: Status = "ok"
    reason: str = ""
    """Why the status is not `ok`."""
    epochs: Epochs = Epochs()
    test: TestDetail = TestDetail()
    num_parameters: int = 0
    """Trainable ones."""
    multiply_adds: int = 0
    """Of one image's forward pass."""
    num_train: int = 0
    num_validation: int = 0
    num_test: int = 0
    """Distinct images trained on, held out, and evaluated at the end."""
    extra: dict[str, float] = {}
    """Figures that only some systems have, e.g. accuracy by another decision rule."""
    labels: Labels = Labels()
    environment: Environment = Environment()
    started_at: str = ""
    """UTC, ISO 8601."""
    wall_s: float = 0.0
    """From start to record, evaluation included."""


class Inference(_Part, frozen=True, kw_only=True):
    batch_size: int
    batch_s: list[float]
    """Seconds for one forward pass of the batch in evaluation mode, one entry per pass."""


class Layer(_Part, frozen=True, kw_only=True):
    """One row of a model summary. Shapes leave the batch out."""

    name: str
    kind: str
    in_shape: list[int]
    out_shape: list[int]
    kernel_size: int | None = None
    stride: int | None = None
    padding: str = ""
    num_parameters: int = 0
    multiply_adds: int = 0


class SpeedRecord(_Part, tag_field="kind", tag="speed", frozen=True, kw_only=True):
    """How fast one cell runs on one machine, alone on it unless `labels.machine_shared`."""

    schema: PositiveInt = SCHEMA_VERSION
    experiment: str
    speed_key: str
    cell: dict[str, Any]
    status: Status = "ok"
    reason: str = ""
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
    images_per_step: int = 0
    """Over all processes."""
    images_per_evaluation: int = 0
    num_parameters: int = 0
    multiply_adds: int = 0
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
    """The machine's ceiling, measured beside: largest matrix product in the cell's precision, two per multiply-add."""
    copy_bytes_per_s: float = 0.0
    """The machine's ceiling, measured beside: largest copy, bytes read plus bytes written."""
    floor_s: float = 0.0
    """The least time of a step that those ceilings allow: `bench.measure.floor_s`."""
    layers: list[Layer] = []
    labels: Labels = Labels()
    environment: Environment = Environment()
    started_at: str = ""
    warnings: list[str] = []


Record = TrainRecord | SpeedRecord


class TrainHead(Struct, tag_field="kind", tag="train", frozen=True, kw_only=True):
    """Of a TrainRecord, what decides whether it is to be made again."""

    schema: PositiveInt
    quality_key: str
    status: Status = "ok"


class SpeedHead(Struct, tag_field="kind", tag="speed", frozen=True, kw_only=True):
    schema: PositiveInt
    speed_key: str
    status: Status = "ok"


Head = TrainHead | SpeedHead
_HEAD = msgspec.json.Decoder(Head)


def encode(record: Record) -> bytes:
    """One line, newline included. Defaults are left out, except the schema's version."""
    line = msgspec.to_builtins(record)
    return msgspec.json.encode({"kind": line.pop("kind"), "schema": record.schema, **line}) + b"\n"


def decode(line: bytes | str) -> Record:
    """Raises SchemaError: not JSON, an unknown field, or a newer schema than this version reads."""
    try:
        content = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SchemaError(f"not a record: {error}") from error
    if not isinstance(content, dict):
        raise SchemaError(f"not a record: {type(content).__name__}")
    schema = content.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise SchemaError(f"not a record: schema = {schema!r}")
    if schema > SCHEMA_VERSION:
        raise SchemaError(f"schema {schema} is newer than {SCHEMA_VERSION}, the newest that this version reads")
    for upgrade in UPGRADES[schema - 1 :]:
        content = upgrade(content)
    try:
        record: Record = msgspec.convert(content, Record)
    except msgspec.ValidationError as error:
        raise SchemaError(f"not a record: {error}") from error
    return record


def _forget_growth_since_start(content: dict[str, Any]) -> dict[str, Any]:
    """In schema 1 a CPU's peak was the growth since the process began: of many cells the largest alone showed any."""
    environment = content.get("environment")
    on_cpu = not isinstance(environment, dict) or environment.get("device", "cpu") == "cpu"
    forgotten = {"peak_memory_bytes"} if content.get("kind") == "speed" and on_cpu else set()
    return {**{key: value for key, value in content.items() if key not in forgotten}, "schema": 2}


UPGRADES: list[Any] = [_forget_growth_since_start, lambda content: {**content, "schema": 3}]
"""`UPGRADES[n - 1]` turns the content of a schema n line into schema n + 1."""


def decode_head(line: bytes | str) -> Head:
    """As `decode`, in a quarter of its time: of the rest of the line nothing is asked but that it is JSON.

    No upgrade has changed these fields.
    """
    try:
        head: Head = _HEAD.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _head_of(decode(line))  # or its error
    return head if head.schema <= SCHEMA_VERSION else _head_of(decode(line))


def _head_of(record: Record) -> Head:
    if isinstance(record, TrainRecord):
        return TrainHead(schema=record.schema, quality_key=record.quality_key, status=record.status)
    return SpeedHead(schema=record.schema, speed_key=record.speed_key, status=record.status)


def key_of(record: Record | Head) -> str:
    return record.speed_key if isinstance(record, SpeedRecord | SpeedHead) else record.quality_key
