"""What the timings of an experiment answer, in a sentence: the fastest and the slowest cell. No torch."""

import math
from collections.abc import Sequence

from bench import stats
from bench.formatting import NOISY, named, ratio_text, significant
from bench.judging.evidence import ALPHA
from bench.pages.tables import main_commit
from bench.record import SpeedRecord
from bench.records import timings
from bench.records.identity import Numerics
from bench.records.machines import Machine
from bench.records.noise import record_ratio
from bench.records.rows import Row, memory_formats
from bench.records.side_records import Pairs, Turns
from fmnist_core.config import ExecutionConfig


def speed_answer(rows: Sequence[Row], machine: Machine, noise: Pairs | None) -> str:
    """The fastest and the slowest cell in training, and whether they differ by more than two runs of one cell.

    Of rows that had the machine alone, and were timed at the commit at which most were: another may have made the code
    faster or slower. `noise`: the machine's calibration, if it has one.
    """
    timed = [(row, speed) for row in rows if (speed := row.timed(machine)) and not timings.was_disturbed(speed)]
    commit = main_commit([speed for _, speed in timed])
    speeds = [(row, speed) for row, speed in timed if speed.environment.commit == commit]
    left_out = [named(row.label) for row, speed in timed if speed.environment.commit != commit]
    others = f" Left out, timed at another commit: {', '.join(left_out)}." if left_out else ""
    if len(speeds) < 2:
        return ""
    if _differ_unasked(speeds):
        return "training is not compared: precision, execution or memory format differ where the settings do not."
    all_timings = {row: row.timings(machine) for row, _ in speeds}
    rated = [(timings.training(found), row) for row, found in all_timings.items()]
    (fast, fast_row), (slow, slow_row) = (pick(rated, key=lambda pair: pair[0].images_per_s) for pick in (max, min))
    ends = [f"{named(row.label)} with {significant(rate.images_per_s)}{NOISY if rate.noisy else ''} images/s"
             for rate, row in ((fast, fast_row), (slow, slow_row))]
    factor = significant(fast.images_per_s / slow.images_per_s)
    alpha = ALPHA / math.comb(len(speeds), 2)
    own = timings.ratio(all_timings[slow_row], all_timings[fast_row], all_timings.values(), alpha, timings.image_s)
    ratio = own or (record_ratio(1 / slow.images_per_s, 1 / fast.images_per_s, noise, alpha) if noise else None)
    if ratio is None:
        return (f"fastest in training is {ends[0]}, slowest {ends[1]}, a factor of {factor}; neither timings in "
                f"turns nor a calibration tells how far two runs of one cell differ.{others}")
    between = f", {own.n} timings in turns" if own else " between runs"
    interval = f"a factor of {factor} [{significant(ratio.low)}, {significant(ratio.high)}]{between}"
    if ratio.low <= 1:
        return f"training speeds are not resolved: highest {ends[0]}, lowest {ends[1]}, {interval}.{others}"
    return f"fastest in training is {ends[0]}, slowest {ends[1]}, {interval}.{others}"


def turns_answer(turns: Turns) -> str:
    """Which cell has the shortest and which the longest training step, by blocks in turns."""
    seconds = {one.label: one.step_s for one in turns.cells}
    ordered = sorted(seconds, key=lambda label: stats.mean([*map(math.log, seconds[label])]))
    if len(ordered) < 2:
        return ""
    fast, slow = ordered[0], ordered[-1]
    ratio = stats.paired_ratio(seconds[slow], seconds[fast], 1 - ALPHA / math.comb(len(ordered), 2))
    steps = f"shortest {named(fast)}, longest {named(slow)} with {ratio_text(ratio)} times its time"
    return f"{steps}." if ratio.low > 1 else f"training steps are not told apart: {steps}."


def _differ_unasked(speeds: Sequence[tuple[Row, SpeedRecord]]) -> bool:
    asked: dict[tuple[str, ExecutionConfig], list[SpeedRecord]] = {}
    for row, speed in speeds:
        asked.setdefault((row.cell.config.train.precision, row.cell.config.execution), []).append(speed)
    return any(len({(Numerics.of(speed), speed.labels.captured, speed.labels.compiled) for speed in group}) > 1
               or len(memory_formats(speed.labels.weight_memory_format for speed in group)) > 1
               for group in asked.values())
