"""The notebook-style example runs as it stands, and shows what it says."""

import re
import runpy
from pathlib import Path

import torch

from bench import measure
from fmnist_core import files
from fmnist_core.files import synthetic

ROOT = Path(__file__).resolve().parent.parent


def test_the_library_example(monkeypatch, capsys):
    """With fewer images, short blocks and no look for the machine's ceilings, for the sake of time."""
    monkeypatch.setattr(measure, "num_steps_to_fill", lambda *arguments: 40)
    monkeypatch.setattr(measure, "matmul_flops_per_s", lambda *arguments: 1e11)
    monkeypatch.setattr(measure, "copy_bytes_per_s", lambda *arguments: 1e10)
    files.load_arrays.cache_clear()
    monkeypatch.setattr(files, "synthetic", lambda: synthetic(14_000, 1_000))
    threads = torch.get_num_threads()
    monkeypatch.chdir(ROOT)
    shown = runpy.run_path("examples/library.py")
    torch.set_num_threads(threads)
    files.load_arrays.cache_clear()
    assert shown["history"].test_accuracy == [shown["test"].accuracy]
    assert shown["test"].accuracy > 0.9  # of ten patterns that are easily told apart
    assert len(shown["speed"].step_s) == 40
    assert shown["table"]["cell"].str.match(r"kernel_size \d, depth \d").all()
    printed = capsys.readouterr().out
    said = r"^[\d,]+ images/s, IQR / median of the steps [\d.]+%, 36,064 multiply-adds$"
    assert re.search(said, printed, re.MULTILINE)


def test_it_is_cut_into_cells_that_an_editor_knows():
    cells = re.findall(r"^# %% (\w+)", (ROOT / "examples" / "library.py").read_text(), re.MULTILINE)
    assert cells == ["A", "Train", "Evaluate", "Measure", "Read"]
