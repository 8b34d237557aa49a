"""Networks of the user's own are tried before any work: what is wrong with one is wrong input. No torch before that."""

import contextlib
from collections.abc import Iterable

import msgspec

from bench.sweep.plan import Task
from fmnist_core.config import CustomModel, input_shape
from fmnist_core.models.layers import Shape

Own = tuple[CustomModel, Shape]
"""With the shape (C, H, W) of the images that it gets."""


def of(tasks: Iterable[Task]) -> list[Own]:
    """The distinct ones."""
    found: dict[bytes, Own] = {}
    for config in (task.cell.config for task in tasks):
        if isinstance(config.model, CustomModel):
            own = config.model, input_shape(config.data)
            found[msgspec.json.encode(own, order="sorted")] = own
    return list(found.values())


def check(networks: Iterable[Own]) -> None:
    """Build each once. Raises ValueError."""
    for model, shape in networks:
        from fmnist_core.models.build import build  # brings torch

        with contextlib.suppress(MemoryError, RuntimeError):  # one too large for the memory: its record will say so
            build(model, shape)
