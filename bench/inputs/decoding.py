"""Strict decoding, with errors that name the dotted key, its value, what is allowed, and the nearest valid key."""

from collections.abc import Mapping
from typing import Any, get_args

import msgspec
from msgspec import Struct

from fmnist_core.config import CellConfig, DataConfig, ExecutionConfig, ModelConfig, TrainConfig
from fmnist_core.nearest import nearest, nearest_key, nearest_or_all

SECTIONS: dict[str, type[Struct]] = {"data": DataConfig, "train": TrainConfig, "execution": ExecutionConfig}
"""Of a cell; the fourth, `model`, is one of several structs."""

OF_EXPERIMENTS = {
    "seeds": "how many it has stands at the top of the experiment's file, or in --seeds N",
    **dict.fromkeys(("title", "question", "note", "targets", "control", "outcome", "timings"),
                    "it stands at the top of the experiment's file"),
    "label": "it stands in one of [[cells]]"}
"""What is asked of cells by mistake, and where it belongs."""


def convert(content: Any, kind: Any, where: str = "") -> Any:
    """msgspec's conversion, with errors that name the dotted key, the value, and the nearest valid key."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_explain(error, content, kind, where)) from error


def _explain(error: msgspec.ValidationError, content: Any, kind: Any, where: str) -> str:
    message, _, path = str(error).replace("`object`", "a table").partition(" - at `")
    key = path.rstrip("`").removeprefix("$").removeprefix(".")
    if message.startswith("Object contains unknown field"):
        field = message.split("`")[1]
        known = [_join(where, key, each) for each in _fields_at(content, kind, key)]
        model = _value_at(content, "model.name") if kind is CellConfig and key == "model" else None
        of_model = f" of {model}" if isinstance(model, str) else ""
        if kind is CellConfig and not key and field in OF_EXPERIMENTS:
            return f"unknown key '{field}' of a cell: {OF_EXPERIMENTS[field]}"
        return f"unknown key '{_join(where, key, field)}'{of_model}" + nearest_or_all(_join(where, key, field), known)
    if message.startswith("Object missing required field"):
        field, there = message.split("`")[1], _value_at(content, key) if key else content
        wanted = _join(where, key, field)
        for given in (_join(where, key, each) for each in there) if isinstance(there, Mapping) else ():
            if hint := nearest_key(given, [wanted]):
                return f"unknown key '{given}'{hint}"
        return f"missing key '{wanted}'"
    if not path:
        return f"{where} = {content!r}: {message[0].lower()}{message[1:]}" if where else message
    value, allowed = _value_at(content, key), ""
    if (key == "model.name" or message.startswith("Invalid enum value")) and (known := choices(kind, key)):
        also = ", or package.module:factory" if key == "model.name" else ""
        allowed = f"{nearest(str(value), known)}; allowed: {', '.join(known)}{also}"
    return f"{_join(where, key)} = {value!r}: {message[0].lower()}{message[1:]}{allowed}"


def choices(kind: type[Struct], key: str) -> list[str]:
    """The values of a field that has few, an enumeration or true and false, as a command line has them."""
    if key == "model.name":
        return sorted(tag_of(model) for model in get_args(ModelConfig))
    section, _, field = key.partition(".")
    owners = list(get_args(ModelConfig)) if section == "model" else [SECTIONS.get(section) or _part(kind, section)]
    for owner in owners:
        for info in msgspec.structs.fields(owner):
            if info.name == (field or section):
                types = (info.type, *get_args(info.type))
                literals = [value for each in types for value in get_args(each) if isinstance(value, str)]
                return ["true", "false"] if info.type is bool else list(dict.fromkeys(literals))
    return []


def _part(kind: type[Struct], section: str) -> type[Struct]:
    """The struct that a section of `kind` is, or `kind` itself."""
    types = {info.name: info.type for info in msgspec.structs.fields(kind)}
    found = types.get(section)
    return found if isinstance(found, type) and issubclass(found, Struct) else kind


def _fields_at(content: Any, kind: Any, key: str) -> list[str]:
    if kind is CellConfig and key:
        section = key.split(".")[0]
        if section == "model":
            model = _value_at(content, "model")
            tag = model.get("name") if isinstance(model, Mapping) else None
            models = [model for model in get_args(ModelConfig) if tag_of(model) == tag]
            return [field for model in models for field in model.__struct_fields__]
        return list(SECTIONS[section].__struct_fields__) if section in SECTIONS else []
    if kind is CellConfig:
        below = [f"{part}.{field}" for part in (*SECTIONS, "model") for field in _fields_at(content, kind, part)]
        return [*kind.__struct_fields__, *below]
    part = _part(kind, key) if key else kind
    return list(part.__struct_fields__) if part is not kind or not key else []


def tag_of(model: type[Struct]) -> str:
    return str(model.__struct_config__.tag)


def _value_at(content: Any, key: str) -> Any:
    for part in key.replace("[", ".").replace("]", "").split("."):
        if isinstance(content, Mapping):
            content = content.get(part)
        elif isinstance(content, list | tuple) and part.isdigit():
            content = content[int(part)]
    return content


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
