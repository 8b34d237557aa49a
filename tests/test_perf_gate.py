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
from bench.record import Environment
from bench.timing.block import Subject
from fmnist_core import train
from fmnist_core.config import CellConfig, DataConfig, Network2, TrainConfig
from fmnist_core.train import Training
from tests.perf import gate
from tests.perf.reference import Reference, network
from tests.small import small_dataset


def process(rng, factor=1.0, noise=0.02, spread=0.02, n=30):
    """Seconds of a check and of its reference in one process: both slowed by the same drift, and the ratio by luck."""
    drift = np.exp(np.linspace(0, 0.5, n))
    luck = np.exp(spread * rng.standard_normal())
    return factor * luck * drift * np.exp(noise * rng.standard_normal(n)), drift


def baseline(rng, processes=8, **options):
    ratios = [gate.judge("check", *process(rng, **options), None).ratio for _ in range(processes)]
    return gate.Baseline(commit="c", ratios=ratios)


def share(verdicts, trials, factor=1.0, **options):
    rng = np.random.default_rng(0)
    judged = [gate.judge("check", *process(rng, factor, **options), baseline(rng, **options)) for _ in range(trials)]
    return np.mean([one.verdict in verdicts for one in judged])


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_equal_speeds_rarely_alarm(spread):
    trials = 400
    allowed = gate.ALPHA + 3 * math.sqrt(gate.ALPHA / trials)
    assert share(("slower", "faster"), trials, spread=spread) <= allowed


def test_rounds_of_one_process_would_alarm_falsely():
    """What the spread between processes is there for: without it in the baseline, luck passes for a change."""
    rng, alarms = np.random.default_rng(3), 0
    for _ in range(100):
        one = [m / r for m, r in zip(*process(rng, spread=0.05, n=8), strict=True)]
        alarms += gate.judge("check", *process(rng, spread=0.05), gate.Baseline(commit="c", ratios=one)).verdict != \
            "within the noise"
    assert alarms > 20


def test_a_slowdown_of_five_percent_is_found_on_a_quiet_machine():
    assert share(["slower"], 200, factor=1.05, noise=0.01, spread=0.005) > 0.9


def test_a_speed_up_that_nobody_committed_is_told():
    assert share(["faster"], 50, factor=0.8) == 1.0


@pytest.mark.parametrize("known", [None, gate.Baseline(commit="c", ratios=[2.0] * (gate.MIN_PROCESSES - 1))])
def test_without_enough_of_a_baseline_there_is_no_verdict(known):
    judged = gate.judge("check", [20.0, 22.0, 20.0], [1.0, 1.0, 1.0], known)
    assert judged.verdict == "no baseline"
    assert judged.ratio == 20.0


def test_the_change_that_counts_follows_the_spread_of_the_processes_but_has_a_floor():
    quiet = gate.Baseline(commit="c", ratios=[2.0] * 5)
    assert "counts from 2.5 % on" in gate.judge("check", [2.0], [1.0], quiet).said
    # Student's t of 4 degrees of freedom at 99 %: 4.604; sd of the logarithms 0.1; one more process of 6
    ratios = [math.exp(0.1 * z) for z in (-1.0, 1.0, -1.0, 1.0, 0.0)]
    expected = math.expm1(4.604095 * 0.1 * math.sqrt(1 + 1 / 5))
    noisy = gate.Baseline(commit="c", ratios=ratios)
    assert f"counts from {100 * expected:.1f} % on" in gate.judge("check", [1.0], [1.0], noisy).said
    assert gate.judge("check", [1.0 + expected * 1.01], [1.0], noisy).verdict == "slower"
    assert gate.judge("check", [1.0 + expected * 0.99], [1.0], noisy).verdict == "within the noise"


def test_a_build_chooses_the_change_that_counts():
    quiet = gate.Baseline(commit="c", ratios=[1.0, 1.001, 0.999, 1.0, 1.0])
    assert gate.judge("check", [1.08], [1.0], quiet).verdict == "slower"
    assert gate.judge("check", [1.08], [1.0], quiet, threshold=0.1).verdict == "within the noise"
    assert gate.judge("check", [1.12], [1.0], quiet, threshold=0.1).verdict == "slower"


