"""Whole-step capture: a training step, from index to optimizer, replayed as one CUDA graph, or on a CPU as a tape.

N images of a batch (with fused seeds the index of a batch is (N, R)), S steps of the run.

A replay runs operators and nothing else: whatever Python decided while the step was captured is frozen. So all that
changes from step to step lies in tensors whose address stays: index, learning rate and progress, copied in before a
replay, and the state of model and optimizer. Random numbers are drawn anew, since a graph reads the device's default
generator when it is replayed. Each batch size is a graph of its own: the remainder batch is trained, never dropped or
padded.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from fmnist_core.cpu.tape import Tape
from fmnist_core.kernels import available
from fmnist_core.optimizers import Adam, set_learning_rate
from fmnist_core.seeds import host_state

if TYPE_CHECKING:
    from fmnist_core.steps import Steps

WARMUP_RUNS = 3
"""Before capture, on a side stream, as PyTorch's notes on CUDA graphs ask: libraries choose and allocate here."""


class Graph(Protocol):
    """`work` takes its inputs from tensors that stay where they are, and gives a loss."""

    exact: bool
    """Whether a replay gives the numbers of the step, so that it can be compared with it."""

    def warm_up(self, work: Callable[[], Tensor]) -> None: ...

    def capture(self, work: Callable[[], Tensor]) -> None: ...

    def replay(self) -> Tensor: ...


class CudaGraph:
    """`torch.cuda.CUDAGraph`, with its warm-up."""

    exact = False

    def __init__(self, device: torch.device) -> None:
        self._device, self._graph = device, torch.cuda.CUDAGraph()

    def warm_up(self, work: Callable[[], Any]) -> None:
        """Off the default stream, which cannot be captured: autograd runs a backward where its forward ran."""
        side, current = torch.cuda.Stream(self._device), torch.cuda.current_stream(self._device)
        side.wait_stream(current)
        with torch.cuda.stream(side), warnings.catch_warnings():
            # An optimizer that can be captured warns when it steps uncaptured, which is the point of a warm-up.
            warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
            for _ in range(WARMUP_RUNS):
                work()
        current.wait_stream(side)

    def capture(self, work: Callable[[], Any]) -> None:
        with torch.cuda.graph(self._graph):
            self._result = work()  # kept, so that its memory stays this graph's output

    def replay(self) -> Any:
        """What the work gave: a tensor that the next replay overwrites."""
        self._graph.replay()
        return self._result


class Replay:
    """The graphs of one training, captured when their batch size first comes up."""

    def __init__(self, optimizer: Any, rates_S: Tensor) -> None:
        """`rates_S`: the learning rate of every step of the run, float32, on the training's device."""
        self.rates_S = rates_S
        fractions_S = torch.arange(len(rates_S), dtype=torch.float64) / len(rates_S)
        self.progress_S = fractions_S.to(rates_S)
        """For a loss that changes with the progress of training."""
        self.graphs: dict[tuple[int, ...], StepGraph] = {}
        for group in optimizer.param_groups:
            if "capturable" in group:  # the step count of Adam, AdamW and RMSprop has to live on the device
                group["capturable"] = rates_S.device.type == "cuda"
        if isinstance(optimizer, Adam):
            available.has_kernels(rates_S)  # is found out and remembered here, off the clock of training

    def advance(self, training: Steps, batches: Sequence[Tensor]) -> None:
        """Take the next of `batches`, the indices of an epoch."""
        index_N = batches[training.step_in_epoch]
        rate, progress = self.rates_S[training.step], self.progress_S[training.step]
        shape = tuple(index_N.shape)
        if shape not in self.graphs:
            self.graphs[shape] = StepGraph(training, index_N, rate, progress)
        training.losses[training.step_in_epoch] = self.graphs[shape](index_N, rate, progress) * len(index_N)
        training.step_in_epoch += 1


