"""Which way of convolving is fastest, layer by layer, by timing it where it will run."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fmnist_core.capture import CudaGraph
from fmnist_core.clock import clock_for
from fmnist_core.config import Precision
from fmnist_core.fused.conv import METHODS, FusedConv, methods_for
from fmnist_core.fused.layers import FusedSequential

NUM_TIMINGS = 5
_fastest: dict[tuple[object, ...], str] = {}


def tune(model: FusedSequential, images_NCHW: Tensor, *, precision: Precision, captured: bool) -> None:
    """Let every convolution use the fastest of `METHODS`, forward and backward, on batches like `images_NCHW`.

    Each shape is timed once in a process; `captured`: as a CUDA graph, in which launches cost next to nothing.
    """
    for conv, (shape, needs_gradient) in _inputs_of_convolutions(model, images_NCHW).items():
        key = (repr(conv), shape, needs_gradient, images_NCHW.dtype, images_NCHW.device, precision, captured,
               torch.backends.cudnn.allow_tf32)
        if key not in _fastest:
            x = torch.rand(shape, dtype=images_NCHW.dtype, device=images_NCHW.device, requires_grad=needs_gradient)
            seconds = {method: _seconds(conv, method, x, precision, captured) for method in methods_for(conv, x)}
            _fastest[key] = min(seconds, key=lambda method: seconds[method])
        conv.method = _fastest[key]


def _inputs_of_convolutions(model: FusedSequential, images_NCHW: Tensor) -> dict[FusedConv, tuple[torch.Size, bool]]:
    """The shape of each convolution's input, and whether backward needs its gradient."""
    inputs: dict[FusedConv, tuple[torch.Size, bool]] = {}

    def watch(conv: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(conv, FusedConv)
        inputs[conv] = args[0].shape, args[0].requires_grad

    handles = [conv.register_forward_pre_hook(watch) for conv in model.convolutions()]
    model.eval()(images_NCHW)  # evaluation leaves the statistics of batch norm as they are
    model.train()
    for handle in handles:
        handle.remove()
    return inputs


def _seconds(conv: FusedConv, method: str, x: Tensor, precision: Precision, captured: bool) -> float:
    """The least time of one forward and backward pass; infinite where the memory does not suffice."""
    per_output = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
    weight_RP = torch.rand(conv.num_replicas, conv.out_channels * per_output, device=x.device, requires_grad=True)
    bias_RO = torch.zeros(conv.num_replicas, conv.out_channels, device=x.device, requires_grad=True)
    inputs = [tensor for tensor in (x, weight_RP, bias_RO) if tensor.requires_grad]

    def work() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            y = METHODS[method](conv, x, weight_RP, bias_RO)
        torch.autograd.grad(y, inputs, torch.ones_like(y))

    try:
        run = _captured(work, x.device) if captured and x.is_cuda else work
        run()
        clock = clock_for(x.device)
        marks = [clock.mark()]
        for _ in range(NUM_TIMINGS):
            run()
            marks.append(clock.mark())
        return min(clock.seconds_between(marks))
    except torch.OutOfMemoryError:
        return math.inf


def _captured(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    graph = CudaGraph(device)
    graph.warm_up(work)
    graph.capture(work)
    return graph.replay
