"""An experiment: a TOML file read strictly into cells. No torch.

    title = "..."                     [base]  what all cells share      [[cells]]  written out, each on top of base:
    question = "..."                  [grid]  "model.kernel_size" =       label, note, reported, and any of
    seeds = { cpu = 3, cuda = 16 }, or 3        [2, 3]: the product,      model, data, train, execution
    timings = 3; targets = [0.9]                in the file's order
    control = "label of a cell"; outcome = "test", "validation", "gap", "early"
"""

import itertools
import math
import os
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from bench.inputs.decoding import SECTIONS, convert
from bench.inputs.dotted import as_typed, flatten, merge, nest
from bench.inputs.models import check_model
from bench.inputs.own_source import source_of, with_custom_model
from bench.inputs.settings import known_keys, label_of, value_of
from fmnist_core.config import Baseline, CellConfig, canonical_json
from fmnist_core.nearest import nearest, nearest_or_all

MAX_CELLS = 100_000
MAX_NAMED = 20
"""Values that an error names, of those that could have been asked for."""
ABOUT = ("label", "note", "reported")
IN_CELL = (*ABOUT, "model", *SECTIONS)
"""Keys of a cell that is written out."""
ONLY_CELL = "cell"
"""Label of a cell that has none, the only one of its experiment."""
FOLDER = Path(__file__).resolve().parent.parent / "experiments"
OutcomeName = Literal["test", "validation", "gap", "early"]