class StepGraph:
    """A step of one batch size, captured."""

    def __init__(self, training: Steps, index_N: Tensor, rate: Tensor, progress: Tensor) -> None:
        self._index_N, self._rate, self._progress = index_N.clone(), rate.clone(), progress.clone()
        self._graph: Graph = CudaGraph(training.device) if training.device.type == "cuda" else Tape()
        work = lambda: self._take_step(training)
        before, drawn = _tensors(training), host_state()
        with _restored(training):
            self._graph.warm_up(work)
            self._graph.capture(work)
            _check_places(before, _tensors(training))
            if host_state() != drawn:
                raise ValueError("execution.capture = true does not go with a network that draws random numbers from "
                                 "Python or numpy: a replay would repeat them; draw them with torch")
            if self._graph.exact:
                # Of other images: what Python, numpy or a mask's size read off these is the same once more.
                num = len(training.dataset.train)
                self._index_N.copy_((index_N + num // 2) % num)
                _check_replay(training, work, self._graph.replay)

    def __call__(self, index_N: Tensor, rate: Tensor, progress: Tensor) -> Tensor:
        """The loss of a step on this index: a tensor that the next call overwrites."""
        self._index_N.copy_(index_N)
        self._rate.copy_(rate)
        self._progress.copy_(progress)
        return self._graph.replay()

    def _take_step(self, training: Steps) -> Tensor:
        set_learning_rate(training.optimizer, self._rate)
        training.progress = self._progress
        try:
            return training.step_on(self._index_N)
        finally:
            training.progress = None


def _check_replay(training: Steps, work: Callable[[], Tensor], replay: Callable[[], Tensor]) -> None:
    """Raise ValueError where a replay is not the step: where a network draws or computes outside of PyTorch."""
    expected = _results(training, work)
    try:
        replayed = _results(training, replay)
        is_equal = all(torch.allclose(*pair, equal_nan=True) for pair in zip(expected, replayed, strict=True))
    except RuntimeError:  # of a mask, say, that was as large as the captured batch's
        is_equal = False
    if not is_equal:
        raise ValueError("execution.capture = true: a replayed step gives other numbers than the step itself; the "
                         "network computes outside of PyTorch, or has an operator that keeps more than its tensors, "
                         "as a recurrent layer's on a CPU")


def _results(training: Steps, step: Callable[[], Tensor]) -> list[Tensor]:
    """Loss and state after one step, which is undone."""
    with _restored(training):
        loss = step()
        return [tensor.detach().clone() for tensor in (loss, *_state(training))]


def _state(training: Steps) -> list[Tensor]:
    return [*_tensors(training).values(), training.bad,
            *(training.average.tensors().values() if training.average else ())]


def _check_places(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    """Raise ValueError where a step put another tensor in the place of one that a replay would go on reading."""
    for name, tensor in after.items():
        if tensor is not before.get(name):
            raise ValueError(f"execution.capture = true does not go with a network that assigns '{name}' anew in a "
                             "step; change it in place, as with copy_")


def _tensors(training: Steps) -> dict[str, Tensor]:
    return {**dict(training.model.named_parameters()), **dict(training.model.named_buffers())}


@contextlib.contextmanager
def _restored(training: Steps) -> Iterator[None]:
    """Undo what the steps inside do: to the model, to the optimizer, and to the generators of random numbers.

    In place, since a graph holds on to addresses. Optimizer state that was born inside becomes zero, which is what
    all state of the project's optimizers starts from.
    """
    tensors = _state(training)
    saved = [tensor.detach().clone() for tensor in tensors]
    before = {key: value.clone() for key, value in _optimizer_state(training.optimizer)}
    cuda = [training.device] if training.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(cuda):
            yield
    finally:
        _restore(training, tensors, saved, before)


def _restore(training: Steps, tensors: Sequence[Tensor], saved: Sequence[Tensor],
             before: dict[tuple[int, str], Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, saved, strict=True):
            tensor.copy_(value)
        for key, value in _optimizer_state(training.optimizer):
            if key in before:
                value.copy_(before[key])
            else:
                value.zero_()


def _optimizer_state(optimizer: Any) -> Iterator[tuple[tuple[int, str], Tensor]]:
    """Each tensor of the state, with the identity of its parameter and its name."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                yield (id(parameter), name), value
