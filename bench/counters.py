"""Counters of a training step that are the same on every run: what changed is seen without timing anything.

    python -m bench.counters            the lines of the expectations that would hold here, as JSON
    python -m bench.counters --write    put them into the file, entries for other devices and versions kept

The test suite compares them with the committed file: more is a regression, less is news to be committed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import torch
from msgspec import Struct

from bench import command, experiment
from bench.environment import ROOT
from bench.inputs.strict_parser import StrictParser
from bench.timing.memory import peak_step_bytes, step_bytes
from fmnist_core.accelerator import accelerator_for
from fmnist_core.config import CellConfig, DataConfig, TrainConfig, to_dict
from fmnist_core.cpu.layer_fusion import has_native_layers
from fmnist_core.data import Dataset, Split
from fmnist_core.evaluation import EVALUATION_BATCH
from fmnist_core.models.build import build
from fmnist_core.observe import GraphCounts, count_operators, count_waits, graph_counts, reset_graph_counts
from fmnist_core.summary import multiply_adds, num_parameters, summarize
from fmnist_core.train import Training

EXPECTATIONS = ROOT / "tests" / "counters.json"
REMAINDER = 50
"""Images of the smaller last batch; the final network's batch of 90 leaves 50 of the training images."""


class OfVersion(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What depends on the device and on torch's minor version."""

    operators: int
    """Operator calls that the dispatcher sees in one training step, the batch included."""
    peak_bytes: int
    """Most bytes of tensors alive at once that came to be in one training step, temporary ones too."""
    graph_breaks: int
    recompiles: int
    """Of the model in one epoch with its remainder batch and the evaluation: one for each shape but the first."""


class Counters(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    num_parameters: int
    multiply_adds: int
    """Of one image's forward pass."""
    host_waits: int
    """Calls in one training step that make the host wait for the device."""
    step_bytes: int
    """That a training step needs by shapes alone, `bench.timing.memory.StepBytes` in all."""
    versions: dict[str, OfVersion]
    """By `version_key`."""


def cells() -> dict[str, CellConfig]:
    """The report's networks, the corners of the kernel x depth family, and the step's other forms."""
    first = lambda name: experiment.load(name).cells[0].config
    corners = {f"kernel {k}, depth {d}": {"model.kernel_size": [k], "model.depth": [d]} for k in (2, 5) for d in (1, 4)}
    family = experiment.load("kernel_depth")
    final = first("final")
    accumulated = TrainConfig(**{**to_dict(final.train), "gradient_accumulation": 2, "gradient_clip_norm": 1.0})
    augmented = DataConfig(flip="alternating", shift=2, rotation=10.0, erasing=0.5)
    return {
        "final": final,
        "network 1, printed": first("network1_printed"),
        "network 2, printed": first("network2_printed"),
        **{name: experiment.select(family, values).cells[0].config for name, values in corners.items()},
        "final, accumulated and clipped": msgspec.structs.replace(final, train=accumulated),
        "final, augmented": msgspec.structs.replace(final, data=augmented),
    }


def count(cell: CellConfig) -> Counters:
    """Count on this process's device, with images of noise, and with one thread: layers of a CPU choose by threads."""
    many = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _count(cell)
    finally:
        torch.set_num_threads(many)


def _count(cell: CellConfig) -> Counters:
    training = Training(cell, 0, noise(cell, cell.train.global_batch_size))
    model = training.network
    rows = summarize(model, training.dataset.input_shape)
    training.model.train()
    count_operators(training)  # the first step is another: the optimizer makes its state
    operators = count_operators(training)
    peak_bytes = peak_step_bytes(training)
    return Counters(
        num_parameters=num_parameters(model), multiply_adds=multiply_adds(rows), host_waits=count_waits(operators),
        step_bytes=sum(step_bytes(model, training.dataset.input_shape, cell.train)),
        versions={version_key(training.device): OfVersion(
            operators=sum(operators.values()), peak_bytes=peak_bytes, **_trace(training)._asdict())},
    )


def noise(cell: CellConfig, num_images: int) -> Dataset:
    """A data set of random images, of which only the shape counts: all splits are the same one."""
    device = accelerator_for(cell.train.precision).device
    generator = torch.Generator().manual_seed(0)
    size = cell.data.input_size
    images_NCHW = torch.randint(256, (num_images, 1, size, size), dtype=torch.uint8, generator=generator).to(device)
    split = Split(images_NCHW, torch.randint(10, (num_images,), generator=generator).to(device))
    return Dataset(cell.data, split, split, split, 0.0, 1.0)


def version_key(device: torch.device) -> str:
    """Device and minor version, e.g. "cpu, torch 2.14": operators are free to change with either."""
    without = ", PyTorch's layers" if device.type == "cpu" and not has_native_layers() else ""
    return f"{device.type}{without}, torch {'.'.join(torch.__version__.split('.')[:2])}"


def compare(name: str, counted: Counters, expected: Counters | None) -> tuple[list[str], list[str]]:
    """(problems, unknown): values that are not the committed ones; and values that nobody has committed yet here.

    A better value is a problem too until it is committed: otherwise losing it again would go unnoticed.
    """
    if expected is None:
        return [f"{name}: no entry"], []
    problems = [f"{name}: {field} is {getattr(counted, field):,}, expected {getattr(expected, field):,}"
                for field in ("num_parameters", "multiply_adds", "host_waits", "step_bytes")
                if getattr(counted, field) != getattr(expected, field)]
    unknown = []
    for key, here in counted.versions.items():
        if key not in expected.versions:
            unknown.append(f"{name}: no entry for {key}")
            continue
        problems += [f"{name}: {field} is {value:,}, expected {getattr(expected.versions[key], field):,} ({key})"
                     for field, value in msgspec.structs.asdict(here).items()
                     if value != getattr(expected.versions[key], field)]
    return problems, unknown


def merge(counted: Counters, expected: Counters | None) -> Counters:
    """The entry to commit: what was counted here, with what is known of other devices and versions."""
    versions = {**(expected.versions if expected else {}), **counted.versions}
    return msgspec.structs.replace(counted, versions=dict(sorted(versions.items())))


def line(name: str, entry: Counters) -> str:
    return f"  {msgspec.json.encode(name).decode()}: {msgspec.json.encode(entry).decode()}"


def load(path: Path = EXPECTATIONS) -> dict[str, Counters]:
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Counters]) if path.exists() else {}


