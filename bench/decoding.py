"""Strict decoding, with errors that name the dotted key, its value, what is allowed, and the nearest valid key."""

from collections.abc import Mapping
from typing import Any, get_args

import msgspec
from msgspec import Struct

from fmnist_core.config import CellConfig, DataConfig, ExecutionConfig, ModelConfig, TrainConfig
from fmnist_core.nearest import nearest

SECTIONS: dict[str, type[Struct]] = {"data": DataConfig, "train": TrainConfig, "execution": ExecutionConfig}
"""Of a cell; the fourth, `model`, is one of several structs."""


def convert(content: Any, kind: Any, where: str = "") -> Any:
    """msgspec's conversion, with errors that name the dotted key, the value, and the nearest valid key."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_explain(error, content, kind, where)) from error


def _explain(error: msgspec.ValidationError, content: Any, kind: Any, where: str) -> str:
    message, _, path = str(error).partition(" - at `")
    key = path.rstrip("`").removeprefix("$").removeprefix(".")
    if message.startswith("Object contains unknown field"):
        field = message.split("`")[1]
        return f"unknown key '{_join(where, key, field)}'" + nearest(field, _fields_at(content, kind, key))
    if message.startswith("Object missing required field"):
        return f"missing key '{_join(where, key, message.split('`')[1])}'"
    if not path:
        return f"{where} = {content!r}: {message[0].lower()}{message[1:]}" if where else message
    allowed = ""
    if key == "model.name":
        known = sorted(tag_of(model) for model in get_args(ModelConfig))
        allowed = f"; allowed: {', '.join(known)}, or package.module:factory"
    elif message.startswith("Invalid enum value"):
        allowed = _choices(kind, key)
    return f"{_join(where, key)} = {_value_at(content, key)!r}: {message[0].lower()}{message[1:]}{allowed}"


def _choices(kind: type[Struct], key: str) -> str:
    """The values that a Literal field allows."""
    section, _, field = key.partition(".")
    owners = list(get_args(ModelConfig)) if section == "model" else [SECTIONS.get(section) or _part(kind, section)]
    for owner in owners:
        for info in msgspec.structs.fields(owner):
            if info.name == (field or section):
                types = (info.type, *get_args(info.type))
                literals = [value for each in types for value in get_args(each) if isinstance(value, str)]
                return f"; allowed: {', '.join(dict.fromkeys(literals))}"
    return ""


def _part(kind: type[Struct], section: str) -> type[Struct]:
    """The struct that a section of `kind` is, or `kind` itself."""
    types = {info.name: info.type for info in msgspec.structs.fields(kind)}
    found = types.get(section)
    return found if isinstance(found, type) and issubclass(found, Struct) else kind


def _fields_at(content: Any, kind: Any, key: str) -> list[str]:
    if kind is CellConfig and key:
        section = key.split(".")[0]
        if section == "model":
            tag = (_value_at(content, "model") or {}).get("name")
            models = [model for model in get_args(ModelConfig) if tag_of(model) == tag]
            return [field for model in models for field in model.__struct_fields__]
        return list(SECTIONS[section].__struct_fields__) if section in SECTIONS else []
    return list(kind.__struct_fields__) if not key else []


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
