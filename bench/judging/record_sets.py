"""Two sets of records, cell by cell: which may be compared, and what the comparison says. No torch.

Cells match by what decides accuracy: model, data, training, processes that share a batch. Accuracies are compared where
the arithmetic was the same, speeds where machine and everything observed were; the rest is refused, with the reason.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from bench import stats
from bench.environment import speed_identity
from bench.formatting import estimate, first_of, points, ratio_text, significant
from bench.judging.questions import NO_CALIBRATION, NOT_RESOLVED, WORSE, Answer, Question, judge, speed_question
from bench.record import Environment, Record, SpeedRecord, TrainRecord
from bench.records import cells, outcomes, timings
from bench.records.identity import Numerics
from bench.records.machines import training_was_disturbed
from bench.records.noise import record_ratio, resolvable_unpaired
from bench.records.rows import current
from bench.records.side_records import Calibration, Metric, Pairs
from fmnist_core.config import ExecutionConfig

ACCURACY = "test accuracy (%)"
MAX_VERSIONS = 3
"""Of one name, that are told of a set."""
OTHER_WORK = "machine_shared: other work ran meanwhile"
CUT_OR_SHARED = f"{OTHER_WORK}, or the training was taken up again"

Kind = TypeVar("Kind", TrainRecord, SpeedRecord)


class Sets(NamedTuple):
    answers: list[Answer]
    names: dict[str, str]
    """Of every cell of both sets, by its text."""
    refused: dict[str, list[str]]
    """Reason to the cells that it is one of."""
    failed: list[str]
    """What failed in one set of a cell that the other has, too."""
    num_failed_in_b_alone: int
    only_a: list[str]
    """Texts of the cells that the other set has not."""
    only_b: list[str]
    stale_a: int
    """Trainings left out: of another version of the training code, or of a configuration that can no longer be read."""
    stale_b: int


def compare(
    a: Sequence[Record], b: Sequence[Record], *, calibration_for: Callable[[Environment], Calibration | None],
    threshold: float, accuracy_threshold: float, allowed: Collection[str] = (),
) -> Sets:
    """`threshold`: the least change that counts of a speed, relative; `accuracy_threshold`: of a mean accuracy.

    `allowed`: facts that may differ all the same, by the names that the refusals give, and settings by their keys.
    Raises ValueError for a set in which cells differ only in those.
    """
    settings = [name for name in allowed if cells.is_setting(name)]
    cells.check_settings(settings, [*a, *b])
    settings += [name for name in allowed if name == cells.PROCESSES]
    trains_a, speeds_a, failures_a, stale_a = _grouped(a, settings)
    trains_b, speeds_b, failures_b, stale_b = _grouped(b, settings)
    texts_a = dict.fromkeys([*trains_a, *speeds_a, *failures_a])
    texts_b = dict.fromkeys([*trains_b, *speeds_b, *failures_b])
    names = cells.names(list(texts_a | texts_b))
    accuracies: list[Question] = []
    speeds: list[Question] = []
    refused: dict[str, list[str]] = defaultdict(list)
    failed: list[str] = []
    num_new_failures = 0
    for text, name in ((text, names[text]) for text in texts_a if text in texts_b):
        failed += [f"{name}: {side}: {_failure(record)}" for side, failures in (("A", failures_a), ("B", failures_b))
                   for record in failures[text]]
        before = [_task(record) for record in failures_a[text]]
        num_new_failures += sum(_task(record) not in before for record in failures_b[text])
        # What failed is told above; what nobody ran in one of the sets is told here.
        reasons = [f"{what}: in {'A' if of_a else 'B'} alone" for what, of_a, of_b in (
            ("accuracy", trains_a[text], trains_b[text]), ("speed", speeds_a[text], speeds_b[text]))
            if bool(of_a) != bool(of_b) and not (failures_a[text] or failures_b[text])]
        pairs, reason = _pairs(trains_a[text], trains_b[text], _numerics, allowed)
        accuracies += [_accuracy(name, one, other, accuracy_threshold) for one, other in pairs]
        reasons.append(f"accuracy: {reason}" if reason else "")
        pairs_of_timings, reason = _pairs(speeds_a[text], speeds_b[text], _facts, allowed)
        reasons.append(f"speed: {reason}" if reason else "")
        for pair in pairs_of_timings:
            one, other = (timings.last_alike([record for record in side if not _unfit(record, allowed)])
                          for side in pair)
            if one and other:
                noise = _noise(calibration_for(other[-1].environment), allowed)
                speeds += _speeds(name, timings.medians(one), timings.medians(other), noise, threshold)
            else:
                reasons.append(f"speed: {_unfit((pair[1] if one else pair[0])[-1], allowed)}")
        timed_a, timed_b = _timed(trains_a[text]), _timed(trains_b[text])
        quiet_a, quiet_b = _undisturbed(timed_a, allowed), _undisturbed(timed_b, allowed)
        trainings, reason = _pairs(quiet_a, quiet_b, _conditions, allowed)
        if timed_a and timed_b and not (quiet_a and quiet_b):
            reason = CUT_OR_SHARED
        reasons.append(f"speed: {reason}" if reason else "")
        speeds += [_epoch(name, of_a, of_b, _noise(calibration_for(of_b[-1].environment), allowed), threshold)
                   for of_a, of_b in trainings]
        for reason in filter(None, dict.fromkeys(reasons)):
            refused[reason].append(name)
    return Sets([*judge(accuracies), *judge(speeds)], names, refused, failed, num_new_failures,
                only_a=[each for each in texts_a if each not in texts_b],
                only_b=[each for each in texts_b if each not in texts_a],
                stale_a=stale_a, stale_b=stale_b)


def software_differences(a: Sequence[Record], b: Sequence[Record]) -> list[str]:
    """e.g. `accelerate 1.15.0 against 1.12.0`: what the two sets ran with, where it is not the same in both."""
    of_a, of_b = _software(a), _software(b)
    told = lambda found: first_of(sorted(found), MAX_VERSIONS, ", ") or "none"
    return [f"{name} {told(of_a[name])} against {told(of_b[name])}" for name in sorted({*of_a, *of_b})
            if of_a[name] != of_b[name]]


def _software(records: Sequence[Record]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for environment in {id(record.environment): record.environment for record in records}.values():
        found["commit"].update([environment.commit[:12] + "-dirty" * environment.dirty] if environment.commit else [])
        found["python"].update([environment.python] if environment.python else [])
        for name, version in environment.libraries.items():
            found[name].add(version)
    return found


def names_of_facts() -> list[str]:
    """All that can be allowed to differ."""
    execution = msgspec.structs.asdict(ExecutionConfig())
    speeds = _facts(SpeedRecord(experiment="", speed_key="", cell={"execution": execution},
                                environment=Environment(device="any but cpu")))
    accuracies = _numerics(TrainRecord(experiment="", quality_key="", seed=0, cell={}))
    return sorted({*speeds, *accuracies, "machine_shared", "warnings"})


def _grouped(
    records: Sequence[Record], without: Collection[str]
) -> tuple[dict[str, list[TrainRecord]], dict[str, list[SpeedRecord]], dict[str, list[Record]], int]:
    """Trainings, timings and failures by cell; how many trainings were left out, as no seeds of a cell of today.

    `without`: settings that do not tell cells apart.
    """
    whole: dict[str, str] = {}
    trains: dict[str, list[TrainRecord]] = defaultdict(list)
    speeds: dict[str, list[SpeedRecord]] = defaultdict(list)
    failures: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        text = cells.cell_text(record, without)
        if without and whole.setdefault(text, own := cells.cell_text(record)) != own:
            raise ValueError(f"--allow {' and '.join(without)}: cells of one set differ in nothing else, and would be "
                             "taken for one")
        if record.status != "ok":
            failures[text].append(record)
        elif isinstance(record, TrainRecord):
            trains[text].append(record)
        else:
            speeds[text].append(record)
    up_to_date = {text: kept for text, group in trains.items() if (kept := current(group))}
    num_stale = sum(map(len, trains.values())) - sum(map(len, up_to_date.values()))
    return defaultdict(list, up_to_date), speeds, failures, num_stale


def _task(record: Record) -> str:
    if isinstance(record, TrainRecord):
        return f"seed {record.seed}"
    execution = record.cell.get("execution", {})
    return " ".join(["the timing", *(f"{key} {value}" for key, value in sorted(execution.items()))])


def _failure(record: Record) -> str:
    return f"{_task(record)} failed, {record.status}" + (f": {record.reason.splitlines()[0]}" if record.reason else "")


def _numerics(record: TrainRecord) -> dict[str, Any]:
    """What must be equal for two accuracies to be compared."""
    return Numerics.of(record)._asdict()


def _facts(record: Record) -> dict[str, Any]:
    """What must be equal for two speeds to be compared."""
    labels = {key: value for key, value in msgspec.structs.asdict(record.labels).items() if key != "compile_timings_s"}
    if record.environment.device == "cpu":  # the flags are set there too, and mean nothing
        labels = {key: value for key, value in labels.items() if "tf32" not in key}
    return {"host": record.environment.host, **speed_identity(record.environment), **labels,
            **{f"execution.{key}": value for key, value in record.cell.get("execution", {}).items()}}


def _conditions(record: TrainRecord) -> dict[str, Any]:
    """Of two trainings: an epoch's seconds hold neither a resume nor, where they are compared, other work."""
    return {key: value for key, value in _facts(record).items() if key not in ("num_resumes", "machine_shared")}


