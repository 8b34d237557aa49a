"""Figures of a speed record, each against what a clock that is known gives; and what a record says against itself."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from bench import counters, measure, stats
from bench.timing import block, memory
from bench.timing import other_processes as load
from bench.timing.other_processes import Usage
from fmnist_core import compile_choice
from fmnist_core.clock import CudaClock, HostClock
from fmnist_core.config import CellConfig, DataConfig, ExecutionConfig, Network2, TrainConfig
from fmnist_core.models.layers import step_multiply_adds
from fmnist_core.models.networks import layers_of
from fmnist_core.train import Training
from tests.small import small_dataset

BATCH_S, STEP_S = 0.01, 0.04
MATMUL, COPY = 1e9, 1e8
PARAMETERS, OUTPUTS = 313_346, 28 * 28 * 4 + 14 * 14 * 16 + 392 + 10  # of Network 2, an image: before any pool


class FakeClock:
    """Each reading is later than the one before by the next of `durations`, over and over."""

    def __init__(self, *durations):
        self.durations, self.now, self.readings = durations, 0.0, 0

    def mark(self):
        self.readings += 1
        self.now += self.durations[(self.readings - 2) % len(self.durations)] if self.readings > 1 else 0.0
        return self.now

    def seconds_between(self, marks):
        return [later - earlier for earlier, later in pairwise(marks)]


class StepClock(FakeClock):
    """A batch takes 10 ms and a step 40 ms, wherever the readings begin: it knows which of them `time_steps` makes.

    The first `num_cold` steps take longer, each 40 ms less than the one before.
    """

    def __init__(self, monkeypatch, num_cold=0):
        super().__init__(0.0)
        original = block.train_step
        self.next_s, self.num_cold = BATCH_S, num_cold

        def step(*arguments):
            self.next_s, self.num_cold = STEP_S * (1 + self.num_cold), max(0, self.num_cold - 1)
            return original(*arguments)

        monkeypatch.setattr(block, "train_step", step)

    def mark(self):
        self.now, self.next_s = self.now + self.next_s, BATCH_S
        return self.now


@pytest.fixture
def quick(monkeypatch):
    """Fewer repetitions, and ceilings that are known."""
    monkeypatch.setattr(measure, "matmul_flops_per_s", lambda device, precision, tf32: MATMUL)
    monkeypatch.setattr(measure, "copy_bytes_per_s", lambda device: COPY)
    monkeypatch.setattr(block, "NUM_SINGLE_PASSES", 5)
    monkeypatch.setattr(block, "NUM_BATCH_PASSES", 3)
    monkeypatch.setattr(measure, "load_warning", lambda *usages: [])


def cell(batch_size=30, accumulation=1, train=None, **execution):
    train = TrainConfig(global_batch_size=batch_size, gradient_accumulation=accumulation, **(train or {}))
    return CellConfig(model=Network2(), data=DataConfig(dataset="synthetic", validation_size=40), train=train,
                      execution=ExecutionConfig(**execution))


def record_of(cell, clock, **sizes):
    return measure.measure(cell, small_dataset(**sizes), experiment="test", speed_key="0" * 16, clock=clock)


@pytest.mark.parametrize("batch_size", [10, 30, 64])
@pytest.mark.parametrize("accumulation", [1, 5])
def test_throughput_counts_each_image_of_a_step_once(quick, monkeypatch, batch_size, accumulation):
    record = record_of(cell(batch_size, accumulation), StepClock(monkeypatch))
    assert record.images_per_step == batch_size
    assert record.step_s == pytest.approx([STEP_S] * block.MIN_STEPS)
    assert record.batch_s == pytest.approx([BATCH_S] * block.MIN_STEPS)
    assert record.first_step_s == pytest.approx(STEP_S)
    rate = stats.throughput(record.images_per_step, record.step_s)
    assert rate.images_per_s == pytest.approx(batch_size / 0.04)


def test_steps_of_a_cold_machine_are_no_samples_but_the_first(quick, monkeypatch):
    record = record_of(cell(), StepClock(monkeypatch, num_cold=1 + block.WARMUP_STEPS))
    assert record.first_step_s == pytest.approx((2 + block.WARMUP_STEPS) * STEP_S)
    assert record.step_s == pytest.approx([STEP_S] * block.MIN_STEPS)


def test_a_record_says_what_it_is_of_and_the_ceilings_of_its_precision(quick, monkeypatch):
    order, make = [], measure.Training
    monkeypatch.setattr(memory, "forget_earlier_peaks", lambda: order.append("forgotten"))
    monkeypatch.setattr(measure, "Training", lambda *arguments: order.append("made") or make(*arguments))
    monkeypatch.setattr(measure, "matmul_flops_per_s", lambda device, precision, tf32: {"bf16": 2 * MATMUL}[precision])
    record = record_of(cell(train={"precision": "bf16"}), StepClock(monkeypatch))
    assert (record.experiment, record.speed_key) == ("test", "0" * 16)
    assert (record.matmul_flops_per_s, record.copy_bytes_per_s) == (2 * MATMUL, COPY)
    assert order == ["forgotten", "made"], "the peak is that of this model alone"


def test_the_peak_is_not_that_of_the_trainings_that_a_choice_was_made_by(quick, monkeypatch):
    order, make = [], measure.Training
    monkeypatch.setattr(compile_choice, "_time_modes", lambda cell, training_of: order.append("chosen") or {"no": 1.0})
    monkeypatch.setattr(memory, "forget_earlier_peaks", lambda: order.append("forgotten"))
    monkeypatch.setattr(measure, "Training", lambda *arguments: order.append("made") or make(*arguments))
    record_of(cell(compile="auto"), StepClock(monkeypatch))
    assert order == ["forgotten", "made", "chosen", "forgotten"]


def test_the_ceiling_of_products_in_tf32_is_measured_in_tf32(monkeypatch):
    at_work = []
    monkeypatch.setattr(measure, "_best", lambda work, device: at_work.append(
        torch.backends.cuda.matmul.allow_tf32) or 1.0)
    for tf32 in (True, False):
        measure.matmul_flops_per_s.__wrapped__(torch.device("cpu"), "no", tf32)
    assert at_work == [True, False]
    assert not torch.backends.cuda.matmul.allow_tf32, "as it was"


def test_a_batch_larger_than_the_training_set_is_the_training_set(quick, monkeypatch):
    assert record_of(cell(512), StepClock(monkeypatch), num_train=50).images_per_step == 50


def test_the_block_is_the_sum_of_its_samples_or_says_so(quick, monkeypatch):
    record = record_of(cell(), StepClock(monkeypatch))
    assert record.block_s == pytest.approx(40 * 0.05 + 2 * BATCH_S)  # two readings around the block
    assert not record.warnings
    assert measure.disagreement([1.0, 1.0], 2.09) == []
    assert measure.disagreement([1.0, 1.0], 2.2) == ["samples add up to 2 s, their block took 2.2 s"]
    assert measure.disagreement([1.0, 1.0], 1.8) == ["samples add up to 2 s, their block took 1.8 s"]
    monkeypatch.setattr(measure, "host_clock", lambda clock: FakeClock(10.0))
    record = record_of(cell(), StepClock(monkeypatch))
    assert record.warnings == ["samples add up to 2 s, their block took 10 s"]


@pytest.mark.parametrize(("step_s", "expected"), [(1e-4, 5000), (0.01, 150), (0.5, 40)])
def test_a_block_has_forty_steps_and_one_and_a_half_seconds_and_at_most_five_thousand(step_s, expected):
    training = Training(cell(), 0, small_dataset())
    assert block.num_steps_to_fill(training, FakeClock(step_s / 2)) == expected


def test_a_block_gives_the_median_of_each_metric(monkeypatch):
    subject = block.Subject(Training(cell(), 0, small_dataset()), min_steps=2, min_block_s=0.0, clock=FakeClock(0.1))
    monkeypatch.setattr(block, "time_steps", lambda *_: ([1.0, 2.0, 9.0], [3.0, 4.0, 9.0]))
    monkeypatch.setattr(block, "time_evaluations", lambda *_: [5.0, 6.0, 9.0])
    monkeypatch.setattr(block, "time_inference", lambda training, clock, size: [size, 3.0 * size, 9.0 * size])
    monkeypatch.setattr(block, "_slowest_process", lambda training, seconds: [2 * value for value in seconds])
    trained = []
    monkeypatch.setattr(block, "train_epoch",
                        lambda training: trained.append(training.steps_per_epoch - training.step_in_epoch))
    epoch_s = pytest.approx(2 * 0.1 / 2 * 8)  # two of its steps are timed, 230 images are eight
    assert subject.block() == {"train_step": 4.0, "batch": 2.0, "epoch": epoch_s, "evaluate": 6.0,
                               "inference": 3.0 * 70, "latency": 3.0}
    assert trained == [1, 2]
    assert subject.step_s() == 4.0


def test_evaluation_and_inference_have_a_sample_per_pass(quick):
    record = record_of(cell(), FakeClock(0.01), num_test=200)
    assert record.evaluate_s == pytest.approx([0.01] * 3)
    assert record.images_per_evaluation == 200
    assert {one.batch_size: len(one.batch_s) for one in record.inference} == {1: 5, 128: 3}  # 1000 are not there
    assert [one.batch_size for one in record_of(cell(), FakeClock(0.01), num_test=128).inference] == [1, 128]
    rates = [stats.throughput(one.batch_size, one.batch_s).images_per_s for one in record.inference]
    assert rates == pytest.approx([100.0, 12_800.0])  # every pass takes 10 ms
    assert stats.throughput(record.images_per_evaluation, record.evaluate_s).images_per_s == pytest.approx(20_000.0)


def test_what_is_timed_is_the_whole_batch_in_evaluation_and_the_whole_test_set(monkeypatch):
    training, seen, waits = Training(cell(), 0, small_dataset()), [], []
    monkeypatch.setattr(block, "synchronize", waits.append)
    training.model.register_forward_pre_hook(
        lambda model, images: seen.append((len(images[0]), model.training, torch.is_inference_mode_enabled())))
    for time_it, size, num_timed in [
        (lambda: block.time_inference(training, FakeClock(0.01), 64), 64, block.NUM_BATCH_PASSES),
        (lambda: block.time_inference(training, FakeClock(0.01), 1), 1, block.NUM_SINGLE_PASSES),
        (lambda: block.time_evaluations(training, FakeClock(0.01)), 70, block.NUM_EVALUATIONS),
    ]:
        assert len(time_it()) == num_timed
        assert seen == [(size, False, True)] * (1 + num_timed), "the first pass is to warm up"
        assert training.model.training
        seen.clear()
    assert len(waits) == 1 + block.NUM_SINGLE_PASSES, "the host waits for each single image alone"
    assert isinstance(block.host_clock(CudaClock()), HostClock)


def test_a_subject_is_warm_and_its_block_is_as_long_as_asked():
    steps = []
    subject = block.Subject(Training(cell(), 0, small_dataset()), step=lambda *step: steps.append(step), min_steps=2,
                            min_block_s=0.5, clock=FakeClock(0.05))
    assert (len(steps), subject.num_steps) == (block.WARMUP_STEPS + 5, 5)  # half a second of a tenth each


def test_the_floor_by_hand():
    # 2 layers of 100 and 50 multiply-adds: forward 150, weights 150, inputs 50 (nobody needs those of the first)
    assert step_multiply_adds([100, 0, 50]) == step_multiply_adds([0, 100, 50]) == 350
    # 10 images, two operations each, 1,000 a second; against 100 bytes, 50 a second
    assert measure.floor_s(350, 100, 10, 1000.0, 50.0) == pytest.approx(7.0)
    assert measure.floor_s(350, 1000, 10, 1000.0, 50.0) == pytest.approx(20.0)


def test_the_floor_of_a_record_is_that_of_its_layers(quick, monkeypatch):
    record = record_of(cell(30), StepClock(monkeypatch))
    assert record.floor_s == pytest.approx((4 * 4 * OUTPUTS * 30 + 4 * 10 * PARAMETERS) / COPY)
    monkeypatch.setattr(measure, "copy_bytes_per_s", lambda device: 1e12)
    record, conv1 = record_of(cell(30), StepClock(monkeypatch)), 28 * 28 * 4 * 9
    assert record.floor_s == pytest.approx(2 * (3 * record.multiply_adds - conv1) * 30 / MATMUL)
    assert sum(layer.multiply_adds for layer in record.layers) == record.multiply_adds
    # PyTorch's names, whatever computes them on this machine
    assert [layer.kind for layer in record.layers][:2] == ["Conv2d", "BatchNorm2d"]
    assert [layer.kind for layer in record.layers if layer.multiply_adds] == ["Conv2d", "Conv2d", "Linear", "Linear"]
    assert layers_of(cell().model) is not None


@pytest.mark.parametrize(("train", "itemsize", "num_moments"), [
    ({"precision": "bf16"}, 2, 2 * PARAMETERS), ({"optimizer": "sgd"}, 4, 0),
    ({"optimizer": "sgd", "momentum": 0.9}, 4, PARAMETERS), ({"optimizer": "rmsprop"}, 4, PARAMETERS),
    ({"optimizer": "muon"}, 4, 2 * PARAMETERS - 4 * 9 - 16 * 4 * 25)], ids=str)
def test_the_traffic_is_that_of_the_precision_and_of_the_optimizer(quick, monkeypatch, train, itemsize, num_moments):
    monkeypatch.setattr(measure, "copy_bytes_per_s", lambda device: 1e6)
    record = record_of(cell(30, train=train), StepClock(monkeypatch))
    assert record.floor_s == pytest.approx((itemsize * 4 * OUTPUTS * 30 + 4 * (6 * PARAMETERS + 2 * num_moments)) / 1e6)


def test_the_ceilings_by_hand(monkeypatch):
    monkeypatch.setattr(measure, "_best", lambda work, device: 2.0)
    device = torch.device("cpu")
    assert measure.matmul_flops_per_s.__wrapped__(device, "no") == 2048**3  # times two operations, over two seconds
    assert measure.copy_bytes_per_s.__wrapped__(device) == 2**28  # read and written
    products = []
    monkeypatch.setattr(torch, "mm", lambda a, b: products.append((a.dtype, b.dtype, a.shape, b.shape)))
    monkeypatch.setattr(measure, "_best", lambda work, device: work() or 2.0)
    measure.matmul_flops_per_s.__wrapped__(device, "bf16")
    assert products == [(torch.bfloat16, torch.bfloat16, (2048, 2048), (2048, 2048))]


def test_the_best_is_the_shortest(monkeypatch):
    monkeypatch.setattr(measure, "clock_for", lambda device: FakeClock(0.3, 0.1, 0.2))
    assert measure._best(lambda: None, torch.device("cpu")) == pytest.approx(0.1)


def test_operators_and_waits_of_a_step(quick, monkeypatch):
    torch.set_num_threads(1)  # as the counters do
    record = record_of(cell(), StepClock(monkeypatch))
    assert record.host_syncs_per_step == 0
    counted = counters.count(cell())
    assert record.operators_per_step == counted.versions[counters.version_key(torch.device("cpu"))].operators


def test_peak_memory_is_the_cells_own(quick, monkeypatch):
    """Held for the whole time: a hog that was there before is none of the cell's."""
    hog = torch.ones(50_000_000)
    record = record_of(cell(), StepClock(monkeypatch))
    alone = Training(cell(), 0, small_dataset())
    alone.step_on(torch.arange(30))
    assert record.peak_memory_bytes == memory.held_bytes(alone) + memory.peak_step_bytes(alone)
    if sys.platform == "linux":
        assert record.peak_memory_bytes <= record.reserved_memory_bytes < 50_000_000
    del hog


