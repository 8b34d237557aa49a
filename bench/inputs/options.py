"""The options of `bench/run.py`, and how a shell completes them (with the extra `completion`). No torch."""

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from bench import experiment
from bench.inputs import settings
from bench.inputs.decoding import SECTIONS, choices
from bench.inputs.dotted import as_typed
from bench.inputs.strict_parser import StrictParser, count_up_to, folder
from bench.sweep import tracking
from fmnist_core.config import DATASETS, CellConfig
from fmnist_core.nearest import CUSTOMARY

DEFAULT_STORE = "runs"
MOST = 10_000
"""Seeds, timings or threads that can be asked for."""


def parser(description: str | None) -> argparse.ArgumentParser:
    new = StrictParser("bench/run.py", description, _as_setting)
    add = new.add_argument
    _complete(add("experiments", nargs="*", default=["quick"], metavar="EXPERIMENT",
                  help=f"a name ({', '.join(experiment.names())}) or the path of a .toml file; default: quick"),
              _experiments)
    add("--list", action="store_true", help="show the cells, done or not, and what each costs; run nothing")
    _complete(add("--only", action="append", default=[], metavar="KEY=VALUE",
                  help="only cells with this value; of one key given several times, with any of these values"), _only)
    _complete(add("--set", action="append", default=[], metavar="KEY=VALUE",
                  help="override a value in every cell, before --only selects"), _set)
    add("--seeds", type=count_up_to(MOST), metavar="N", help="seeds 0 to N - 1 instead of the experiment's own number")
    add("--timings", type=count_up_to(MOST, least=0), metavar="N",
        help="timings of each cell instead of the experiment's own number; 0: train only")
    add("--threads", type=count_up_to(MOST), default=0, metavar="N",
        help="threads of each process; default: its share of the processors that it may run on")
    add("--keep-weights", action="store_true", help="keep trained weights, in the store's folder weights/")
    _complete(add("--track", action="append", default=[], metavar="NAME",
                  help=f"tell a tracker of each epoch: {', '.join(tracking.TRACKERS)}; local files go to the store's "
                       "folder tracking/"),
              lambda **_: tracking.TRACKERS)
    add("--profile", action="store_true",
        help="in the place of the sweep: a trace of some steps of each cell and its dearest operators, in the store's "
             "folder profiles/")
    add("--rerun", action="store_true", help="run again what already has a record")
    add("--retry-failed", action="store_true", help="run again what has failed")
    add("--store", type=folder, default=DEFAULT_STORE, metavar="DIR",
        help=f"folder of the records; default: {DEFAULT_STORE}")
    add("--data-dir", metavar="DIR", help="folder of the four IDX files")
    _complete(add("--dataset", metavar="NAME", help="short for --set data.dataset=NAME, e.g. synthetic"),
              lambda **_: list(DATASETS))
    return new


def _as_setting(unknown: str) -> str:
    """`--epochs`, `--lr`: settings of a cell are no options."""
    name = unknown.strip("-").replace("-", "_")
    name = CUSTOMARY.get(name, name)
    sections: dict[str, type[Struct]] = {**SECTIONS, "launch": experiment.Launch}
    keys = (f"{section}.{key}" for section, kind in sections.items() for key in kind.__struct_fields__
            if key == name)
    return next((f"--set {key}=VALUE" for key in keys), "")


def answer_shell(of: argparse.ArgumentParser) -> None:
    """Where it was a shell that called, to ask what could come next: answer, and end."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(of, validator=_continues)


def check(asked: argparse.Namespace) -> None:
    """Raises ValueError for an option that has no effect beside another."""
    useless = {"--rerun": asked.rerun, "--retry-failed": asked.retry_failed, "--keep-weights": asked.keep_weights,
               "--track": asked.track}
    given = [name for name, value in useless.items() if value]
    if asked.profile and given:
        raise ValueError(f"{given[0]} has no effect with --profile, which trains nothing; leave one of them out")


def overrides(asked: argparse.Namespace) -> dict[str, Any]:
    """What --set changes, and --dataset, which is short for one of them. Raises ValueError."""
    short = [("data.dataset", asked.dataset)] if asked.dataset else []
    found: dict[str, Any] = {}
    for key, value in [*(setting(text, "--set") for text in asked.set), *short]:
        if key in found:
            raise ValueError(f"--set {key}: given twice, as {as_typed(found[key])} and as {as_typed(value)}; "
                             "expected one value of each key")
        found[key] = value
    return found


def filters(asked: argparse.Namespace) -> dict[str, list[Any]]:
    """What --only asks for: the values of each key, of which a cell has to have one. Raises ValueError."""
    found: dict[str, list[Any]] = {}
    for key, value in (setting(text, "--only") for text in asked.only):
        found.setdefault(key, []).append(value)
    return found


def setting(text: str, option: str) -> tuple[str, Any]:
    """`train.epochs=1` to ("train.epochs", 1): the value is JSON, or a string, as of a label. Raises ValueError."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"{option} {text}: expected KEY=VALUE, e.g. train.epochs=1")
    try:
        decoded = json.loads(value)
    except (ValueError, RecursionError):  # not JSON, or a number of more digits than Python reads
        return key, value
    return key, value if key == "label" and not isinstance(decoded, str) else decoded


def _continues(completion: str, prefix: str) -> bool:
    """Whether it is offered. argcomplete fails where nothing is left behind the last `=` or `:` of what was typed: a
    completion that equals the prefix, and ends so, is dropped."""
    return completion.startswith(prefix) and (completion != prefix or completion[-1:] not in "=:")


def _complete(action: argparse.Action, completer: Any) -> None:
    vars(action)["completer"] = completer  # where argcomplete looks for it


def _experiments(prefix: str, **_: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter

    return [*experiment.names(), *FilesCompleter(["toml"])(prefix)]


def _only(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Keys; after the sign of equality, the values that cells have."""
    cells = list(_cells(parsed_args))
    key, equals, _value = prefix.partition("=")
    if not equals:
        return [f"{each}=" for each in ("label", *_keys(cells))]
    return [f"{key}={as_typed(each)}" for cell in cells if (each := experiment.shown(cell, key)) is not None]


def _set(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Keys; after the sign of equality, the values of an enumeration, or true and false."""
    key, equals, _value = prefix.partition("=")
    if not equals:
        launch = [f"launch.{each}" for each in experiment.Launch.__struct_fields__]
        return [f"{each}=" for each in (*_keys(_cells(parsed_args)), *launch)]
    section, _dot, field = key.partition(".")
    values = choices(experiment.Launch, field) if section == "launch" else choices(CellConfig, key)
    return [f"{key}={value}" for value in values]


def _cells(parsed_args: argparse.Namespace) -> Iterator[experiment.Cell]:
    for name in parsed_args.experiments:
        try:
            yield from experiment.load(name).cells
        except ValueError:
            continue


def _keys(cells: Any) -> list[str]:
    return list(dict.fromkeys(key for cell in cells for key in settings.known_keys(cell.config)))
