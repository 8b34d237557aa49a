"""A model's layers as it runs them: shapes, parameters, multiply-adds. For every model, plain sequence or not."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from fmnist_core.cpu.layers import CPU_LAYERS
from fmnist_core.models.layers import Shape


@dataclass(frozen=True)
class LayerRow:
    """One leaf module, in the order of execution. Shapes leave the batch out."""

    name: str
    kind: str
    in_shape: Shape
    out_shape: Shape
    kernel_size: int | None
    stride: int | None
    padding: str
    num_parameters: int
    multiply_adds: int


def summarize(model: nn.Module, input_shape: Shape) -> list[LayerRow]:
    """One forward pass of one image in evaluation mode, watched. The model is left as it was.

    Multiply-adds are those of matrix products, one per fused multiply-add: of convolutions and Linear layers by their
    shapes, of all else as PyTorch's `FlopCounterMode` counts operators. What no layer holds is a row of its own. A
    module that runs twice has two rows; its parameters count in the first.
    """
    rows: list[LayerRow] = []
    began: dict[nn.Module, int] = {}
    counter = FlopCounterMode(display=False)
    in_layers = 0
    names = {module: name for name, module in model.named_modules()}

    def begin(module: nn.Module, inputs: Any) -> None:
        began[module] = counter.get_total_flops()

    def watch(module: nn.Module, inputs: Any, named: Any, outputs: Any) -> None:
        nonlocal in_layers
        flops = counter.get_total_flops() - began[module]
        in_layers += flops
        given, output = (next((each for each in tree_leaves(of) if isinstance(each, Tensor)), None)
                         for of in ((inputs, named), outputs))
        if output is not None and given is not None:
            first = all(row.name != names[module] for row in rows)
            rows.append(_row(names[module], module, given.shape[1:], output, first, flops // 2))

    leaves = [module for module in model.modules() if not any(module.children())]
    handles = [leaf.register_forward_pre_hook(begin) for leaf in leaves]
    handles += [leaf.register_forward_hook(watch, with_kwargs=True) for leaf in leaves]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    was_training = model.training
    try:
        with torch.no_grad(), _without_fast_paths(model), counter:
            model.eval()(torch.zeros(1, *input_shape, device=device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    outside = (counter.get_total_flops() - in_layers) // 2
    of_no_layer = max(0, num_parameters(model) - sum(row.num_parameters for row in rows))
    if outside or of_no_layer:
        rows.append(LayerRow(name="", kind="outside of layers", in_shape=(), out_shape=(), kernel_size=None,
                             stride=None, padding="", num_parameters=of_no_layer, multiply_adds=outside))
    return rows


@contextmanager
def _without_fast_paths(model: nn.Module) -> Iterator[None]:
    """Those that compute attention or a recurrent layer in one operator, whose products the counter does not know."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            warnings.simplefilter("ignore")  # oneDNN's flags speak of other devices than there are
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if recurrent:
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(attention)


def multiply_adds(rows: list[LayerRow]) -> int:
    return sum(row.multiply_adds for row in rows)


def num_parameters(model: nn.Module) -> int:
    """Trainable ones."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def num_moments(optimizer: torch.optim.Optimizer) -> int:
    """Numbers that it keeps from step to step, such as Adam's two per parameter, once it has taken one."""
    return sum(value.numel() for state in optimizer.state.values() for value in state.values()
               if isinstance(value, Tensor) and value.ndim)  # 0-d: the count of steps


def least_bytes(rows: list[LayerRow], num_params: int, moments: int, num_images: int, itemsize: int = 4) -> int:
    """The least that a process must move in a training step, if everything between matrix products were fused.

    Outputs of convolutions and Linear layers, `itemsize` bytes a number, are written and read once forward, their
    gradients once backward. The rest is float32 in every precision: a parameter is read twice, its gradient written
    and read; the optimizer reads and writes the parameter and its `moments`. `num_images`: of this process.
    """
    activations = sum(math.prod(row.out_shape) for row in rows if row.multiply_adds)
    return itemsize * 4 * activations * num_images + 4 * (6 * num_params + 2 * moments)


def _row(name: str, module: nn.Module, in_shape: Shape, output: Tensor, first: bool, counted: int) -> LayerRow:
    """`counted`: its multiply-adds by operators, where its shapes do not tell."""
    convolution = isinstance(module, nn.Conv2d)
    has_kernel = convolution or isinstance(module, nn.MaxPool2d | nn.AvgPool2d)
    return LayerRow(
        name=name,
        kind=_kind(module),
        in_shape=tuple(in_shape),
        out_shape=tuple(output.shape[1:]),
        kernel_size=_one(module.kernel_size) if has_kernel else None,
        stride=_one(module.stride) if has_kernel else None,
        padding=_padding(module),
        num_parameters=num_parameters(module) if first else 0,
        multiply_adds=_multiply_adds(module, output, counted),
    )


def _kind(module: nn.Module) -> str:
    """PyTorch's name for it, where this project has only another way to compute it."""
    kind = type(module)
    return kind.__mro__[1].__name__ if kind in CPU_LAYERS else kind.__name__


def _padding(module: nn.Module) -> str:
    """Pixels on every side; of a padding layer (left, right, top, bottom)."""
    if isinstance(module, nn.ZeroPad2d):
        return str(module.padding)
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return ""
    return module.padding if isinstance(module.padding, str) else str(_one(module.padding))


def _multiply_adds(module: nn.Module, output: Tensor, counted: int) -> int:
    """`output`: of one image, whatever its first axis holds."""
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        return output.numel() * module.in_channels // module.groups * height * width
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    if isinstance(module, nn.Bilinear):
        return output.numel() * module.in1_features * module.in2_features
    return counted


def _one(value: Any) -> int:
    """The first of a pair: kernels and strides are square here."""
    return int(value[0]) if isinstance(value, tuple) else int(value)