def test_recompiles_are_counted(quick, monkeypatch):
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: compile_(model, backend="eager", dynamic=False))
    earlier = compile_(lambda x: x + 1, backend="eager", dynamic=False)
    assert [len(earlier(torch.ones(size))) for size in (2, 3)] == [2, 3], "compiled twice, and none of the cell's"
    record = record_of(cell(30, compile="default"), StepClock(monkeypatch), num_test=200)
    assert record.labels.compiled
    assert record.labels.graph_breaks == 0
    assert record.labels.recompiles == 3  # evaluation of 200; inference of 1 and of 128, the first shape was training
    assert record.operators_per_step == 0


# Captured steps


class FakeReplay:
    """Takes a step."""

    def advance(self, training, batches):
        assert len(batches[training.step_in_epoch]) == 30
        training.step_in_epoch += 1


def test_replays_are_timed_whole_over_full_batches():
    training = Training(cell(30), 0, small_dataset(num_train=100))
    training.replay = FakeReplay()
    batch_s, step_s = block.time_steps(training, FakeClock(0.006), 7)
    assert batch_s == []
    assert step_s == pytest.approx([0.006] * 7)  # three full batches an epoch
    assert training.step_in_epoch == 0
    batch_s, step_s = block.time_steps(training, FakeClock(0.01, 0.04), 2, lambda *step: None)  # in their place
    assert (batch_s, step_s) == (pytest.approx([0.01] * 2), pytest.approx([0.04] * 2))


