"""A driver's answer to warnings, by a program in the place of nvidia-smi."""

import time

import pytest

from bench import environment
from bench.timing import gpu_limits

SMI = """#!/bin/sh
echo "$@" > {folder}/asked
while [ ! -e {folder}/worked ]; do sleep 0.01; done
{body}
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Lets a driver of two GPUs answer, once the work has begun: else the test would not end."""
    def answer(body):
        program = tmp_path / "nvidia-smi"
        program.write_text(SMI.format(folder=tmp_path, body=body))
        program.chmod(0o755)
        return gpu_limits.slowdowns((tmp_path / "worked").touch)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(environment, "_all_gpus", lambda: [{"uuid": "GPU-aaaa-bbbb-cccc"}, {"uuid": "GPU-dddd"}])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    answer.folder = tmp_path
    return answer


@pytest.mark.parametrize(("reasons", "told"), [
    ("0x0000000000000000", []),
    ("0x0000000000000001", []),  # idle
    ("0x0000000000000004", []),  # at the power limit, as large products are
    ("0x0000000000000048", ["the hardware halved its clocks", "the hardware lowered its clocks against heat"]),
    ("0x0000000000000024", ["the driver lowered its clocks against heat"]),
    ("0x0000000000000088", ["the hardware halved its clocks", "the power supply asked for lower clocks"]),
    ("[N/A]", []),
])
def test_lowered_clocks_are_told_and_usual_ones_are_not(driver, reasons, told):
    warnings = driver(f"echo 'GPU-dddd, 0x0, 1980, 1980, 40'; echo 'GPU-aaaa-bbbb-cccc, {reasons}, 990, 1980, 91'")
    assert warnings == ([f"GPU-aaaa-bbb: {', '.join(told)}: 990 of 1980 MHz at 91 °C"] if told else [])
    assert "--id=GPU-aaaa-bbbb-cccc,GPU-dddd " in (driver.folder / "asked").read_text()


def test_only_gpus_that_are_used_are_asked_about(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert driver("echo 'GPU-dddd, 0x40, 990, 1980, 91'") == [
        "GPU-dddd: the hardware lowered its clocks against heat: 990 of 1980 MHz at 91 °C"]
    assert "--id=GPU-dddd " in (driver.folder / "asked").read_text()


def test_a_driver_that_does_not_know_the_question_says_nothing(driver):
    assert driver("echo 'Field \"clocks_event_reasons.active\" is not a valid field to query.'; exit 2") == []


def test_without_a_gpu_nothing_is_done(monkeypatch):
    monkeypatch.setattr(environment, "_all_gpus", list)
    assert gpu_limits.slowdowns(lambda: pytest.fail("it was")) == []


@pytest.mark.parametrize(("again", "several"), [(True, True), (False, False)])
def test_the_gpu_works_until_the_driver_has_answered(driver, monkeypatch, again, several):
    """But once alone where other processes must do as many steps."""
    driver("true")  # makes the program, and what it waits for
    (driver.folder / "nvidia-smi").write_text("#!/bin/sh\nsleep 0.3")
    calls = []
    gpu_limits.slowdowns(lambda: calls.append(time.sleep(0.01)), again=again)
    assert (len(calls) > 3) == several
    assert calls
