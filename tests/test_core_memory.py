"""A lack of memory goes by several names; in a network of one's own it is no mistake of its code."""

import pytest
import torch

from fmnist_core.memory import ran_out
from fmnist_core.models.own import OwnNetworkError, refusing

LACKS = [MemoryError("no room"), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
         RuntimeError("CUDA error: out of memory"), RuntimeError("CUDA Error: Out Of Memory"),
         RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to")]
OTHERS = [RuntimeError("index out of range"), ValueError("out of memory"), SystemExit("out of memory")]


@pytest.mark.parametrize("error", LACKS, ids=str)
def test_a_lack_of_memory_is_known_by_any_name_and_passed_on(error):
    assert ran_out(error)
    with pytest.raises(type(error)) as caught, refusing("package.module:make"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_another_failure_is_none_and_one_of_the_network(error):
    assert not ran_out(error)
    with pytest.raises(OwnNetworkError, match=type(error).__name__), refusing("package.module:make"):
        raise error