def _pairs(
    a: Sequence[Kind], b: Sequence[Kind], facts_of: Callable[[Kind], Mapping[str, Any]], allowed: Collection[str]
) -> tuple[list[tuple[list[Kind], list[Kind]]], str]:
    """Those of A with those of B whose facts are equal; without any, what the nearest two differ in."""
    relevant = lambda record: {key: value for key, value in facts_of(record).items() if key not in allowed}
    groups = [[(relevant(record), record) for record in records] for records in (a, b)]
    different = list({repr(facts): facts for facts, _ in groups[0]}.values())
    pairs = [([record for facts, record in groups[0] if facts == chosen],
              [record for facts, record in groups[1] if facts == chosen]) for chosen in different]
    pairs = [pair for pair in pairs if pair[1]]
    if pairs or not a or not b:
        return pairs, ""
    nearest = min((_differences(one, other) for one, _ in groups[0] for other, _ in groups[1]), key=len)
    return [], "; ".join(nearest)


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [f"{key}: {a.get(key)} against {b.get(key)}" for key in sorted({*a, *b}) if a.get(key) != b.get(key)]


def _unfit(record: SpeedRecord, allowed: Collection[str]) -> str:
    """Why this timing is no measurement of speed; empty where it is one."""
    if record.labels.machine_shared and "machine_shared" not in allowed:
        return OTHER_WORK
    return "" if "warnings" in allowed or not record.warnings else f"warnings: {record.warnings[0]}"


