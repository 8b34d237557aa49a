"""How claims about the trials of Tables 1.1 and 1.2 are judged. No torch."""

import re
from collections.abc import Callable

from bench import stats
from bench.judging.evidence import Finding
from bench.judging.findings import ACCURACY, LOSS, Contrast, Scale, contrasts
from bench.records import outcomes
from bench.records.outcomes import Outcome
from bench.records.rows import Results, Row

Judge = Callable[[Results], Finding]

SELECTED = "Trial-2"
"""The trial of Table 1.2 that became the final network."""


def trials(results: Results, experiment: str) -> list[Row]:
    """The seven trials of a table; second readings of a trial (SGD with momentum) are left out."""
    return results.of(experiment, lambda row: re.fullmatch(r"Trial-\d", row.cell.label) is not None)


def contrast(results: Results, name: str, low: Row, high: Row, outcome: Outcome) -> Contrast:
    """Between seeds of equal arithmetic; without values where the two cells have none in common."""
    pair = results.alike(low, high)
    return Contrast(name, pair[0].values(outcome), pair[1].values(outcome)) if pair else Contrast(name, [], [])


def selected_is_best(results: Results) -> Finding:
    """The selected trial above each other of its table in validation accuracy."""
    return _selected_above(results, outcomes.validation_last, "mean validation accuracy", 1, ACCURACY)


def selected_has_least_loss(results: Results) -> Finding:
    """The selected trial below each other of its table in validation loss."""
    return _selected_above(results, outcomes.validation_loss_last, "mean validation loss, the least first", -1, LOSS)


def selected_beats_network_1(results: Results) -> Finding:
    """The selected trial above each of Table 1.1 that learnt, in validation accuracy."""
    best = results.labelled("table_1_2", SELECTED)
    return contrasts([contrast(results, f"{SELECTED} less Network 1's {row.cell.label}", row, best,
                               outcomes.validation_last) for row in _of_network_1(results)] if best else [])


def gap_is_wider_in_network_1(results: Results) -> Finding:
    """Each trial of Table 1.1 that learnt over-fits more than the selected one, by the gap to training accuracy."""
    best = results.labelled("table_1_2", SELECTED)
    return contrasts([contrast(results, f"{row.cell.label} less final", best, row, outcomes.gap_last)
                      for row in _of_network_1(results)] if best else [])


def in_reported_order(experiment: str) -> Judge:
    """Every two trials of a table as it orders them."""
    def judge_order(results: Results) -> Finding:
        reported = {row: row.cell.reported.validation_accuracy or 0.0 for row in trials(results, experiment)}
        pairs = [(low, high) for low in reported for high in reported if reported[low] < reported[high]]
        found = contrasts([contrast(results, f"{high.cell.label} less {low.cell.label}", low, high,
                                    outcomes.validation_last) for low, high in pairs])
        lost = [row.cell.label for row in reported if row.trained and not row.learnt]
        return found._replace(lead=f"not learnt at all: {', '.join(lost)}; {found.in_short}") if lost else found
    return judge_order


def place_of_selected(results: Results, outcome: Outcome, sign: int = 1) -> str:
    """e.g. place 7 of 7, by the means over seeds; `sign` -1: the least is the first. Empty without records."""
    means = {row.cell.label: sign * stats.mean(values) for row in trials(results, "table_1_2")
             if (values := row.values(outcome))}
    if SELECTED not in means:
        return ""
    return f"place {1 + sum(mean > means[SELECTED] for mean in means.values())} of {len(means)}"


def _of_network_1(results: Results) -> list[Row]:
    """The trials of Table 1.1 that learnt, or may yet."""
    return [row for row in trials(results, "table_1_1") if row.learnt or row.waits]


def _selected_above(results: Results, outcome: Outcome, ranked_by: str, sign: int, scale: Scale) -> Finding:
    """`sign` -1: below each other. Its place among the trials by their means leads the evidence."""
    best = results.labelled("table_1_2", SELECTED)
    others = [row for row in trials(results, "table_1_2") if row.cell.label != SELECTED]
    pairs = [(f"{SELECTED} less {row.cell.label}", row, best) if sign > 0 else
             (f"{row.cell.label} less {SELECTED}", best, row) for row in others] if best else []
    found = contrasts([contrast(results, *pair, outcome) for pair in pairs], scale)
    place = place_of_selected(results, outcome, sign)
    return found._replace(lead=f"{place} by {ranked_by}; {found.in_short}") if place else found
