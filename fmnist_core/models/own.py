"""A network of the user's own: found by its name, made by the function of that name, and tried on two images."""

import contextlib
import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fmnist_core.config import NUM_CLASSES, CustomModel
from fmnist_core.memory import ran_out
from fmnist_core.models.layers import Shape
from fmnist_core.nearest import nearest, nearest_key, no_module

_CORE = Path(__file__).resolve().parents[1]
NOT_THE_USERS = (Path(torch.__file__).parent, _CORE, _CORE.parent / "bench")
"""Folders of code in which a mistake of the user's may show itself."""


class OwnNetworkError(ValueError):
    """It cannot be used: one line that says why."""


def build(config: CustomModel, input_shape: Shape) -> nn.Module:
    """The network in training mode. Raises OwnNetworkError; a lack of memory is raised as it is."""
    factory = _find(config.factory)
    _check_arguments(config, factory)
    with refusing(config.factory):
        model = factory(**config.options)
    if not isinstance(model, nn.Module):
        raise refusal(config.factory, f"it gave a {type(model).__name__}, not an nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise refusal(config.factory, "it gave a ScriptModule, whose layers cannot be watched; expected the nn.Module "
                                      "that it was made of")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        why = ("requires_grad is False for all of them" if any(True for _ in model.parameters()) else
               "layers in a list must be in an nn.ModuleList")
        raise refusal(config.factory, f"it has no parameters to train; {why}")
    if odd := [name for name, value in model.state_dict().items() if not isinstance(value, Tensor)]:
        raise refusal(config.factory, f"its state '{odd[0]}' is no tensor and cannot be saved with the weights; make "
                                      "it a buffer")
    with refusing(config.factory, f"on images of shape {(2, *input_shape)}: "), torch.no_grad():
        logits_NK = model.eval()(torch.zeros(2, *input_shape))
    if not isinstance(logits_NK, Tensor) or logits_NK.shape != (2, NUM_CLASSES):
        shape = tuple(getattr(logits_NK, "shape", ()))
        raise refusal(config.factory, f"2 images gave {type(logits_NK).__name__} of shape {shape}, "
                                      f"not logits of shape (2, {NUM_CLASSES})")
    return model.train()


def _find(name: str) -> Callable[..., Any]:
    module_name, factory_name = name.split(":")
    with refusing(name, f"importing {module_name}: "):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and f"{module_name}.".startswith(f"{error.name}."):  # else a module that the user's imports
                raise refusal(name, no_module(error.name)) from error
            raise
    factory: Any = getattr(module, factory_name, None)
    if isinstance(factory, nn.Module):
        raise refusal(name, f"'{factory_name}' is a network already; expected the class or a function that makes one")
    if not callable(factory):
        what = f"is a {type(factory).__name__}, not a function" if hasattr(module, factory_name) else "is not there"
        raise refusal(name, f"'{factory_name}' {what}{nearest(factory_name, _functions(module))}")
    found: Callable[..., Any] = factory
    return found


def _functions(module: ModuleType) -> list[str]:
    return [name for name in dir(module) if not name.startswith("_") and callable(getattr(module, name))]


def _check_arguments(config: CustomModel, factory: Callable[..., Any]) -> None:
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):  # written in C: what is wrong is found by calling it
        return
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    names = [each.name for each in named]
    for option in config.options if all(each.kind != each.VAR_KEYWORD for each in parameters) else ():
        if option not in names:
            hint = nearest_key(f"model.{option}", [f"model.{each}" for each in names])
            arguments = f"its arguments: {', '.join(names)}" if names else "it has no arguments"
            raise refusal(config.factory, f"it has no argument for the key 'model.{option}'{hint}; {arguments}")
    for each in named:
        if each.default is each.empty and each.name not in config.options:
            raise refusal(config.factory, f"missing key 'model.{each.name}', an argument without a default")


@contextlib.contextmanager
def refusing(name: str, doing: str = "") -> Iterator[None]:
    """Whatever the user's code raises, as an OwnNetworkError of one line."""
    try:
        yield
    except OwnNetworkError:
        raise
    except (Exception, SystemExit) as error:
        if ran_out(error):
            raise
        text = next(iter(str(error).splitlines()), "") + _place(error)
        raise refusal(name, f"{doing}{type(error).__name__}{': ' if text else ''}{text}") from error


def _place(error: BaseException) -> str:
    """Where in the user's code: the last line that is neither ours nor Python's nor torch's. A SyntaxError says it."""
    if isinstance(error, SyntaxError):
        return ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _is_users(filename: str) -> bool:
    installed = "site-packages" in filename or "dist-packages" in filename
    is_pythons = filename.startswith(("<", sysconfig.get_path("stdlib"))) and not installed
    return not is_pythons and not any(Path(filename).is_relative_to(folder) for folder in NOT_THE_USERS)


def refusal(name: str, reason: str) -> OwnNetworkError:
    """To be raised: names the network."""
    return OwnNetworkError(f"model.name = '{name}' cannot be used: {reason}")