class _Noise(NamedTuple):
    """What is known of the machine's."""

    metrics: Mapping[Metric, Pairs]
    reason: str
    """The verdict where it is not known."""


def _noise(calibration: Calibration | None, allowed: Collection[str]) -> _Noise:
    if calibration is None:
        return _Noise({}, NO_CALIBRATION)
    is_allowed = calibration.own_processes and "warnings" in allowed
    if (reason := calibration.reason_against) and not is_allowed:
        return _Noise({}, f"{NOT_RESOLVED}: {reason}, see python -m bench.calibrate")
    return _Noise(calibration.metrics, f"{NOT_RESOLVED}: not in the calibration, see python -m bench.calibrate")


def _accuracy(name: str, a: Sequence[TrainRecord], b: Sequence[TrainRecord], minimum: float) -> Question:
    values_a, values_b = ([accuracy for record in records if (accuracy := outcomes.test_last(record)) is not None]
                          for records in (a, b))
    told_a, told_b = (f"{estimate(values)}, n = {len(values)}" for values in (values_a, values_b))
    words, equivalent = ("better", WORSE), f"the same within {100 * minimum:g} points"
    num_seeds, num_identical = _identical(a, b)
    if num_identical == len(values_a) == len(values_b):
        return Question(name, ACCURACY, told_a, told_b, None, "0", words, minimum, equivalent,
                        f"identical in {'its seed' if num_seeds == 1 else f'all {num_seeds} seeds'}")
    result = stats.compare(values_a, values_b)
    interval = "" if math.isnan(result.low) else f" [{points(result.low)}, {points(result.high)}]"
    detail = f"{points(result.difference)}{interval} points"
    detail += f"; {num_identical} of {num_seeds} common seeds identical" if num_identical else ""
    return Question(name, ACCURACY, told_a, told_b, result, detail, words, minimum, equivalent)


def _identical(a: Sequence[TrainRecord], b: Sequence[TrainRecord]) -> tuple[int, int]:
    """Seeds that both have, and how many of them learnt the same to the last digit, epoch by epoch."""
    learnt_a, learnt_b = ({record.seed: msgspec.structs.replace(record.epochs, train_s=[]) for record in records}
                          for records in (a, b))
    common = learnt_a.keys() & learnt_b.keys()
    return len(common), sum(learnt_a[seed] == learnt_b[seed] for seed in common)


def _speeds(name: str, of_a: Mapping[Metric, float], of_b: Mapping[Metric, float], noise: _Noise,
            minimum: float) -> Iterator[Question]:
    for metric in [metric for metric in of_a if metric in of_b]:
        result, detail = None, significant(of_a[metric] / of_b[metric])
        if pairs := noise.metrics.get(metric):
            result = record_ratio(of_a[metric], of_b[metric], pairs)
            detail = f"{ratio_text(result)}, resolvable: {significant(100 * resolvable_unpaired(pairs), 2)} %"
        yield speed_question(name, metric, of_a, of_b, result, detail, minimum, noise.reason)


def _timed(records: Sequence[TrainRecord]) -> list[TrainRecord]:
    return [record for record in records if record.epochs.train_s]


def _undisturbed(records: Sequence[TrainRecord], allowed: Collection[str]) -> list[TrainRecord]:
    return [record for record in records if "machine_shared" in allowed or not training_was_disturbed(record)]


def _epoch(name: str, a: Sequence[TrainRecord], b: Sequence[TrainRecord], noise: _Noise, minimum: float) -> Question:
    """Seeds of one sweep share the state of the machine, and so count as one timing, by the median of their medians."""
    a_s, b_s = (stats.median([stats.summarize(record.epochs.train_s).median for record in records])
                for records in (a, b))
    pairs = noise.metrics.get("epoch") or noise.metrics.get("train_step")
    result = record_ratio(a_s, b_s, pairs) if pairs else None
    change = ratio_text(result) if result else significant(a_s / b_s)
    return speed_question(name, "epoch", {"epoch": a_s}, {"epoch": b_s}, result, change, minimum, noise.reason)
