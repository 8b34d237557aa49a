"""`execution.compile = 'auto'`: the faster way is taken, and nothing else changes."""

import pytest
import torch

from fmnist_core import compile_choice, step_time
from fmnist_core.config import CellConfig, ExecutionConfig, KernelDepthCNN, TrainConfig, quality_key
from fmnist_core.fused.training import FusedTraining
from fmnist_core.observe import observe
from fmnist_core.train import Training
from tests.small import small_dataset


def cell(compile: str) -> CellConfig:
    return CellConfig(model=KernelDepthCNN(width=4, depth=1), train=TrainConfig(global_batch_size=50),
                      execution=ExecutionConfig(compile=compile))


def step_takes(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, list[float]]) -> None:
    """Timings in place of steps; of a compiled one the first warms it up."""
    left = {mode: iter(values) for mode, values in seconds.items()}
    monkeypatch.setattr(step_time, "seconds_per_step",
                        lambda training: next(left[training.cell.execution.compile]))


@pytest.mark.parametrize(("eager", "compiled", "chosen"), [
    ([3.0, 2.0, 3.0], [9.0, 1.9, 4.0, 4.0], "default"),
    ([3.0, 2.0, 3.0], [1.0, 2.1, 2.2, 2.3], "no"),
])
def test_the_faster_is_taken_by_the_fastest_of_its_timings(monkeypatch, eager, compiled, chosen):
    step_takes(monkeypatch, {"no": eager, "default": compiled})
    training = Training(cell("auto"), 0, small_dataset())
    assert training.cell.execution.compile == chosen
    assert isinstance(training.model, torch._dynamo.OptimizedModule) == (chosen == "default")
    seen = observe(training)
    assert (seen.compiled, seen.compile_timings_s) == (chosen == "default", {"no": 2.0, "default": min(compiled[1:])})


def test_without_a_compiler_it_is_eager(monkeypatch):
    def seconds_per_step(training):
        if training.cell.execution.compile != "no":
            raise RuntimeError("no C++ compiler")
        return 1.0

    monkeypatch.setattr(step_time, "seconds_per_step", seconds_per_step)
    training = Training(cell("auto"), 0, small_dataset())
    assert (training.cell.execution.compile, training.compile_timings_s) == ("no", {"no": 1.0})


def test_a_compiler_that_runs_out_of_memory_leaves_the_eager_one(monkeypatch):
    def exhausted(*args, **options):
        raise torch.OutOfMemoryError("of 80 GiB")

    monkeypatch.setattr(torch, "compile", exhausted)
    training = Training(cell("auto"), 0, small_dataset())
    assert (training.cell.execution.compile, list(training.compile_timings_s)) == ("no", ["no"])


def test_what_is_learnt_does_not_change(monkeypatch):
    """The steps of the timing are another model's: seeds, order and parameters are those of a plain run."""
    monkeypatch.setattr(compile_choice, "with_compile", lambda cell, mode, original=compile_choice.with_compile:
                        original(cell, "no"))  # really timed, without the compiler's minute
    trainings = [Training(cell(compile), 0, small_dataset()) for compile in ("no", "auto")]
    for training in trainings:
        for index_N in training.order().split(50)[:3]:
            training.step_on(index_N)
    for plain, timed in zip(*(training.model.parameters() for training in trainings), strict=True):
        assert torch.equal(plain, timed)
    assert set(trainings[1].compile_timings_s) == {"no", "default"}
    assert quality_key(cell("auto"), 0) == quality_key(cell("no"), 0)


def test_fused_seeds_are_not_timed_alone():
    with pytest.raises(ValueError, match=r"execution\.compile = 'auto'.*'no', 'default'"):
        FusedTraining(cell("auto"), [0, 1], small_dataset())
