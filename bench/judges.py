"""How a claim is judged: kinds of evidence to a verdict. No torch.

Every judge says `waiting` while records that it needs are missing, unless those at hand already contradict the claim.
Levels: 5 % for a whole judgement, shared among its comparisons by Holm's or Bonferroni's correction.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from bench import stats
from bench.evidence import (
    ALPHA,
    MINIMUM_EFFECT,
    can_judge,
    holds,
    one_way_p,
    pooled_sd,
    seeds_for,
    seeds_for_one_way,
    seeds_to_predict,
)
from bench.formatting import count, escape, mean_with_interval, p_value, percent, plural, points
from bench.record import SpeedRecord
from bench.records.identity import Numerics
from bench.records.machines import Machine, machines
from bench.records.outcomes import LEARNT, Outcome, test_last, validation_last, validation_loss_rise
from bench.records.rows import Results, Row, memory_formats
from bench.records.side_records import Calibration, Pairs, Turns, record_ratio
from fmnist_core.config import to_dict

Verdict = Literal["supported", "contradicted", "not resolved", "waiting"]

MINIMUM_SLOWDOWN = 0.05
"""Step times that differ by less are never called slower."""
NEGLIGIBLE = 0.003
"""A factor whose largest difference is surely below 0.3 points is said not to affect accuracy."""


class Finding(NamedTuple):
    verdict: Verdict
    evidence: str
    seeds: float | None = None
    """Per cell, to resolve it if the differences are as seen; infinite where that is beyond reach. None: no need."""


class Contrast(NamedTuple):
    """The claim says that the values of `high` lie above those of `low`."""

    name: str
    low: Sequence[float]
    high: Sequence[float]


WAITING = Finding("waiting", "no records yet")


def contrasts(pairs: Sequence[Contrast], minimum_effect: float = MINIMUM_EFFECT) -> Finding:
    """Welch's test for each pair, Holm over all: supported if every pair is as claimed, contradicted if any is not.

    A pair is against the claim when it is resolved the other way round, or surely differs by less than the minimum.
    """
    tested = [pair for pair in pairs if min(len(pair.low), len(pair.high)) > 1]
    missing = sum(not pair.low or not pair.high for pair in pairs)
    if not pairs or missing == len(pairs):
        return WAITING
    if not tested:
        return Finding("waiting" if missing else "not resolved", "one seed a cell: no spread, no test", 2)
    results = [stats.compare(pair.low, pair.high) for pair in tested]
    adjusted = stats.holm([result.welch_p for result in results])
    verdicts = [stats.verdict(result, minimum_effect, p=p) for result, p in zip(results, adjusted, strict=True)]
    as_claimed, against = verdicts.count("greater"), verdicts.count("less") + verdicts.count("equivalent")
    verdict: Verdict = ("contradicted" if against else "waiting" if missing else
                        "supported" if as_claimed == len(pairs) else "not resolved")
    evidence = _contrast_text(tested, results, adjusted, verdicts)
    evidence += (f"{as_claimed} of {plural(len(pairs), 'comparison')} resolved as claimed, {against} reversed or "
                 f"equal, {len(pairs) - missing - as_claimed - against} not resolved"
                 f"{f', {missing} waiting' if missing else ''}")
    open_ = [result for result, one in zip(results, verdicts, strict=True) if one == "not resolved"]
    return Finding(verdict, evidence, _seeds(open_, tested, minimum_effect) if verdict == "not resolved" else None)


def figure_of_one_run(rows: Sequence[Row], readings: Sequence[tuple[str, Outcome]], figure: float) -> Finding:
    """Whether a figure that the report gives for one run is one that a run gives: 95 % prediction interval over seeds.

    Supported if any reading's interval holds it, contradicted if none does.
    """
    intervals = [(f"{row.label}, {name}", len(values), *stats.prediction_interval(values))
                 for row in rows for name, outcome in readings if (values := row.values(outcome))]
    if not intervals:
        return WAITING
    usable = [one for one in intervals if can_judge(*one[1:])]
    spread = "; ".join(f"{percent(low)} to {percent(high)} ({escape(name)}, n = {n})"
                       for name, n, low, high in intervals if n > 1)
    alone = "; ".join(escape(name) for name, n, *_ in intervals if n == 1)
    evidence = "; ".join([*([f"one run gives {spread}"] if spread else []),
                          *([f"one seed, no interval: {alone}"] if alone else [])])
    if any(holds(low, high, figure) for _, _, low, high in usable):
        return Finding("supported", evidence)
    if any(not row.trained for row in rows):
        return Finding("waiting", evidence)
    if len(usable) == len(intervals):
        return Finding("contradicted", evidence)
    sds = [stats.summarize(values).sd for row in rows for _, outcome in readings
           if len(values := row.values(outcome)) > 1]
    return Finding("not resolved", evidence, seeds_to_predict(max(sds, default=math.nan)))


def above(rows: Sequence[Row], outcome: Outcome, figure: float) -> Finding:
    """Whether the mean over seeds lies above a figure: by its 95 % interval, in all readings or in none."""
    measured = [(row.label, values) for row in rows if (values := row.values(outcome))]
    if not measured:
        return WAITING
    intervals = [stats.mean_interval(values) for _, values in measured]
    evidence = "; ".join(f"{mean_with_interval(values)} %, {points(stats.summarize(values).mean - figure)} points "
                         f"({escape(label)}, n = {len(values)})" for label, values in measured)
    if len(measured) < len(rows):
        return Finding("waiting", evidence)
    if all(high < figure for _, high in intervals):
        return Finding("contradicted", evidence)
    if all(low > figure for low, _ in intervals):
        return Finding("supported", evidence)
    if all(not low <= figure <= high for low, high in intervals):
        return Finding("not resolved", f"{evidence}: it depends on the reading, not on seeds")
    summaries = [stats.summarize(values) for _, values in measured]
    needed = [seeds_for(summary.sd, abs(summary.mean - figure), ALPHA, 0.0) for summary in summaries]
    return Finding("not resolved", evidence, max(needed))


def counts_rise(sequences: Sequence[Sequence[Row]], attribute: Callable[[Row], int]) -> Finding:
    """Whether an exact count rises from row to row in every sequence. No seeds, no test: one exception decides."""
    texts, falls = [], False
    known = True
    for rows in sequences:
        values = [attribute(row) for row in rows]
        known &= all(values)
        seen = [value for value in values if value]
        falls |= any(b <= a for a, b in itertools.pairwise(seen))
        texts.append(", ".join(count(value) for value in values))
    if not any(any(attribute(row) for row in rows) for rows in sequences):
        return WAITING
    verdict: Verdict = "contradicted" if falls else "supported" if known else "waiting"
    shown = texts if len(texts) < 3 else [texts[0], "...", texts[-1]]
    return Finding(verdict, f"exact counts, smallest kernel first: {'; '.join(shown)}")


def noise_of_machines(results: Results) -> dict[Machine, Pairs]:
    """How far two timings of one training step differ by themselves, on each machine that was calibrated."""
    return {Machine.at(side.environment): side.metrics["train_step"] for side in results.sides
            if isinstance(side, Calibration)}


STEP_WORDS: dict[stats.Verdict, str] = {
    "less": "faster", "equivalent": "within 5 %", "greater": "slower", "not resolved": "not resolved"}
"""In the order in which they are told: what decides comes first, and first what decides against the claim."""


def steps_slow_down(pairs: Sequence[tuple[str, Row, Row]], results: Results) -> Finding:
    """Whether a training step takes longer in the second row of each pair, on a machine that timed both alone.

    In turns, or each in one run: how far two runs differ by themselves is known of machines that were calibrated. One
    that is too noisy to tell says nothing, and so takes nothing from what another one shows.
    """
    noise = noise_of_machines(results)
    in_turns = [(name, side, before_s, after_s) for side in results.sides if isinstance(side, Turns)
                for name, one, other in pairs if (before_s := side.step_s_of(to_dict(one.cell.config)))
                and (after_s := side.step_s_of(to_dict(other.cell.config)))]
    timed = [(name, machine, a, b) for machine in machines(results.records) for name, one, other in pairs
             if (a := _alone(one.timed(machine))) and (b := _alone(other.timed(machine))) and _alike(a, b)]
    if not timed and not in_turns:
        return Finding("waiting", "no timings yet on a machine that had nothing else to do")
    alpha = ALPHA / (len(timed) + len(in_turns))
    verdicts, texts = [], []
    for name, side, before_s, after_s in in_turns:
        change = stats.paired_ratio(after_s, before_s, 1 - alpha)
        verdicts.append(stats.verdict(change, MINIMUM_SLOWDOWN, alpha=alpha))
        hardware = Machine.at(side.environment).hardware
        texts.append(f"{escape(name)} on {escape(hardware)}, in turns: {change.ratio:.3f} [{change.low:.3f}, "
                     f"{change.high:.3f}] times the step time, {STEP_WORDS[verdicts[-1]]}")
    for name, machine, a, b in timed:
        before, after = (stats.summarize(one.step_s).median for one in (a, b))
        about = f"{escape(name)} on {escape(machine.hardware)}: {after / before:.3f}"
        if machine in noise:
            change = record_ratio(after, before, noise[machine], alpha)
            verdicts.append(stats.verdict(change, MINIMUM_SLOWDOWN, alpha=alpha))
            about += f" [{change.low:.3f}, {change.high:.3f}]"
        else:
            verdicts.append("not resolved")
        texts.append(f"{about} times the step time, {STEP_WORDS[verdicts[-1]]}"
                     f"{'' if machine in noise else ': not calibrated'}")
    texts = [texts[i] for i in sorted(range(len(texts)), key=lambda i: list(STEP_WORDS).index(verdicts[i]))]
    shown = "; ".join(texts[:4]) + (f"; and {len(texts) - 4} more" if len(texts) > 4 else "")
    if "less" in verdicts or "equivalent" in verdicts:
        return Finding("contradicted", shown)
    names = [name for name, *_ in (*in_turns, *timed)]
    if len(set(names)) < len(pairs):
        return Finding("waiting", shown)
    slower = {name for name, verdict in zip(names, verdicts, strict=True) if verdict == "greater"}
    return Finding("supported" if len(slower) == len(pairs) else "not resolved", shown)


def over_fits(rows: Sequence[Row], expected: bool) -> Finding:
    """Whether validation loss rises from the middle to the last third of the epochs, in most rows that learnt at all.

    By the interval of the mean rise over seeds, Bonferroni over rows. `expected` False: the claim is that it does not.
    """
    learnt = [(row, values) for row in rows if (values := row.values(validation_loss_rise))
              and stats.summarize(row.values(validation_last)).mean > LEARNT]
    if not learnt:
        return WAITING
    intervals = [stats.mean_interval(values, 1 - ALPHA / len(learnt)) for _, values in learnt]
    rising, falling = sum(low > 0 for low, _ in intervals), sum(high < 0 for _, high in intervals)
    evidence = (f"validation loss rises in {rising} of {plural(len(learnt), 'configuration')} that learnt, falls in "
                f"{falling}, is not resolved in {len(learnt) - rising - falling}")
    for_, against = (rising, falling) if expected else (falling, rising)
    if any(not row.trained and not row.failed for row in rows):
        return Finding("waiting", evidence)
    half = len(learnt) / 2
    if for_ > half or against > half:
        return Finding("supported" if for_ > half else "contradicted", evidence)
    unclear = [stats.summarize(values) for (_, values), (low, high) in zip(learnt, intervals, strict=True)
               if not (low > 0 or high < 0)]
    needed = [seeds_for(summary.sd, abs(summary.mean), ALPHA / len(learnt), 0.0) for summary in unclear]
    return Finding("not resolved", evidence, max(needed, default=None))


def factors_matter(groups: dict[str, Sequence[Row]]) -> dict[str, Finding]:
    """For each factor, whether test accuracy differs over its cells: `one_way_p`, Holm over the factors.

    Contradicted where even the extremes are surely less than 0.3 points apart.
    """
    tested = {}
    for name, rows in groups.items():
        values = [own for row in rows if len(own := row.values(test_last)) > 1]
        if len(values) > 1:
            tested[name] = values
    adjusted = dict(zip(tested, stats.holm([one_way_p(v) for v in tested.values()]) if tested else [], strict=True))
    left = ALPHA / max(1, sum(p >= ALPHA for p in adjusted.values()))  # the level that Holm leaves to the next
    return {name: _factor(rows, tested[name], adjusted[name], left) if name in tested else _untested(rows)
            for name, rows in groups.items()}


def _untested(rows: Sequence[Row]) -> Finding:
    if not any(row.trained for row in rows):
        return WAITING
    missing = sum(row.num_missing for row in rows)
    rest = f", {plural(missing, 'seed')} waiting" if missing else ""
    return Finding("waiting" if missing else "not resolved", f"fewer than two cells with two seeds: no test{rest}",
                   None if missing else 2)


def _factor(rows: Sequence[Row], values: Sequence[Sequence[float]], p: float, level: float) -> Finding:
    """`p`: adjusted; `level`: that of the test without adjustment, for the seeds that it would take."""
    ordered = sorted(values, key=lambda one: stats.summarize(one).mean)
    extremes = stats.compare(ordered[0], ordered[-1])
    waiting = sum(not row.trained and not row.failed for row in rows)
    evidence = (f"{len(values)} cells from {percent(extremes.mean_a)} to {percent(extremes.mean_b)} % test accuracy, "
                f"adjusted {p_value(p)}{f', {waiting} waiting' if waiting else ''}")
    if p < ALPHA and extremes.difference >= MINIMUM_EFFECT:
        return Finding("supported", evidence)
    if waiting:
        return Finding("waiting", evidence)
    if extremes.high < NEGLIGIBLE:
        return Finding("contradicted", evidence)
    more = 1 + min(len(own) for own in values)
    return Finding("not resolved", evidence, max(more, seeds_for_one_way(values, level)))


def _contrast_text(tested: Sequence[Contrast], results: Sequence[stats.Comparison], adjusted: Sequence[float],
                   verdicts: Sequence[stats.Verdict]) -> str:
    """At most four, those that decide first."""
    deciding = ["less", "equivalent", "greater", "not resolved"]
    shown = sorted(range(len(tested)), key=lambda i: (deciding.index(verdicts[i]), -abs(results[i].difference)))[:4]
    return "".join(f"{escape(tested[i].name)}: {points(results[i].difference)} points [{points(results[i].low)}, "
                   f"{points(results[i].high)}], {p_value(adjusted[i])}, n = {len(tested[i].high)} and "
                   f"{len(tested[i].low)}; " for i in shown)


def _seeds(open_: Sequence[stats.Comparison], tested: Sequence[Contrast], minimum_effect: float) -> float:
    """For the hardest of the open comparisons, at the level that the correction leaves to each; more than there are."""
    groups = [values for pair in tested for values in (pair.low, pair.high)]
    sd, alpha, more = pooled_sd(groups), ALPHA / len(tested), 1 + min(map(len, groups))
    return max([more, *(seeds_for(sd, abs(result.difference), alpha, minimum_effect) for result in open_)])


def _alone(speed: SpeedRecord | None) -> SpeedRecord | None:
    return None if speed is None or speed.labels.machine_shared else speed


def _alike(a: SpeedRecord, b: SpeedRecord) -> bool:
    """Same arithmetic, memory format and execution, as observed."""
    facts = lambda one: (Numerics.of(one), one.labels.compiled, one.labels.captured, one.images_per_step)
    formats = [(one.labels.weight_memory_format, one.labels.activation_memory_format) for one in (a, b)]
    return bool(facts(a) == facts(b)) and all(len(memory_formats(kind)) == 1 for kind in zip(*formats, strict=True))
