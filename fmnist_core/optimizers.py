"""Optimizers by name. Muon is written here: PyTorch's own takes matrices alone."""

from typing import Any

import torch
from torch import Tensor, nn

from fmnist_core.config import TrainConfig
from fmnist_core.kernels import available

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the odd polynomial of degree 5 of Jordan et al. 2024 ("Muon: an optimizer for hidden layers in neural
networks"): five times, it takes singular values from 0.01 to 1 into about 0.7 to 1.2."""
NUM_ITERATIONS = 5
LARGE, FULL = 2**15, 2**24
"""Elements of a tensor that are many for one block of torch's fused step, which takes 65,536 of them; and of all
tensors together, that even in such blocks fill a large GPU."""


def optimizer_for(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Fused where torch has it: one kernel for all parameters, on the CPU too. Raises ValueError: nothing to train."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the network has no parameters to train")
    rate, decay = config.learning_rate, config.weight_decay
    match config.optimizer:
        case "adam":
            return Adam(parameters, rate, weight_decay=decay, fused=True)
        case "adamw":
            return AdamW(parameters, rate, weight_decay=decay, fused=True)
        case "sgd":
            return SGD(parameters, rate, config.momentum, weight_decay=decay, nesterov=config.nesterov, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, rate, weight_decay=decay, momentum=config.momentum, foreach=True)
        case "muon":
            return Muon(parameters, config)


def set_learning_rate(optimizer: Any, rate: float | Tensor) -> None:
    """That of the schedule, for every group in its proportion; a 0-d tensor is read by a captured step's kernels."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"] if "rate_factor" in group else rate


class SGD(torch.optim.SGD):
    """Momentum begins at zero: torch's fused step leaves it unset where fp16's scaling skips the first step."""

    def _init_group(self, group: dict[str, Any], *lists: list[Any]) -> bool:
        has_sparse: bool = super()._init_group(group, *lists)
        parameters, _, momenta = lists
        if group["momentum"]:
            momenta[:] = [torch.zeros_like(parameter) if momentum is None else momentum
                          for parameter, momentum in zip(parameters, momenta, strict=True)]
        return has_sparse


class Adam(torch.optim.Adam):
    """In a captured step, whose learning rate is on the device, large tensors are taken by a kernel of this project.

    But where there are so many elements that torch's own step fills a GPU, too.
    """

    found_inf: Tensor | None = None
    """1 where the step is to be skipped, as for torch's fused optimizers."""

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        """Fill the lists of what is to be stepped, as torch's own; but for what this steps itself."""
        has_complex: bool = super()._init_group(group, *lists)
        parameters, gradients, averages, squares, _, steps = lists
        if not isinstance(group["lr"], Tensor) or sum(each.numel() for each in parameters) > FULL:
            return has_complex
        large = [i for i, each in enumerate(zip(parameters, gradients, averages, squares, strict=True))
                 if each[0].numel() >= LARGE and all(map(_suits_kernel, each))]
        if not large:
            return has_complex
        from fmnist_core.kernels.adam import adam_step

        counts = torch.ones_like(group["lr"]) if self.found_inf is None else 1 - self.found_inf
        for i in reversed(large):
            adam_step(parameters.pop(i), gradients.pop(i), averages.pop(i), squares.pop(i), steps.pop(i), counts,
                      group["lr"], betas=group["betas"], eps=group["eps"], weight_decay=group["weight_decay"],
                      decoupled=isinstance(self, torch.optim.AdamW))
        return has_complex


class AdamW(Adam, torch.optim.AdamW):
    """AdamW with `Adam`'s kernel."""


def _suits_kernel(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.is_contiguous() and available.has_kernels(tensor)


class Muon(torch.optim.AdamW):
    """Orthogonalised momentum for convolutions (Jordan et al. 2024), AdamW for all other parameters.

    The momentum of a convolution's weights (O, I, k, k), as a matrix (O, I * k * k), is replaced by the nearest one
    whose singular values are about 1, times sqrt(max(1, rows / columns)). Weight decay is decoupled for all.
    """

    found_inf: Tensor | None = None
    """1 where the step is to be skipped, as for torch's fused optimizers."""

    def __init__(self, parameters: list[nn.Parameter], config: TrainConfig) -> None:
        """Raises ValueError where there is no convolution to train."""
        filters = [parameter for parameter in parameters if parameter.ndim == 4]
        if not filters:
            raise ValueError("train.optimizer = 'muon' needs a network with convolutions to train; "
                             "allowed: 'adam', 'adamw', 'sgd', 'rmsprop'")
        others = {"params": [parameter for parameter in parameters if parameter.ndim != 4],
                  "lr": config.other_learning_rate, "rate_factor": config.other_learning_rate / config.learning_rate}
        super().__init__([{"params": filters, "rate_factor": 1.0}, others], config.learning_rate,
                         weight_decay=config.weight_decay, fused=True)
        self.momentum, self.nesterov = config.momentum, config.nesterov

    def __setstate__(self, state: dict[str, Any]) -> None:
        """AdamW's own, which looks for its count of steps in whatever was loaded; filters have a momentum alone."""
        groups = state["param_groups"]
        super().__setstate__({**state, "param_groups": groups[1:]})
        self.param_groups = groups

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure re-evaluates a loss here
        groups = self.param_groups
        for parameter in groups[0]["params"]:
            if parameter.grad is not None:
                self._step_filters(parameter, groups[0]["lr"], groups[0]["weight_decay"])
        self.param_groups = groups[1:]
        try:
            super().step()
        finally:
            self.param_groups = groups

    def _step_filters(self, parameter: nn.Parameter, rate: float | Tensor, weight_decay: float) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"] * self.momentum + gradient
        update = gradient + self.momentum * momentum if self.nesterov else momentum
        matrix = update.flatten(1)
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        stepped = parameter * (1 - rate * weight_decay) - orthogonalized(matrix).view_as(parameter) * (rate * scale)
        if self.found_inf is not None:
            stepped = torch.where(self.found_inf > 0, parameter, stepped)
            momentum = torch.where(self.found_inf > 0, state["momentum_buffer"], momentum)
        state["momentum_buffer"].copy_(momentum)
        parameter.copy_(stepped)


def orthogonalized(matrix: Tensor) -> Tensor:
    """About U V' of `matrix` = U S V', by Newton and Schulz's iteration: matrix products alone. In bfloat16 on CUDA."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.to(torch.bfloat16) if matrix.is_cuda else matrix
    is_tall = x.shape[0] > x.shape[1]
    x = x.t() if is_tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.t()
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: Tensor = x.t() if is_tall else x
    return found.to(matrix.dtype)
