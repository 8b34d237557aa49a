"""A training in the middle of an epoch, on disk: there whole or not at all, checked when read, never unpickled.

One safetensors file holds the tensors (`model.*`, `buffer.*`, which are those that a model's state leaves out,
`optimizer.<parameter>.*`, `average.*`, and per process the losses of the epoch so far and the states of the random
generators); its metadata holds all else as JSON, and the SHA-256 of both.
A training that goes on from a file ends with the parameters of one that was never interrupted, bit by bit on a CPU.
`_R` marks one entry per process.
"""

import hashlib
import json
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fmnist_core.config import quality_key
from fmnist_core.evaluation import History
from fmnist_core.seeds import host_state, set_host_state
from fmnist_core.train import Training
from fmnist_core.whole_files import write_whole


def save(training: Training, path: Path, *, wall_s: float = 0.0) -> None:
    """Write where `training` stands, after a step. All its processes call this; the main one writes.

    `wall_s`: seconds since the training began, for the record. Raises OSError, and leaves the earlier file.
    """
    per_process = _tensors_per_process(training)
    if not training.accelerator.is_main_process:
        return
    tensors = {**{f"model.{name}": value for name, value in training.network.state_dict().items()},
               **{f"buffer.{name}": value for name, value in _buffers_left_out(training).items()},
               **{f"optimizer.{i}.{name}": value for i, values in training.torch_optimizer.state_dict()["state"].items()
                  for name, value in values.items() if value is not None},
               **{f"average.{name}": value for name, value in _average(training).items()}, **per_process}
    # A copy for each name: tied parameters share memory, which the format refuses.
    tensors = {name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
               for name, value in tensors.items()}
    scaler = training.accelerator.scaler
    about = json.dumps({
        "key": _key(training), "device": training.device.type, "epoch": training.epoch,
        "step_in_epoch": training.step_in_epoch, "history": asdict(training.history),
        "scaler": scaler.state_dict() if scaler else None,
        "epoch_s": time.perf_counter() - training.epoch_began, "wall_s": wall_s, "num_resumes": training.num_resumes,
    })
    metadata = {"about": about, "sha256": _digest(tensors, about)}
    write_whole(path, safetensors.torch.save(tensors, metadata))


def load(training: Training, path: Path) -> float | None:
    """Take a fresh `training` to where `save` left it; returns that call's `wall_s`.

    None, and a fresh training, where there is no file; likewise, with a warning, where the file is damaged or is of
    another training. All processes call this and read the same file.
    """
    try:
        about, tensors = _read(path)
        _check_fits(training, about, tensors)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError) as error:
        warnings.warn(f"checkpoint {path} is not used: {error}", stacklevel=2)
        return None
    training.network.load_state_dict(_with_prefix(tensors, "model."))
    for name, buffer in _buffers_left_out(training).items():
        buffer.copy_(tensors[f"buffer.{name}"])
    _load_optimizer(training, _with_prefix(tensors, "optimizer."))
    for name, value in _average(training).items():
        value.copy_(tensors[f"average.{name}"])
    if about["scaler"]:
        training.accelerator.scaler.load_state_dict(about["scaler"])
    training.losses.copy_(tensors["losses_R"][training.rank])
    training.bad.copy_(tensors["bad_R"][training.rank])
    # Cloned: a generator takes its state from where the storage begins, whatever row is handed to it.
    torch.set_rng_state(tensors["cpu_generator_R"][training.rank].clone())
    if "host_generators_R" in tensors:  # not in files of before it was saved
        set_host_state(tensors["host_generators_R"][training.rank].tolist())
    if training.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["cuda_generator_R"][training.rank].clone(), training.device)
    training.epoch, training.step_in_epoch = about["epoch"], about["step_in_epoch"]
    training.history = History(**about["history"])
    training.epoch_began = time.perf_counter() - about["epoch_s"]
    training.num_resumes = about.get("num_resumes", 0) + 1
    return float(about["wall_s"])


def _tensors_per_process(training: Training) -> dict[str, Tensor]:
    """Gathered, one row per process."""
    own = {"losses_R": training.losses, "bad_R": training.bad.to(torch.uint8), "cpu_generator_R": torch.get_rng_state(),
           "host_generators_R": torch.tensor(host_state(), dtype=torch.float64)}
    if training.device.type == "cuda":
        own["cuda_generator_R"] = torch.cuda.get_rng_state(training.device)
    return {name: training.accelerator.gather(value.to(training.device)[None]) for name, value in own.items()}


def _load_optimizer(training: Training, tensors: dict[str, Tensor]) -> None:
    """Moments get the memory layout of their parameter: fused optimizers walk both by address."""
    optimizer = training.torch_optimizer
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        parameter = parameters[int(number)]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Raises ValueError, OSError or SafetensorError unless the file is as it was written."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    if metadata.get("sha256") != _digest(tensors, metadata.get("about", "")):
        raise ValueError("it is damaged: its SHA-256 is not that of its content")
    about: dict[str, Any] = json.loads(metadata["about"])
    return about, tensors


def _check_fits(training: Training, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    if about["key"] != _key(training):
        raise ValueError("it is of another training")
    device = about.get("device", "cuda" if "cuda_generator_R" in tensors else "cpu")  # earlier files lack it
    if device != training.device.type:
        raise ValueError(f"it is of a training on {device}, this one is on {training.device.type}")
    for prefix, own in (("model.", training.network.state_dict()), ("buffer.", _buffers_left_out(training))):
        shapes = {name: value.shape for name, value in _with_prefix(tensors, prefix).items()}
        if shapes != {name: value.shape for name, value in own.items()}:
            raise ValueError("its parameters are not those of this network")


def _digest(tensors: dict[str, Tensor], about: str) -> str:
    content = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        value = tensors[name]
        content.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        content.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def _key(training: Training) -> str:
    """The processes count in any case: each has its own generators."""
    return quality_key(training.cell, training.seed, num_processes=training.num_processes)


def _buffers_left_out(training: Training) -> dict[str, Tensor]:
    """Buffers that are not persistent: no part of the model's state, but what it does may depend on them."""
    model = training.network
    kept = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name not in kept}


def _average(training: Training) -> dict[str, Tensor]:
    return training.average.tensors() if training.average is not None else {}


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
