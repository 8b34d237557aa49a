"""Questions of a comparison, B against A: one row each, many of them answered together. No torch."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench import stats
from bench.formatting import significant
from bench.records.side_records import Metric

SLOWER, WORSE = "slower", "worse"
NOT_RESOLVED = "not resolved"
NO_CALIBRATION = f"{NOT_RESOLVED}: this machine has no calibration, see python -m bench.calibrate"


class Answer(NamedTuple):
    """One row of a comparison, B against A."""

    what: str
    metric: str
    a: str
    b: str
    change: str
    verdict: str
    """`faster`, `slower`, `better`, `worse`, `the same within ...`, `identical ...`, or `not resolved` and why."""

    @property
    def is_resolved(self) -> bool:
        return not self.verdict.startswith(NOT_RESOLVED)

    @property
    def is_a_loss(self) -> bool:
        return self.verdict in (SLOWER, WORSE)


class Question(NamedTuple):
    """A comparison before many of them are corrected together."""

    what: str
    metric: str
    a: str
    b: str
    result: stats.Ratio | stats.Comparison | None
    """Of a Ratio: A's time over B's, so that above 1 B is faster. None: there is no test."""
    change: str
    words: tuple[str, str]
    """If the result is greater; if it is less."""
    minimum: float
    equivalent: str
    """If the whole interval lies within the minimum."""
    without_test: str = NO_CALIBRATION
    """The verdict where there is no test: by default, nothing is known of the noise."""


def judge(questions: Sequence[Question], alpha: float = 0.05) -> list[Answer]:
    """Verdicts with Holm's correction over all questions that can be answered."""
    p_values = [_p(question.result) for question in questions]
    adjusted = iter(stats.holm(known) if (known := [p for p in p_values if p == p]) else [])
    answers = []
    for question, p in zip(questions, p_values, strict=True):
        if question.result is None:
            verdict = question.without_test
        elif p != p:
            verdict = f"{NOT_RESOLVED}: needs at least two of each"
        else:
            said = stats.verdict(question.result, question.minimum, alpha, p=next(adjusted))
            verdict = {"greater": question.words[0], "less": question.words[1],
                       "equivalent": question.equivalent}.get(said, said)
        answers.append(Answer(question.what, question.metric, question.a, question.b, question.change, verdict))
    return answers


def _p(result: stats.Ratio | stats.Comparison | None) -> float:
    """nan where the question has no answer."""
    return float("nan") if result is None else result.p


def speed_question(name: str, metric: Metric, a: Mapping[Metric, float], b: Mapping[Metric, float],
                   result: stats.Ratio | None, change: str, threshold: float,
                   without_test: str = NO_CALIBRATION) -> Question:
    """`a`, `b`: seconds by metric. Batches are a part of every step: by that their change is judged."""
    minimum, of_what = threshold, ""
    if metric == "batch" and a.get("train_step"):
        minimum, of_what = threshold * (a["batch"] + a["train_step"]) / a["batch"], " of a step"
    return Question(name, metric.replace("_", " "), milliseconds(a[metric]), milliseconds(b[metric]), result, change,
                    ("faster", SLOWER), minimum, f"the same within {100 * threshold:g} %{of_what}", without_test)


def milliseconds(seconds: float) -> str:
    return f"{significant(1000 * seconds)} ms"
