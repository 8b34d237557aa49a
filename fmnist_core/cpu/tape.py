"""A training step on a CPU as a tape: its operators, recorded once and then played one after the other.

What small networks lose between operators, to modules, autograd and the optimizer's Python, is left out. The same
operators run in the same order on the same numbers, so that results are those of the step to the bit.
"""

from collections.abc import Callable
from functools import partial
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary


class Tape:
    """Stands where a GPU has a CUDA graph, see `fmnist_core.capture`."""

    exact = True

    def warm_up(self, work: Callable[[], Tensor]) -> None:
        """Once, since what an optimizer's first step alone does is not to be recorded."""
        work()

    def capture(self, work: Callable[[], Tensor]) -> None:
        """Raises ValueError where the work asks for a number that it computed, or does what cannot be written down."""
        try:
            with _Recorder() as recorder:
                result = work()
            self._play = recorder.finish(result)
        except (RuntimeError, SyntaxError) as error:
            raise ValueError("execution.capture = true: this step cannot be recorded and played again: "
                             f"{next(iter(str(error).splitlines()), type(error).__name__)}") from error

    @torch.no_grad()
    def replay(self) -> Tensor:
        loss: Tensor = self._play()
        return loss


class _Recorder(TorchDispatchMode):
    """Each operator, below autograd, becomes a line of a function; tensors that were there before, its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self._graph = fx.Graph()
        self._end_of_arguments = self._graph.placeholder("end_of_arguments")
        self._lines = WeakTensorKeyDictionary()
        """Weak, so that autograd may keep a gradient as it is: of one that others hold it takes a copy."""
        self._arguments: dict[int, tuple[fx.Node, Tensor]] = {}
        """By identity, which is theirs for as long as they are held here."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operator is torch.ops.aten._local_scalar_dense.default:
            raise ValueError("execution.capture = true: the step asks for the value of a tensor, which a replay would "
                             "never look at again")
        result = operator(*args, **kwargs)
        if operator is torch.ops.aten.lift_fresh.default:  # of a literal, which the step may change in place
            constant = self._name(result.clone())
            self._lines[result] = self._graph.call_function(torch.ops.aten.clone.default, (constant,))
            return result
        if operator.namespace == "profiler" or (_is_view(operator) and args[0] not in self._lines):
            return result  # what stays where it is has views that do, too
        if operator is torch.ops.aten.detach.default:
            self._lines[result] = self._lines[args[0]]
            return result
        line = self._graph.call_function(operator, *tree_map_only(Tensor, self._name, (args, kwargs)))
        if isinstance(result, Tensor):
            self._lines.setdefault(result, line)  # not of what was changed in place: it has its own
        elif isinstance(result, list | tuple):
            for i, each in enumerate(result):
                if isinstance(each, Tensor) and each not in self._lines:
                    self._lines[each] = self._graph.call_function(getitem, (line, i))
        return result

    def finish(self, result: Tensor) -> Callable[[], Tensor]:
        self._graph.output(self._name(result))
        function = fx.GraphModule(torch.nn.Module(), self._graph).forward
        return partial(function, *(tensor.detach() for _, tensor in self._arguments.values()), None)

    def _name(self, tensor: Tensor) -> fx.Node:
        if tensor in self._lines:
            line: fx.Node = self._lines[tensor]
            return line
        if id(tensor) not in self._arguments:
            with self._graph.inserting_before(self._end_of_arguments):
                name = self._graph.placeholder(f"argument_{len(self._arguments)}")
            self._arguments[id(tensor)] = name, tensor
        return self._arguments[id(tensor)][0]


def _is_view(operator: Any) -> bool:
    returns = operator._schema.returns
    return bool(returns) and all(each.alias_info is not None and not each.alias_info.is_write for each in returns)
