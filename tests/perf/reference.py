"""What every timed check is divided by: the same work in plain PyTorch, which this project never changes.

The final network written out, contiguous, with torch's own Adam. A slower machine, library or moment slows it as well.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def network() -> nn.Module:
    """For images of 28 x 28: as `final.toml` asks for, pool after ReLU."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(784, 392), nn.ReLU(), nn.Dropout(0.5), nn.Linear(392, 10),
    )


class Reference:
    def __init__(self, images_NCHW: Tensor, labels_N: Tensor) -> None:
        """`images_NCHW`: uint8, on the device to be used."""
        self.images_NCHW, self.labels_N = images_NCHW, labels_N
        self.model = network().to(images_NCHW.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)

    def batch(self, index_N: Tensor) -> tuple[Tensor, Tensor]:
        return self.images_NCHW[index_N].float() / 255, self.labels_N[index_N]

    def step(self, images_NCHW: Tensor, labels_N: Tensor) -> None:
        self.model.train()
        F.cross_entropy(self.model(images_NCHW), labels_N).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def forward(self, images_NCHW: Tensor) -> None:
        self.model.eval()
        with torch.inference_mode():
            self.model(images_NCHW)

    def evaluate(self) -> float:
        right = torch.zeros((), device=self.labels_N.device)
        self.model.eval()
        with torch.inference_mode():
            for images_NCHW, labels_N in zip(self.images_NCHW.split(1000), self.labels_N.split(1000), strict=True):
                right += (self.model(images_NCHW.float() / 255).argmax(1) == labels_N).sum()
        return right.item() / len(self.labels_N)
