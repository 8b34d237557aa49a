"""The exponential moving average of weights, which generalises better than the last of them.

Every step draws a copy of the parameters, and of the statistics of batch norm, towards their value, by 1 - decay, or by
9 / (10 + step) while that is more, so that the random beginning is forgotten (the rule of TensorFlow's
`ExponentialMovingAverage`). Where there is an average, it is what is evaluated and kept.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average of a model's parameters and float buffers."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        named = {**dict(model.named_parameters()),
                 **{name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}}
        self._live = [value.detach() for value in named.values()]
        """The model's own memory."""
        self.means = {name: value.detach().clone() for name, value in named.items()}
        self.num_steps = torch.zeros((), device=self._live[0].device)
        """On the device: a captured step counts too."""

    @torch.no_grad()
    def update(self) -> None:
        """After an optimizer step."""
        weight = (9 / (10 + self.num_steps)).clamp(min=1 - self.decay)
        means = list(self.means.values())
        differences = torch._foreach_sub(self._live, means)
        torch._foreach_mul_(differences, weight)
        torch._foreach_add_(means, differences)
        self.num_steps += 1

    def tensors(self) -> dict[str, Tensor]:
        """All that the average is, in place."""
        return {**self.means, "num_steps": self.num_steps}


@contextlib.contextmanager
def averaged(average: Average | None) -> Iterator[None]:
    """Inside, the model has the averaged weights; without an average nothing changes."""
    if average is None:
        yield
        return
    means = list(average.means.values())
    saved = [value.clone() for value in average._live]
    with torch.no_grad():
        torch._foreach_copy_(average._live, means)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(average._live, saved)
