"""Records joined to the cells of the experiments: the rows of every table. No torch.

A train record belongs to a cell when its quality key is the cell's own; a speed record when it holds the cell's
configuration. Of several records with one key and one arithmetic the last counts.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from bench.experiment import Cell, Experiment
from bench.inputs.settings import known_keys, value_of
from bench.record import Record, SpeedRecord, TrainRecord
from bench.records import outcomes, timings
from bench.records.cells import training_of
from bench.records.identity import Numerics, key_and_numerics, newest, repeated
from bench.records.machines import Conditions, Machine
from bench.records.side_records import SideRecord
from fmnist_core.config import CellConfig, canonical_json, input_shape, quality_key, to_dict
from fmnist_core.models import layers, networks


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One cell and what is known of it. A cell whose seeds differ in `Numerics` has one row for each kind."""

    experiment: Experiment
    cell: Cell
    label: str
    trained: Sequence[TrainRecord] = ()
    """Finished seeds, in order."""
    failed: Sequence[TrainRecord] = ()
    speeds: Sequence[SpeedRecord] = ()
    """Of every machine; failed ones too."""

    def values(self, measure: Callable[[TrainRecord], float | None]) -> list[float]:
        """One value per finished seed that has it."""
        measured = (measure(record) for record in self.trained)
        return [value for value in measured if value is not None and math.isfinite(value)]

    def timings(self, machine: Machine) -> list[SpeedRecord]:
        """Those on a machine that count, fastest first."""
        return timings.last_alike([one for one in self.speeds if Machine.of(one) == machine])

    def timed(self, machine: Machine) -> SpeedRecord | None:
        """The middle one of the timings: what cannot be averaged is shown of it."""
        found = self.timings(machine)
        return found[len(found) // 2] if found else None

    @property
    def learnt(self) -> bool:
        """Whether it has finished seeds and each of them learnt something."""
        return min(self.values(outcomes.test_last), default=0.0) > outcomes.LEARNT

    @property
    def waits(self) -> bool:
        """Whether no seed of it was trained yet, nor failed in it."""
        return not self.trained and not self.failed

    @property
    def has_records(self) -> bool:
        return bool(self.trained or self.failed or self.speeds)

    @property
    def numerics(self) -> Numerics | None:
        return Numerics.of(self.trained[0]) if self.trained else None

    @property
    def seeds_wanted(self) -> int:
        """What the experiment asks for on the kind of device that the records come from; on a CPU if there are none."""
        on_gpu = (self.experiment.launch.device == "cuda"
                  or any(record.environment.device != "cpu" for record in [*self.trained, *self.failed]))
        return self.experiment.seeds.cuda if on_gpu else self.experiment.seeds.cpu

    @property
    def num_missing(self) -> int:
        return max(0, self.seeds_wanted - len(self.trained) - len(self.failed))

    @property
    def records(self) -> list[Record]:
        return [*self.trained, *self.failed, *self.speeds]

    @property
    def timed_on(self) -> Sequence[Machine | None]:
        """The machines that it has steps of; None alone where there is no such machine."""
        return sorted({Machine.of(one) for one in self.speeds if one.status == "ok" and one.step_s}) or [None]

    @property
    def trained_in(self) -> Conditions | None:
        """The conditions of its finished seeds, disturbed where any of them was; None where they differ otherwise."""
        found = {Conditions.of(record) for record in self.trained}
        if len({conditions._replace(disturbed=False) for conditions in found}) != 1:
            return None
        return max(found)

    @property
    def num_parameters(self) -> int:
        """As its records say, or in closed form; 0 where neither knows."""
        known = next((r.num_parameters for r in self.records if r.num_parameters), 0)
        return known or self._in_closed_form(layers.num_parameters)

    @property
    def multiply_adds(self) -> int:
        """Of one image's forward pass; likewise."""
        known = next((r.multiply_adds for r in self.records if r.multiply_adds), 0)
        return known or self._in_closed_form(layers.multiply_adds)

    def has(self, settings: Mapping[str, Any]) -> bool:
        """Whether the cell has these values, by dotted key."""
        return all(self.setting(key) == value for key, value in settings.items())

    def _in_closed_form(self, count: Callable[[list[layers.Layer], layers.Shape], int]) -> int:
        plain = networks.layers_of(self.cell.config.model)
        return count(plain, input_shape(self.cell.config.data)) if plain else 0

    def setting(self, key: str) -> Any:
        """The cell's value at a dotted key; None where its model has no such key."""
        return value_of(self.cell.config, key) if key in known_keys(self.cell.config) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    experiments: Sequence[Experiment]
    rows: Mapping[str, Sequence[Row]]
    """By the experiment's name, in the order of its cells."""
    records: Sequence[Record]
    """Those that belong to a row."""
    num_stale: int
    """Records made by another version of the training code, or of a configuration that can no longer be read."""
    repeats: Sequence[Sequence[TrainRecord]]
    """Trainings that were done more than once, of which the last counts: `identity.repeated`."""
    others: Mapping[str, Sequence[Record]]
    """Records of cells that no experiment has, by data set."""
    sides: Sequence[SideRecord] = ()
    """What is known of machines beside their cells."""

    @property
    def every_row(self) -> list[Row]:
        """Of all experiments, in their order."""
        return [row for own in self.rows.values() for row in own]

    def of(self, experiment: str, where: Callable[[Row], bool] = lambda row: True) -> list[Row]:
        """`one_per_cell` of an experiment; none of one that is not there."""
        return [row for row in one_per_cell(self.rows.get(experiment, ())) if where(row)]

    def labelled(self, experiment: str, label: str) -> Row | None:
        """The cell of this name, by `one_per_cell`; None of an experiment that is not there."""
        return next((row for row in self.of(experiment) if row.cell.label == label), None)

    def alike(self, a: Row, b: Row) -> tuple[Row, Row] | None:
        """Rows of the same two cells whose seeds have equal arithmetic: those with most; None if no kind has both."""
        if not (a.trained and b.trained):
            return a, b
        kinds = [[row for row in self.rows[one.experiment.name] if row.cell is one.cell] for one in (a, b)]
        pairs = [(one, other) for one in kinds[0] for other in kinds[1] if one.numerics == other.numerics]
        return max(pairs, key=lambda pair: min(len(row.trained) for row in pair), default=None)


def collect(records: Iterable[Record], experiments: Sequence[Experiment],
            sides: Sequence[SideRecord] = ()) -> Results:
    """Every cell of every experiment gets at least one row, with records or without. Linear in the records."""
    records = list(records)
    by_training, by_cell = _grouped(newest(records))
    asked = {canonical_json(to_dict(cell.config)) for experiment in experiments for cell in experiment.cells}
    otherwise: dict[bytes, list[SpeedRecord]] = defaultdict(list)
    """Timings by an execution that no cell asks for, by what they train."""
    for encoded, speeds in by_cell.items():
        if encoded not in asked:
            otherwise[_training(speeds[0].cell)] += speeds
    rows: dict[str, list[Row]] = {}
    used: dict[object, Record] = {}
    seen_trainings = set()
    num_stale = 0
    for experiment in experiments:
        rows[experiment.name] = []
        for cell in experiment.cells:
            content = to_dict(cell.config)
            training = _training(content)
            speeds = [*otherwise[training], *by_cell.get(canonical_json(content), [])]
            trains = [r for r in by_training.get(training, []) if _is_current(r, cell.config)]
            if training not in seen_trainings:
                num_stale += len(by_training.get(training, [])) - len(trains)
            seen_trainings.add(training)
            own: list[Record] = [*trains, *speeds]
            used |= {key_and_numerics(record): record for record in own}
            rows[experiment.name] += _rows_of(experiment, cell, trains, speeds)
    others: dict[str, list[Record]] = defaultdict(list)
    for training, group in by_training.items():
        if training in seen_trainings:
            continue
        up_to_date = current(group)
        num_stale += len(group) - len(up_to_date)
        others[_dataset(training)] += up_to_date
    for speeds in by_cell.values():
        if key_and_numerics(speeds[0]) not in used:
            others[_dataset(_training(speeds[0].cell))] += speeds
    return Results(experiments=experiments, rows=rows, records=list(used.values()), num_stale=num_stale,
                   repeats=[group for group in repeated(records) if key_and_numerics(group[-1]) in used],
                   others={name: others[name] for name in sorted(others) if others[name]}, sides=sides)


def one_per_cell(rows: Iterable[Row]) -> list[Row]:
    """Of each cell the row with most seeds, by the cell's own name; the failures and the timings of all its rows."""
    kinds: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[id(row.cell)].append(row)
    return [replace(max(own, key=lambda row: len(row.trained)), label=own[0].cell.label,
                    failed=[record for row in own for record in row.failed],
                    speeds=[speed for row in own for speed in row.speeds]) for own in kinds.values()]


def comparable(rows: Sequence[Row]) -> list[Row]:
    """Without the rows of another arithmetic than the main one, though the same precision was asked for.

    The main one has two seeds or more of most cells; of equal ones, that with most seeds. Rows without records stay; an
    experiment that asks for several precisions keeps one kind of arithmetic for each.
    """
    seeds: dict[tuple[str, Numerics], list[int]] = defaultdict(list)
    for row in rows:
        if row.numerics:
            seeds[row.cell.config.train.precision, row.numerics].append(len(row.trained))
    main: dict[str, Numerics] = {}
    for kind in sorted(seeds, key=lambda kind: (sum(n > 1 for n in seeds[kind]), sum(seeds[kind]), kind)):
        main[kind[0]] = kind[1]
    return [row for row in rows if row.numerics in (None, main.get(row.cell.config.train.precision))]


def current(group: Sequence[TrainRecord]) -> list[TrainRecord]:
    """Of records with one training: those of this version of the code; none where the configuration cannot be read."""
    try:
        cell = msgspec.convert(group[0].cell, CellConfig)
    except ValueError:
        return []
    return [record for record in group if _is_current(record, cell)]


def memory_formats(formats: Iterable[str]) -> set[str]:
    """The different ones. `any`, of tensors that lie the same way in both, goes with either."""
    return ({one or "unknown" for one in formats} - {"any"}) or {"any"}


def _grouped(records: Iterable[Record]) -> tuple[dict[bytes, list[TrainRecord]], dict[bytes, list[SpeedRecord]]]:
    by_training: dict[bytes, list[TrainRecord]] = defaultdict(list)
    by_cell: dict[bytes, list[SpeedRecord]] = defaultdict(list)
    for record in records:
        if isinstance(record, TrainRecord):
            by_training[_training(record.cell)].append(record)
        else:
            by_cell[canonical_json(record.cell)].append(record)
    return by_training, by_cell


def _rows_of(
    experiment: Experiment, cell: Cell, trains: Sequence[TrainRecord], speeds: Sequence[SpeedRecord]
) -> list[Row]:
    kinds = sorted({Numerics.of(record) for record in trains if record.status == "ok"})
    if len(kinds) < 2:
        return [_row(experiment, cell, cell.label, trains, speeds)]
    of_kind: dict[Numerics, list[TrainRecord]] = {kind: [] for kind in kinds}
    for record in trains:
        of_kind[_nearest_kind(record, kinds)].append(record)
    return [_row(experiment, cell, f"{cell.label} ({kind})", of_kind[kind], speeds if kind == kinds[0] else ())
            for kind in kinds]


def _nearest_kind(record: TrainRecord, kinds: Sequence[Numerics]) -> Numerics:
    """Its own; of a failure, which may have ended before it had one, the first with as many processes, or the first."""
    own = Numerics.of(record)
    if own in kinds:
        return own
    return next((kind for kind in kinds if kind.num_processes == own.num_processes), kinds[0])


def _row(
    experiment: Experiment, cell: Cell, label: str, trains: Sequence[TrainRecord], speeds: Sequence[SpeedRecord]
) -> Row:
    in_order = sorted(trains, key=lambda record: record.seed)
    return Row(experiment=experiment, cell=cell, label=label, speeds=speeds,
               trained=[record for record in in_order if record.status == "ok"],
               failed=[record for record in in_order if record.status != "ok"])


def _is_current(record: TrainRecord, cell: CellConfig) -> bool:
    return record.quality_key == quality_key(cell, record.seed, num_processes=record.labels.num_processes)


def _training(cell: Mapping[str, Any]) -> bytes:
    return canonical_json(training_of(cell))


def _dataset(training: bytes) -> str:
    data = msgspec.json.decode(training)["data"]
    return str(data.get("dataset", "fashion-mnist")) if isinstance(data, dict) else "unknown"
