"""The verdict of a timed check: its time over the reference's, now and when the baseline was committed.

Baselines are kept by machine, since a ratio of two kernels is a fact of the processor that runs them. One process gives
one ratio: rounds of one process agree with each other better than with those of the next one, whose memory lies
elsewhere. So a baseline is what several processes gave, and a verdict is made from their spread.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from bench import stats
from bench.formatting import significant
from bench.record import Environment
from fmnist_core.config import digest

BASELINES = Path(__file__).parent / "baseline.json"
THRESHOLD = 0.025
"""The least relative change that counts unless another is asked for, however quiet the machine."""
ALPHA = 0.01
"""False alarms of one check, so that those of a run of four stay below 5 %."""
MIN_PROCESSES = 5
"""Fewer say too little about their spread: no verdict."""
NO_BASELINE = "no baseline"


class Baseline(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One check on one machine."""

    commit: str
    ratios: list[float]
    """Seconds of the check over those of the reference: of each process, the median over its rounds."""


class Machine(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    about: str
    checks: dict[str, Baseline] = {}


class Judged(NamedTuple):
    check: str
    verdict: str
    """`slower`, `faster`, `within the noise` or `no baseline`."""
    said: str
    """The change against the baseline and how large it must be here to count; or the ratio, and what is missing."""
    ratio: float
    """Of this process."""


def judge(check: str, measured_s: Sequence[float], reference_s: Sequence[float], baseline: Baseline | None,
          threshold: float = THRESHOLD) -> Judged:
    """Rounds were taken in turns. An alarm: the ratio lies outside the interval that holds, with 1 - ALPHA, the next
    process of the baseline, and the change is at least `threshold`."""
    ratio = stats.summarize([m / r for m, r in zip(measured_s, reference_s, strict=True)]).median
    known = 0 if baseline is None else len(baseline.ratios)
    if baseline is None or known < MIN_PROCESSES:
        return Judged(check, NO_BASELINE, f"{significant(ratio)} × reference; {known} of at least {MIN_PROCESSES} "
                                          "processes of a baseline", ratio)
    logs = [math.log(each) for each in baseline.ratios]
    middle = stats.summarize(logs).mean
    least = max(stats.prediction_interval(logs, 1 - ALPHA).high - middle, math.log1p(threshold))
    change = math.log(ratio) - middle
    verdict = "within the noise" if abs(change) < least else "slower" if change > 0 else "faster"
    said = (f"{100 * math.expm1(change):+.1f} % against {known} processes; here a change counts from "
            f"{100 * math.expm1(least):.1f} % on")
    return Judged(check, verdict, said, ratio)


def machine_id(environment: Environment) -> str:
    """Of what decides the ratio of two kernels: the processors, and how many of them. Libraries change both alike."""
    return digest({"cpu": environment.cpu, "num_cpus": environment.num_cpus, "num_threads": environment.num_threads,
                   "device": environment.device})


def describe(environment: Environment) -> str:
    device = "" if environment.device == "cpu" else f"{environment.device}, "
    return f"{device}{environment.cpu}, {environment.num_cpus} processors, {environment.num_threads} threads"


def load(path: Path = BASELINES) -> dict[str, Machine]:
    """By machine. Raises ValueError for a file that cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Machine])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def lines(machines: dict[str, Machine]) -> str:
    """JSON with a line for each check."""
    text = lambda value: msgspec.json.encode(value).decode()
    blocks = []
    for key, machine in machines.items():
        checks = ",\n".join(f"  {text(name)}: {text(check)}" for name, check in sorted(machine.checks.items()))
        blocks.append(f' {text(key)}: {{"about": {text(machine.about)}, "checks": {{\n{checks}\n }}}}')
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def merged(machines: dict[str, Machine], environment: Environment, judged: Sequence[Judged]) -> dict[str, Machine]:
    """`machines` with what was measured now. Another process of the same commit is added; a new commit starts anew."""
    key, commit = machine_id(environment), environment.commit + "-dirty" * environment.dirty
    checks = dict(machines[key].checks) if key in machines else {}
    for one in judged:
        before = checks.get(one.check)
        ratios = before.ratios if before is not None and before.commit == commit else []
        checks[one.check] = Baseline(commit=commit, ratios=[*ratios, round(one.ratio, 4)])
    return {**machines, key: Machine(about=describe(environment), checks=checks)}
