"""Loss and accuracy over a whole split: each image once, counted.

N images of a batch, K classes. Every evaluation of the project is this one, or its form for fused seeds.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from fmnist_core import objective, views
from fmnist_core.average import averaged
from fmnist_core.data import Dataset, Split
from fmnist_core.steps import Steps

EVALUATION_BATCH = 1000
TRAIN_SUBSET = 10_000
"""Training images, the first ones, on which the fit itself is evaluated."""
Part = Literal["train_subset", "validation", "test"]
"""Of the data, as `History` calls what is evaluated after each epoch."""


@dataclass(frozen=True)
class Evaluation:
    loss: float
    """Mean cross-entropy (or the cell's own loss) over the split."""
    accuracy: float
    """Fraction."""
    logits_NK: Tensor | None = None
    """Of the whole split in its order, on the CPU; only where asked for, in one process."""


@dataclass
class History:
    """One entry per finished epoch. Losses are means over images, accuracies fractions."""

    train_loss: list[float] = field(default_factory=list)
    """In training mode, as the steps saw it."""
    train_subset_loss: list[float] = field(default_factory=list)
    """This and what follows: in evaluation mode, after the epoch. Of the first 10,000 training images."""
    train_subset_accuracy: list[float] = field(default_factory=list)
    """Of the same."""
    validation_loss: list[float] = field(default_factory=list)
    """Empty where nothing is held out."""
    validation_accuracy: list[float] = field(default_factory=list)
    """Likewise."""
    test_loss: list[float] = field(default_factory=list)
    """Of all test images."""
    test_accuracy: list[float] = field(default_factory=list)
    """Of the same."""
    train_s: list[float] = field(default_factory=list)
    """Seconds of training, without evaluation."""

    def add(self, part: Part, loss: float | None, accuracy: float) -> None:
        """What an epoch came to on this part; None: a model that gives no loss."""
        getattr(self, f"{part}_accuracy").append(accuracy)
        if loss is not None:
            getattr(self, f"{part}_loss").append(loss)

    def has_stalled(self, patience: int) -> bool:
        """Whether the best validation accuracy is `patience` epochs old; 0: never."""
        accuracies = self.validation_accuracy
        return patience > 0 and len(accuracies) - 1 - accuracies.index(max(accuracies)) >= patience

    def finished(self) -> "History":
        """Of the epochs that were evaluated to the end, up to the first with a figure that is not finite."""
        not_finite = [epoch for values in vars(self).values() for epoch, value in enumerate(values)
                      if not math.isfinite(value)]
        num = min([len(self.test_accuracy), *not_finite])
        return History(**{name: values[:num] for name, values in vars(self).items()})

    def divergence(self) -> str:
        """The loss of the last epoch's evaluation that is not finite, in words; empty where all are. The losses of the
        steps may be finite where the last steps went too far."""
        for images, losses in (("training", self.train_subset_loss), ("validation", self.validation_loss),
                               ("test", self.test_loss)):
            if losses and not math.isfinite(losses[-1]):
                return f"the loss on the {images} images was {losses[-1]} after epoch {len(losses)}"
        return ""


def evaluate(training: Steps, split: Split, *, limit: int | None = None, keep_logits: bool = False,
             test_views: views.Views | None = None) -> Evaluation:
    """Loss and accuracy over all of `split` (or its first `limit` images), in evaluation mode, of the averaged weights
    where there are any. `test_views`: other views than the cell's.

    Each process takes every num_processes-th image; that all were seen, each once, is counted and not assumed.
    """
    num = len(split) if limit is None else min(limit, len(split))
    device, seen_as = training.device, test_views or training.cell.data.test_views
    seen_N = torch.zeros(num, dtype=torch.int32, device=device)
    sums_2 = torch.zeros(2, dtype=torch.float64, device=device)
    mine = torch.arange(num, device=device)[training.rank :: training.num_processes]
    kept = []
    with averaged(training.average), torch.inference_mode():
        model = _model_to_evaluate(training).eval()
        for index_N in mine.split(EVALUATION_BATCH) if len(mine) else ():  # of nothing, the mean is NaN
            logits_NK = views.logits(model, images_of(training.dataset, split, index_N), seen_as).float()
            labels_N = split.labels_N.index_select(0, index_N)
            loss = objective.loss(logits_NK, labels_N, training.cell.train)
            sums_2 += torch.stack([loss * len(index_N), (logits_NK.argmax(1) == labels_N).sum()])
            seen_N.index_add_(0, index_N, torch.ones_like(index_N, dtype=torch.int32))
            if keep_logits:
                kept.append(logits_NK.cpu())
    training.model.train()
    sums_2, seen_N = training.accelerator.reduce(sums_2, "sum"), training.accelerator.reduce(seen_N, "sum")
    if not bool((seen_N == 1).all()):
        raise AssertionError(f"evaluation saw {int((seen_N == 1).sum())} of {num} images once, "
                             f"{int((seen_N > 1).sum())} more often")
    loss_sum, num_right = sums_2.tolist()
    return Evaluation(loss_sum / num, num_right / num, torch.cat(kept) if keep_logits else None)


def images_of(dataset: Dataset, split: Split, index_N: Tensor) -> Tensor:
    """A batch to evaluate. Test images are augmented where the cell says so, as one cited system does."""
    if split is not dataset.test or not dataset.config.augment_test:
        return dataset.images(split, index_N)
    return dataset.augmented(split, index_N)


def parts(dataset: Dataset) -> Iterator[tuple[Part, Split, int | None]]:
    """Each part with images, its split, and how many of its first images are evaluated; None: all."""
    yield "train_subset", dataset.train, TRAIN_SUBSET
    if len(dataset.validation):
        yield "validation", dataset.validation, None
    yield "test", dataset.test, None


def _model_to_evaluate(training: Steps) -> nn.Module:
    """Under DDP the module inside, with rank 0's batch statistics: DDP's forward would wait for the other processes,
    which may have a batch less to evaluate, and each process's last step left it statistics of its own."""
    if training.num_processes == 1:
        model: nn.Module = training.model
        return model
    for buffer in training.network.buffers():
        torch.distributed.broadcast(buffer, 0)
    inside: nn.Module = training.model.module  # compiled where the run is
    return inside
