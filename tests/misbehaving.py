"""A network that fails where it is told to, for `model.name = "tests.misbehaving:linear"`."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn


class Misbehaving(nn.Module):
    """One Linear layer that misbehaves in the training steps after the first `after`, in the process of one rank,
    or, with `rank` = -1, of every rank.

    `room`: the images for which that process has memory.
    """

    def __init__(self, how: str, after: int, rank: int, once: str, room: int) -> None:
        super().__init__()
        self.flatten, self.fc = nn.Flatten(), nn.Linear(28 * 28, 10)
        self.how, self.after, self.once, self.room, self.num_steps = how, after, once, room, 0
        self.is_mine = rank in (-1, int(os.environ.get("RANK", "0")))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        if self.training and self.is_mine and len(images_NCHW) > self.room:
            raise torch.OutOfMemoryError(f"CUDA out of memory. No room for {len(images_NCHW)} images")
        logits_NK: Tensor = self.fc(self.flatten(images_NCHW))
        if self.training:
            self.num_steps += 1
            if self.is_mine and self.num_steps > self.after and self._has_to():
                return self._misbehave(logits_NK)
        return logits_NK

    def _has_to(self) -> bool:
        if not self.once:
            return True
        done = Path(self.once).exists()
        Path(self.once).touch()
        return not done

    def _misbehave(self, logits_NK: Tensor) -> Tensor:
        match self.how:
            case "raise" | "raise alike":
                raise RuntimeError("a fault of its own")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "cuda-oom":
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            case "oom":
                raise MemoryError("no room")
            case "stall":
                signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the launcher need not wait for a SIGKILL
                time.sleep(600)
            case "slow":
                time.sleep(0.05)
            case "pause":
                time.sleep(2)
            case "nan":
                return logits_NK * float("nan")
        return logits_NK


def linear(how: str = "", after: int = 3, rank: int = 0, once: str = "", room: int = 1 << 20) -> nn.Module:
    return Misbehaving(how, after, rank, once, room)
