"""The report's figures beside ours, number by number, and the order of its trials. No torch."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import stats
from bench.formatting import FEWEST_SPREAD, NOTHING, as_printed, escape, estimate, percent, table
from bench.judging.final_network import (
    TEST_SECTION_1_7,
    TEST_SECTION_1_8,
    VALIDATION,
    on_all_images,
    readings,
)
from bench.judging.trials import trials
from bench.pages.drawing import COLOURS, SMALL, WIDTH, legend_below, title_of
from bench.records import outcomes
from bench.records.rows import Results, Row

TABLES = {"table_1_1": "Table 1.1", "table_1_2": "Table 1.2"}
TEST_SOURCES = (("section 1.7", TEST_SECTION_1_7), ("section 1.8", TEST_SECTION_1_8))
"""Of the final network."""
HOW_TO_READ = """\
Accuracies in per cent, last epoch, mean ± standard deviation over seeds [95 % interval of the mean]. **One run**: the
95 % prediction interval for a single run of ours, which is what the report's figure is. **Place**: among the seven
trials by the mean validation accuracy, the best first, as far as they have records, each by the arithmetic that has
most seeds. Neighbours in it may differ by no more than their seeds do: the tests of it belong to claim 2."""
HEADERS = ["where", "what", "accuracy", "the report", "here", "one run", "seeds", "place in the report", "place here",
           "validation loss"]
LOWEST_SHOWN = 80.0
"""Per cent at which the axis begins; a cell below it is written."""


class Reported(NamedTuple):
    """A figure of one run of the report, and the seeds of the same cell here."""

    where: str
    row: Row
    accuracy: str
    figure: float
    values: list[float]

    @property
    def one_run(self) -> tuple[float, float] | None:
        return stats.prediction_interval(self.values) if len(self.values) >= FEWEST_SPREAD else None


def render(results: Results) -> str:
    """A row per figure of the report; where a trial has two readings, a row for each."""
    body = [line for name in TABLES for line in _trials(results, name)]
    body += [[*_line(one), NOTHING, NOTHING, _loss(one)] for one in _final(results)]  # no order
    return f"{HOW_TO_READ}\n\n{table(HEADERS, body, text_columns=3)}"


def figure(results: Results) -> Figure | None:
    """Each figure of the report as a mark beside the 95 % interval for one run of ours."""
    panels = {"Table 1.1: Network 1, validation": _of_table(results, "table_1_1"),
              "Table 1.2: Network 2, validation": _of_table(results, "table_1_2"),
              "The final network": _final(results)}
    panels = {title: shown for title, reported in panels.items() if (shown := [one for one in reported if one.values])}
    if not panels:
        return None
    figure = Figure(figsize=(WIDTH, 0.9 + 0.24 * sum(map(len, panels.values())) + 0.3 * len(panels)),
                    layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=[*map(len, panels.values())])
    for panel, (title, reported) in zip(axes[:, 0], panels.items(), strict=True):
        _panel(panel, reported)
        panel.set_title(title, loc="left")
    axes[-1, 0].set_xlabel("accuracy (%), last epoch")
    axes[-1, 0].set_xlim(LOWEST_SHOWN, None)
    figure.suptitle(title_of("What the report's one run gave, and what one run gives here"))
    legend_below(figure)
    return figure


def _panel(axes: Axes, reported: Sequence[Reported]) -> None:
    places = np.arange(len(reported))[::-1]
    means = [100 * stats.mean(one.values) for one in reported]
    for place, one, mean in zip(places, reported, means, strict=True):
        if one.one_run and mean >= LOWEST_SHOWN:
            low, high = (100 * end for end in one.one_run)
            axes.plot([low, min(high, 100.0)], [place, place], color=COLOURS[0], linewidth=5, alpha=0.35,
                      solid_capstyle="butt", label="95 % prediction interval of one run here")
        if mean < LOWEST_SHOWN:
            axes.annotate(f"here {mean:.1f}", (LOWEST_SHOWN, place), xytext=(4, 0), textcoords="offset points",
                          va="center", fontsize=SMALL, color=COLOURS[0])
    shown = [(mean, place) for mean, place in zip(means, places, strict=True) if mean >= LOWEST_SHOWN]
    axes.plot([mean for mean, _ in shown], [place for _, place in shown], "o", color=COLOURS[0], markersize=4,
              label="mean over seeds here")
    axes.plot([100 * one.figure for one in reported], places, "D", color=COLOURS[1], markersize=5,
              label="the report, one run")
    axes.set_yticks(places, [f"{_name(one)}, n = {len(one.values)}" for one in reported])
    axes.set_ylim(-0.6, len(reported) - 0.4)
    axes.tick_params(axis="y", length=0)


def _name(one: Reported) -> str:
    """A trial's figure is always of validation; of the final network there are several."""
    if one.where in TABLES.values():
        return one.row.label
    return f"{one.row.label}, {one.accuracy}{f' ({one.where})' if one.accuracy == 'test' else ''}"


def _of_table(results: Results, experiment: str) -> list[Reported]:
    return [Reported(TABLES[experiment], row, "validation", row.cell.reported.validation_accuracy or 0.0,
                     row.values(outcomes.validation_last)) for row in results.of(experiment)]


def _final(results: Results) -> list[Reported]:
    found = []
    for row in readings(results):
        found.append(Reported("Table 1.2, section 1.6", row, "validation", VALIDATION,
                              row.values(outcomes.validation_last)))
        found += [Reported(source, row, "test", figure, row.values(outcomes.test_last))
                  for source, figure in TEST_SOURCES]
    source, figure = TEST_SOURCES[-1]
    return found + [Reported(source, row, "test", figure, row.values(outcomes.test_last))
                    for row in on_all_images(results)]


def _trials(results: Results, experiment: str) -> list[list[str]]:
    ranked = trials(results, experiment)
    there = _order(ranked, lambda row: row.cell.reported.validation_accuracy)
    here = _order(ranked, lambda row: _mean(row.values(outcomes.validation_last)))
    return [[*_line(one), there.get(one.row.label, NOTHING), here.get(one.row.label, NOTHING), _loss(one)]
            for one in _of_table(results, experiment)]


def _line(one: Reported) -> list[str]:
    own = " to ".join(map(percent, one.one_run)) if one.one_run else NOTHING
    return [one.where, escape(one.row.label), one.accuracy, as_printed(one.figure),
            estimate(one.values) if one.values else "waiting", own, str(len(one.values))]


def _loss(one: Reported) -> str:
    losses = one.row.values(outcomes.validation_loss_last) if one.accuracy == "validation" else []
    if not losses:
        return NOTHING
    summary = stats.summarize(losses)
    return f"{summary.mean:.4f}" + (f" ± {summary.sd:.4f}" if len(losses) > 1 else "")


def _order(rows: Sequence[Row], value: Callable[[Row], float | None]) -> dict[str, str]:
    """By label, from 1 on: the number of better ones decides, so that equal ones share a place."""
    known = {row.label: number for row in rows if (number := value(row)) is not None}
    return {label: str(1 + sum(other > number for other in known.values())) for label, number in known.items()}


def _mean(values: Sequence[float]) -> float | None:
    return stats.mean(values) if values else None
