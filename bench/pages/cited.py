"""The table of cited systems: what their authors claim beside what they reach here. No torch."""

from bench.formatting import FEWEST_SPREAD, NOTHING, count, escape, estimate, folded, percent, plural, table
from bench.judging.evidence import HALF_A_CITED_DIGIT
from bench.judging.one_run import Standing, standing
from bench.pages.shown import Shown
from bench.pages.tables import training_time
from bench.records import outcomes
from bench.records.rows import Results, Row
from fmnist_core.models.catalogue import CITED, NON_NEURAL, CitedSystem

HOW_TO_READ = (
    "Authors: the accuracy that they give (in brackets: where it was read, if not in their own text or code), how the "
    "network was chosen that it belongs to, and on which release of the data set; the one in use before September 2017 "
    "is 0.4 to 0.55 points easier. Here: the current release, checked by its SHA-256; accuracies in %, mean ± sd "
    "[95 % interval of the mean] over n seeds. The last epoch's is the result; the best on test is shown because it is "
    "what many authors give. `waiting`: no record yet; `waiting (GPU)`: too heavy for a CPU, where tests "
    "train it for some steps and see the loss fall. Where two systems share one network, the recipe differs. Training "
    "that stops early goes on for some epochs after its best: there the validation-selected accuracy is the one to "
    "compare. The report's 51 % to 86.8 % for models that are no networks names no model; 51 % is naive Bayes in the "
    "data set's benchmark. Its 91.74 % for \"CNN with the relu activation function\" has no source and no layers, so "
    "nothing can be trained to stand beside it.")
HEADERS = ["system", "source", "year", "parameters", "multiply-adds", "authors (%)", "chosen by", "release",
           "the report (%)", "here, last epoch", "here, validation-selected", "here, best on test (not a result)", "n",
           "training time (s)"]


def render(shown: Shown) -> str:
    done: list[list[str]] = []
    waiting_: list[list[str]] = []
    for entry in (*CITED, *NON_NEURAL):
        row = shown.results.labelled(entry.experiment, entry.name)
        (done if row is not None and row.trained else waiting_).append(_line(entry, row, shown))
    parts = [*_summary(shown.results), table(HEADERS, done, text_columns=2)] if done else []
    if waiting_:
        parts.append(folded(f"Waiting: {plural(len(waiting_), 'system')}", table(HEADERS, waiting_, text_columns=2)))
    return "\n\n".join([HOW_TO_READ, *parts, folded("What is to be known of single rows", notes())])


def _summary(results: Results) -> list[str]:
    """How the authors' accuracies compare with ours, of systems with seeds enough to say."""
    what: dict[Standing, str] = {
        "may give it": "is one that a run of ours may give", "lower": "lies above ours", "higher": "lies below",
        "unclear": "cannot be told from ours, whose spread over the seeds is too wide,"}
    found: dict[Standing, list[str]] = {one: [] for one in what}
    by_test = old = 0
    for entry in (*CITED, *NON_NEURAL):
        row = results.labelled(entry.experiment, entry.name)
        by_sign = row is not None and row.cell.reported.by_sign
        values = row.values(outcomes.test_by_sign if by_sign else outcomes.test_last) if row else []
        if entry.authors_accuracy and len(values) >= FEWEST_SPREAD:
            found[standing(values, entry.authors_accuracy, HALF_A_CITED_DIGIT)].append(escape(entry.name))
            by_test += "test" in entry.selection
            old += entry.release == "old"
    told = [f"{what[one]} for {len(systems)} ({'; '.join(systems)})" for one, systems in found.items() if systems]
    return [f"**Answer.** Of {plural(sum(map(len, found.values())), 'system')} with three seeds or more, the authors' "
            f"accuracy {'; '.join(told)}: by the 95 % prediction interval of one run's last epoch. Of these "
            f"authors' accuracies {by_test} were chosen by the test set, {old} are of the older, easier release."
            ] if told else []


def notes() -> str:
    """What the catalogue has to say of its entries; entries of one note together."""
    names: dict[str, list[str]] = {}
    for entry in (*CITED, *NON_NEURAL):
        if entry.note:
            names.setdefault(entry.note, []).append(entry.name)
    return "\n".join(f"- {escape(', '.join(of))}: {escape(note)}" for note, of in names.items())


def waiting(row: Row | None) -> str:
    """Of a row without a finished seed."""
    if row is not None and row.failed:
        return row.failed[-1].status
    return "waiting (GPU)" if row is not None and row.experiment.launch.device == "cuda" else "waiting"


def _line(entry: CitedSystem, row: Row | None, shown: Shown) -> list[str]:
    return [escape(entry.name), escape(entry.source), str(entry.year), count(entry.num_parameters),
            count(entry.multiply_adds), _claim(entry), entry.selection if entry.authors_accuracy else NOTHING,
            entry.release if entry.authors_accuracy else NOTHING, entry.reported or NOTHING,
            *_here(row, shown)]


def _claim(entry: CitedSystem) -> str:
    known = "" if entry.evidence in ("primary", "none") else f" ({entry.evidence})"
    return percent(entry.authors_accuracy) + known


def _here(row: Row | None, shown: Shown) -> list[str]:
    if row is None or not row.trained:
        return [waiting(row), *[NOTHING] * 4]
    unfinished = sum(record.extra.get("converged") == 0 for record in row.trained)
    number = f"{len(row.trained)}{f', {unfinished} not converged' if unfinished else ''}"
    by_sign = row.values(outcomes.test_by_sign)
    as_the_author = f"; counted by sign: {estimate(by_sign)}" if by_sign else ""
    return [estimate(row.values(outcomes.test_last)) + as_the_author, estimate(row.values(outcomes.test_selected)),
            estimate(row.values(outcomes.test_best)), number, training_time(row, shown.names)]
