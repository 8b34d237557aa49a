"""What the launcher says."""

import os

import pytest

from bench import experiment
from bench.sweep import launch
from bench.sweep.launch import World

QUESTION = {"question": "?"}


def asked(**content):
    return [experiment.parse({**QUESTION, "base": {"model": {"name": "network1"}}, **content}, name="e")]


def test_world_is_that_of_the_launcher(monkeypatch):
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert launch.world() == World(0, 1, 0, 1, 0)
    for number, name in enumerate(names):
        monkeypatch.setenv(name, str(number + 3))
    assert launch.world() == World(3, 4, 5, 6, 7)
    monkeypatch.setenv("LOCAL_RANK", "first")
    with pytest.raises(ValueError, match="LOCAL_RANK = 'first'"):
        launch.world()


@pytest.mark.parametrize(("content", "world", "gpu", "message"), [
    ({"launch": {"device": "cuda"}}, World(), False, "no CUDA device is visible"),
    ({"launch": {"device": "cpu"}}, World(), True, "ACCELERATE_USE_CPU=true python bench/run.py e"),
    ({"launch": {"num_processes": 4}}, World(0, 2, 0, 2), False, "torchrun --nproc-per-node 4 bench/run.py e"),
    ({"base": {"model": {"name": "network1"}, "train": {"precision": "fp16"}}}, World(), False, "needs a GPU"),
    ({"base": {"model": {"name": "network1"}, "execution": {"capture": True, "compile": "default"}}}, World(), False,
     r"experiment .*: execution.capture = true does not go with execution.compile = 'default' on a CPU"),
    ({"base": {"model": {"name": "network1"}, "execution": {"capture": True}}, "launch": {"mode": "ddp"}},
     World(num_processes=2), False, r"does not go with 2 processes on one cell; allowed: launch.mode = 'cells'"),
    ({"base": {"model": {"name": "network2"}, "train": {"sync_batch_norm": True}}}, World(num_processes=2), False,
     r"train.sync_batch_norm = true has no effect where one process trains a cell; allowed: launch.mode = 'ddp' with"),
], ids=lambda value: None)
def test_what_an_experiment_asks_for_is_checked(content, world, gpu, message):
    with pytest.raises(ValueError, match=message):
        launch.check(asked(**content), world, gpu=gpu)
    launch.check(asked(), world, gpu=gpu)


def test_shared_cells_on_several_machines_cannot_restart_with_a_store_that_keeps_old_addresses(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    shared, two_machines = asked(launch={"mode": "ddp"}), World(0, 4, 0, 2)
    with pytest.raises(ValueError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun"):
        launch.check(shared, two_machines, gpu=False)
    launch.check(shared, World(0, 2, 0, 2), gpu=False)
    launch.check(asked(), two_machines, gpu=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    launch.check(shared, two_machines, gpu=False)


@pytest.mark.parametrize(("variable", "engine"), [
    ("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
    ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"), ("ACCELERATE_USE_PARALLELISM_CONFIG", "several kinds")])
def test_what_accelerate_is_configured_for_and_the_harness_has_not_is_refused(variable, engine, monkeypatch):
    for value, is_refused in (("true", True), ("True", True), ("false", False), ("", False)):
        monkeypatch.setenv(variable, value)
        if is_refused:
            with pytest.raises(ValueError, match=rf"{variable} = true: .* {engine}.* not offered: .* allowed: .*DDP"):
                launch.check(asked(), World(), gpu=False)
        else:
            launch.check(asked(), World(), gpu=False)


@pytest.mark.parametrize(("variable", "value", "setting"), [
    ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "execution.compile"),
    ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "train.gradient_accumulation")])
def test_what_accelerate_would_do_to_every_training_is_refused(variable, value, setting, monkeypatch):
    for harmless in ("", "1" if value == "4" else "NO"):
        monkeypatch.setenv(variable, harmless)
        launch.check(asked(), World(), gpu=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=rf"{variable} = {value}: .* without a trace .* --set {setting}="):
        launch.check(asked(), World(), gpu=False)


def test_the_timeout_of_a_group_can_be_set(monkeypatch):
    monkeypatch.delenv("FMNIST_DDP_TIMEOUT_S", raising=False)
    assert launch.ddp_timeout_s() == launch.DDP_TIMEOUT_S
    monkeypatch.setenv("FMNIST_DDP_TIMEOUT_S", "7.5")
    assert launch.ddp_timeout_s() == 7.5
    for text in ("0", "-1", "nan", "inf", "soon", ""):
        monkeypatch.setenv("FMNIST_DDP_TIMEOUT_S", text)
        with pytest.raises(ValueError, match="FMNIST_DDP_TIMEOUT_S"):
            launch.check(asked(), World(), gpu=False)


def test_stand_alone_gives_each_process_a_device_and_hides_the_others(monkeypatch):
    monkeypatch.setattr(launch.environment, "uses_gpu", lambda: True)
    monkeypatch.setattr(launch.environment, "num_gpus", lambda: 2)
    of_launchers = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PMI_SIZE",
                    "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    for name in of_launchers:
        monkeypatch.setenv(name, "1")
    seen = []
    for visible in (None, "4,7"):
        for local_rank in range(3):
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
            if visible:
                monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
            launch.stand_alone(World(local_rank, 3, local_rank, 3))
            seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert seen == ["0", "1", "0", "4", "7", "4"]
    assert not set(of_launchers) & os.environ.keys()
