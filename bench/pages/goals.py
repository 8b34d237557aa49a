"""The goals beyond the cited systems as a table, and as lines of a recipe's section. No torch."""

from typing import NamedTuple

from bench import stats
from bench.formatting import NOTHING, code, escape, estimate, significant, table
from bench.judging.goals import GOALS, Goal, result_of, verdict
from bench.pages.shown import Shown
from bench.pages.tables import training_time
from bench.pages.targets import first_epoch_surplus_s
from bench.records import outcomes
from bench.records.machines import is_undisturbed
from bench.records.rows import Row


class _Line(NamedTuple):
    """Of the table: how far the result came, each figure as text."""

    recipe: str
    test_views: str
    accuracy: str
    num_seeds: str
    reached: str
    train_s: str
    first_epoch_surplus_s: str


def render(shown: Shown) -> str:
    headers = ["goal", "recipe", "test views", "test, last epoch (%)", "n", "reached", "training time (s)",
               "of it the first epoch's surplus (s)"]
    body = []
    for goal in GOALS:
        row, reason = result_of(shown.results, goal)
        body.append([str(goal), *(_line(row, goal, shown) if row else [reason, *[NOTHING] * 6])])
    return table(headers, body, text_columns=3)


def of(experiment: str, shown: Shown) -> list[str]:
    """The goals that an experiment is to reach, and whether it does."""
    lines = []
    for goal in [goal for goal in GOALS if goal.experiment == experiment]:
        row, told = result_of(shown.results, goal)
        if row:
            line = _line(row, goal, shown)
            told = (f"**{line.reached}**, {line.accuracy} % (n = {line.num_seeds}) by {line.recipe}; training time in "
                    f"seconds: {line.train_s}")
        lines.append(f"{goal}: {told}")
    return lines


def _line(row: Row, goal: Goal, shown: Shown) -> _Line:
    values = row.values(outcomes.test_last)
    surplus = first_epoch_surplus_s(filter(is_undisturbed, row.trained))
    return _Line(f"{code(row.experiment.name)}, {escape(row.label)}", row.cell.config.data.test_views, estimate(values),
                 str(len(values)), verdict(row, goal), training_time(row, shown.names),
                 significant(stats.median(surplus)) if surplus else NOTHING)
