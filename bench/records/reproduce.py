"""The command that gives a row's records again. No torch."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any

from msgspec.structs import asdict

from bench.experiment import Cell, Experiment
from bench.inputs.settings import known_keys, value_of
from bench.record import SpeedRecord
from bench.records.rows import Row
from fmnist_core.config import ExecutionConfig, to_dict

MAX_KEYS = 2
"""A cell with more values of its own than this is asked for by its label, where it has one."""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def command(row: Row, filters: Mapping[str, Any] | None, timed: SpeedRecord | None = None) -> str:
    """What to type in the project's folder. `filters` select the cell in its experiment, as `selections` gives them;
    without, the cell is written out as an experiment of its own. `timed`: the timing that it is to give again, which
    may have been taken by another execution than the experiment's."""
    seeds = max((one.seed + 1 for one in [*row.trained, *row.failed]), default=max(1, row.seeds_wanted))
    processes = max([row.experiment.launch.num_processes, *(one.labels.num_processes for one in row.records)])
    # `accelerate launch --num_processes` starts one process where there is no GPU; torchrun starts them all.
    start = f"torchrun --nproc-per-node {processes}" if processes > 1 else "accelerate launch"
    mode = "ddp" if any(one.labels.num_processes > 1 for one in row.records) else row.experiment.launch.mode
    own = asdict(row.cell.config.execution)
    execution = own if timed is None else {**asdict(ExecutionConfig()), **timed.cell.get("execution", {})}
    changed = {f"execution.{key}": value for key, value in execution.items() if value != own.get(key)}
    if filters is not None and not changed.keys() & row.cell.axes.keys():
        changed |= {"launch.mode": mode} if mode != row.experiment.launch.mode else {}
        others = "".join(f" --set {shlex.quote(f'{key}={_json_or_text(value)}')}" for key, value in changed.items())
        return f"{start} bench/run.py {_of(row.experiment.name, filters)}{others} --seeds {seeds}"
    config = to_dict(row.cell.config) | ({"execution": execution} if execution != own else {})
    lines = ['question = "One cell"', f'launch.mode = "{mode}"', f"base = {_toml(config)}"]
    return (f"printf '%s\\n' {' '.join(map(shlex.quote, lines))} > cell.toml && "
            f"{start} bench/run.py cell.toml --seeds {seeds}")


def of_label(experiment: str, label: str) -> str:
    """The command for one seed of the cell with this label."""
    return f"accelerate launch bench/run.py {_of(experiment, {'label': label})} --seeds 1"


def _of(experiment: str, filters: Mapping[str, Any]) -> str:
    only = "".join(f" --only {shlex.quote(f'{key}={_json_or_text(value)}')}" for key, value in filters.items())
    return f"{shlex.quote(experiment)}{only}"


def selections(experiment: Experiment) -> dict[int, dict[str, Any]]:
    """By the id of a cell, the values that it alone has: settings, or its label. A cell without is left out."""
    labels = Counter(cell.label for cell in experiment.cells)
    # Two cells with the same keys differ in one of them; with other keys, one could have all that another sets.
    alike = len({tuple(cell.axes) for cell in experiment.cells}) == 1
    found = {}
    for cell in experiment.cells:
        by_settings = alike and all(_has(cell, key, value) for key, value in cell.axes.items())
        if cell.label and labels[cell.label] == 1 and not (by_settings and len(cell.axes) <= MAX_KEYS):
            found[id(cell)] = {"label": cell.label}
        elif by_settings:
            found[id(cell)] = dict(cell.axes)
    return found


def _has(cell: Cell, key: str, value: Any) -> bool:
    """As the option --only compares: not what is inside a model's options, and no lists."""
    return key in known_keys(cell.config) and bool(value_of(cell.config, key) == value)


def _json_or_text(value: Any) -> str:
    """What the option --only reads as `value`: text that is JSON too must be quoted."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except json.JSONDecodeError:
        return value
    return json.dumps(value)


def _toml(value: Any) -> str:
    """JSON types as inline TOML, where scalars are written as in JSON."""
    if isinstance(value, Mapping):
        name = lambda key: key if _BARE_KEY.fullmatch(key) else json.dumps(key)
        return f"{{{', '.join(f'{name(key)} = {_toml(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)