def test_baselines_gather_processes_of_one_commit_and_keep_other_machines_and_checks(tmp_path):
    one, other = Environment(cpu="one", num_cpus=2), Environment(cpu="other", num_cpus=2, commit="a")
    judged = gate.judge("step", [2.0, 2.1], [1.0, 1.0], None)
    machines = gate.merged(gate.merged({}, one, [judged]), other, [judged])
    machines = gate.merged(machines, other, [judged._replace(check="batch"), judged._replace(ratio=3.0)])
    path = tmp_path / "baseline.json"
    path.write_text(gate.lines(machines))
    assert gate.load(path) == machines
    checks = machines[gate.machine_id(other)].checks
    assert {name: check.ratios for name, check in checks.items()} == {"step": [2.05, 3.0], "batch": [2.05]}
    assert set(machines) == {gate.machine_id(one), gate.machine_id(other)}

    for later in (msgspec.structs.replace(other, commit="b"), msgspec.structs.replace(other, dirty=True)):
        checks = gate.merged(machines, later, [judged])[gate.machine_id(other)].checks
        assert checks["step"].ratios == [2.05]
        assert checks["batch"].ratios == [2.05]


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
    """And of six that were not slowed, each against the five others, one at most: what runs beside them comes and goes.
    """
    measured = [measure(training) for _ in range(gate.MIN_PROCESSES + 1)]
    ratios = [gate.judge("step", *one, None).ratio for one in measured]
    without = lambda i: gate.Baseline(commit="c", ratios=[*ratios[:i], *ratios[i + 1 :]])
    alarms = [gate.judge("step", *one, without(i)).verdict == "slower" for i, one in enumerate(measured)]
    assert sum(alarms) <= 1
    before = without(len(measured) - 1)
    step = train.train_step

    def slowed(*arguments):
        for _ in range(3):
            loss = step(*arguments)
        return loss

    monkeypatch.setattr("bench.timing.block.train_step", slowed)
    assert gate.judge("step", *measure(training), before).verdict == "slower"


def test_the_reference_has_the_final_networks_layers():
    ours = Training(CellConfig(model=Network2(dropout=0.5)), 0, small_dataset()).model
    weights = lambda model: [tuple(p.shape) for p in model.parameters()]
    assert weights(network()) == weights(ours)


def perf(tmp_path, *options):
    """`make perf` for one check."""
    command = [sys.executable, "-m", "pytest", "tests/perf", "-k", "batch", "--benchmark-enable", "--benchmark-only",
               "--perf-rounds", "5", "--perf-baseline", str(tmp_path / "baseline.json"), *options]
    # Where these tests run in parallel, pytest-benchmark would measure nothing in it.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    return subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**variables, "OMP_NUM_THREADS": "1"})


def test_make_perf_says_what_is_missing_keeps_what_it_finds_and_fails_on_a_slowdown(tmp_path):
    here, path = gate.machine_id(environment.collect(1)), tmp_path / "baseline.json"
    elsewhere = gate.merged({}, Environment(cpu="other"), [gate.judge("test_batch", [2.0, 2.1], [1.0, 1.0], None)])
    path.write_text(gate.lines(elsewhere))
    run = perf(tmp_path)  # what holds for another machine is none of ours
    assert run.returncode == 0, run.stdout + run.stderr
    assert "NO BASELINE" in run.stdout
    assert "1 skipped" in run.stdout
    assert perf(tmp_path, "--perf-require-baseline").returncode == 1

    for num in (1, 2):
        run = perf(tmp_path, "--write-baseline")
        assert run.returncode == 0, run.stdout + run.stderr
        written = gate.load(path)
        assert set(written) == {here, *elsewhere}
        assert {key: written[key] for key in elsewhere} == elsewhere
        assert len(written[here].checks["test_batch"].ratios) == num

    known = written[here].checks["test_batch"]
    faster_once = gate.Baseline(commit=known.commit, ratios=[known.ratios[0] / 1000] * gate.MIN_PROCESSES)
    path.write_text(gate.lines({**written, here: msgspec.structs.replace(
        written[here], checks={"test_batch": faster_once})}))
    run = perf(tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "slower" in run.stdout
    assert "NO BASELINE" not in run.stdout
    assert perf(tmp_path, "--perf-threshold", "1e6").returncode == 0


def test_a_baseline_cannot_be_demanded_where_nothing_is_timed():
    command = [sys.executable, "-m", "pytest", "tests/perf", "--perf-require-baseline"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--perf-require-baseline needs --benchmark-enable: nothing would be timed" in run.stderr
