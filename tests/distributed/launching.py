"""Real processes for tests, one command at a time."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = str(ROOT / "bench" / "run.py")


def environment(**variables: str) -> dict[str, str]:
    """Of the tests, without what a launcher may have left in it."""
    kept = {name: value for name, value in os.environ.items()
            if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE") and "TORCHELASTIC" not in name}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


def start(*arguments: object, **variables: str) -> subprocess.Popen[str]:
    """`python ARGUMENTS` in the background, standard error with the output."""
    return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, env=environment(**variables), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def torchrun(*arguments: object, **variables: str) -> subprocess.Popen[str]:
    """`torchrun ARGUMENTS` in the background."""
    return start(Path(sysconfig.get_path("scripts")) / "torchrun", *arguments, **variables)


def finish(process: subprocess.Popen[str], timeout_s: float = 180.0) -> tuple[int, str]:
    """Exit code and output. A process that hangs is killed, and fails the test."""
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"still there after {timeout_s:g} s:\n{output}") from None
    return process.returncode, output
