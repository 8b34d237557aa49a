"""The report's figures beside ours, number by number, and the order of its trials. No torch."""

from collections.abc import Callable, Sequence

from bench import stats
from bench.claims import on_all_images, readings, trials
from bench.formatting import FEWEST_SPREAD, NOTHING, as_printed, escape, estimate, percent, table
from bench.records import outcomes
from bench.records.rows import Results, Row

TABLES = {"table_1_1": "Table 1.1", "table_1_2": "Table 1.2"}
VALIDATION, TEST_SOURCES = 0.916, (("section 1.7", 0.904), ("section 1.8", 0.908))
"""Of the final network."""
HOW_TO_READ = """\
Accuracies in per cent, last epoch, mean ± standard deviation over seeds [95 % interval of the mean]. **One run**: the
95 % prediction interval for a single run of ours, which is what the report's figure is. **Place**: among the seven
trials by the mean validation accuracy, the best first, as far as they have records, each by the arithmetic that has
most seeds. Neighbours in it may differ by no more than their seeds do: the tests of it belong to claim 2."""
HEADERS = ["where", "what", "accuracy", "the report", "here", "one run", "seeds", "place in the report", "place here"]


def render(results: Results) -> str:
    """A row per figure of the report; where a trial has two readings, a row for each."""
    body = [line for name in TABLES for line in _trials(results, name)]
    for row in readings(results):
        lines = [_line("Table 1.2, section 1.6", row, "validation", VALIDATION, outcomes.validation_last)]
        lines += [_line(source, row, "test", figure, outcomes.test_last) for source, figure in TEST_SOURCES]
        body += [[*line, NOTHING, NOTHING] for line in lines]  # no order
    body += [[*_line(TEST_SOURCES[-1][0], row, "test", TEST_SOURCES[-1][1], outcomes.test_last), NOTHING, NOTHING]
             for row in on_all_images(results)]
    return f"{HOW_TO_READ}\n\n{table(HEADERS, body, text_columns=3)}"


def _trials(results: Results, experiment: str) -> list[list[str]]:
    ranked = trials(results, experiment)
    there = _order(ranked, lambda row: row.cell.reported.validation_accuracy)
    here = _order(ranked, lambda row: _mean(row.values(outcomes.validation_last)))
    return [[*_line(TABLES[experiment], row, "validation", row.cell.reported.validation_accuracy or 0.0,
                    outcomes.validation_last), there.get(row.label, NOTHING), here.get(row.label, NOTHING)]
            for row in results.of(experiment)]


def _line(where: str, row: Row, accuracy: str, figure: float, outcome: outcomes.Outcome) -> list[str]:
    values = row.values(outcome)
    several = len(values) >= FEWEST_SPREAD
    low, high = stats.prediction_interval(values) if several else (0.0, 0.0)
    return [where, escape(row.label), accuracy, as_printed(figure), estimate(values) if values else "waiting",
            f"{percent(low)} to {percent(high)}" if several else NOTHING, str(len(values))]


def _order(rows: Sequence[Row], value: Callable[[Row], float | None]) -> dict[str, str]:
    """By label, from 1 on: the number of better ones decides, so that equal ones share a place."""
    known = {row.label: number for row in rows if (number := value(row)) is not None}
    return {label: str(1 + sum(other > number for other in known.values())) for label, number in known.items()}


def _mean(values: Sequence[float]) -> float | None:
    return stats.summarize(values).mean if values else None
