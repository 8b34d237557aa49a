"""Functions in C, compiled when they are first asked for, by the machine's own compiler and for it."""

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FLAGS = ("-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math",
         "-fno-signed-zeros")
"""Numbers that are not finite keep their meaning: a training that diverges shows by them."""

REALS = {torch.float32: ("float", ctypes.c_float), torch.float64: ("double", ctypes.c_double)}
"""Numbers that the functions are compiled for, by name and as an argument."""

Functions = Mapping[str, Sequence[Any]]
"""By name the types of their arguments. They return nothing."""


def compiled(source: Path, functions: Functions, *definitions: str) -> ctypes.CDLL | None:
    """The library that `source` makes, with these functions; None where there is no compiler that makes it.

    The compiler is `cc`, or what CC names. The library is kept under XDG_CACHE_HOME (~/.cache), by source and kind of
    processor.
    """
    try:
        compiler = shlex.split(os.environ.get("CC") or "cc")
        sources = [path.read_text() for path in (source, *sorted(source.parent.glob("*.h")))]
    except (OSError, ValueError):
        return None
    command = [*compiler, *FLAGS, *(f"-D{definition}" for definition in definitions), str(source), "-lm", "-o"]
    key = hashlib.sha256("\n".join([*sources, _processor(), *command]).encode()).hexdigest()[:16]
    own = _cache_folder()
    for folder in (own, Path(tempfile.gettempdir())):  # where nothing is kept
        if folder is not None:
            with contextlib.suppress(OSError, AttributeError, subprocess.CalledProcessError):
                return _load_or_make(command, folder / f"{source.stem}-{key}.so", functions, keep=folder == own)
    return None


def _load_or_make(command: Sequence[str], kept: Path, functions: Functions, keep: bool) -> ctypes.CDLL:
    """Raises OSError, AttributeError where a function is missing, and CalledProcessError."""
    if keep:
        with contextlib.suppress(OSError, AttributeError):  # none yet, or one that cannot be used
            return _load(kept, functions)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        made = Path(folder) / kept.name
        subprocess.run([*command, str(made)], check=True, capture_output=True)
        if keep:  # whole or not at all: others may do the same at the same time
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.replace(kept)
            made = kept
        return _load(made, functions)


def _load(path: Path, functions: Functions) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, types in functions.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None
    return library


def address(tensor: Tensor | None) -> int | None:
    """Of its first number. Keep the tensor alive, in the layout that the function expects, until the call returns."""
    return None if tensor is None else tensor.data_ptr()


def _cache_folder() -> Path | None:
    """This user's own: nobody else can have put a library there."""
    try:
        named = Path(os.environ.get("XDG_CACHE_HOME") or "")
        folder = (named if named.is_absolute() else Path.home() / ".cache") / "fmnist-bench"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except (OSError, RuntimeError):  # no home at all, or one that takes no files
        return None
    return folder if status.st_uid == os.geteuid() and not status.st_mode & 0o022 else None


def _processor() -> str:
    """What `-march=native` depends on: a cache may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {platform.processor()} {features}"