def save(entries: Mapping[str, Counters], path: Path = EXPECTATIONS) -> None:
    path.write_text("{\n" + ",\n".join(line(name, entry) for name, entry in entries.items()) + "\n}\n")


def _trace(training: Training) -> GraphCounts:
    """What the compiler would find in one epoch, with a compiler that compiles nothing."""
    reset_graph_counts()
    # As it would be compiled: with PyTorch's own layers, none of `fmnist_core.cpu`.
    model = build(training.cell.model, training.dataset.input_shape).to(training.device)
    traced = torch.compile(model, backend="eager", dynamic=False)
    images = lambda num: torch.zeros(num, *training.dataset.input_shape, device=training.device)
    for num in (training.batch_size, REMAINDER, training.batch_size):
        traced(images(num))
    model.eval()
    with torch.inference_mode():
        traced(images(EVALUATION_BATCH))
    found = graph_counts()
    reset_graph_counts()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = StrictParser("python -m bench.counters", __doc__)
    parser.add_argument("--write", action="store_true", help=f"update {EXPECTATIONS.name}")
    options = parser.parse_args(arguments)
    expected = load()
    entries = {name: merge(count(cell), expected.get(name)) for name, cell in cells().items()}
    print(",\n".join(line(name, entry) for name, entry in entries.items()))
    if options.write:
        save(entries)
    return 0


if __name__ == "__main__":
    command.leave(main)
