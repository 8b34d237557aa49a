"""The settings of a cell, each by its dotted key. No torch."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from bench.inputs.decoding import tag_of
from bench.inputs.dotted import as_text, flatten
from fmnist_core.config import CellConfig, CustomModel
from fmnist_core.nearest import nearest_or_all

CODE = "code"
"""The key that the digest of the code of one's own network has beside the settings."""


def value_of(cell: CellConfig, key: str) -> Any:
    """The value at a dotted key, e.g. "model.kernel_size". Raises ValueError for an unknown one."""
    value: Any = cell
    for part in key.split("."):
        if isinstance(value, CustomModel) and part in ("name", *value.options):
            value = value.factory if part == "name" else value.options[part]
        elif part == "name" and not hasattr(value, "name"):
            value = tag_of(type(value))
        elif not hasattr(value, part):
            raise ValueError(f"unknown key '{key}'{nearest_or_all(key, known_keys(cell))}")
        else:
            value = getattr(value, part)
    return value


def known_keys(cell: CellConfig) -> list[str]:
    """All that an experiment could set in this cell; of one's own network the arguments that it does set."""
    sections = {name: getattr(cell, name) for name in cell.__struct_fields__}
    keys = lambda section: section.options if isinstance(section, CustomModel) else section.__struct_fields__
    return ["model.name", *(f"{name}.{key}" for name, section in sections.items() for key in keys(section))]


def every_setting(cell: CellConfig) -> dict[str, Any]:
    """Defaults too, by dotted key; the options of a model one by one. Of a network of one's own also its code's digest,
    which is no setting and has a key without a section."""
    code = {CODE: cell.model.source} if isinstance(cell.model, CustomModel) and cell.model.source else {}
    return flatten({key: value_of(cell, key) for key in known_keys(cell)}) | code


def varied(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys in which they differ, in their order."""
    keys = dict.fromkeys(itertools.chain.from_iterable(settings))
    return [key for key in keys if len({repr(one.get(key)) for one in settings}) > 1]


def label_of(settings: Mapping[str, Any]) -> str:
    """Settings in short: `kernel_size 3, depth 2`."""
    return ", ".join(f"{key.rpartition('.')[2]} {as_text(value)}" for key, value in flatten(settings).items())
