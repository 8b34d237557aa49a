"""Memory of a cell's training step: bytes that its tensors need, and bytes that the process takes for them.

The first is counted, operator by operator, and the same on every run; the second is what the system says, and holds
what the allocator keeps and cannot use. On a GPU its allocator knows both.
"""

import copy
import ctypes
import gc
import math
import re
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fmnist_core import objective
from fmnist_core.average import Average
from fmnist_core.config import TrainConfig
from fmnist_core.optimizers import optimizer_for
from fmnist_core.train import Training

STEPS = 3
"""Training steps whose resident peak is taken: in the first the allocator has not filled its holes yet."""


def forget_earlier_peaks() -> None:
    """Of this process's GPU, so that the next peak is that of what comes now, without what the allocator still keeps of
    what came before."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory(training: Training) -> tuple[int, int]:
    """Allocated and reserved bytes of a training that has run, since `forget_earlier_peaks`. Trains some steps more.

    On a CPU without the data set; allocated is 0 where the dispatcher does not see the operators of a compiled model,
    reserved where the system does not tell.
    """
    if training.device.type == "cuda":
        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    held, step = held_bytes(training), _step(training)
    growth = resident_growth(lambda: [step() for _ in range(STEPS)])
    compiled = training.cell.execution.compile != "no"
    return 0 if compiled else held + peak_alive(step), 0 if growth is None else held + growth


def held_bytes(training: Training) -> int:
    """Parameters, buffers, their average, optimizer state; under DDP the gradients too, whose buckets live on."""
    parameters = list(training.model.parameters())
    state = [value for values in training.optimizer.state.values() for value in values.values()]
    buckets = [p for p in parameters if p.requires_grad] if training.num_processes > 1 else []
    averages = training.average.tensors().values() if training.average else ()
    tensors = [*parameters, *training.model.buffers(), *averages, *state, *buckets]
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


def peak_step_bytes(training: Training) -> int:
    """Most bytes of tensors alive at once that come to be in a training step, its batch included."""
    return peak_alive(_step(training))


def peak_alive(work: Callable[[], Any]) -> int:
    """Most bytes of tensors alive at once that come to be in `work`."""
    gc.collect()
    gc.disable()  # a collection in mid-step would free at a moment of its own
    try:
        with Alive() as alive:
            work()
    finally:
        gc.enable()
    peak: int = alive.peak
    return peak


def resident_growth(work: Callable[[], Any]) -> int | None:
    """Bytes by which `work` raises the process's resident set at its peak; None where the system does not tell.

    What was freed but kept for reuse goes back to the system first: it would hide what takes its place. Needs Linux
    and the GNU C library.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident: proc(5)
        before = _peak_resident_bytes()
    except (OSError, AttributeError):
        return None
    work()
    return max(0, _peak_resident_bytes() - before)


def _peak_resident_bytes() -> int:
    kilobytes = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if kilobytes is None:
        raise OSError("the system does not tell the peak")
    return 1024 * int(kilobytes[1])


def _step(training: Training) -> Callable[[], Any]:
    index_N = torch.arange(min(training.batch_size, len(training.dataset.train)), device=training.device)
    return lambda: training.step_on(index_N)


class StepBytes(NamedTuple):
    """What a training step needs by the shapes of its tensors alone, on any device."""

    model: int
    """Parameters, buffers, and the average of both where there is one."""
    gradients: int
    optimizer_state: int
    saved: int
    """What the forward pass keeps for backward, the images among it; of each accumulated part anew."""


def step_bytes(model: nn.Module, input_shape: Sequence[int], config: TrainConfig) -> StepBytes:
    """Counted on meta tensors: no value is computed, so kernels, threads and allocators do not matter.

    Of a model that takes its loss from the configuration, and labels that are not mixed. Leaves the model as it is.
    """
    original, model = model, copy.deepcopy(model).to("meta").train()
    size = math.ceil(config.global_batch_size / config.gradient_accumulation)
    images_NCHW = torch.empty(size, *input_shape, device="meta")
    labels_N = torch.empty(size, dtype=torch.int64, device="meta")
    own = {_identity(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _identity(tensor) not in own:
            saved[_identity(tensor)] = tensor  # held: no identity is given out twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective.loss(model(images_NCHW), labels_N, config)
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    optimizer = optimizer_for(original, config)  # fused ones refuse meta tensors when they are made
    on_meta = dict(zip(original.parameters(), model.parameters(), strict=True))
    for group in optimizer.param_groups:
        group.update(params=[on_meta[parameter] for parameter in group["params"]], fused=False, foreach=False)
    optimizer.step()
    averages = Average(model, config.ema).tensors().values() if config.ema else ()
    state = [value for values in optimizer.state.values() for value in values.values()]
    size_of = lambda tensors: sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    return StepBytes(size_of(own.values()) + size_of(averages), size_of(gradients), size_of(state),
                     size_of(saved.values()))


class Alive(TorchDispatchMode):
    """Follows the storages that operators make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_identity(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _identity(leaf) not in given | self._known:
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        identity, size = int(storage._cdata), storage.nbytes()
        self._known.add(identity)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._forget, identity, size)

    def _forget(self, identity: int, size: int) -> None:
        self._known.discard(identity)
        self.bytes -= size


def _identity(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
