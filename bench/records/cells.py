"""Which cell a record is of, where no experiment says it: by its settings alone. No torch."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from bench.inputs.dotted import flatten
from bench.inputs.settings import CODE, every_setting, varied
from bench.record import Record
from fmnist_core.config import CellConfig, canonical_json
from fmnist_core.nearest import nearest_key

TRAINING_SECTIONS = ("model", "data", "train")
"""Sections of a configuration that decide what is learnt."""
PROCESSES = "num_processes"
"""The fact beside the settings that decides what is learnt."""
MAX_TRIED = 50
"""Cells of a set that are looked at for the ones most alike."""


def training_of(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a stored configuration that decides what is learnt; execution is left out."""
    return {section: cell.get(section, {}) for section in TRAINING_SECTIONS}


def cell_text(record: Record, without: Collection[str] = ()) -> str:
    """What decides accuracy but the seed, as canonical JSON; `without` these settings."""
    content = training_of(record.cell)
    for key in without:
        if key == PROCESSES:
            continue
        section, _, name = ("model", ".", "source") if key == CODE else key.partition(".")
        names = ("name", "factory", "source") if key == "model.name" else (name,)
        content[section] = {each: value for each, value in content[section].items() if each not in names}
        if key != CODE and name in (options := content[section].get("options", {})):
            content[section]["options"] = {each: value for each, value in options.items() if each != name}
    processes = {} if PROCESSES in without else {PROCESSES: record.labels.num_processes}
    return canonical_json({**content, **processes}).decode()


def names(texts: Sequence[str]) -> dict[str, str]:
    """Each cell by the settings in which the cells differ; by its model where they differ in none."""
    settings = [settings_of(text) for text in texts]
    keys = varied(settings) or ["model.name"]
    return {text: ", ".join(f"{key.rpartition('.')[2]} {each[key]}" for key in keys if key in each)
            for text, each in zip(texts, settings, strict=True)}


def settings_of(text: str) -> dict[str, Any]:
    """All values by dotted key, defaults too; of a configuration that can no longer be read, those that it states."""
    content = msgspec.json.decode(text)
    try:
        cell = msgspec.convert({section: content[section] for section in TRAINING_SECTIONS}, CellConfig)
    except msgspec.ValidationError:
        return flatten(content)
    return every_setting(cell) | {key: value for key, value in content.items() if key == PROCESSES}


def nearest_settings(a: Sequence[str], b: Sequence[str]) -> dict[str, str]:
    """Of the cells `a` and `b` the two most alike: each setting in which they differ, and how."""
    of_a, of_b = ([settings_of(text) for text in some[:MAX_TRIED]] for some in (a, b))
    differences = ({key: f"{one.get(key)} against {other.get(key)}" for key in varied([one, other])}
                   for one in of_a for other in of_b)
    return min(differences, key=len, default={})


def is_setting(name: str) -> bool:
    """Whether it is the key of a setting that decides what is learnt, rather than a fact."""
    return name == CODE or name.partition(".")[0] in TRAINING_SECTIONS


def check_settings(keys: Collection[str], records: Sequence[Record]) -> None:
    """Raise ValueError for a key that no cell has."""
    texts = dict.fromkeys(map(cell_text, records)) if keys else ()
    known = dict.fromkeys(key for each in texts for key in settings_of(each))
    for key in keys:
        if key not in known:
            raise ValueError(f"--allow {key}: no cell has this setting{nearest_key(key, known)}")
