"""The plan of a sweep in a terminal: what each cell costs, and how much of it is done. No torch."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from tabulate import tabulate

from bench.experiment import Experiment
from bench.record import Record, TrainRecord
from bench.sweep.plan import Known, Task, by_cell, cells_of, due, is_done, missing
from bench.sweep.progress import duration
from fmnist_core.config import DATASETS, Baseline, CellConfig, CustomModel, canonical_json, input_shape, quality_key
from fmnist_core.models import layers
from fmnist_core.models.networks import layers_of


def show(experiments: Iterable[Experiment], asked: Sequence[Task], latest: Mapping[str, Record],
         old: Mapping[str, Known] = MappingProxyType({})) -> None:
    """A table of each experiment's cells; then what is left, and records that do not count.

    `asked`: the tasks, without those that follow where one ran out of memory; `old`: records that are to be made again.
    """
    planned, left = due(asked, latest), missing(asked, latest, old)
    tasks_of = by_cell(planned)
    for experiment in experiments:
        rows = []
        for cell in cells_of(experiment, planned):
            mine = tasks_of(cell.config)
            rows.append({
                "cell": cell.label,
                **_costs(cell.config),
                "trained": _share_done([task for task in mine if task.seed is not None], latest, old),
                "timed": _share_done([task for task in mine if task.seed is None], latest, old),
            })
        print(f"\n{experiment.name}: {experiment.question}\n")
        print(tabulate(rows, headers="keys", intfmt=",", floatfmt=",.2f", missingval="-"))
    num_missing = sum(task.key not in latest for task in left)
    again = f", {len(left) - num_missing:,} to be run again" if len(left) > num_missing else ""
    num_timings = sum(task.seed is None for task in planned)
    count = lambda number, noun: f"{number:,} {noun}{'s' * (number != 1)}"
    print(f"\n{count(len(planned) - num_timings, 'training')} and {count(num_timings, 'timing')}, "
          f"{num_missing:,} without a record{again}. Images and teraflops are of one seed.{_estimate(left, latest)}")
    for factory, number in _of_other_code(planned, latest).items():
        print(f"Not counted: {count(number, 'record')} of other code of {factory} than is here now.")
    for shared_by, number in _of_other_launches(planned, latest).items():
        by = f"{shared_by} processes" if shared_by > 1 else "one process"
        print(f"Not counted: {count(number, 'record')} by {by} to a cell: accuracy belongs to that number.")


def _of_other_code(planned: Iterable[Task], latest: Mapping[str, Record]) -> Counter[str]:
    """Records of one's own networks, by factory, that were made before an edit."""
    models = [task.cell.config.model for task in planned]
    code = {model.factory: model.source for model in models if isinstance(model, CustomModel)}
    made_of = [record.cell.get("model", {}) for record in latest.values()] if code else []
    return Counter(model["factory"] for model in made_of
                   if model.get("factory") in code and model.get("source") != code[model["factory"]])


def _of_other_launches(planned: Iterable[Task], latest: Mapping[str, Record]) -> Counter[int]:
    """Records of trainings that are asked for, but by so many processes that shared them."""
    key_of = lambda task, size: quality_key(task.cell.config, task.seed or 0, num_processes=size)
    left = [task for task in planned if task.seed is not None and task.key not in latest]
    sizes = {record.labels.num_processes for record in latest.values() if isinstance(record, TrainRecord)}
    others = [size for size in sizes if left and key_of(left[0], size) != left[0].key]
    return Counter(size for task in left for size in others if key_of(task, size) in latest)


def _costs(config: CellConfig) -> dict[str, float | None]:
    """What one seed costs; None where only building the model, or reading its data, would tell."""
    plain, shape, num_train = layers_of(config.model), input_shape(config.data), DATASETS[config.data.dataset].num_train
    by_layer = [row.multiply_adds for row in layers.trace(plain, shape)] if plain else []
    passes = 1 if isinstance(config.model, Baseline) else config.train.epochs
    images = None if num_train is None else passes * (num_train - config.data.validation_size)
    return {
        "parameters": layers.num_parameters(plain, shape) if plain else None,
        "multiply-adds": sum(by_layer) or None,
        "images": images,
        "teraflops": 2 * layers.step_multiply_adds(by_layer) * images / 1e12 if by_layer and images else None,
    }


def _estimate(left: Iterable[Task], latest: Mapping[str, Record]) -> str:
    """Time left, from the cells that have a record."""
    known: dict[bytes, float] = {}
    for record in latest.values():
        if isinstance(record, TrainRecord) and record.status == "ok":
            known[canonical_json(record.cell)] = record.wall_s / record.labels.fused_seeds
    wanted = [known.get(canonical_json(task.cell.config)) for task in left if task.seed is not None]
    if not wanted or any(seconds is None for seconds in wanted):
        return ""
    return f" About {duration(sum(s for s in wanted if s))} of one process are left."


def _share_done(mine: Sequence[Task], latest: Mapping[str, Record], old: Mapping[str, Known]) -> str:
    """e.g. `1/3`, `1/3 failed`."""
    states = [latest[task.key].status for task in mine if is_done(task, latest, old)]
    failed = " failed" if any(state != "ok" for state in states) else ""
    return f"{states.count('ok')}/{len(mine)}{failed}" if mine else "not asked for"
