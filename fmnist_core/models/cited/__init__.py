"""The systems that the report cites, each by name. What they are and what their authors claim: `models.catalogue`.

A system that trains on more than its logits has a method `training_loss(output, labels_N, progress)`: `output` is
what its forward pass gives in training mode, `progress` in [0, 1) the fraction of all training steps already taken: a
number, or in a captured step a 0-d tensor, whose value is unknown until the step is replayed.
In evaluation mode every system maps (N, C, H, W) images to (N, 10) logits.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from fmnist_core.models.cited import hierarchical, imagenet, sequences, skip
from fmnist_core.models.layers import Shape
from fmnist_core.nearest import nearest


class System(NamedTuple):
    factory: Callable[..., nn.Module]
    """From an input shape (C, H, W) and keyword-only options that are plain scalars."""
    smallest: int
    """Least height and width in pixels."""


SYSTEMS: dict[str, System] = {
    "agarap": System(sequences.agarap, 4),
    "alexnet": System(imagenet.alexnet, 7),
    "bhatnagar_bn": System(sequences.bhatnagar_bn, 8),
    "bhatnagar_cnn2": System(sequences.bhatnagar_cnn2, 10),
    "bhatnagar_skip": System(skip.bhatnagar_skip, 1),
    "densenet121": System(imagenet.densenet121, 8),
    "googlenet": System(imagenet.googlenet, 4),
    "hardmaru": System(sequences.hardmaru, 4),
    "hcnn_vgg16": System(hierarchical.hcnn_vgg16, 16),
    "hcnn_vgg19": System(hierarchical.hcnn_vgg19, 16),
    "kefth_resnet18": System(imagenet.kefth_resnet18, 1),
    "kefth_simplenet": System(sequences.kefth_simplenet, 4),
    "khanday": System(sequences.khanday, 4),
    "mcnn15": System(sequences.mcnn15, 8),
    "resnet18": System(imagenet.resnet18, 1),
    "squeezenet": System(imagenet.squeezenet, 4),
    "vgg11": System(imagenet.vgg11, 16),
}


def build(system: str, input_shape: Shape, /, **options: bool | int | float | str) -> nn.Module:
    """The named system for images of `input_shape` = (C, H, W), initialised as its authors did where that is known.

    Draws from the global generator. Raises ValueError for an unknown system or option, for an option's value out of
    range, and for images that are too small.
    """
    if system not in SYSTEMS:
        raise ValueError(f"model.system = '{system}': unknown{nearest(system, SYSTEMS)}; "
                         f"systems: {', '.join(sorted(SYSTEMS))}")
    factory, smallest = SYSTEMS[system]
    _check_shape(system, input_shape, smallest)
    _check_options(system, factory, options)
    return factory(input_shape, **options)


def _check_shape(system: str, input_shape: Shape, smallest: int) -> None:
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(f"input_shape = {input_shape}: expected (channels, height, width)")
    _, height, width = input_shape
    if min(height, width) < smallest:
        raise ValueError(f"model.system = '{system}' does not fit images of {height} x {width} pixels; "
                         f"the smallest are {smallest} x {smallest}")


def _check_options(system: str, factory: Callable[..., nn.Module], options: dict[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if name != "input_shape"}
    for name, value in options.items():
        if name not in defaults:
            allowed = f"options: {', '.join(defaults)}" if defaults else "it has no options"
            raise ValueError(f"unknown key 'model.options.{name}' of system '{system}'{nearest(name, defaults)}; "
                             f"{allowed}")
        kind = type(defaults[name])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"model.options.{name} = {value!r}: expected {kind.__name__}, got {type(value).__name__}")
