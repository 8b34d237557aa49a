"""Whether a training step takes longer in one cell than in another: timings to a verdict. No torch."""

from collections.abc import Sequence

from bench import stats
from bench.formatting import escape, first_of
from bench.judging.evidence import ALPHA, Finding
from bench.record import SpeedRecord
from bench.records import timings
from bench.records.identity import Numerics
from bench.records.machines import Machine, machines
from bench.records.noise import record_ratio
from bench.records.rows import Results, Row, memory_formats
from bench.records.side_records import Calibration, Pairs, Turns
from fmnist_core.config import to_dict

MINIMUM_SLOWDOWN = 0.05
"""Step times that differ by less are never called slower."""
MOST_TOLD = 4
"""Pairs that the evidence tells."""


def noise_of_machines(results: Results) -> dict[Machine, Pairs]:
    """How far two timings of one step differ by themselves, by machine; not every calibration knows it."""
    return {Machine.at(side.environment): side.metrics["train_step"] for side in results.sides
            if isinstance(side, Calibration) and not side.reason_against}


STEP_WORDS: dict[stats.Direction, str] = {
    "less": "faster", "equivalent": "within 5 %", "greater": "slower", "not resolved": "not resolved"}
"""In the order in which they are told: what decides comes first, and first what decides against the claim."""


def steps_slow_down(pairs: Sequence[tuple[str, Row, Row]], results: Results) -> Finding:
    """Whether a training step takes longer in the second row of each pair, on a machine that timed both alone.

    How far two runs differ by themselves is known of cells that were timed in turns, and of machines that were
    calibrated. One that is too noisy to tell says nothing, and so takes nothing from what another one shows.
    """
    noise = noise_of_machines(results)
    in_turns = [(name, side, before_s, after_s) for side in results.sides if isinstance(side, Turns)
                for name, one, other in pairs if (before_s := side.step_s_of(to_dict(one.cell.config)))
                and (after_s := side.step_s_of(to_dict(other.cell.config)))]
    timed = [(name, machine, a, b, results.of(one.experiment.name))
             for machine in machines(results.records) for name, one, other in pairs
             if (a := _alone(one, machine)) and (b := _alone(other, machine)) and _alike(a[0], b[0])]
    if not timed and not in_turns:
        return Finding("waiting", "no timings yet on a machine that had nothing else to do")
    alpha = ALPHA / (len(timed) + len(in_turns))
    verdicts, texts = [], []
    for name, side, before_s, after_s in in_turns:
        change = stats.paired_ratio(after_s, before_s, 1 - alpha)
        verdicts.append(stats.verdict(change, MINIMUM_SLOWDOWN, alpha=alpha))
        texts.append(f"{escape(name)} on {escape(Machine.at(side.environment).title)}, in turns: {change.ratio:.3f} "
                     f"[{change.low:.3f}, {change.high:.3f}] times the step time, {STEP_WORDS[verdicts[-1]]}")
    for name, machine, a, b, rows in timed:
        own = timings.ratio(b, a, [found for row in rows if (found := row.timings(machine))], alpha, step_s)
        after, before = (timings.medians(one)["train_step"] for one in (b, a))
        known = own or (record_ratio(after, before, noise[machine], alpha) if machine in noise else None)
        about = f"{escape(name)} on {escape(machine.title)}{f', {own.n} timings' if own else ''}: {after / before:.3f}"
        if known:
            verdicts.append(stats.verdict(known, MINIMUM_SLOWDOWN, alpha=alpha))
            about += f" [{known.low:.3f}, {known.high:.3f}]"
        else:
            verdicts.append("not resolved")
        texts.append(f"{about} times the step time, {STEP_WORDS[verdicts[-1]]}"
                     f"{'' if known else ': neither timings in turns nor a calibration tells how far two runs differ'}")
    texts = [texts[i] for i in sorted(range(len(texts)), key=lambda i: list(STEP_WORDS).index(verdicts[i]))]
    shown = first_of(texts, MOST_TOLD)
    if "less" in verdicts or "equivalent" in verdicts:
        return Finding("contradicted", shown, lead=texts[0])
    names = [name for name, *_ in (*in_turns, *timed)]
    if len(set(names)) < len(pairs):
        return Finding("waiting", shown, lead=texts[0])
    slower = {name for name, verdict in zip(names, verdicts, strict=True) if verdict == "greater"}
    return Finding("supported" if len(slower) == len(pairs) else "not resolved", shown, lead=texts[0])


def step_s(speed: SpeedRecord) -> list[float]:
    return speed.step_s


def _alone(row: Row, machine: Machine) -> list[SpeedRecord]:
    """Its timings, of which none was disturbed if one was not."""
    found = row.timings(machine)
    return [] if any(map(timings.was_disturbed, found)) else found


def _alike(a: SpeedRecord, b: SpeedRecord) -> bool:
    """Same code, arithmetic, memory format and execution, as observed: a commit between may have made steps faster."""
    facts = lambda one: (one.environment.commit, Numerics.of(one), one.labels.compiled, one.labels.captured,
                         one.labels.native_layers, one.images_per_step)
    formats = [(one.labels.weight_memory_format, one.labels.activation_memory_format) for one in (a, b)]
    return bool(facts(a) == facts(b)) and all(len(memory_formats(kind)) == 1 for kind in zip(*formats, strict=True))
