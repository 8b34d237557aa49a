"""What goes beyond the cited systems: goals, choices, what each part of a recipe brings, and the commands. No torch.

Choices are made by validation accuracy alone; the cell that is chosen has a twin, trained on all 60,000 images, whose
test accuracy at the last epoch is the result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from bench import outcomes, stats
from bench.formatting import NOTHING, code, escape, estimate, folded, percent, plural, points, table
from bench.pages.cited import row_of, waiting
from bench.pages.tables import training_time
from bench.rows import Machine, Results, Row
from fmnist_core.models.catalogue import CITED, NON_NEURAL

RESULT, WHOLE = "the recipe, all 60,000 images", "the recipe"
"""Labels of the cell that is the result, and of the one that the parts are compared with."""
RECIPES = {"beyond_small": "Under 100,000 parameters", "beyond_best": "The best single model"}
GOALS = (("beyond_small", "cpu", 0.935), ("beyond_small", "cuda", 0.95), ("beyond_best", "cuda", 0.966))
"""Experiment, kind of device, mean test accuracy at the last epoch."""
FAST = {"beyond_fast": ("on a CPU", (0.92, 0.93)), "beyond_fast_gpu": ("on one GPU", (0.94, 0.95))}
"""Experiments of least time to an accuracy: on what, and to which mean test accuracies at the last epoch."""


def goals(results: Results, names: Mapping[Machine, str]) -> str:
    """`names`: of the machines."""
    body = []
    for experiment, kind, goal in GOALS:
        rows = [row for row in results.rows.get(experiment, ()) if row.cell.label == RESULT and row.trained
                and (row.trained[0].environment.device == "cpu") == (kind == "cpu")]
        reached = _reached(rows[0], goal, names) if rows else ["waiting", *[NOTHING] * 3]
        on = "on a CPU" if kind == "cpu" else "with a GPU"
        body.append([f"{RECIPES[experiment]}, {on}: {percent(goal, 1)} %", *reached])
    body += [[f"Least time to {percent(goal, 0)} % {where}", *_fastest(results, experiment, goal, names)]
             for experiment, (where, targets) in FAST.items() for goal in targets]
    return table(["goal", "recipe", "test, last epoch (%)", "reached", "training time (s)"], body, text_columns=2)


def _reached(row: Row, goal: float, names: Mapping[Machine, str]) -> list[str]:
    values = row.values(outcomes.test_last)
    low, _ = stats.mean_interval(values)
    mean = stats.summarize(values).mean
    verdict = "no" if mean < goal else "yes" if low >= goal else "yes, but not the whole interval"
    if len(values) < 2:
        verdict = f"{'no' if mean < goal else 'yes'}, by one seed"
    return [code(row.experiment.name), estimate(values), verdict, training_time(row, names)]


def _fastest(results: Results, experiment: str, goal: float, names: Mapping[Machine, str]) -> list[str]:
    """The choice by validation accuracy among the cells of `experiment`, and what its twin reaches."""
    rows = results.of(experiment)
    if not any(row.trained for row in rows):
        return ["waiting", *[NOTHING] * 3]
    chosen = choose(rows, goal)
    if chosen is None:
        shared = all(record.labels.machine_shared for row in rows for record in row.trained)
        return ["waiting for undisturbed times" if shared else "none reaches it on validation", *[NOTHING] * 3]
    twin = twin_of(chosen, rows)
    reached = _reached(twin, goal, names)[1:] if twin.trained else ["waiting", NOTHING, NOTHING]
    return [f"{code(experiment)}, {escape(twin.label)}", *reached]


def choose(rows: Sequence[Row], goal: float) -> Row | None:
    """Of the rows whose mean validation accuracy at the last epoch is at least `goal`, the one that trained fastest.

    Only seeds that had their machine to themselves say how fast.
    """
    seconds = {row: [total for record in row.trained if not record.labels.machine_shared
                     and (total := outcomes.train_s(record)) is not None] for row in rows}
    good = [row for row in rows if seconds[row] and (values := row.values(outcomes.validation_last))
            and stats.summarize(values).mean >= goal]
    return min(good, key=lambda row: stats.summarize(seconds[row]).mean, default=None)


def twin_of(chosen: Row, rows: Sequence[Row]) -> Row:
    """The row, one of `rows`, that differs in holding out no images."""
    config = chosen.cell.config
    on_all = msgspec.structs.replace(config, data=msgspec.structs.replace(config.data, validation_size=0))
    return next(row for row in rows if row.cell.config == on_all)


def parts(results: Results) -> str:
    """What each part brings: the change of the validation accuracy against the whole recipe."""
    tables = []
    for experiment, title in RECIPES.items():
        whole = row_of(results, experiment, WHOLE)
        rows = [row for row in results.of(experiment) if row.cell.label not in (RESULT, WHOLE)]
        body = [[escape(row.label), *_change(whole, row)] for row in rows]
        own = [escape(WHOLE), *(_validation(whole), NOTHING, str(len(whole.trained)) if whole else NOTHING)]
        listed = table(["cell", "validation, last epoch (%)", "change (points) [95 % interval]", "n"], [own, *body])
        title = f"{title} ({code(experiment)})"
        tables.append(f"**{title}**\n\n{listed}" if any(row.trained for row in results.of(experiment)) else
                      folded(f"{title}: waiting", listed))
    return "\n\n".join(tables)


def _validation(row: Row | None) -> str:
    return estimate(row.values(outcomes.validation_last)) if row is not None and row.trained else waiting(row)


def _change(whole: Row | None, row: Row) -> list[str]:
    values = row.values(outcomes.validation_last)
    reference = whole.values(outcomes.validation_last) if whole is not None else []
    if not values or not reference:
        return [_validation(row), NOTHING, str(len(row.trained)) if row.trained else NOTHING]
    change = stats.compare(reference, values)
    interval = f" [{points(change.low)}, {points(change.high)}]" if min(change.n_a, change.n_b) > 1 else ""
    return [_validation(row), f"{points(change.difference)}{interval}", str(len(row.trained))]


def commands(results: Results, names: Mapping[Machine, str]) -> str:
    """Every recipe as one line to type, with what to expect of it: mean accuracy and seconds of training of a seed."""
    wanted = [(name, RESULT) for name in RECIPES]
    wanted += [(name, row.label) for name in FAST for row in results.of(name)
               if row.setting("data.validation_size") == 0]
    wanted += [("final", "ReLU after fc1")]
    wanted += [(entry.experiment, entry.name) for entry in (*CITED, *NON_NEURAL)]
    body = []
    for experiment, label in wanted:
        row = row_of(results, experiment, label)
        command = f'accelerate launch bench/run.py {experiment} --only "label={label}" --seeds 1'
        body.append([code(command), *_expected(row, names)])
    return folded(plural(len(body), "command"), table(["command", "test, last epoch (%)", "training time (s)"], body))


def _expected(row: Row | None, names: Mapping[Machine, str]) -> list[str]:
    if row is None or not row.trained:
        return [waiting(row), NOTHING]
    alone = [record for record in row.trained if not record.labels.machine_shared and record.labels.fused_seeds <= 1]
    return [percent(stats.summarize(row.values(outcomes.test_last)).mean),
            training_time(replace(row, trained=alone), names)]
