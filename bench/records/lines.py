"""A record as a line of JSON: written, read, and brought up to date from an older schema. No torch."""

from typing import Any

import msgspec
from msgspec import Struct

from bench.record import SCHEMA_VERSION, PositiveInt, Record, SpeedRecord, Status, TrainRecord


class SchemaError(ValueError):
    """A stored line that this version cannot read."""


class NotARecord(SchemaError):
    """One that no version can read: damaged, or something else."""

    def __init__(self, why: object) -> None:
        super().__init__(f"not a record: {why}")


class TrainHead(Struct, tag_field="kind", tag="train", frozen=True, kw_only=True):
    """Of a TrainRecord, what decides whether it is to be made again."""

    schema: PositiveInt
    quality_key: str
    status: Status = "ok"
    started_at: str = ""


class SpeedHead(Struct, tag_field="kind", tag="speed", frozen=True, kw_only=True):
    schema: PositiveInt
    speed_key: str
    status: Status = "ok"
    started_at: str = ""


Head = TrainHead | SpeedHead
_HEAD = msgspec.json.Decoder(Head)


def encode(record: Record) -> bytes:
    """One line, newline included. Defaults are left out, except the schema's version."""
    line = msgspec.to_builtins(record)
    return msgspec.json.encode({"kind": line.pop("kind"), "schema": record.schema, **line}) + b"\n"


def decode(line: bytes | str) -> Record:
    """Raises SchemaError: not JSON, an unknown field, or a newer schema than this version reads."""
    try:
        content = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotARecord(error) from error
    if not isinstance(content, dict):
        raise NotARecord(type(content).__name__)
    schema = content.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise NotARecord(f"schema = {schema!r}")
    if schema > SCHEMA_VERSION:
        raise SchemaError(f"schema {schema} is newer than {SCHEMA_VERSION}, the newest that this version reads")
    for upgrade in UPGRADES[schema - 1 :]:
        content = upgrade(content)
    try:
        record: Record = msgspec.convert(content, Record)
    except msgspec.ValidationError as error:
        raise NotARecord(error) from error
    return record


def _forget_growth_since_start(content: dict[str, Any]) -> dict[str, Any]:
    """In schema 1 a CPU's peak was the growth since the process began: of many cells the largest alone showed any."""
    environment = content.get("environment")
    on_cpu = not isinstance(environment, dict) or environment.get("device", "cpu") == "cpu"
    forgotten = {"peak_memory_bytes"} if content.get("kind") == "speed" and on_cpu else set()
    return {**{key: value for key, value in content.items() if key not in forgotten}, "schema": 2}


UPGRADES: list[Any] = [_forget_growth_since_start, lambda content: {**content, "schema": 3}]
"""`UPGRADES[n - 1]` turns the content of a schema n line into schema n + 1."""


def decode_head(line: bytes | str) -> Head:
    """As `decode`, in a quarter of its time: of the rest of the line nothing is asked but that it is JSON.

    No upgrade has changed these fields.
    """
    try:
        head: Head = _HEAD.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _head_of(decode(line))  # or its error
    return head if head.schema <= SCHEMA_VERSION else _head_of(decode(line))


def _head_of(record: Record) -> Head:
    if isinstance(record, TrainRecord):
        return TrainHead(schema=record.schema, quality_key=record.quality_key, status=record.status,
                         started_at=record.started_at)
    return SpeedHead(schema=record.schema, speed_key=record.speed_key, status=record.status,
                     started_at=record.started_at)


def key_of(record: Record | Head) -> str:
    return record.speed_key if isinstance(record, SpeedRecord | SpeedHead) else record.quality_key
