"""The verdict of the timed checks: its error rates by simulation, and that a slowed step does not get past it."""

import itertools
import math
import os
import subprocess
import sys
import time

import msgspec
import numpy as np
import pytest
import torch

from bench import environment
from bench.block import Subject
from bench.record import Environment
from fmnist_core import train
from fmnist_core.config import CellConfig, DataConfig, Network2, TrainConfig
from fmnist_core.train import Training
from tests.perf import gate
from tests.perf.reference import Reference, network
from tests.small import small_dataset


def rounds(rng, factor=1.0, noise=0.02, n=30):
    """Seconds of a check and of its reference, both slowed by the same drift."""
    drift = np.exp(np.linspace(0, 0.5, n))
    return factor * drift * np.exp(noise * rng.standard_normal(n)), drift


def baseline(rng, **options):
    return gate.judge("check", *rounds(rng, **options), None).new


def share(verdicts, trials, factor=1.0, **options):
    rng = np.random.default_rng(0)
    judged = [gate.judge("check", *rounds(rng, factor, **options), baseline(rng, **options)) for _ in range(trials)]
    return np.mean([one.verdict in verdicts for one in judged])


def test_equal_speeds_rarely_alarm():
    assert share(("slower", "faster"), 300, noise=0.05) < 0.05 / 4  # there are four checks


@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_a_slowdown_of_five_percent_is_found_by_the_rounds_that_are_asked_for(noise):
    rng = np.random.default_rng(1)
    asked = gate.judge("check", *rounds(rng, noise=noise, n=200), None).rounds_needed
    trials = 200
    standard_error = math.sqrt(0.9 * 0.1 / trials)
    assert share(["slower"], trials, factor=1.05, noise=noise, n=asked) > 0.9 - 3 * standard_error


def test_a_speed_up_that_nobody_committed_is_told():
    assert share(["faster"], 50, factor=0.9) == 1.0


def test_without_a_baseline_there_is_no_verdict():
    judged = gate.judge("check", [2.0, 2.2, 2.0], [1.0, 1.0, 1.0], None)
    assert judged.verdict == "no baseline"
    assert judged.new.ratios == [2.0, 2.2, 2.0]


def test_a_noisy_machine_gets_the_threshold_that_it_can_resolve():
    rng = np.random.default_rng(2)
    assert baseline(rng, noise=0.001).threshold == gate.THRESHOLD
    assert baseline(rng, noise=0.3).threshold > 0.1


def test_baselines_of_other_machines_and_checks_are_kept(tmp_path):
    one, other = Environment(cpu="one", num_cpus=2), Environment(cpu="other", num_cpus=2)
    judged = gate.judge("step", [2.0, 2.1], [1.0, 1.0], None)
    machines = gate.merged(gate.merged({}, one, [judged]), other, [judged])
    machines = gate.merged(machines, other, [judged._replace(check="batch")])
    path = tmp_path / "baseline.json"
    path.write_text(gate.lines(machines))
    assert gate.load(path) == machines
    assert {len(machine.checks) for machine in machines.values()} == {1, 2}


def test_machines_differ_by_processor_and_accelerator_but_not_by_library():
    here = environment.collect(1)
    same = msgspec.structs.replace(here, libraries={"torch": "0"}, load=9.0, commit="other")
    assert gate.machine_id(same) == gate.machine_id(here)
    for field, value in [("cpu", "other"), ("device", "other"), ("num_threads", 7)]:
        assert gate.machine_id(msgspec.structs.replace(here, **{field: value})) != gate.machine_id(here)


class ProcessClock:
    """Processor time of this process: other work on the machine must not decide a test."""

    def mark(self):
        return time.process_time()

    def seconds_between(self, marks):
        return [later - earlier for earlier, later in itertools.pairwise(marks)]


@pytest.fixture(scope="module")
def training():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other count as processor time
    cell = CellConfig(model=Network2(), data=DataConfig(dataset="synthetic", validation_size=40),
                      train=TrainConfig(global_batch_size=30))
    yield Training(cell, 0, small_dataset())
    torch.set_num_threads(threads)


def measure(training, num_rounds=8):
    """The check of tests/perf on a step, by processor time."""
    split = training.dataset.train
    reference = Reference(split.images_NCHW, split.labels_N)
    clock = ProcessClock()
    subjects = [Subject(training, step=step, min_steps=10, min_block_s=0.0, clock=clock)
                for step in (None, lambda training, images, labels, size: reference.step(images, labels))]
    measured_s, reference_s = zip(*[[subject.step_s() for subject in subjects] for _ in range(num_rounds)], strict=True)
    return measured_s, reference_s


def test_a_slowed_step_is_caught(training, monkeypatch):
    before = gate.judge("step", *measure(training), None).new
    assert gate.judge("step", *measure(training), before).verdict != "slower"
    step = train.train_step

    def slowed(*arguments):
        for _ in range(3):
            loss = step(*arguments)
        return loss

    monkeypatch.setattr("bench.block.train_step", slowed)
    assert gate.judge("step", *measure(training), before).verdict == "slower"


def test_the_reference_has_the_final_networks_layers():
    ours = Training(CellConfig(model=Network2(dropout=0.5)), 0, small_dataset()).model
    weights = lambda model: [tuple(p.shape) for p in model.parameters()]
    assert weights(network()) == weights(ours)


def perf(tmp_path, *options):
    """`make perf` for one check."""
    command = [sys.executable, "-m", "pytest", "tests/perf", "-k", "batch", "--benchmark-enable", "--benchmark-only",
               "--perf-rounds", "5", "--perf-baseline", str(tmp_path / "baseline.json"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_make_perf_says_what_is_missing_keeps_what_it_finds_and_fails_on_a_slowdown(tmp_path):
    here, path = gate.machine_id(environment.collect(1)), tmp_path / "baseline.json"
    elsewhere = gate.merged({}, Environment(cpu="other"), [gate.judge("test_batch", [2.0, 2.1], [1.0, 1.0], None)])
    path.write_text(gate.lines(elsewhere))
    run = perf(tmp_path)  # what holds for another machine is none of ours
    assert run.returncode == 0, run.stdout + run.stderr
    assert "NO BASELINE" in run.stdout
    assert "1 skipped" in run.stdout
    assert '"test_batch"' in run.stdout

    run = perf(tmp_path, "--write-baseline")
    assert run.returncode == 0, run.stdout + run.stderr
    written = gate.load(path)
    assert set(written) == {here, *elsewhere}
    assert {key: written[key] for key in elsewhere} == elsewhere
    assert len(written[here].checks["test_batch"].ratios) == 5

    known = written[here].checks["test_batch"]
    faster_once = gate.Baseline(ratios=[ratio / 1000 for ratio in known.ratios], threshold=known.threshold)
    path.write_text(gate.lines({**written, here: msgspec.structs.replace(
        written[here], checks={"test_batch": faster_once})}))
    run = perf(tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "slower" in run.stdout
    assert "NO BASELINE" not in run.stdout
