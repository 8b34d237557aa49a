"""How a command ends that is interrupted."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

WAITING = """
import sys, tempfile, time
from bench import command

def main():
    with tempfile.TemporaryDirectory(dir=sys.argv[1]):
        print("ready", flush=True)
        time.sleep(60)
    return 0

command.leave(main)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_it_quietly_after_it_has_cleared_away(tmp_path: Path, number: int, code: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", WAITING, str(tmp_path)], text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (code, "\nInterrupted.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_left_is_no_error() -> None:
    program = "from bench import command\ncommand.leave(lambda: print('x' * 1_000_000) or 0)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1
