"""Losses: (N, K) logits and (N,) labels to one number, the mean over the batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fmnist_core.config import TrainConfig


def loss(logits_NK: Tensor, labels_N: Tensor, config: TrainConfig) -> Tensor:
    """Labels may be probabilities (N, K), where images were mixed, but not for `squared_hinge`.

    `cross_entropy`; `mse` against one-hot targets; `squared_hinge` against -1 and +1 (an L2-SVM per class).
    """
    if config.loss == "cross_entropy":
        return F.cross_entropy(logits_NK, labels_N, label_smoothing=config.label_smoothing)
    one_hot_NK = labels_N if labels_N.ndim == 2 else one_hot(labels_N, logits_NK.shape[1]).to(logits_NK.dtype)
    if config.loss == "mse":
        return F.mse_loss(logits_NK, one_hot_NK)
    return torch.relu(1 - (2 * one_hot_NK - 1) * logits_NK).square().mean()


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Bool (..., K) of labels (...). Torch's own asks the host for the largest label, which a captured step cannot."""
    return labels.unsqueeze(-1) == torch.arange(num_classes, device=labels.device)


def sign_argmax_accuracy(logits_NK: Tensor, labels_N: Tensor) -> float:
    """The fraction of hits where the predicted class is the lowest of those with the largest sign of their logit.

    One cited system, CNN-SVM, counts hits so: of several classes above 0 the lowest wins, whatever the margins.
    """
    return float((logits_NK.sign().argmax(1) == labels_N).double().mean())
