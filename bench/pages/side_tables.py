"""The records of a machine as tables of finished strings. No torch."""

import math

from bench import stats
from bench.formatting import NOTHING, interval_text, ratio_text, significant
from bench.records.noise import paired_noise, pairs_to_find, resolvable_text, resolvable_unpaired
from bench.records.side_records import (
    METRICS,
    PAIRS,
    THRESHOLD,
    Calibration,
    Ledger,
    Pairs,
    Peer,
    Peers,
    Point,
    Scaling,
    SideRecord,
    Turns,
)


def headers_and_rows(record: SideRecord) -> tuple[list[str], list[list[str]]]:
    """The record as a table: its first two columns are text."""
    match record:
        case Calibration():
            return _calibration_table(record)
        case Ledger():
            return _ledger_table(record)
        case Peers():
            return _peers_table(record)
        case Scaling():
            return _scaling_table(record)
        case Turns():
            return _turns_table(record)


def _calibration_table(calibration: Calibration) -> tuple[list[str], list[list[str]]]:
    headers = ["metric", "pairs", "median (ms)", "one cell over itself", "noise of a pair (%)",
               f"least change that {PAIRS} pairs find (%)", f"pairs to find {200 * THRESHOLD:g} %",
               "least change that two records find (%)"]
    rows = []
    for metric in [metric for metric in METRICS if metric in calibration.metrics]:
        pairs = calibration.metrics[metric]
        rows.append([metric.replace("_", " "), str(len(pairs.a_s)),
                     significant(1000 * stats.median([*pairs.a_s, *pairs.b_s])),
                     ratio_text(stats.paired_ratio(pairs.a_s, pairs.b_s)),
                     significant(100 * stats.sd(paired_noise(pairs))),
                     *_resolved(pairs), significant(100 * resolvable_unpaired(pairs))])
    return headers, rows


def _turns_table(turns: Turns) -> tuple[list[str], list[list[str]]]:
    headers = ["cell", "blocks", "median step (ms)", "times the first's step"]
    first = turns.cells[0]
    rows = [[one.label, str(len(one.step_s)), significant(1000 * stats.median(one.step_s)),
             NOTHING if one is first else ratio_text(stats.paired_ratio(one.step_s, first.step_s))]
            for one in turns.cells]
    return headers, rows


def _resolved(pairs: Pairs) -> list[str]:
    if len(pairs.a_s) < 2:
        return [NOTHING] * 2
    return [resolvable_text(pairs), f"{pairs_to_find(pairs):,}"]


def _ledger_table(ledger: Ledger) -> tuple[list[str], list[list[str]]]:
    reference = ledger.lines[0].step_s
    headers = ["step", "what it adds", "microseconds", "more than raw (microseconds)", "times raw"]
    rows = []
    for each in ledger.lines:
        if not each.step_s:
            rows.append([each.name, f"skipped: {each.skipped}", *[NOTHING] * 3])
            continue
        compared = [NOTHING] * 2
        if each is not ledger.lines[0]:
            more = [1e6 * (mine - raw) for mine, raw in zip(each.step_s, reference, strict=True)]
            compared = [_difference(more), ratio_text(stats.paired_ratio(each.step_s, reference))]
        rows.append([each.name, each.what, _mean([1e6 * seconds for seconds in each.step_s]), *compared])
    return headers, rows


def _peers_table(peers: Peers) -> tuple[list[str], list[list[str]]]:
    reference = rates(peers.systems[0])
    headers = ["system", "what it is", "processes × threads", "rounds", "images/s, whole machine",
               f"times {peers.systems[0].name}", "parameters", "steps", "test accuracy (%)"]
    rows = []
    for peer in peers.systems:
        if not peer.runs:
            rows.append([peer.name, peer.skipped, *[NOTHING] * 7])
            continue
        accuracies = [accuracy for run in peer.runs for accuracy in run.test_accuracy]
        versions = ", ".join(" ".join(each) for each in peer.libraries.items())
        what = f"{peer.what} ({versions})" if versions else peer.what
        rows.append([peer.name, what, f"{peer.num_processes} × {peer.num_threads}", str(len(peer.runs)),
                     rate_text(peer),
                     ratio_text(stats.paired_ratio(rates(peer), reference)) if reference else NOTHING,
                     f"{peer.num_parameters:,}", f"{peer.runs[0].num_steps:,}",
                     f"{100 * stats.mean(accuracies):.2f}"])
    return headers, rows


def rates(peer: Peer) -> list[float]:
    """Images per second over the whole machine, one entry per round."""
    return [run.images / run.train_s for run in peer.runs]


def rate_text(peer: Peer) -> str:
    """Images per second over the whole machine: mean over the rounds [95 % interval]."""
    return _mean(rates(peer)) if peer.runs else NOTHING


def _mean(values: list[float]) -> str:
    """Geometric, with its interval, but of two none: of values above 0 that differ by factors."""
    logs, show = [math.log(value) for value in values], lambda log: significant(math.exp(log))
    return f"{show(stats.mean(logs))}{interval_text(logs, show)}"


def _difference(values: list[float]) -> str:
    show = lambda value: f"{value:+.0f}"
    return f"{show(stats.mean(values))}{interval_text(values, show)}"


def _scaling_table(scaling: Scaling) -> tuple[list[str], list[list[str]]]:
    headers = ["what grows", "its value", "processes", "parameters", "images a step", "step (ms)",
               "images/s, all together", "times the first of its kind"]
    rows = []
    firsts: dict[tuple[str, int], Point] = {}
    for point in scaling.points:
        name = point.axis.replace("_", " ")
        if not point.step_s:
            skipped = f"skipped: {point.skipped}"
            rows.append([name, f"{point.value:,}", str(point.num_processes), skipped, *[NOTHING] * 4])
            continue
        first = firsts.setdefault(_series(point), point)
        times = NOTHING if first is point else ratio_text(stats.paired_ratio(images_per_s(point), images_per_s(first)))
        rows.append([name, f"{point.value:,}", str(point.num_processes), f"{point.num_parameters:,}",
                     f"{point.images_per_step:,}", _mean([1000 * seconds for seconds in point.step_s]),
                     _mean(images_per_s(point)), times])
    return headers, rows


def images_per_s(point: Point) -> list[float]:
    """Of all processes and seeds together, one entry per round."""
    return [point.images_per_step / seconds for seconds in point.step_s]


def _series(point: Point) -> tuple[str, int]:
    """Points that are compared with the first of them: processes that share a batch, only at that batch."""
    return point.axis, point.images_per_step if point.axis == "processes, ddp" else 0
