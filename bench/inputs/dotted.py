"""Tables within tables, and the dotted keys that name what is in them: `{"train": {"epochs": 1}}` is `train.epochs`.
No torch."""

import json
from collections.abc import Mapping
from typing import Any


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"kernel_size": [2, 3]}} to {"model.kernel_size": [2, 3]}."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The other way round. Raises ValueError for a key that names nothing."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        if not last or not all(parents):
            raise ValueError(f"key '{key}': expected names with single dots between them, e.g. train.epochs")
        table = nested
        for part in parents:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ValueError(f"key '{key}': '{part}' is a value, not a table")
        table[last] = value
    return nested


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`, table by table."""
    both_tables = lambda key: isinstance(under.get(key), Mapping) and isinstance(over[key], Mapping)
    return {**under, **{key: merge(under[key], over[key]) if both_tables(key) else over[key] for key in over}}


def as_typed(value: Any) -> str:
    """As a command line has it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def as_text(value: Any) -> str:
    """As a table has it: lists without their brackets."""
    if isinstance(value, list | tuple):
        return " ".join(map(as_text, value))
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def as_written(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The flat settings of a cell as an experiment names them: arguments of one's own network by their own names."""
    if "model.factory" not in flat:
        return dict(flat)
    own = {"model.name": flat["model.factory"]}
    for key, value in flat.items():
        if key not in ("model.name", "model.factory"):
            own["model." + key.removeprefix("model.options.") if key.startswith("model.options.") else key] = value
    return own
