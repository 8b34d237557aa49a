"""What a record says of the machine."""

import os
import subprocess
import sys

import pytest

from bench import environment
from bench.sweep import launch


@pytest.fixture(autouse=True)
def fresh():
    caches = (environment._all_gpus, environment._commit, environment._libraries, environment._cpu)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def two_gpus(monkeypatch):
    """A driver that answers as nvidia-smi does."""
    answer = "NVIDIA H200, 580.159.03, 700.00, 345, GPU-aaaa\nNVIDIA H100, 580.159.03, [N/A], 345, GPU-bbbb\n"
    monkeypatch.setattr(environment.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    run = lambda command, **options: subprocess.CompletedProcess(command, 0, answer, "")
    monkeypatch.setattr(environment.subprocess, "run", run)
    monkeypatch.setattr(environment, "_commit", lambda: ("", False))
    environment._commit.cache_clear = lambda: None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)


def test_this_machine():
    found = environment.collect(num_threads=1)
    assert found.num_cpus >= 1
    assert found.libraries["torch"][0].isdigit()
    assert found.memory_bytes > 1 << 28
    assert len(found.commit) in (0, 40)
    assert found.cpu
    assert len(found.host) == 12


def test_gpus_as_the_driver_describes_them(two_gpus):
    found = environment.collect()
    assert (found.device, found.driver, found.num_devices) == ("NVIDIA H200", "580.159.03", 2)
    assert (found.power_limit_w, found.clock_mhz) == (700.0, 345.0)
    assert environment.uses_gpu()


@pytest.mark.parametrize(("given", "found"), [
    ({}, "PCI_BUS_ID"), ({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, "FASTEST_FIRST")])
def test_cuda_counts_gpus_as_the_driver_does_unless_told(given, found):
    code = "import bench.environment, os; print(os.environ['CUDA_DEVICE_ORDER'])"
    environ = {**{name: value for name, value in os.environ.items() if name != "CUDA_DEVICE_ORDER"}, **given}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found


def test_only_visible_gpus_count(two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    found = environment.collect()
    assert (found.num_devices, found.power_limit_w) == (1, None)


def test_in_cells_mode_a_record_names_its_own_gpu(two_gpus, monkeypatch):
    """The launch has looked at all of them before each process takes one."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert environment.collect().device == "NVIDIA H200"
    launch.stand_alone(launch.World(num_processes=2, rank=1, local_num_processes=2, local_rank=1))
    found = environment.collect()
    assert (found.device, found.num_devices) == ("NVIDIA H100", 1)


@pytest.mark.parametrize(("visible", "devices"), [("GPU-bbbb", ("NVIDIA H100", 1)), ("GPU-b,GPU-a", ("NVIDIA H100", 2)),
                                                  ("MIG-1,MIG-2", ("NVIDIA H200", 2)), ("7", ("cpu", 0))])
def test_gpus_may_be_named_by_their_ids(two_gpus, monkeypatch, visible, devices):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = environment.collect()
    assert (found.device, found.num_devices) == devices


@pytest.mark.parametrize(("name", "value"), [("ACCELERATE_USE_CPU", "true"), ("CUDA_VISIBLE_DEVICES", ""),
                                             ("CUDA_VISIBLE_DEVICES", "-1")])
def test_a_launch_that_hides_the_gpus_has_none(two_gpus, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert not environment.uses_gpu()
    assert environment.collect().device == "cpu"


def test_the_speed_identity_holds_what_decides_speed_and_not_when_it_was():
    before, after = environment.collect(1), environment.collect(2)
    assert environment.speed_identity(before) != environment.speed_identity(after)
    assert set(environment.speed_identity(before)) == {"device", "driver", "cpu", "num_cpus", "num_threads", "torch"}


@pytest.mark.parametrize("changed", ["fmnist_core/train.py", "bench/run.py", "experiments/new.toml"])
def test_a_change_anywhere_in_the_source_is_seen(tmp_path, monkeypatch, changed):
    for name in ("fmnist_core/train.py", "bench/run.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert environment._commit()[1] is False
    (tmp_path / changed).parent.mkdir(exist_ok=True)
    (tmp_path / changed).write_text("2\n")
    environment._commit.cache_clear()
    assert environment._commit()[1] is True


def test_the_command_prints_what_a_bug_report_needs(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("FMNIST_DATA_DIR", str(tmp_path))
    environment.main([])
    printed = capsys.readouterr().out
    for word in ("cpu:", "torch ", "matplotlib ", "python:", "commit:", "num_threads:", "OMP_NUM_THREADS 3",
                 "data: not found"):
        assert word in printed
    monkeypatch.setattr(environment, "find", lambda *, download: tmp_path / "there" / str(download))
    environment.main([])
    assert f"data: {tmp_path / 'there' / 'False'}\n" in capsys.readouterr().out
