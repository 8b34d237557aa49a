"""Records to one page in which a reader filters, sorts and plots them, without a network. No torch.

`python -m bench.report --html` writes it. The page holds its data, its script and the charting library (Vega-Lite).
Its own policy forbids it every request, and every script but those two. The same records give the same bytes.
"""

import base64
import hashlib
import json
import math
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import frame
from bench.experiment import Experiment
from bench.inputs.dotted import as_text, as_written, flatten
from bench.pages.explorer_columns import FILTERS, Line, columns, failures, rounded
from bench.record import Epochs, Record
from bench.records.machines import machine_names
from bench.records.reproduce import command, selections
from bench.records.rows import Row
from bench.records.side_records import SideRecord
from fmnist_core.config import to_dict

FOLDER = Path(__file__).resolve().parent / "explorer_page"
NAME = "explorer.html"
MAX_STEPS = 1_000
"""Step times embedded of one timing; of more, every second, third ... is taken, and the page says so."""
MAX_EPOCHS = 200
"""Likewise epochs of one training."""
MAX_SEEDS = 32
"""Learning curves embedded of one cell."""
CURVES = {
    "accuracy": ("train_subset_accuracy", "validation_accuracy", "test_accuracy"),
    "loss": ("train_subset_loss", "validation_loss", "test_loss"),
}
"""Fields of `Epochs`, in the order of the page's legend."""


def render(records: Sequence[Record], experiments: Sequence[Experiment], sides: Sequence[SideRecord] = (), *,
           only_recorded: bool = False) -> str:
    """The page, one HTML document. Raises ValueError where the charting library is missing.

    `only_recorded`: experiments without records are left out, whose cells are all empty.
    """
    library, script = _library(), _in_script(_part("table.js") + _part("charts.js"))
    data = content(records, experiments, sides, only_recorded=only_recorded)
    parts = {"hashes": " ".join(f"'sha256-{_digest(one)}'" for one in (library, script)), "style": _part("page.css"),
             "data": _json_in_script(data), "library": library, "script": script}
    return string.Template(_part("page.html")).substitute(parts)


def content(records: Sequence[Record], experiments: Sequence[Experiment], sides: Sequence[SideRecord] = (), *,
            only_recorded: bool = False) -> dict[str, Any]:
    """What the page shows, as JSON types. Columns, `cell_of`, `commands` and `times` have an entry per line of the
    table."""
    results = frame.with_others(records, experiments)
    shown = [own for own in results.rows.values() if not only_recorded or any(row.has_records for row in own)]
    rows = [row for own in shown for row in own]
    lines = [Line(row, machine) for row in rows for machine in row.timed_on]
    entries: list[Any] = frame.of(rows).to_dict("records")
    place = {id(row): i for i, row in enumerate(rows)}
    selected = {id_: filters for one in experiments for id_, filters in selections(one).items()}
    return {
        "columns": columns(lines, entries, machine_names(records, sides)), "filters": FILTERS,
        "cell_of": [place[id(line.row)] for line in lines],
        "commands": [command(line.row, selected.get(id(line.row.cell)), line.timed) for line in lines],
        "times": [_times(line) for line in lines],
        "cells": [_details(row) for row in rows],
        "num_records": len(results.records), "num_left_out": len(records) - len(results.records),
    }


def _details(row: Row) -> dict[str, Any]:
    environments = [one.environment for one in row.records if one.environment.commit]
    commits = {one.commit[:12] + (" with local changes" if one.dirty else "") for one in environments}
    about = {"note": row.cell.note, "reported in": row.cell.reported.source, "commit": ", ".join(sorted(commits))}
    settings = {key: as_text(value) for key, value in as_written(flatten(to_dict(row.cell.config))).items()}
    return {"about": {**settings, **{key: value for key, value in about.items() if value}},
            "failures": failures(row), "curves": _curves(row)}


def _curves(row: Row) -> dict[str, Any] | None:
    """Accuracies in percent. `accuracy` and `loss`: by series of `CURVES`, then by seed, then by epoch."""
    trained = [one for one in [*row.trained, *row.failed] if one.epochs != Epochs()]
    shown = trained[:MAX_SEEDS]
    lengths = (len(getattr(one.epochs, name)) for one in shown for name in CURVES["accuracy"])
    every = _stride(max(lengths, default=0), MAX_EPOCHS)
    scale = {"accuracy": 100.0, "loss": 1.0}
    series = {kind: [[[rounded(scale[kind] * value) for value in getattr(one.epochs, name)[::every]] for one in shown]
                     for name in names] for kind, names in CURVES.items()}
    seeds = [one.seed if one.status == "ok" else f"{one.seed} ({one.status})" for one in shown]
    return {"seeds": seeds, "of": len(trained), "every": every, **series} if trained else None


def _times(line: Line) -> dict[str, Any] | None:
    speed = line.timed
    if speed is None:
        return None
    every = _stride(len(speed.step_s), MAX_STEPS)
    return {"of": len(speed.step_s), "every": every, "warnings": speed.warnings,
            "step_ms": [rounded(1e3 * value) for value in speed.step_s[::every]]}


def _stride(number: int, most: int) -> int:
    return max(1, math.ceil(number / most))


def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that sets `vegaEmbed`."""
    try:
        import vl_convert
    except ImportError as error:
        raise ValueError("the page needs vl-convert-python: pip install 'fmnist-bench[explorer]'") from error
    return _in_script(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _part(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _in_script(code: str) -> str:
    """Code that cannot end its own element: in a string or a regular expression the backslash changes nothing."""
    return code.replace("</script", "<\\/script")


def _json_in_script(data: Mapping[str, Any]) -> str:
    """JSON that cannot end its element: `<` occurs in strings alone, where JSON allows an escape."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _digest(code: str) -> str:
    """As a Content-Security-Policy names a script."""
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
