"""The results in short, between two marks in the README. No torch."""

from collections.abc import Sequence

from bench.claims import Judged, readings
from bench.formatting import NOTHING, escape, estimate, percent, table
from bench.pages.reported import TEST_SOURCES, VALIDATION
from bench.pages.verdicts import parts_by_verdict
from bench.records import outcomes
from bench.records.rows import Results

BEGIN, END = "<!-- results: written by `python -m bench.report` -->", "<!-- end of the results -->"


def render(results: Results, judged: Sequence[Judged]) -> str:
    """Verdicts on the claims, and the final network's accuracies beside the report's."""
    verdicts = [[escape(one.claim.statement), f"**{one.verdict}**", parts_by_verdict(one)] for one in judged]
    rows = readings(results)
    accuracies = [["the report", percent(VALIDATION, 1), " and ".join(percent(one, 1) for _, one in TEST_SOURCES), "1",
                   NOTHING]]
    accuracies += [[f"here, {escape(row.label)}", estimate(row.values(outcomes.validation_last)),
                    estimate(row.values(outcomes.test_last)), str(len(row.trained)), str(row.numerics)]
                   for row in rows if row.trained]
    return "\n\n".join([
        table(["the report's claim", "verdict here", "its parts"], verdicts, text_columns=3),
        "The final network in its two readings, since the report does not say whether a ReLU follows fc1; last epoch, "
        "mean ± sd over seeds [95 % interval], in per cent:",
        table(["", "validation", "test", "seeds", "arithmetic"], accuracies, text_columns=1),
    ])


def inserted(readme: str, block: str) -> str:
    """`readme` with `block` between its marks; as it was where it has none."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}" if begin and end else readme
