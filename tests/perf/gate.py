"""The verdict of a timed check: its time over the reference's, now and when the baseline was committed.

Baselines are kept by machine, since a ratio of two kernels is a fact of the processor that runs them.
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
MUST_FIND = 0.05
"""The relative change that is to be found 9 times in 10, by as many rounds as `Judged.rounds_needed` asks for."""
THRESHOLD = 0.025
"""The least relative change that counts, where the machine can resolve it."""
ALPHA, POWER = 0.01, 0.9
"""False alarms of one check, so that those of a run of four stay below 5 %; and the share of true ones."""
MIN_ROUNDS = 10
"""Fewer say too little about the noise."""
NO_BASELINE = "no baseline"


class Baseline(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One check on one machine."""

    ratios: list[float]
    """Seconds of the check over those of the reference, one entry per round."""
    threshold: float
    """The least relative change that counts here."""


class Machine(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    about: str
    checks: dict[str, Baseline] = {}


class Judged(NamedTuple):
    check: str
    verdict: str
    """`slower`, `faster`, `equivalent`, `not resolved` or `no baseline`."""
    change: str
    """Of the ratio against the baseline's, with its 95 % interval; or the ratio itself."""
    rounds_needed: int
    """With which this machine, as noisy as it was now, finds a change of MUST_FIND."""
    new: Baseline
    """To be committed, if this is how it should be."""


def judge(check: str, measured_s: Sequence[float], reference_s: Sequence[float], baseline: Baseline | None) -> Judged:
    """Rounds were taken in turns; verdict by Welch's test on the logarithms, and by the check's own threshold."""
    ratios = [measured / reference for measured, reference in zip(measured_s, reference_s, strict=True)]
    logs = [math.log(ratio) for ratio in ratios]
    # Of a difference between two such means; planned as for pairs, which is quick and asks for a little more.
    cautious_sd = math.sqrt(2) * stats.sd_upper_bound(logs)
    rounds = max(MIN_ROUNDS, stats.pairs_needed(cautious_sd, MUST_FIND, POWER, ALPHA, THRESHOLD))
    # A machine that resolves less gets a threshold to match: half of what it finds, which costs it next to nothing.
    sd = math.sqrt(2) * stats.summarize(logs).sd
    least = stats.resolvable_ratio(sd, len(logs), POWER, ALPHA) / 2
    new = Baseline(ratios=[round(ratio, 4) for ratio in ratios], threshold=round(max(THRESHOLD, least), 4))
    if baseline is None:
        mean = significant(math.exp(stats.summarize(logs).mean))
        return Judged(check, NO_BASELINE, f"{mean} × reference", rounds, new)
    result = stats.compare([math.log(ratio) for ratio in baseline.ratios], logs)
    said = stats.verdict(result, math.log1p(baseline.threshold), ALPHA)
    change = " to ".join(f"{100 * math.expm1(bound):+.1f} %" for bound in (result.low, result.high))
    return Judged(check, {"greater": "slower", "less": "faster"}.get(said, said), change, rounds, new)


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
    """`machines` with what was measured now, other machines and other checks kept."""
    key = machine_id(environment)
    known = machines[key].checks if key in machines else {}
    here = Machine(about=describe(environment), checks={**known, **{one.check: one.new for one in judged}})
    return {**machines, key: here}
