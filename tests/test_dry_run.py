"""What is tried of a cell before any work, and how the cell that fails is named."""

import warnings
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from bench import experiment
from bench.sweep import dry_run
from bench.sweep.plan import Task, tasks


class Idle(nn.Module):
    """Some of its parameters never meet an image."""

    def __init__(self, num_idle: int = 1, frozen: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)
        self.idle = nn.ModuleList(nn.Linear(2, 2, bias=False).requires_grad_(not frozen) for _ in range(num_idle))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.linear(images_NCHW.flatten(1))
        return logits


class Rows(Idle):
    """One parameter for each image of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(128, 1))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return super().forward(images_NCHW) + self.rows[: len(images_NCHW)]


class Detached(Idle):
    def forward(self, images_NCHW: Tensor) -> Tensor:
        return super().forward(images_NCHW).detach()


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(784, 10)]

    def forward(self, images_NCHW: Tensor) -> Any:
        return self.layers[0](images_NCHW.flatten(1))


class FloatLoss(Idle):
    def training_loss(self, logits_NK: Tensor, labels_N: Tensor, progress: float) -> float:
        return 1.0


MADE = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def make(width: int, num_classes: int = 9) -> nn.Module:
    """Widths above 8 fail."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10 if width <= 8 else num_classes))


def soft() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Softmax(1))


class TwoHeads(Idle):
    """As some networks have it: a second head in training."""

    def forward(self, images_NCHW: Tensor) -> Any:
        logits = super().forward(images_NCHW)
        return (logits, logits) if self.training else logits


class Ghost(nn.Module):
    """Batch normalization by halves of the batch, of which none may hold one image."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(784, 10), nn.BatchNorm1d(10)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return torch.cat([self.norm(half) for half in self.linear(images_NCHW.flatten(1)).chunk(2)])


class Extra(Idle):
    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))


def planned(factory: str, **grid: Any) -> list[Task]:
    content = {"question": "?", "base": {"model": {"name": f"tests.test_dry_run:{factory}"}},
               "grid": {f"model.{key}": values for key, values in grid.items()}}
    return tasks([experiment.parse(content, name="mine")], num_seeds=1, gpu=False, machine={})


def test_a_parameter_without_a_gradient_is_named_before_processes_wait_for_it() -> None:
    cells = dry_run.to_build(planned("Idle"))
    dry_run.check(cells)
    with pytest.raises(ValueError, match=r"launch.mode = 'ddp' waits .*; none reach idle.0.weight: leave them out, or"):
        dry_run.check(cells, ddp=True)
    with pytest.raises(ValueError, match=r"idle.3.weight, idle.4.weight and 2 more: leave"):
        dry_run.check(dry_run.to_build(planned("Idle", num_idle=[7])), ddp=True)
    dry_run.check(dry_run.to_build(planned("Idle", frozen=[True])), ddp=True)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("factory", "said"), [
    ("TwoHeads", r"on a training step of 64 images: TypeError: .*must be Tensor, not tuple$"),
    ("FloatLoss", "its training_loss gave a float, not a tensor$"),
    ("Extra", "its state '_extra_state' is no tensor and cannot be saved with the weights; make it a buffer"),
    ("Rows", r"on 1000 images, in evaluation: RuntimeError: The size of tensor a \(1000\) must match"),
    ("Detached", r"its loss has no gradient; is there .detach\(\)"),
    ("Listed", "it has no parameters to train; layers in a list must be in an nn.ModuleList"),
    ("MADE", "'MADE' is a network already; expected the class or a function that makes one"),
    ("scripted", "it gave a ScriptModule, whose layers cannot be watched")])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_what_would_fail_after_the_first_step_or_at_the_first_checkpoint_is_told_before(factory: str,
                                                                                        said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dry_run.check(dry_run.to_build(planned(factory)))


@pytest.mark.parametrize("ddp", [False, True])
def test_a_network_that_needs_more_than_two_images_passes(ddp: bool) -> None:
    dry_run.check(dry_run.to_build(planned("Ghost")), ddp=ddp)


def test_of_a_grid_the_cell_that_cannot_be_built_is_named() -> None:
    cells = dry_run.to_build(planned("make", width=[4, 16, 8]))
    assert [cell.label for cell in cells] == ["width 4", "width 16", "width 8"]
    with pytest.raises(ValueError, match=r"^cell 'width 16': model.name = 'tests.test_dry_run:make' cannot be used: "):
        dry_run.check(cells)
    dry_run.check([cells[0], cells[2]])


def test_every_mistake_has_a_line_and_an_equal_one_none() -> None:
    cells = [cell for factory in ("TwoHeads", "Extra", "Idle", "TwoHeads")
             for cell in dry_run.to_build(planned(factory, num_idle=[1, 2]))]
    with pytest.raises(ValueError, match=r"^cell 'num_idle 1': .*\ncell 'num_idle 1': [^\n]*$"):
        dry_run.check(cells)
    many = dry_run.to_build(planned("make", width=list(range(9, 16)), num_classes=list(range(11, 18))))
    with pytest.raises(ValueError, match=r"\nand 2 mistakes more$"):
        dry_run.check(many[::8])


def test_probabilities_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="test_dry_run:soft' gives probabilities, where the loss expects logits"):
        dry_run.check(dry_run.to_build(planned("soft")))
    [cell] = dry_run.to_build(planned("soft"))
    squared = msgspec.structs.replace(cell.config, train=msgspec.structs.replace(cell.config.train, loss="mse"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of that loss they are the targets
        dry_run.check([msgspec.structs.replace(cell, config=squared)])
