"""Records to RESULTS.md and its figures. No torch.

    python -m bench.report                    writes RESULTS.md and docs/figures/ from the published records
    python -m bench.report --check            writes nothing; exit code 1, and which file is stale, if any differs
    python -m bench.report --store runs       writes runs/RESULTS.md and runs/docs/figures/ from your own records
    python -m bench.report --store runs my_experiment.toml     with your experiment's question, labels and order
    python -m bench.report --html             writes explorer.html instead: a page to filter, sort and plot the records;
                                              with --store and experiments of your own, too

Without --store the records are the published ones, in experiments/results.
The same records give the same bytes: nothing in the files tells when or where they were written.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import command
from bench import experiment as experiments_
from bench.inputs.strict_parser import StrictParser, folder
from bench.pages import explorer, figures, readme
from bench.pages.document import Document, render
from bench.records.side_records import load_every
from bench.store import read, read_all

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED, RESULTS = experiments_.FOLDER / "results", ROOT / "RESULTS.md"
README = "README.md"
"""Beside RESULTS.md: where it has the marks for it, the results in short are written between them."""


def wanted(document: Document, output: Path) -> dict[Path, bytes | None]:
    """Each file with what the records give it; None: it is not to be there, since it is no longer drawn.

    A figure that needs the data set, which is not here, is left out.
    """
    files: dict[Path, bytes | None] = {output: document.text.encode()}
    for name in (f"{drawing.name}.svg" for drawing in figures.DRAWINGS):
        content = document.figures.get(name)
        if content is not None or name not in document.figures:
            files[output.parent / figures.FOLDER / name] = content
    if document.short and (page := output.parent / README).is_file():
        text = page.read_text()
        if (filled := readme.inserted(text, document.short)) != text:
            files[page] = filled.encode()
    return files


def stale(document: Document, output: Path) -> list[Path]:
    """The files that are not what the records give."""
    return [path for path, content in wanted(document, output).items()
            if content != (path.read_bytes() if path.is_file() else None)]


def write(document: Document, output: Path) -> None:
    (output.parent / figures.FOLDER).mkdir(parents=True, exist_ok=True)
    for path, content in wanted(document, output).items():
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0; 1 stale with --check; 2 a store or experiment that cannot be read, or nowhere to write."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.html and options.check:
        parser.error("argument --html: --check has no effect on the page")
    try:
        output = _output(options)
        loaded = experiments_.load_all([*experiments_.names(), *options.experiments])
        if options.html:
            page = explorer.render(read(options.store), loaded, load_every(options.store),
                                   only_recorded=not _is_published(options.store))
            output.write_bytes(page.encode())
            print(f"{output}: written; open it in a browser")
            return 0
        document = render(read_all(options.store), loaded, load_every(options.store),
                          own="" if _is_published(options.store) else _again(options))
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
        output_too = f" --output {shlex.quote(options.output)}" if options.output else ""
        print(f"{path}: stale; {_again(options)}{output_too} writes it anew", file=sys.stderr)
    for name in _not_drawn(document):
        print(f"{name}: not checked, it needs the data set", file=sys.stderr)
    return 1 if differing else 0


def _parser() -> StrictParser:
    parser = StrictParser("python -m bench.report", __doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT.toml",
                        help="experiments of your own, beside those of the project")
    parser.add_argument("--store", type=folder, default=str(PUBLISHED), metavar="DIR",
                        help="folder of the records; default: the published ones, experiments/results")
    parser.add_argument("--output", metavar="FILE",
                        help="a .md file; the figures go to docs/figures/ beside it; default: RESULTS.md of the "
                             "project for the published records, else RESULTS.md in the store's folder")
    parser.add_argument("--check", action="store_true",
                        help="write nothing; exit 1 if a file is not what the records give")
    parser.add_argument("--html", action="store_true",
                        help="write the explorer's page instead, a .html file; default: explorer.html in those places")
    return parser


def _output(options: argparse.Namespace) -> Path:
    """Other records never take the place of the published results, nor their figures that of the project's."""
    name = explorer.NAME if options.html else RESULTS.name
    default = RESULTS.with_name(name) if _is_published(options.store) else Path(options.store) / name
    output = Path(options.output or default)
    if output.suffix != default.suffix:
        raise ValueError(f"--output {output}: expected a file that ends in {default.suffix}")
    if not options.html and not _is_published(options.store) and output.resolve().parent == ROOT:
        raise ValueError(f"--output {output}: the results of the published records and their figures stand in that "
                         f"folder; allowed: any other, as in the default {default}")
    return output


def _again(options: argparse.Namespace) -> str:
    """The command that writes what is asked for, wherever to."""
    store = [] if _is_published(options.store) else ["--store", options.store]
    ours = experiments_.FOLDER.resolve()
    own = [path for path in dict.fromkeys(options.experiments) if experiments_.find(path).resolve().parent != ours]
    return shlex.join(["python", "-m", "bench.report", *store, *own])


def _is_published(store: str) -> bool:
    return Path(store).resolve() == PUBLISHED


def _not_drawn(document: Document) -> list[str]:
    return [name for name, content in document.figures.items() if content is None]


if __name__ == "__main__":
    command.leave(main)
