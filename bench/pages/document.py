"""RESULTS.md as a whole: its chapters, their order, and which of them a set of records has. No torch."""

from collections.abc import Sequence
from typing import NamedTuple

from bench import stats
from bench.claims import Judged, judge
from bench.experiment import Experiment
from bench.formatting import anchor, folded
from bench.pages import (
    beyond,
    cited,
    classes,
    figures,
    final_network,
    glossary,
    goals,
    overview,
    pareto,
    readme,
    reported,
)
from bench.pages.sections import figure_links, section, shows
from bench.pages.shown import Shown
from bench.pages.verdicts import by_experiment, parts_table, summary_table
from bench.record import Record
from bench.records import outcomes, unlisted
from bench.records.machines import machine_names
from bench.records.rows import Row, collect
from bench.records.side_records import SideRecord, Turns
from fmnist_core.config import class_names

FIRST = ("final", "table_1_1", "table_1_2", "network1_printed", "network2_printed", "kernel_depth",
         "kernel_size_network1", "kernel_size_network2")
"""The order of the sections; others follow by name, `quick` last."""
MAX_CELLS = 4
"""Whose accuracies per class are shown beside each other."""

BEYOND = ("Every choice is made on held-out training images; a result is the last epoch of a training on all 60,000 "
          "images, which nothing was chosen by. One rule of choice, that for the least time to 92 and 93 % on a CPU, "
          "was made stricter when test results were known: what the first rule came to, and which goal it missed, "
          "stands in the [log](docs/recipes-log.md).")


class Document(NamedTuple):
    text: str
    figures: dict[str, bytes | None]
    """File name to content. None: left as it is, since it needs the data set, which is not here."""
    short: str
    """The results in short, for the README; empty for a store of one's own."""


class _Chapter(NamedTuple):
    title: str
    body: str
    about: tuple[str, ...] = ()
    """Experiments without whose records a document of one's own leaves the chapter out; none: it is always there."""


def render(records: Sequence[Record], experiments: Sequence[Experiment], sides: Sequence[SideRecord] = (), *,
           own: str = "") -> Document:
    """The whole of RESULTS.md and its figures: records, the experiments that they belong to, and machines' own.

    `own`: the command that writes it, of a store other than the published one. Then what has no records is left out,
    not shown as waiting.
    """
    place = {name: i for i, name in enumerate(FIRST)}
    ordered = sorted(experiments, key=lambda one: (one.name == "quick", place.get(one.name, len(FIRST)), one.name))
    results = collect(records, ordered, sides)
    others = collect([record for group in results.others.values() for record in group], unlisted.experiments(results))
    names = machine_names([*results.records, *others.records], sides)
    drawn, judged = figures.draw(results), judge(results)
    shown = Shown(results, names, drawn, by_experiment(judged))
    done = {one.name for one in ordered if any(row.has_records for row in results.rows[one.name])}
    listed = [one for one in ordered if not own or one.name in done]
    chapters = [
        *_report_chapters(judged, shown),
        _Chapter("Experiments", "\n\n".join([
            overview.experiments_table(results, listed), *(_section(one, shown) for one in listed)]),
            tuple(results.rows)),
        *_other_chapters(shown),
    ]
    chapters = [one for one in chapters if not own or not one.about or done & set(one.about)]
    without = _unlisted(Shown(others, names))
    chapters = [*without, *chapters] if own else [*chapters, *without]
    chapters.append(_Chapter("How to read the tables", overview.legend(shown, others)))
    chapters.append(_Chapter("Glossary", "The fields of the records, as `bench/record.py` defines them.\n\n"
                             + folded("All fields", glossary.render())))
    parts = ["# Results", overview.introduction(results, others, own), _contents(chapters),
             *(f"## {one.title}\n\n{one.body}" for one in chapters)]
    return Document("\n\n".join(part for part in parts if part) + "\n", drawn,
                    "" if own else readme.render(results, judged))


def _report_chapters(judged: Sequence[Judged], shown: Shown) -> list[_Chapter]:
    """What answers the report as a whole."""
    results = shown.results
    of_claims = tuple({name for one in judged for part in one.claim.parts for name in part.experiments})
    systems = tuple(name for name in results.rows if name.startswith("cited_"))
    recipes = tuple(name for name in results.rows if name.startswith("beyond_"))
    return [
        _Chapter("The report's claims", "\n\n".join([
            overview.HOW_CLAIMS_ARE_JUDGED, summary_table(judged), "### The parts of the claims, and their tests",
            parts_table(judged)]), of_claims),
        _Chapter("The report's figures", "\n\n".join([*figure_links("reported", shown), reported.render(results)]),
                 (*reported.TABLES, "final")),
        _Chapter("The systems that the report cites", cited.render(shown), systems),
        _Chapter("Accuracy against cost", "\n\n".join([pareto.HOW_TO_READ, *figure_links("cost", shown)]),
                 tuple(results.rows)),
        _Chapter("Beyond", "\n\n".join([
            f"Goals, and how far the recipes came. {BEYOND}", goals.render(shown),
            "### What each part brings", beyond.parts(results), "### In one line",
            "What to type, and what to expect of one seed.", beyond.commands(shown)]), recipes),
    ]


def _section(experiment: Experiment, shown: Shown) -> str:
    text = section(experiment, shown)
    return f"{text}\n\n{final_network.render(shown.results)}" if experiment.name == "final" else text


def _other_chapters(shown: Shown) -> list[_Chapter]:
    results = shown.results
    chapters = [
        _Chapter("Over-fitting and early stopping", "\n\n".join([
            final_network.overfitting(results), *figure_links("overfitting", shown)]),
            final_network.OVERFITTING_EXPERIMENTS),
    ]
    beside = [side for side in results.sides
              if not (isinstance(side, Turns) and shows(side, results.rows.get(side.experiment, ())))]
    if results.sides or results.records:
        chapters.append(_Chapter("The machine beside the cells", "\n\n".join([
            overview.beside(beside, shown.names), *figure_links("machine", shown)])))
    return chapters


def _contents(chapters: Sequence[_Chapter]) -> str:
    return "\n".join(f"- [{one.title}](#{anchor(one.title)})" for one in chapters)


def _unlisted(shown: Shown) -> list[_Chapter]:
    """The chapter of records that no experiment has."""
    others = shown.results
    if not others.experiments:
        return []
    return [_Chapter("Other configurations", "\n\n".join([
        "Records of cells that no experiment of the project has.",
        *(section(one, shown) + _classes(others.rows[one.name]) for one in others.experiments)]))]


def _classes(rows: Sequence[Row]) -> str:
    """Accuracy per class of the best cells, on data whose classes the report does not show elsewhere."""
    data = rows[0].cell.config.data
    known = [row for row in rows if any(record.test.confusion for record in row.trained)]
    if not known or data.dataset in ("fashion-mnist", "synthetic"):
        return ""
    best = sorted(known, key=lambda row: -stats.mean(row.values(outcomes.test_last)))[:MAX_CELLS]
    return ("\n\n**Accuracy per class** (test set, last epoch, %; mean ± sd [95 % interval] over seeds)\n\n"
            + classes.per_class(best, class_names(data)))
