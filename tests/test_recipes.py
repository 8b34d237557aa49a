"""The commands of docs/many-machines.md, with stand-ins for what this machine has not: srun, scontrol, torchrun."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import run
from bench.store import Store
from tests.distributed.test_machines import OPTIONS

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "many-machines.md").read_text()
JOINED = re.sub(r"\s*\\\n\s*", " ", PAGE)
COMMANDS = [line.split("  #")[0].strip() for line in JOINED.splitlines() if line.startswith("    ")]
SRUN = """#!/bin/sh
# As Slurm with an MPI plugin starts the task of a node.
export SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_LOCALID=0 PMI_RANK=0 PMI_SIZE=2
exec "$@"
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder of stand-ins, first on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def stand_in(name: str, script: str) -> None:
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)

    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    stand_in("srun", SRUN)
    return stand_in


def sweep_of(command: str) -> list[str]:
    """The arguments of bench/run.py."""
    words = shlex.split(command)
    return words[words.index("bench/run.py") + 1 :]


def test_every_sweep_plans_something(tmp_path, capsys, monkeypatch):
    commands = [command for command in COMMANDS if "bench/run.py" in command]
    commands = [re.sub(r'.*--wrap "(.*)"', r"\1", command) for command in commands]
    assert len(commands) >= 5
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for command in commands:
        assert run.main([*sweep_of(command), "--list", "--store", str(tmp_path)]) == 0
        assert re.search(r"[1-9]\d* training", capsys.readouterr().out)


def test_a_job_of_the_array_ends_on_notice_and_the_same_goes_on(slurm, tmp_path):
    """The body of `--wrap`, on pretended cells."""
    slurm("python", f'#!/bin/sh\nshift\nexec "{sys.executable}" -m tests.pretend_sweep "$@"\n')
    [body] = [shlex.split(command)[-1] for command in COMMANDS if command.startswith("sbatch --array")]
    assert body.startswith("srun ")  # the batch script itself gets no notice
    path, store = tmp_path / "mine.toml", tmp_path / "store"
    path.write_text('question = "?"\ntimings = 0\nseeds = { cpu = 20, cuda = 20 }\n'
                    'base = { data.dataset = "synthetic", model.name = "cnn" }')
    body = body.replace("kernel_depth", str(path)).replace("/shared/runs", str(store))
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PRETEND_S": "0.2"}
    start = lambda: subprocess.Popen(["sh", "-c", f"exec {body}"], cwd=ROOT, env=environ, text=True,
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with start() as job:
        assert job.stdout is not None
        first = job.stdout.readline()
        assert "test accuracy" in first
        job.send_signal(signal.SIGTERM)
        rest, _ = job.communicate(timeout=60)
    assert job.returncode == 143
    assert "the same command goes on from there" in rest
    assert 1 <= len(Store(store).latest()) < 20
    environ["PRETEND_S"] = "0"
    with start() as job:
        job.communicate(timeout=60)
    assert job.returncode == 0
    assert len((store / "mine.jsonl").read_bytes().splitlines()) == len(Store(store).latest()) == 20


def test_the_job_of_several_nodes_starts_what_the_page_says_to_start_by_hand(slurm):
    slurm("scontrol", '#!/bin/sh\n[ "$*" = "show hostnames n[1-2]" ] && printf "n1\\nn2\\n"\n')
    slurm("torchrun", '#!/bin/sh\necho "$TORCH_DISABLE_SHARE_RDZV_TCP_STORE" "$@"\n')
    [script] = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    environ = {**os.environ, "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2"}
    said = subprocess.run(["sh", "-c", script], env=environ, capture_output=True, text=True, check=True, timeout=60)
    [by_hand] = [command for command in COMMANDS if "--nnodes 2" in command]
    assert f" {OPTIONS.format(8, 'HOST:29500')} bench/run.py " in by_hand  # as tried in test_machines
    variable, _, *options = shlex.split(by_hand)
    assert said.stdout.split() == [variable.partition("=")[2], *(word.replace("HOST", "n1") for word in options)]
    assert said.stderr == ""