def test_a_captured_cell_has_neither_batches_nor_operators(quick):
    record = record_of(cell(30, capture=True), FakeClock(0.01))
    assert (record.batch_s, record.operators_per_step) == ([], 0)
    assert record.step_s == pytest.approx([0.01] * 150)


# Other processes


def test_what_others_used_by_hand():
    before, after = Usage(10.0, 100.0, 50.0), Usage(20.0, 118.0, 60.0)
    assert load.other_cpus(before, after) == pytest.approx(0.8)
    assert load.load_warning(before, after) == ["other processes used 0.80 CPUs meanwhile"]
    assert load.load_warning(before, after, own_s=18.0) == []
    assert load.other_cpus(before, after._replace(machine_s=105.0)) == 0.0  # clocks that disagree
    assert load.other_cpus(before._replace(machine_s=None), after) is None
    assert load.load_warning(before._replace(machine_s=None), after) == []


def test_a_process_that_had_less_than_a_processor_was_kept_waiting():
    before = Usage(10.0, None, 50.0)
    assert load.kept_waiting(before, Usage(20.0, None, 58.9))
    assert not load.kept_waiting(before, Usage(20.0, None, 59.1))
    assert not load.kept_waiting(before, Usage(14.0, None, 51.0)), "too short a time to say"


