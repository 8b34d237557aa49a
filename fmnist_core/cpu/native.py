"""Functions in C, compiled when they are first asked for, by the machine's own compiler and for it."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

FLAGS = ("-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math",
         "-fno-signed-zeros")
"""Numbers that are not finite keep their meaning: a training that diverges shows by them."""

REALS = {torch.float32: ("float", ctypes.c_float), torch.float64: ("double", ctypes.c_double)}
"""Numbers that the functions are compiled for, by name and as an argument."""


@functools.cache
def compiled(source: Path, *definitions: str) -> ctypes.CDLL | None:
    """The library that `source` makes, or None on a machine without a C compiler (`cc`, or what CC names).

    It is kept under XDG_CACHE_HOME (~/.cache), by source and kind of processor.
    """
    compiler = [*shlex.split(os.environ.get("CC") or "cc"), *FLAGS, *(f"-D{definition}" for definition in definitions)]
    key = hashlib.sha256("\n".join([source.read_text(), _processor(), *compiler]).encode()).hexdigest()
    kept = _cache_folder() / f"{source.stem}-{key[:16]}.so"
    with contextlib.suppress(OSError):  # none yet, or one that cannot be used
        return ctypes.CDLL(str(kept))
    with contextlib.suppress(OSError, subprocess.CalledProcessError), tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / kept.name
        subprocess.run([*compiler, str(source), "-o", str(made), "-lm"], check=True, capture_output=True)
        library = ctypes.CDLL(str(made))
        with contextlib.suppress(OSError):  # a folder that takes no files: the next process compiles again
            kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            own = kept.with_suffix(f".{os.getpid()}")  # others may do the same at the same time
            own.write_bytes(made.read_bytes())
            own.replace(kept)
        return library
    return None


def address(tensor: Tensor | None) -> int | None:
    """Of its first number. It has to live, and to lie in memory as the function reads it, until that is over."""
    return None if tensor is None else tensor.data_ptr()


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fmnist-bench"


def _processor() -> str:
    """What `-march=native` depends on: a cache may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {platform.processor()} {features}"
