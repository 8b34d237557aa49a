"""A network of the user's own in a configuration, and which code it comes from, without running any of it. No torch."""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fmnist_core.nearest import no_module

OURS = ("bench", "fmnist_core")
"""Packages whose networks have a version of their own: `fmnist_core.config.TRAINING_VERSION`."""
INSTALLED = ("site-packages", "dist-packages")
"""Folders where everybody's modules lie: there a module's own package is its code, and not what lies beside."""


def source_of(factory: str) -> str:
    """First 16 hex digits of the SHA-256 of the code of `package.module:factory`.

    That is the module's file, and what it imports, directly or not, of its own package and from beside that. Empty for
    the networks of this project, and where there is no such file: building the network will say so.
    """
    name = factory.partition(":")[0]
    files: dict[Path, bytes] = {}
    if name.partition(".")[0] not in OURS:
        _collect(name, files)
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(hashlib.sha256(files[path]).digest())
    return digest.hexdigest()[:16] if files else ""


def with_custom_model(settings: dict[str, Any], code_of: Callable[[str], str]) -> dict[str, Any]:
    """`model.name = "package.module:factory"` is short for a custom model."""
    model = settings.get("model")
    if isinstance(model, dict) and model.get("name") == "custom" and isinstance(factory := model.get("factory"), str):
        source = code_of(factory) or model.get("source", "")  # of one that is not there, building it will tell
        if model.get("source", source) != source:
            raise ValueError(f"model.source = '{model['source']}': the code of {factory} has changed, it is '{source}'")
        return {**settings, "model": {**model, "source": source}}
    if isinstance(model, dict) and isinstance(name := model.get("name"), str) and ":" in name:
        options = {key: value for key, value in model.items() if key != "name"}
        for key, value in options.items():
            if key == "options" and isinstance(value, Mapping):
                argument = next(iter(value), "ARGUMENT")
                raise ValueError(f"unknown key 'model.options.{argument}': an argument of a network of your own is a "
                                 f"key of the model; write model.{argument}")
            if not isinstance(value, bool | int | float | str):
                raise ValueError(f"model.{key} = {value!r}: expected a number, a string, true or false")
        source = code_of(name)
        if not source and not _is_there(top := name.partition(":")[0].partition(".")[0]):
            raise ValueError(f"model.name = '{name}' cannot be used: {no_module(top)}")
        return {**settings, "model": {"name": "custom", "factory": name, "options": options, "source": source}}
    return settings


def _collect(name: str, files: dict[Path, bytes]) -> None:
    """Add the files of a module: its packages' `__init__.py` on the way to it, its own, and what they import."""
    parts, roots = name.split("."), _roots(name.partition(".")[0])
    for i in range(1, len(parts) + 1):
        path = next((path for root in roots if (path := _file(root.joinpath(*parts[:i])))), None)
        if path is None or path in files:
            continue
        try:
            files[path] = path.read_bytes()
            tree = ast.parse(files[path])
        except (OSError, SyntaxError, ValueError):
            continue
        package = parts[:i] if path.name == "__init__.py" else parts[: i - 1]
        beside = {root for root in roots if root.name not in INSTALLED}
        for imported in _imports(tree, package):
            top = imported.partition(".")[0]
            if top == parts[0] or (top not in OURS and beside.intersection(_roots(top))):
                _collect(imported, files)


def _is_there(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):  # of a module without a file, as the program itself
        return top in sys.modules


def _roots(top: str) -> list[Path]:
    """The folders that a top-level module lies in."""
    try:
        spec = importlib.util.find_spec(top)  # without parents, nothing is imported
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(each).parent for each in spec.submodule_search_locations]
    return [Path(spec.origin).parent] if spec.has_location and spec.origin else []


def _file(path: Path) -> Path | None:
    """Of the module that lies at `path`, but for its ending."""
    return next((each for each in (path / "__init__.py", path.with_name(f"{path.name}.py")) if each.is_file()), None)


def _imports(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """Names of modules, and of what may be modules, that the code imports anywhere; `package`: that it is in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names if base)