def test_a_short_block_proves_only_a_large_load():
    ticks = 2 * load.TICK_S
    before, after = Usage(0.0, 0.0, 0.0), Usage(0.1, ticks, 0.0)
    assert load.load_warning(before, after) == []
    assert load.load_warning(before, after._replace(wall_s=10.0, machine_s=ticks + 1.0))


def test_the_machines_processor_time_is_read_off_its_first_line(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 4000 500 6 7 8 9 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    assert load.usage(stat).machine_s == pytest.approx((100 + 20 + 30 + 6 + 7 + 8) * load.TICK_S)
    assert load.usage(tmp_path / "missing").machine_s is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs /proc/stat")
def test_a_busy_neighbour_is_seen():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        before = load.usage()
        while load.usage().wall_s - before.wall_s < 1.5:
            pass
        others = load.other_cpus(before, load.usage())
    finally:
        busy.kill()
        busy.wait()
    assert others is not None
    assert others > 0.2


def test_a_warning_comes_into_the_record(quick, monkeypatch):
    monkeypatch.setattr(measure, "load_warning", lambda before, after, own_s: [f"own {own_s:.0f}"])
    usages = iter([Usage(0.0, 0.0, 1.0), Usage(1.0, 1.0, 4.0)])
    monkeypatch.setattr(measure, "usage", lambda: next(usages))
    monkeypatch.setattr(measure.gpu_limits, "slowdowns", lambda work, again: [f"{len(work()[1])} steps in the heat"])
    assert record_of(cell(), StepClock(monkeypatch)).warnings == ["own 3", "40 steps in the heat"]


# Several processes


def test_processor_time_of_a_run_is_that_of_its_processes_on_this_machine(monkeypatch):
    training, before, after = Training(cell(), 0, small_dataset()), Usage(0.0, 0.0, 1.0), Usage(1.0, 1.0, 4.0)
    assert measure._own_s(training, before, after) == 3.0
    training.num_processes = 4
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.mul_(4))
    assert measure._own_s(training, before, after) == 12.0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert measure._own_s(training, before, after) == 6.0


