"""Loss and accuracy of each replica of fused seeds over a whole split."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import torch

from fmnist_core import objective, views
from fmnist_core.average import averaged
from fmnist_core.data import Split
from fmnist_core.evaluation import EVALUATION_BATCH, Evaluation, images_of, parts

if TYPE_CHECKING:
    from fmnist_core.fused.training import FusedTraining


def fused_evaluate(training: FusedTraining, split: Split, *, limit: int | None = None,
                   keep_logits: bool = False) -> list[Evaluation]:
    """`evaluate` for each replica: all of `split`, or its first `limit` images, in evaluation mode."""
    num, num_replicas = len(split) if limit is None else min(limit, len(split)), len(training.seeds)
    loss = torch.vmap(functools.partial(objective.loss, config=training.cell.train), in_dims=(0, None))
    sums_2R = torch.zeros(2, num_replicas, dtype=torch.float64, device=training.device)
    seen, kept = 0, []
    training.model.eval()
    # What training has held at once is known to fit, and twice that where no map is kept for a backward pass.
    held = math.ceil(training.batch_size / training.cell.train.gradient_accumulation)
    size = max(2 * held, EVALUATION_BATCH // num_replicas)
    with averaged(training.average), torch.inference_mode():
        for index_N in torch.arange(num, device=training.device).split(size):
            images_NCHW = images_of(training.dataset, split, index_N)
            logits_RNK = views.logits(training.model, images_NCHW, training.cell.data.test_views).float()
            labels_N = split.labels_N.index_select(0, index_N)
            right_R = (logits_RNK.argmax(2) == labels_N).sum(1)
            sums_2R += torch.stack([loss(logits_RNK, labels_N) * len(index_N), right_R])
            seen += logits_RNK.shape[1]
            if keep_logits:
                kept.append(logits_RNK)
    training.model.train()
    assert seen == num, (seen, num)
    logits = list(torch.cat(kept, dim=1).cpu()) if keep_logits else [None] * num_replicas
    return [Evaluation(loss_sum / num, num_right / num, logits_NK)
            for (loss_sum, num_right), logits_NK in zip(sums_2R.t().tolist(), logits, strict=True)]


def fused_evaluate_epoch(training: FusedTraining) -> None:
    """All splits, after an epoch, into the histories of those that still run."""
    for part, split, limit in parts(training.dataset):
        evaluations = fused_evaluate(training, split, limit=limit, keep_logits=part == "test")
        for replica in training.running:
            evaluation = evaluations[replica]
            training.histories[replica].add(part, evaluation.loss, evaluation.accuracy)
            if part == "test":
                training.test_logits_NK[replica] = evaluation.logits_NK
