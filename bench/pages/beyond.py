"""What each part of the recipes beyond the cited systems brings, and everything as a command of one line. No torch."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from bench import stats
from bench.formatting import (
    NOTHING,
    code,
    escape,
    estimate,
    folded,
    interval_text,
    p_value,
    percent,
    plural,
    points,
    table,
)
from bench.inputs.dotted import as_text
from bench.inputs.settings import every_setting, varied
from bench.judging.goals import FAST, RESULT
from bench.pages.cited import waiting
from bench.pages.shown import Shown
from bench.pages.tables import training_time
from bench.records import outcomes, reproduce
from bench.records.machines import is_undisturbed
from bench.records.rows import Results, Row
from fmnist_core.models.catalogue import CITED, NON_NEURAL, by_cell

WHOLE = "the recipe"
"""Label of the cell that the parts are compared with."""
RECIPES = {"beyond_small": "Under 100,000 parameters", "beyond_small_gpu": "Under 100,000 parameters, trained longer",
           "beyond_best": "The best single model", "beyond_fast_parts": "Least time on a CPU",
           "beyond_fast_gpu_parts": "Least time on a GPU"}
"""Experiments that take a recipe apart."""


def parts(results: Results) -> str:
    """What each part brings: the change of the validation accuracy against the whole recipe."""
    tables = []
    for experiment, title in RECIPES.items():
        whole = results.labelled(experiment, WHOLE)
        rows = [row for row in results.of(experiment) if row.cell.label not in (RESULT, WHOLE)]
        own = [escape(WHOLE), _validation(whole), NOTHING, NOTHING, str(len(whole.trained)) if whole else NOTHING]
        headers = ["cell", "validation, last epoch (%)", "less the recipe (points) [95 % interval]", "p (Holm)", "n"]
        listed = table(headers, [own, *_changes(results, whole, rows)])
        title = f"{title} ({code(experiment)})"
        asked = rows if whole is None else [whole, *rows]
        listed += _unlike_the_result(whole, results.labelled(experiment, RESULT))
        tables.append(f"**{title}**\n\n{listed}" if any(row.trained for row in asked) else
                      folded(f"{title}: waiting", listed))
    return "\n\n".join(tables)


def _unlike_the_result(whole: Row | None, result: Row | None) -> str:
    """In what the recipe that is taken apart differs from the one that a goal is judged by."""
    if whole is None or result is None:
        return ""
    settings = [every_setting(row.cell.config) for row in (whole, result)]
    here, there = (", ".join(f"{code(key)} = {as_text(own[key])}" for key in varied(settings)) for own in settings)
    return f"\n\nHere with {here}; the result, above under the goals, is of a training with {there}."


def _validation(row: Row | None) -> str:
    return estimate(row.values(outcomes.validation_last)) if row is not None and row.trained else waiting(row)


def _changes(results: Results, whole: Row | None, rows: Sequence[Row]) -> list[list[str]]:
    """Each against seeds of the whole recipe with the same arithmetic; Holm over those with two seeds or more."""
    changes = _compared(results, whole, rows) if whole is not None and whole.trained else {}
    tested = [row for row, change in changes.items() if not math.isnan(change.p)]
    adjusted = dict(zip(tested, stats.holm([changes[row].p for row in tested]), strict=True)) if tested else {}
    body = []
    for row in rows:
        change = changes.get(row)
        less = NOTHING if change is None else points(change.difference)
        if row in adjusted and change is not None:
            less += f" [{points(change.low)}, {points(change.high)}]"
        body.append([escape(row.label), _validation(row), less, p_value(adjusted[row]) if row in adjusted else NOTHING,
                     str(len(row.trained)) if row.trained else NOTHING])
    return body


def _compared(results: Results, whole: Row, rows: Sequence[Row]) -> dict[Row, stats.Comparison]:
    """By the spread of all cells where it may be the same: `stats.compare_with`; of one seed, no more than a change."""
    changes, together = {}, defaultdict(list)
    for row in rows:
        if row.trained and (alike := results.alike(whole, row)):
            before, after = (one.values(outcomes.validation_last) for one in alike)
            if min(len(before), len(after)) > 1:
                together[tuple(before)].append((row, after))
            else:
                changes[row] = stats.compare(before, after)
    for recipe, cells in together.items():
        compared = stats.compare_with(recipe, [after for _, after in cells])
        changes |= {row: change for (row, _), change in zip(cells, compared, strict=True)}
    return changes


def commands(shown: Shown) -> str:
    """Every recipe as one line to type, with what to expect of it: where one seed's accuracy falls, and its seconds.

    The authors' accuracy, named so, where nobody has run it yet.
    """
    results = shown.results
    wanted = [(name, RESULT) for name in RECIPES if results.labelled(name, RESULT)]
    wanted += [(name, row.label) for name in FAST for row in results.of(name)
               if row.setting("data.validation_size") == 0]
    wanted += [("final", "ReLU after fc1")]
    wanted += [(entry.experiment, entry.name) for entry in (*CITED, *NON_NEURAL)]
    body = []
    for experiment, label in wanted:
        row = results.labelled(experiment, label)
        body.append([code(reproduce.of_label(experiment, label)), *_expected(row, shown)])
    return folded(plural(len(body), "command"), table([
        "command", "test, last epoch (%) [95 % prediction interval of one run]", "n", "training time (s)"], body))


def _expected(row: Row | None, shown: Shown) -> list[str]:
    if row is None or not row.trained:
        system = by_cell(row.experiment.name, row.cell.label) if row is not None else None
        known = f"; its authors: {percent(system.authors_accuracy)}" if system and system.authors_accuracy else ""
        return [f"{waiting(row)}{known}", NOTHING, NOTHING]
    by_itself = [record for record in row.trained if record.labels.fused_seeds <= 1]
    timed = [record for record in by_itself if is_undisturbed(record)] or by_itself
    values = row.values(outcomes.test_last)
    one_run = interval_text(values, percent, 0.0, 1.0, stats.prediction_interval)
    return [f"{percent(stats.mean(values))}{one_run}", str(len(values)),
            training_time(replace(row, trained=timed), shown.names)]
