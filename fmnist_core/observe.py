"""What really happens in a step, seen from inside: data types, memory formats, operators, waits, compilations.

A label that was copied from the request proves nothing; these are read off a forward pass and a training step.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fmnist_core.fused.conv import FusedConv
from fmnist_core.fused.layers import FusedLinear
from fmnist_core.fused.training import FusedTraining
from fmnist_core.train import Training, train_step

READS = {torch.Tensor.tolist: "host::tolist", torch.Tensor.cpu: "host::cpu", torch.Tensor.numpy: "host::numpy"}
"""Calls that bring values to the host. On a CPU the dispatcher sees none of them."""
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::masked_select", "aten::equal",
         "aten::_unique2", "aten::bincount", "host::mask", "host::synchronize", *READS.values())
"""Operators whose result, or the size of it, the host needs before it can go on; and what only the host knows of: those
reads, an index by a mask, and an explicit wait."""


@dataclass(frozen=True)
class Observed:
    """The fields of `bench.record.Labels` that a forward pass shows."""

    precision: str
    matmul_tf32: bool
    cudnn_tf32: bool
    tf32_before_prepare: bool
    weight_memory_format: str
    activation_memory_format: str
    compiled: bool
    compile_timings_s: dict[str, float]
    captured: bool
    native_layers: bool
    num_processes: int


class GraphCounts(NamedTuple):
    graph_breaks: int
    recompiles: int


def observe(training: Training | FusedTraining) -> Observed:
    """Look at forward passes of training images, in evaluation mode: nothing of the run changes.

    Of up to 8 of them what layers give; on a CPU, of as many as a step has at once, which operators run: those in C are
    for large maps.
    """
    model = training.network
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs.append(output.detach())

    kinds = nn.Conv2d | nn.Linear | FusedConv | FusedLinear
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    handles = [layer.register_forward_hook(keep) for layer in layers]
    index_N = torch.arange(min(8, len(training.dataset.train)), device=training.device)
    was_training = model.training
    try:
        with torch.no_grad(), training.accelerator.autocast():
            images_NCHW = training.dataset.images(training.dataset.train, index_N)
            model.eval()(images_NCHW)
            for handle in handles:
                handle.remove()
            with _Counter() as counter:  # again, since layers that are watched may run in another way
                if training.device.type == "cpu":
                    model(training.dataset.images(training.dataset.train, training.largest_part()))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return Observed(
        precision="/".join(sorted({str(output.dtype).removeprefix("torch.") for output in outputs})),
        matmul_tf32=torch.backends.cuda.matmul.allow_tf32,
        cudnn_tf32=torch.backends.cudnn.allow_tf32,
        tf32_before_prepare=training.tf32_before_prepare,
        weight_memory_format=memory_format(p for p in model.parameters() if p.ndim == 4),
        activation_memory_format=memory_format(output for output in outputs if output.ndim == 4),
        compiled=training.cell.execution.compile != "no",
        compile_timings_s=training.compile_timings_s if isinstance(training, Training) else {},
        captured=training.captured,
        native_layers=any(name.startswith("fmnist::") for name in counter.operators),
        num_processes=training.num_processes,
    )


def memory_format(tensors: Iterable[Tensor]) -> str:
    """`channels_last`, `contiguous`, `mixed`, or `any` where all tensors have strides that suit both.

    One channel, or one pixel, lies in memory the same way in both formats: such tensors prove nothing.
    """
    seen = set()
    for tensor in tensors:
        channels_last = tensor.is_contiguous(memory_format=torch.channels_last)
        if channels_last != tensor.is_contiguous():
            seen.add("channels_last" if channels_last else "contiguous")
    return "any" if not seen else seen.pop() if len(seen) == 1 else "mixed"


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operators: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.add(func._schema.name)
        if func._schema.name == "aten::index" and any(index is not None and index.dtype == torch.bool
                                                      for index in args[1]):
            self.add("host::mask")
        return func(*args, **(kwargs or {}))

    def add(self, name: str) -> None:
        self.operators[name] = self.operators.get(name, 0) + 1


class _Reads(TorchFunctionMode):
    def __init__(self, counter: _Counter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            self.counter.add(READS[func])
        return func(*args, **(kwargs or {}))


def count_operators(training: Training) -> dict[str, int]:
    """Operator name to calls, of one training step as eager PyTorch dispatches it, batch included. Trains one step.

    What makes the host wait and is no operator has a name of its own, `host::...`.
    """
    size = min(training.batch_size, len(training.dataset.train))
    index_N = torch.arange(size, device=training.device)
    synchronize = torch.cuda.synchronize

    def wait(*arguments: Any) -> None:
        counter.add("host::synchronize")
        synchronize(*arguments)

    with _Counter() as counter, _Reads(counter), mock.patch.object(torch.cuda, "synchronize", wait):
        images_NCHW, labels_N = training.batch(index_N)
        train_step(training, images_NCHW, labels_N, size)
    operators: dict[str, int] = counter.operators
    return operators


def count_waits(operators: dict[str, int]) -> int:
    """How often that step made the host wait for the device."""
    return sum(operators.get(name, 0) for name in WAITS)


def reset_graph_counts() -> None:
    """Start anew: forget what was compiled in this process, so that the next model counts for itself."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()


def graph_counts() -> GraphCounts:
    """Graph breaks, and compilations beyond the first of each frame, since the reset."""
    from torch._dynamo import convert_frame
    from torch._dynamo.utils import counters

    return GraphCounts(graph_breaks=sum(counters["graph_break"].values()),
                       recompiles=sum(times - 1 for times in convert_frame.FRAME_COMPILE_COUNTER.values()))