class _Strict(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Reported(_Strict, frozen=True, kw_only=True):
    """What the source gives for this cell, as fractions."""

    validation_accuracy: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    test_accuracy: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    by_sign: bool = False
    """The source counts hits of an SVM by the sign of the logits: see `fmnist_core.objective.sign_argmax_accuracy`."""
    source: str = ""


class Seeds(_Strict, frozen=True, kw_only=True):
    """How many seeds per cell: 0 to cpu - 1 on a CPU, 0 to cuda - 1 on a GPU."""

    cpu: Annotated[int, Meta(ge=1, le=10_000)] = 3
    cuda: Annotated[int, Meta(ge=1, le=10_000)] = 16


class Launch(_Strict, frozen=True, kw_only=True):
    mode: Literal["cells", "ddp"] = "cells"
    """`cells`: each process takes whole cells. `ddp`: all processes share each cell."""
    num_processes: Annotated[int, Meta(ge=0, le=4096)] = 0
    """Processes that the experiment needs; 0: any number."""
    device: Literal["any", "cpu", "cuda"] = "any"
    timeout_s: Annotated[float, Meta(ge=0.0)] = 0.0
    """A cell that trains longer is stopped and recorded as `timeout`; 0: never."""
    halve_batch_after_oom: Annotated[int, Meta(ge=0, le=20)] = 0
    """A cell that runs out of memory is tried with half the global batch size, as a cell with records of its own, and
    so on, so many times at most; 0: never. The record of the batch asked for stays, with the status `oom`."""


class Cell(_Strict, frozen=True, kw_only=True):
    config: CellConfig
    label: str = ""
    """As the report names it, e.g. `Trial-2`; for a grid, its values."""
    note: str = ""
    reported: Reported = Reported()
    axes: dict[str, Any] = {}
    """The grid's values for this cell, by key."""

    @property
    def has_steps(self) -> bool:
        """Whether its speed can be measured."""
        return not isinstance(self.config.model, Baseline)


class _About(_Strict, frozen=True, kw_only=True):
    """What an experiment says of itself, in its file and once it is read."""

    title: str = ""
    question: Annotated[str, Meta(min_length=1)]
    note: str = ""
    """What a reader must know to judge the answer."""
    seeds: Seeds = Seeds()
    launch: Launch = Launch()
    timings: Annotated[int, Meta(ge=0, le=1000)] = 3
    """How often the speed of each cell is measured; 0: never."""
    targets: list[Annotated[float, Meta(gt=0.0, lt=1.0)]] = []
    """Validation accuracies, rising: RESULTS.md says how long training takes to each."""
    control: str = ""
    """Label of the cell that the answer compares each other cell with."""
    outcome: OutcomeName = "test"
    """What the answer compares: test or validation accuracy at the last epoch, training less validation accuracy then,
    or the mean validation accuracy of the first epochs."""


class Experiment(_About, frozen=True, kw_only=True):
    name: str
    cells: list[Cell]


class _File(_About, frozen=True, kw_only=True):
    base: dict[str, Any] = {}
    grid: dict[str, Any] = {}
    cells: list[dict[str, Any]] = []


def names() -> list[str]:
    """The experiments that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find(name_or_path: str) -> Path:
    if name_or_path.endswith(".toml"):
        return Path(name_or_path)
    if name_or_path not in names():
        raise ValueError(f"unknown experiment '{name_or_path}'{nearest(name_or_path, names())}; "
                         f"experiments: {', '.join(names())}; or the path of a .toml file")
    return FOLDER / f"{name_or_path}.toml"


def load(name_or_path: str, overrides: Mapping[str, Any] | None = None, num_cells: int | None = None) -> Experiment:
    """Read an experiment by name or path, `overrides` ("train.epochs": 1) on top; `num_cells`: the first ones alone.

    Raises ValueError that names file, key and value, and what is allowed.
    """
    path = find(name_or_path)
    try:
        text = path.read_bytes().decode()
        return parse(tomllib.loads(text), name=path.stem, overrides=overrides, num_cells=num_cells)
    except OSError as error:
        raise ValueError(f"experiment {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"experiment {path}: not TOML: {error}") from error
    except ValueError as error:
        raise ValueError(f"experiment {path}: {error}") from error


def load_all(asked: Iterable[str], overrides: Mapping[str, Any] | None = None) -> list[Experiment]:
    """By name or path, each once. Raises ValueError, also for two files of one name: by it records are told apart."""
    paths = list({(path.stem, os.path.realpath(path)): path for path in map(find, asked)}.values())
    named = {path.stem: path for path in paths}
    for path in paths:
        if path is not named[path.stem]:
            raise ValueError(f"experiments {path} and {named[path.stem]} are both named '{path.stem}', and would be "
                             "taken for one; expected files of different names")
    return [load(str(path), overrides) for path in paths]


def parse(content: Mapping[str, Any], *, name: str, overrides: Mapping[str, Any] | None = None,
          num_cells: int | None = None) -> Experiment:
    """The cells of a decoded TOML file. Raises ValueError."""
    if type(number := content.get("seeds", {})) is int:
        content = {**content, "seeds": {"cpu": number, "cuda": number}}
    elif not isinstance(number, Mapping):
        raise ValueError(f"seeds = {number!r}: expected a whole number, or a table of cpu and cuda")
    file = convert(content, _File)
    overrides, changed = nest(overrides or {}), flatten(overrides or {})
    changes = overrides.pop("launch", {})
    launch = merge(msgspec.to_builtins(file.launch), changes) if isinstance(changes, Mapping) else changes
    launch = convert(launch, Launch, "launch")
    if file.targets != sorted(set(file.targets)):
        raise ValueError(f"targets = {file.targets}: expected rising fractions, each once")
    if file.grid and file.cells:
        raise ValueError("[grid] and [[cells]]: only one of them is allowed")
    drafts = _written_out(file.cells) if file.cells else _product(flatten(file.grid), changed)
    code_of = cache(source_of)  # of a network of one's own, once for all of its cells
    cells = [_cell(file.base, draft, overrides, code_of) for draft in drafts[:num_cells]]
    _refuse_duplicates(cells, changed)
    about = {field: getattr(file, field) for field in _About.__struct_fields__}
    about |= {"title": file.title or name, "launch": launch, "control": _control(file, drafts)}
    return Experiment(**about, name=name, cells=cells)


def select(chosen: Experiment, filters: Mapping[str, Sequence[Any]]) -> Experiment:
    """With only the cells that have one of the values of each key. Raises ValueError, also if none is left."""
    known = dict.fromkeys(["label", *(key for cell in chosen.cells for key in known_keys(cell.config))])
    for key in filters:
        if key not in known:
            raise ValueError(f"unknown key '{key}'{nearest_or_all(key, known)}")
    cells = [cell for cell in chosen.cells if all(shown(cell, key) in values for key, values in filters.items())]
    if (hints := _what_there_is(chosen.cells, filters)) or not cells:
        wanted = ", ".join(f"{key}={as_typed(value)}" for key, values in filters.items() for value in values)
        hints = hints or "; each of these values occurs, but not together"
        raise ValueError(f"experiment {chosen.name}: no cell has {wanted}{hints}")
    return msgspec.structs.replace(chosen, cells=cells)


def _what_there_is(cells: Sequence[Cell], filters: Mapping[str, Sequence[Any]]) -> str:
    """Of the values asked for that no cell has: the nearest, and all there are."""
    hints = ""
    for key, asked in filters.items():
        there = [shown(cell, key) for cell in cells]
        if absent := [value for value in asked if value not in there]:
            values = dict.fromkeys(as_typed(each) for each in there if each is not None)
            more = f", and {len(values) - MAX_NAMED} more" if len(values) > MAX_NAMED else ""
            near = "".join(nearest(value, values) for value in absent if isinstance(value, str))
            hints += f"{near}; values of {key}: {', '.join(list(values)[:MAX_NAMED])}{more}"
    return hints


def shown(cell: Cell, key: str) -> Any:
    """The cell's value as JSON has it: what a command line can name."""
    if key == "label":
        return cell.label
    known = key in known_keys(cell.config)
    return msgspec.json.decode(msgspec.json.encode(value_of(cell.config, key))) if known else None


class _Draft(NamedTuple):
    settings: dict[str, Any]
    label: str = ""
    note: str = ""
    reported: Reported = Reported()
    axes: dict[str, Any] = {}


def _product(grid: Mapping[str, Any], changed: Mapping[str, Any]) -> list[_Draft]:
    for key, values in grid.items():
        if not isinstance(values, list):
            raise ValueError(f"[grid] {key} = {values!r}: expected a list of values")
        if not values:
            raise ValueError(f"[grid] {key} = []: an empty list leaves no cell")
    # The label of a cell names what it has, also where its only value of an axis is overridden.
    grid = {key: [changed.get(key, values[0])] if len(values) == 1 else values for key, values in grid.items()}
    num_cells = math.prod(len(values) for values in grid.values())
    if num_cells > MAX_CELLS:
        raise ValueError(f"[grid] makes {num_cells} cells; allowed: up to {MAX_CELLS}")
    drafts = []
    for values in itertools.product(*grid.values()):
        axes = dict(zip(grid, values, strict=True))
        drafts.append(_Draft(nest(axes), label=label_of(axes), axes=axes))
    return drafts


def _written_out(tables: Sequence[dict[str, Any]]) -> list[_Draft]:
    drafts = []
    for i, table in enumerate(tables):
        table = dict(table)
        for key in table:
            if key.partition(".")[0] not in IN_CELL:
                raise ValueError(f"unknown key 'cells[{i}].{key}'{nearest_or_all(key, IN_CELL)}")
        about = {key: table.pop(key) for key in ABOUT if key in table}
        about["reported"] = convert(about.get("reported", {}), Reported, f"cells[{i}].reported")
        for key in ("label", "note"):
            if not isinstance(about.get(key, ""), str):
                raise ValueError(f"cells[{i}].{key} = {about[key]!r}: expected a string")
        axes = flatten(table)
        drafts.append(_Draft(nest(axes), **{"label": label_of(axes), **about}, axes=axes))
    return drafts


def _control(file: _File, drafts: Sequence[_Draft]) -> str:
    """The label of the cell that `control` names, by that of the file, whatever is overridden."""
    if not file.control:
        return ""
    labels = [draft.label for draft in (drafts if file.cells else _product(flatten(file.grid), {}))]
    if file.control not in labels:
        raise ValueError(f"control = '{file.control}': no cell has this label{nearest_or_all(file.control, labels)}")
    return drafts[labels.index(file.control)].label


def _cell(base: dict[str, Any], draft: _Draft, overrides: dict[str, Any], code_of: Callable[[str], str]) -> Cell:
    settings = merge(merge(base, draft.settings), overrides)
    try:
        config_ = convert(with_custom_model(settings, code_of), CellConfig)
        check_model(config_)
    except ValueError as error:
        raise ValueError(f"cell '{draft.label}': {error}" if draft.label else str(error)) from error
    return Cell(config=config_, label=draft.label or ONLY_CELL, note=draft.note, reported=draft.reported,
                axes=draft.axes)


def _refuse_duplicates(cells: list[Cell], changed: Mapping[str, Any]) -> None:
    seen: dict[bytes, Cell] = {}
    for cell in cells:
        content = canonical_json(cell.config)
        if content in seen:
            reasons = [f": {key} = {as_typed(value)} overrides in what they differ"
                       for key, value in changed.items() if cell.axes.get(key) != seen[content].axes.get(key)]
            raise ValueError(f"cells '{seen[content].label}' and '{cell.label}' are the same cell{''.join(reasons)}")
        seen[content] = cell
    for label, number in Counter(cell.label for cell in cells).items():
        if number > 1:
            raise ValueError(f"label = '{label}': {number} cells have it; expected one of its own for each")
