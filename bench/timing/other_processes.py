"""What else used the processors while something ran. No torch; Linux, elsewhere nothing is known.

A second busy process makes steps of several threads many times slower, since each step waits for its last thread, so
a timing without this observation proves little.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple

BUSY_FIELDS = (0, 1, 2, 5, 6, 7)
"""user, nice, system, irq, softirq, and steal: what other virtual machines took. Not idle or waiting for a disk.
Guests' time is part of user's. Columns of the first line of /proc/stat, proc(5)."""
MAX_OTHER_CPUS = 0.05
"""Other processes' processor time per second of a timed block beyond which the record carries a warning."""
LEAST_SHARE, JUDGED_S = 0.9, 5.0
"""A CPU training that got less than this share of one processor was disturbed; below so many seconds nothing is
concluded, since waits for a disk may explain it."""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """Readings of three clocks, in seconds."""

    wall_s: float
    machine_s: float | None
    """Processor time of everything on the machine since it started; None where the system does not tell."""
    own_s: float
    """Processor time of this process and of its children that have ended."""


def usage(stat: Path = Path("/proc/stat")) -> Usage:
    times = os.times()
    own_s = times.user + times.system + times.children_user + times.children_system
    try:
        columns = stat.read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return Usage(time.perf_counter(), None, own_s)
    return Usage(time.perf_counter(), sum(int(columns[i]) for i in BUSY_FIELDS) * TICK_S, own_s)


def other_cpus(before: Usage, after: Usage, own_s: float | None = None) -> float | None:
    """Processors that others kept busy between two readings, a mean; None where the system does not tell.

    `own_s`: processor time that is not others', where it is more than this process's own (several processes time one
    step together).
    """
    if before.machine_s is None or after.machine_s is None:
        return None
    mine_s = after.own_s - before.own_s if own_s is None else own_s
    return max(0.0, after.machine_s - before.machine_s - mine_s) / (after.wall_s - before.wall_s)


def kept_waiting(before: Usage, after: Usage) -> bool:
    """Whether this process, that works on the CPU all the time, had less than a processor for it."""
    wall_s = after.wall_s - before.wall_s
    return wall_s > JUDGED_S and after.own_s - before.own_s < LEAST_SHARE * wall_s


def load_warning(before: Usage, after: Usage, own_s: float | None = None) -> list[str]:
    """One warning, or none. Both clocks tick in hundredths of a second, so a short block proves only a large load."""
    others = other_cpus(before, after, own_s)
    if others is None or others <= MAX_OTHER_CPUS + 2 * TICK_S / (after.wall_s - before.wall_s):
        return []
    return [f"other processes used {others:.2f} CPUs meanwhile"]