TWO = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from bench.timing import block
from bench import measure
from tests.test_measure import FakeClock, cell
from tests.small import small_dataset
from fmnist_core.accelerator import accelerator_for
from fmnist_core.train import Training
measure.matmul_flops_per_s = lambda device, precision, tf32: 1e9
measure.copy_bytes_per_s = lambda device: 1e8
measure.load_warning = lambda before, after, own_s: []
block.NUM_SINGLE_PASSES = block.NUM_BATCH_PASSES = 3
rank = accelerator_for("no").process_index
clock = FakeClock(0.005 if rank else 0.0025)
measure.floor_s = lambda multiply_adds, num_bytes, num_images, matmul, copy: num_images + num_bytes / copy
record = measure.measure(cell(31), small_dataset(), experiment="test", speed_key="0" * 16, clock=clock)
said = [rank, record.images_per_step, record.step_s[0], len(record.step_s), record.labels.num_processes,
        record.evaluate_s[0], record.inference[0].batch_s[0]]
(Path(__file__).parent / f"{rank}.json").write_text(json.dumps([*said, record.floor_s]))
torch.distributed.destroy_process_group()  # whose threads may else end the process by a signal
"""


@pytest.mark.distributed
def test_two_processes_count_the_global_batch_and_the_slower_one(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    answers = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    # a step with its batch takes 10 ms in the slower process: 1.5 s are 150 of them, in both
    floor_s = pytest.approx(16 + (4 * 4 * OUTPUTS * 16 + 4 * 10 * PARAMETERS) / COPY)  # of 31 images 16 and 15
    assert answers == [[rank, 31, pytest.approx(0.005), 150, 2, pytest.approx(0.005), pytest.approx(0.005), floor_s]
                       for rank in (0, 1)]
