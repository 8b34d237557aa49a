"""Whether a GPU lowered its clocks while it worked, to cool down or for lack of power. No torch.

The clocks of a GPU that got too hot fall by a half or more, and steps get slower alike, so no spread shows it. That the
power limit holds clocks down is not told here: it does for every large product, and the limit is part of a record.
"""

import subprocess
from collections.abc import Callable
from typing import Any

from bench import environment

SLOWDOWNS = {
    0x08: "the hardware halved its clocks",
    0x20: "the driver lowered its clocks against heat",
    0x40: "the hardware lowered its clocks against heat",
    0x80: "the power supply asked for lower clocks",
}
"""Bits of nvidia-smi's clocks_event_reasons.active, as NVML's nvmlClocksEventReasons defines them. The first is set
with the last two."""
FIELDS = "uuid,clocks_event_reasons.active,clocks.sm,clocks.max.sm,temperature.gpu"


def slowdowns(work: Callable[[], Any], *, again: bool = True) -> list[str]:
    """Warnings, by what the driver says of all GPUs of this process while `work` keeps them busy: `again` and again
    until it has answered, but where several processes must do the same number of steps.

    None where there are no GPUs (then nothing is done), or the driver does not tell: before version 535, and of virtual
    GPUs.
    """
    ids = environment.gpu_ids()
    if not ids:
        return []
    query = ["nvidia-smi", f"--id={','.join(ids)}", f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as asked:
        work()
        while again and asked.poll() is None:
            work()
        answer = asked.communicate()[0]
    return [] if asked.returncode else [text for line in answer.splitlines() for text in _warnings(line)]


def _warnings(line: str) -> list[str]:
    uuid, reasons, clock, most, temperature = (field.strip() for field in line.split(","))
    try:
        active = int(reasons, 16)
    except ValueError:  # "[N/A]"
        return []
    told = [text for bit, text in SLOWDOWNS.items() if active & bit]
    if not told:
        return []
    return [f"{uuid[:12]}: {', '.join(told)}: {clock} of {most} MHz at {temperature} °C"]
