"""Records to RESULTS.md and its figures. No torch.

    python -m bench.report            writes RESULTS.md and docs/figures/
    python -m bench.report --check    writes nothing; exit code 1, and which file is stale, if any differs
    python -m bench.report --html     writes explorer.html instead: one page to filter, sort and plot the records
    python -m bench.report --store runs --output runs/RESULTS.md      of your own records

Without --store the records are the published ones, in experiments/results.
The same records give the same bytes: nothing in the files tells when or where they were written.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import beyond, cited, explorer, figures, final_network, glossary, outcomes, overview, readme, stats
from bench import experiment as experiments_
from bench.claims import by_experiment, judge, parts_table, summary_table
from bench.experiment import Experiment
from bench.record import Record
from bench.rows import Machine, Results, Row, collect, machines
from bench.sections import figures as figures_of
from bench.sections import section
from bench.side_records import KINDS, SideRecord, load_all
from bench.store import Store
from bench.strict_parser import StrictParser
from fmnist_core.config import class_names

ROOT = Path(__file__).resolve().parent.parent
FIRST = ("network1_printed", "table_1_1", "network2_printed", "table_1_2", "final", "kernel_depth",
         "kernel_size_network1", "kernel_size_network2")
"""The order of the sections; others follow by name, `quick` last."""
MAX_CELLS = 4
"""Whose accuracies per class are shown beside each other."""

BEYOND = ("Every choice is made on held-out training images; a result is the last epoch of a training on all 60,000 "
          "images, which nothing was chosen by.")


README = "README.md"
"""Beside RESULTS.md: where it has the marks for it, the results in short are written between them."""


class Document(NamedTuple):
    text: str
    figures: dict[str, bytes | None]
    """File name to content. None: left as it is, since it needs the data set, which is not here."""
    short: str
    """The results in short, for the README."""


def render(
    records: Sequence[Record], experiments: Sequence[Experiment], sides: Sequence[SideRecord] = ()
) -> Document:
    """The whole of RESULTS.md and its figures: records, the experiments that they belong to, and machines' own."""
    place = {name: i for i, name in enumerate(FIRST)}
    ordered = sorted(experiments, key=lambda one: (one.name == "quick", place.get(one.name, len(FIRST)), one.name))
    results = collect(records, ordered, sides)
    others = collect([record for group in results.others.values() for record in group], overview.unlisted(results))
    names = {machine: f"M{i}" for i, machine in enumerate(machines([*results.records, *others.records]), start=1)}
    drawn = figures.draw(results)
    judged = judge(results)
    claims = by_experiment(judged)
    parts = [
        "# Results",
        overview.introduction(results, others, names),
        f"## How to read the tables\n\n{overview.HOW_TO_READ}",
        "## The report's claims", overview.HOW_CLAIMS_ARE_JUDGED, summary_table(judged),
        "### The parts of the claims, and their tests", parts_table(judged),
        f"## The systems that the report cites\n\n{cited.render(results, names)}",
        "## Accuracy against cost\n\n" + "\n\n".join(figures_of("cost", drawn)),
        f"## Beyond\n\nGoals, and how far the recipes came. {BEYOND}\n\n{beyond.goals(results, names)}",
        f"### What each part brings\n\n{beyond.parts(results)}",
        f"### In one line\n\nWhat to type, and what to expect of one seed.\n\n{beyond.commands(results, names)}",
        f"## Experiments\n\n{overview.experiments_table(results)}",
        *(section(one, results.rows[one.name], names, drawn, claims.get(one.name, ()))
          + (f"\n\n{final_network.render(results)}" if one.name == "final" else "") for one in ordered),
        "## Over-fitting and early stopping\n\n" + "\n\n".join([final_network.overfitting(results),
                                                                *figures_of("overfitting", drawn)]),
        f"## The machine beside the cells\n\n{overview.beside(sides)}", *figures_of("machine", drawn),
        *_unlisted(others, names),
        f"## Glossary\n\nThe fields of the records, as `bench/record.py` defines them.\n\n{glossary.render()}",
    ]
    return Document("\n\n".join(parts) + "\n", drawn, readme.render(results, judged))


