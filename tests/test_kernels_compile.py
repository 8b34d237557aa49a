"""Every Triton kernel compiles for a GPU, on a machine that has none: what the interpreter takes, the compiler may not.

Triton brings the assembler. Nothing runs here: a launch compiles its kernel, by the types, values and alignments of
the arguments that it was really called with.
"""

import inspect
import itertools
import re
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from fmnist_core.kernels.available import HAS_TRITON, INTERPRETED

pytestmark = pytest.mark.skipif(not HAS_TRITON or INTERPRETED or torch.cuda.is_available(),
                                reason="the kernels run instead, or there is no Triton")


randn = partial(torch.randn, dtype=torch.float32)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> dict[Any, list[Any]]:
    """What was compiled, by kernel."""
    from triton.runtime.jit import JITFunction

    found: dict[Any, list[Any]] = {}

    def launcher(kernel: Any, grid: Any) -> Callable[..., None]:
        return lambda *args, **options: found.setdefault(kernel, []).append(
            kernel.warmup(*args, grid=grid, **options))

    monkeypatch.setattr(JITFunction, "__getitem__", launcher)
    return found


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_all_of_them(capability: int, far: bool, default: torch.dtype, compiled: dict[Any, list[Any]],
                     monkeypatch: pytest.MonkeyPatch) -> None:
    """For the oldest GPU that they are used on and for an H100, at the shapes of the check before their first use."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from fmnist_core.kernels import adam as adam_kernel
    from fmnist_core.kernels import check as kernel_check
    from fmnist_core.kernels import conv as conv_kernels
    from fmnist_core.kernels import norm_pool_relu as norm_pool_relu_kernels

    monkeypatch.setattr(driver, "_active", SimpleNamespace(
        get_current_device=lambda: capability, get_current_stream=lambda *_: 0,
        get_current_target=lambda: GPUTarget("cuda", capability, 32)))
    monkeypatch.setattr(conv_kernels, "_is_far", lambda *tensors: far)
    monkeypatch.setattr(kernel_check, "_compare", lambda *args: None)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)  # the tests of equality compute in float64, the kernels never do
    try:
        for dtype, (num_in, num_out) in itertools.product(kernel_check.TOLERANCES, kernel_check.SHAPES):
            kernel_check._check_layers(randn(5, 2 * num_in, 8, 7).to(dtype), randn(2, num_out * num_in * 9),
                                       randn(2, num_out))
        for decoupled in (False, True):
            kernel_check._check_adam(randn(3, 5000), randn(5000), decoupled)
    finally:
        torch.set_default_dtype(before)

    def kernels_of(module: ModuleType) -> set[Any]:
        return {kernel for _, kernel in inspect.getmembers(module, lambda each: isinstance(each, JITFunction))}

    assert set(compiled) == set.union(*map(kernels_of, (adam_kernel, conv_kernels, norm_pool_relu_kernels)))
    assert all(kernel.asm["cubin"] for kernels in compiled.values() for kernel in kernels)
    for kernel in (*compiled[conv_kernels._convolve], *compiled[conv_kernels._correlate]):
        assert "mma" in kernel.asm["ptx"]  # products by the tensor cores
        assert _buffers_overwritten_too_soon(kernel.asm["ttgir"]) == []


def _buffers_overwritten_too_soon(ttgir: str) -> list[str]:
    """Of a loop whose products run on while the next is begun: operands with a buffer too few.

    The block being multiplied, the one before, which may still be read, and the one being loaded: three.
    """
    if not re.search(r"pendings = [1-9]", ttgir):  # it waits for each product
        return []
    return [shape for num, shape in re.findall(r"local_alloc[^\n]*memdesc<(\d+)x([\dx]+x\w+)", ttgir) if int(num) < 3]


def test_a_product_that_reads_what_is_overwritten_is_found() -> None:
    """As the gradient of weights was compiled when it summed that of the biases from the same loads."""
    loop = ("%g = ttg.local_alloc : () -> !ttg.memdesc<2x64x32xf32, #shared, #smem, mutable>\n"
            "%p = ttg.local_alloc : () -> !ttg.memdesc<3x32x128xf32, #shared1, #smem, mutable>\n"
            "%s = ttng.warp_group_dot %a, %b, %c {inputPrecision = 0 : i32, isAsync = true}\n"
            "%w:3 = ttng.warp_group_dot_wait %s, %a, %b {pendings = 1 : i32}\n")
    assert _buffers_overwritten_too_soon(loop) == ["64x32xf32"]
    assert _buffers_overwritten_too_soon(loop.replace("2x64", "3x64")) == []
    assert _buffers_overwritten_too_soon(loop.replace("pendings = 1", "pendings = 0")) == []
