"""What machine, driver, libraries and commit a record comes from. Works without importing torch.

    python -m bench.environment                  prints what a bug report needs
    python -m bench.environment > report.txt     the same, to be attached
"""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from bench.inputs.strict_parser import StrictParser
from bench.record import Environment
from fmnist_core.files import DataError, find

LIBRARIES = ("torch", "torchvision", "accelerate", "numpy", "scipy", "pandas", "msgspec", "scikit-learn")
ROOT = Path(__file__).resolve().parent.parent
_VARIABLES = ("ACCELERATE_", "CUDA_", "FMNIST_", "MKL_", "NCCL_", "OMP_", "RANK", "LOCAL_RANK", "TORCH", "WORLD_SIZE")
"""Beginnings of the names of variables that change what a run does."""
_GPU_FIELDS = ("name", "driver_version", "power.limit", "clocks.sm", "uuid")
# Records name GPUs as nvidia-smi counts them. CUDA else begins with the fastest; it reads this at its first use.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def collect(num_threads: int = 0) -> Environment:
    """The environment of this process, now; `num_threads`: intra-operator threads, 0: all processors."""
    gpus = _gpus()
    first = gpus[0] if gpus else {}
    commit, dirty = _commit()
    return Environment(
        host=_host(),
        cpu=_cpu(),
        num_cpus=num_cpus(),
        device=first.get("name", "cpu"),
        num_devices=len(gpus),
        driver=first.get("driver_version", ""),
        power_limit_w=_number(first.get("power.limit")),
        clock_mhz=_number(first.get("clocks.sm")),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        os=platform.platform(terse=True),
        python=platform.python_version(),
        libraries=_libraries(),
        commit=commit,
        dirty=dirty,
        num_threads=num_threads or num_cpus(),
        load=round(os.getloadavg()[0], 2),
    )


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def speed_identity(environment: Environment) -> dict[str, Any]:
    """The facts that make two timings comparable; part of every speed key."""
    return {"device": environment.device, "driver": environment.driver, "cpu": environment.cpu,
            "num_cpus": environment.num_cpus, "num_threads": environment.num_threads,
            "torch": environment.libraries.get("torch", "")}


def uses_gpu() -> bool:
    """Whether a launch here would use a GPU: there is one, and the launcher did not ask for the CPU."""
    return bool(_gpus())


def is_told_to_use_cpu() -> bool:
    """Whether the launcher did, as `accelerate launch --cpu` does."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def num_gpus() -> int:
    return len(_gpus())


def gpu_ids() -> list[str]:
    """What nvidia-smi calls the GPUs that this process may use."""
    return sorted({gpu["uuid"] for gpu in _gpus()})


def num_cpus() -> int:
    return len(os.sched_getaffinity(0))


def num_replicas() -> int:
    """Cells that train at once in cells mode: one per GPU, else one per processor."""
    return num_gpus() if uses_gpu() else num_cpus()


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES is, or would be, GPU by GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible is not None else [str(i) for i in range(num_gpus())]


def _host() -> str:
    """Of the name and the processor: rented machines of different kinds often have one name."""
    return hashlib.sha256(f"{platform.node()}, {_cpu()}".encode()).hexdigest()[:12]


def _gpus() -> list[dict[str, str]]:
    """One entry per GPU that this process may use, as its driver describes it; in cells mode that becomes one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if is_told_to_use_cpu() or visible in ("", "-1"):
        return []
    gpus = _all_gpus()
    if visible is None or not gpus:
        return gpus
    names = [name.strip() for name in visible.split(",")]
    if any(name.startswith("MIG") for name in names):  # parts of GPUs, which the query does not tell apart
        return gpus[:1] * len(names)
    known = {name: gpu for i, gpu in enumerate(gpus) for name in names
             if name == str(i) or (name[:3] == "GPU" and gpu["uuid"].startswith(name))}
    return [known[name] for name in names if name in known]


@lru_cache(maxsize=1)
def _all_gpus() -> list[dict[str, str]]:
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    if answer.returncode:
        return []
    return [dict(zip(_GPU_FIELDS, (field.strip() for field in line.split(",")), strict=True))
            for line in answer.stdout.splitlines()]


@lru_cache(maxsize=1)
def _libraries() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@lru_cache(maxsize=1)
def _commit() -> tuple[str, bool]:
    """Commit of the source tree and whether it differs from it; ("", False) outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run([*git, "status", "--porcelain", "--", "*.py", "*.toml"], capture_output=True, text=True,
                                check=True)
    except (OSError, subprocess.CalledProcessError):
        return "", False
    return head.stdout.strip(), bool(status.stdout.strip())


@lru_cache(maxsize=1)
def _cpu() -> str:
    """Model name, with family and model number: virtual machines give many processors one name."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        return platform.processor() or platform.machine()
    name = fields.get("model name", platform.machine())
    return f"{name} (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else name


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the environment, the launcher's variables, and where the data set is."""
    StrictParser("python -m bench.environment", __doc__).parse_args(arguments)
    found = msgspec.to_builtins(collect())
    found["libraries"] = {**found["libraries"], **_more_libraries()}
    found["variables"] = {name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)}
    found["data"] = _data()
    for key, value in found.items():
        print(f"{key}: {', '.join(f'{k} {v}' for k, v in value.items()) if isinstance(value, dict) else value}")


def _more_libraries() -> dict[str, str]:
    """CUDA's own, and what draws and shows."""
    installed = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    return {name: version for name, version in sorted(installed.items())
            if name in ("matplotlib", "safetensors", "tqdm", "triton") or name.startswith("nvidia-")}


def _data() -> str:
    try:
        return str(find(download=False))
    except DataError:
        return "not found"


if __name__ == "__main__":
    main()