def stale(document: Document, output: Path) -> list[Path]:
    """The files that are not what the records give: missing, different, or no longer drawn."""
    folder = output.parent / figures.FOLDER
    drawn = {folder / name: content for name, content in document.figures.items() if content is not None}
    wanted = {output: document.text.encode(), **drawn}
    if (page := output.parent / README).is_file():
        wanted[page] = readme.inserted(page.read_text(), document.short).encode()
    gone = [path for path in _known_figures(folder) if path.name not in document.figures and path.exists()]
    return [path for path, content in wanted.items() if not path.is_file() or path.read_bytes() != content] + gone


def write(document: Document, output: Path) -> None:
    folder = output.parent / figures.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for path in _known_figures(folder):
        if path.name not in document.figures:
            path.unlink(missing_ok=True)
        elif (content := document.figures[path.name]) is not None:
            path.write_bytes(content)
    output.write_bytes(document.text.encode())
    page = output.parent / README
    if page.is_file() and (text := page.read_text()) != (new := readme.inserted(text, document.short)):
        page.write_text(new)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0; 1 stale with --check; 2 a store or experiment that cannot be read, or nowhere to write."""
    parser = StrictParser("python -m bench.report", __doc__)
    parser.add_argument("--store", default=str(experiments_.FOLDER / "results"), metavar="DIR",
                        help="folder of the records")
    parser.add_argument("--output", default=str(ROOT / "RESULTS.md"), metavar="FILE",
                        help="the figures go to docs/figures/ beside it")
    parser.add_argument("--check", action="store_true",
                        help="write nothing; exit 1 if a file is not what the records give")
    parser.add_argument("--html", nargs="?", const=explorer.DEFAULT_OUTPUT, metavar="FILE",
                        help=f"write the explorer's page instead; default: {explorer.DEFAULT_OUTPUT}")
    options = parser.parse_args(arguments)
    if options.html:
        return explorer.main(["--store", options.store, "--output", options.html])
    output = Path(options.output)
    try:
        loaded = [experiments_.load(name) for name in experiments_.names()]
        records = list(Store(options.store).latest().values())
        document = render(records, loaded, _sides(options.store))
        if not options.check:
            write(document, output)
            print(f"{output}: written, with {len(document.figures)} figures in {output.parent / figures.FOLDER}"
                  + "".join(f"; {name} is as it was: it needs the data set" for name in _not_drawn(document)))
            return 0
    except (ValueError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    differing = stale(document, output)
    for path in differing:
        print(f"{path}: stale; python -m bench.report writes it anew", file=sys.stderr)
    for name in _not_drawn(document):
        print(f"{name}: not checked, it needs the data set", file=sys.stderr)
    return 1 if differing else 0


def _sides(folder: str) -> list[SideRecord]:
    return [side for kind in KINDS for side in load_all(folder, kind)]


def _unlisted(others: Results, names: Mapping[Machine, str]) -> list[str]:
    if not others.experiments:
        return []
    return ["## Other configurations\n\nRecords of cells that no experiment of the project has.",
            *(section(one, others.rows[one.name], names) + _classes(others.rows[one.name])
              for one in others.experiments)]


def _classes(rows: Sequence[Row]) -> str:
    """Accuracy per class of the best cells, on data whose classes the report does not show elsewhere."""
    data = rows[0].cell.config.data
    known = [row for row in rows if any(record.test.confusion for record in row.trained)]
    if not known or data.dataset in ("fashion-mnist", "synthetic"):
        return ""
    best = sorted(known, key=lambda row: -stats.summarize(row.values(outcomes.test_last)).mean)[:MAX_CELLS]
    return ("\n\n**Accuracy per class** (test set, last epoch, %; mean ± sd [95 % interval] over seeds)\n\n"
            + final_network.per_class(best, class_names(data)))


def _not_drawn(document: Document) -> list[str]:
    return [name for name, content in document.figures.items() if content is None]


def _known_figures(folder: Path) -> list[Path]:
    return [folder / f"{drawing.name}.svg" for drawing in figures.DRAWINGS]


if __name__ == "__main__":
    sys.exit(main())
