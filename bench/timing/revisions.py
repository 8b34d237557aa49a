"""Two revisions of `fmnist_core` timed in turns on one machine, by the harness of the working tree. No torch.

Each block is a process of its own, A B, B A, ..., so that neither revision keeps a lucky memory layout.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.environment import ROOT
from bench.records.side_records import METRICS, Metric, Pairs
from bench.timing.interleave import interleave
from fmnist_core.config import CellConfig, to_dict

WORKING_TREE = "working-tree"
"""In the place of a revision: the files as they are, committed or not."""


def commit_of(revision: str) -> str | None:
    """The commit that a revision names; None if it names none."""
    if revision == WORKING_TREE:
        return revision
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    return found.stdout.decode().strip() if found.returncode == 0 else None


def request(cell: CellConfig, options: argparse.Namespace) -> dict[str, Any]:
    """What `bench.timing.block.main` is asked for, by the options of a command."""
    return {"cell": to_dict(cell), "threads": options.threads, "data_dir": options.data_dir,
            "min_block_s": options.block_s}


def time_in_turns(commits: Sequence[str], asked: Mapping[str, Any], rounds: int) -> dict[Metric, Pairs]:
    """Blocks of two commits, by a `request`. Raises ValueError where one cannot be timed."""
    with _tree(commits[0]) as tree_a, _tree(commits[1]) as tree_b:
        blocks = interleave({"a": lambda: _block(tree_a, commits[0], asked),
                             "b": lambda: _block(tree_b, commits[1], asked)}, rounds)
    return {metric: Pairs(a_s=[block[metric] for block in blocks["a"]], b_s=[block[metric] for block in blocks["b"]])
            for metric in METRICS if metric in blocks["a"][0] and metric in blocks["b"][0]}


@contextmanager
def _tree(commit: str) -> Iterator[Path]:
    """A folder with this commit's `fmnist_core`: a copy of its own, which leaves the checkout and its refs alone."""
    if commit == WORKING_TREE:
        yield ROOT
        return
    with tempfile.TemporaryDirectory(prefix="fmnist-bench-") as folder:
        archive = _git("archive", "--format=tar", commit, "fmnist_core")
        if archive.returncode:
            raise ValueError(f"revision {commit} has no fmnist_core: {archive.stderr.decode().strip()}")
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            # Python 3.12 and 3.13 want to be told; 3.11.2, which Debian has, knows no filters.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(folder)
        yield Path(folder).resolve()


def _block(tree: Path, commit: str, asked: Mapping[str, Any]) -> dict[str, float]:
    own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    folders = [str(tree), str(ROOT), *filter(None, own), os.getcwd()]  # where `python -m` finds a network of one's own
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": str(asked["threads"])}
    command = [sys.executable, "-P", "-m", "bench.timing.block", json.dumps(dict(asked))]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        reason = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
        places = re.findall(r'File "([^"]+)", line (\d+)', run.stderr)
        place = f" ({Path(places[-1][0]).name}, line {places[-1][1]})" if places else ""
        raise ValueError(f"revision {commit[:12]} cannot be timed by this harness: {reason}{place}")
    answer = json.loads(run.stdout.splitlines()[-1])
    assert Path(answer["core"]).is_relative_to(tree), (answer["core"], tree)
    seconds: dict[str, float] = answer["seconds"]
    return seconds


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
