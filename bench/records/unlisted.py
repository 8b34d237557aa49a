"""Records of cells that no experiment has, as experiments of their own. No torch."""

from collections.abc import Sequence
from typing import Any

import msgspec

from bench.experiment import Cell, Experiment, Launch, Seeds
from bench.inputs.settings import every_setting, label_of, varied
from bench.records.rows import Results
from fmnist_core.config import CellConfig, DataConfig, canonical_json

MAX_SHOWN = 100
"""Cells on a page; the others are counted."""


def experiments(results: Results, most: int | None = MAX_SHOWN) -> list[Experiment]:
    """Records of no experiment, as experiments of their own: one per data set and name that ran them.

    Nobody asks for seeds of theirs. At most so many cells of each; None: all.
    """
    made = []
    for dataset, group in results.others.items():
        where = "" if dataset == DataConfig().dataset else f" ({dataset})"
        for name in sorted({record.experiment for record in group}):
            readable = [config for record in group if record.experiment == name and (config := _readable(record.cell))]
            cells = _labelled(list({canonical_json(config): config for config in readable}.values()))
            if cells:
                num_more = 0 if most is None else len(cells) - most
                more = f"; {num_more} more are not shown" if num_more > 0 else ""
                made.append(Experiment(
                    name=f"{name}, other cells{where}", title=f"{name}, {dataset}: other cells{more}", question="",
                    seeds=Seeds(cpu=0, cuda=0), launch=Launch(), timings=0, cells=cells[:most]))
    return made


def _labelled(configs: Sequence[CellConfig]) -> list[Cell]:
    """Cells labelled by the settings in which they differ."""
    settings = [every_setting(config) for config in configs]
    keys = varied(settings)
    label = lambda one: label_of({key: one[key] for key in keys if key in one})
    return [Cell(config=config, label=label(one) or one.get("model.factory") or one["model.name"])
            for config, one in zip(configs, settings, strict=True)]


def _readable(content: Any) -> CellConfig | None:
    try:
        return msgspec.convert(content, CellConfig)
    except ValueError:
        return None
