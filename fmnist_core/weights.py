"""Trained weights on disk, with the configuration that made them: one safetensors file, nothing pickled."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from fmnist_core import views
from fmnist_core.average import averaged
from fmnist_core.config import CellConfig, to_dict
from fmnist_core.models.build import build
from fmnist_core.train import Training
from fmnist_core.whole_files import remove_drafts, write_whole

FORMAT = "fmnist-weights-1"


def save(path: Path, training: Training) -> None:
    """Parameters and buffers of the model (their averages, where the cell has them), the cell, the seed, and what its
    inputs were normalised by.

    Raises OSError, and leaves the earlier file.
    """
    model = training.network
    with averaged(training.average):
        tensors = {name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                   for name, value in model.state_dict().items()}
    dataset = training.dataset
    about = {"format": FORMAT, "cell": msgspec.json.encode(to_dict(training.cell)).decode(), "seed": str(training.seed),
             "input_shape": msgspec.json.encode(dataset.input_shape).decode(),
             "mean": repr(dataset.mean), "std": repr(dataset.std)}
    remove_drafts(path)
    write_whole(path, safetensors.torch.save(tensors, about))


@dataclass(frozen=True)
class Trained:
    """A network ready to classify."""

    model: nn.Module
    """(N, C, H, W) inputs, normalised, to (N, 10) logits; in evaluation mode."""
    cell: CellConfig
    input_shape: tuple[int, int, int]
    mean: float
    std: float

    def probabilities(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(N, 10), of images in [0, 1]."""
        with torch.inference_mode():
            images_NCHW = (images_NCHW - self.mean) / self.std
            return views.logits(self.model, images_NCHW, self.cell.data.test_views).softmax(1)


def _fill(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Raises ValueError, of one line, where the model has other tensors."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != given:
        name = min(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise ValueError(f"the code of its network has changed: '{name}' is of shape {given.get(name, 'none')} in the "
                         f"file, and of shape {wanted.get(name, 'none')} in the network")
    model.load_state_dict(tensors)


def load(path: str | Path) -> Trained:
    """Raises ValueError for a file that is not one of ours or is damaged."""
    if Path(path).is_dir():
        raise ValueError(f"weights {path}: a folder, not a .safetensors file")
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        if about.get("format") != FORMAT:
            raise ValueError(f"format is {about.get('format')!r}, expected '{FORMAT}'")
        cell = msgspec.json.decode(about["cell"], type=CellConfig)
        input_shape = msgspec.json.decode(about["input_shape"], type=tuple[int, int, int])
        model = build(cell.model, input_shape)
        _fill(model, tensors)
        mean, std = float(about["mean"]), float(about["std"])
    except (OSError, SafetensorError, KeyError, RuntimeError, msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"weights {path}: {error}") from error
    return Trained(model.eval(), cell, input_shape, mean, std)
