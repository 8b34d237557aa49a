"""One section of RESULTS.md per experiment. No torch."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from bench.experiment import Cell, Experiment
from bench.formatting import code, escape, estimate, folded, plural, significant, table
from bench.pages import goals
from bench.pages.answers import answer
from bench.pages.figures import DRAWINGS, FOLDER
from bench.pages.layer_tables import in_closed_form, layer_table
from bench.pages.shown import Shown
from bench.pages.side_tables import headers_and_rows
from bench.pages.speed_answers import speed_answer, turns_answer
from bench.pages.tables import (
    accuracy_table,
    failures,
    labels_text,
    settings_table,
    shared_settings,
    speed_table,
    timed_when,
)
from bench.pages.targets import targets_table
from bench.record import SpeedRecord
from bench.records.identity import Numerics
from bench.records.machines import Machine
from bench.records.noise import resolvable_unpaired
from bench.records.rows import Row, comparable, one_per_cell
from bench.records.side_records import Pairs, Turns
from fmnist_core.config import CustomModel, to_dict

WITH_LAYERS = ("network1_printed", "network2_printed", "table_1_1", "table_1_2")
"""Whose first cell is shown layer by layer, as that of a network of one's own is: sizes that its settings leave unsaid.
"""
MOST_NAMED = 9
"""Cells of a sentence; of more it gives the number."""


def section(experiment: Experiment, shown: Shown) -> str:
    """Question, answer, settings, tables, figures; folded up while no cell has a record."""
    rows = shown.results.rows[experiment.name]
    note = f" {escape(experiment.note)}." if experiment.note else ""
    parts = [f"### {escape(experiment.title)}", code(experiment.name) + (
        f". **Question.** {escape(experiment.question)}{note}" if experiment.question else "")]
    if not any(row.has_records for row in rows):
        return "\n\n".join([*parts, f"**Answer.** {answer(rows)[0]}", _waiting(experiment, rows, shown)])
    by_dataset, turns = _by_dataset(rows), shown.turns_of(experiment.name)
    parts += _bullets("**Claims that rest on it**, each corrected for all of its comparisons:",
                      shown.claims.get(experiment.name, ()))
    parts += _bullets("**Goals**, the recipe chosen by validation accuracy:", goals.of(experiment.name, shown))
    parts += [_answer(own, shown, _of_these(turns, own)) for own in by_dataset.values()]
    for dataset, own in by_dataset.items():
        parts += _tables(own, dataset, shown)
        parts += [_turns_table(one, shown) for one in _of_these(turns, own)]
    return "\n\n".join(part for part in [*parts, *figure_links(experiment.name, shown)] if part)


def _bullets(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title}\n\n" + "\n".join(f"- {line}" for line in lines)] if lines else []


def _by_dataset(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.cell.config.data.dataset, []).append(row)
    return found


def _answer(rows: Sequence[Row], shown: Shown, turns: Sequence[Turns]) -> str:
    """Of the cells of one data set. What took turns tells more than what was timed one after the other."""
    in_turns = [(Machine.at(one.environment), _changed(one), turns_answer(one)) for one in turns]
    speeds = [f"Steps on {shown.names[machine]}{changed}, in turns: {text}"
              for machine, changed, text in in_turns if text]
    if not speeds:
        cells = one_per_cell(rows)
        speeds = [f"On {name}: {text}" for machine, name in shown.names.items()
                  if (text := speed_answer(cells, machine, shown.noise.get(machine)))]
    first, *others = answer(rows)
    return "\n\n".join([f"**Answer.** {first}", "\n".join(f"- {text}" for text in (*others, *speeds))]).rstrip()


def shows(turns: Turns, rows: Sequence[Row]) -> bool:
    """Whether the section of these rows shows them."""
    return any(row.has_records for row in rows) and bool(_of_these([turns], rows))


def _of_these(turns: Sequence[Turns], rows: Sequence[Row]) -> list[Turns]:
    """Those that timed one of the cells."""
    return [one for one in turns if any(one.step_s_of(to_dict(row.cell.config)) for row in rows)]


def _changed(turns: Turns) -> str:
    return f" with {', '.join(map(code, turns.changes))}" if turns.changes else ""


def _turns_table(turns: Turns, shown: Shown) -> str:
    headers, body = headers_and_rows(turns)
    where = f"{shown.names[Machine.at(turns.environment)]}{_changed(turns)}"
    return (f"**Steps on {where}, in turns**: blocks of training steps of each cell, so that the machine's drift "
            "strikes all alike; ratios of blocks beside each other [95 % interval].\n\n"
            + table(headers, body) + "".join(f"\n- {escape(warning)}" for warning in turns.warnings))


def _waiting(experiment: Experiment, rows: Sequence[Row], shown: Shown) -> str:
    where = "a GPU" if experiment.launch.device == "cuda" else "a CPU or a GPU"
    title = f"Waiting: {plural(len(rows), 'cell')} × {plural(rows[0].seeds_wanted, 'seed')}, for {where}"
    tables = [part for dataset, own in _by_dataset(rows).items() for part in _tables(own, dataset, shown) if part]
    command = code(f"accelerate launch bench/run.py {experiment.name}")
    return folded(title, "\n\n".join([*tables, f"To run it: {command}"]))


def figure_links(place: str, shown: Shown) -> list[str]:
    """The figures of a section as Markdown images; one without records yet is named as waiting."""
    return [f"![{drawing.alt}]({FOLDER}/{drawing.name}.svg)" if f"{drawing.name}.svg" in shown.drawn else
            f"Figure waiting for records: {drawing.alt}." for drawing in DRAWINGS if drawing.section == place]


def _tables(rows: Sequence[Row], dataset: str, shown: Shown) -> list[str]:
    shared, names = shared_settings(rows), shown.names
    parts = [f"**Data set: {escape(dataset)}**" if dataset != "fashion-mnist" else "",
             f"All cells: {shared}." if shared else "",
             f"**Settings**\n\n{settings}" if (settings := _written_out(rows) and settings_table(rows)) else "",
             _layers(rows[0]),
             f"**Accuracy (%)**\n\n{accuracy_table(rows, names)}",
             "\n".join(part for part in (_trained_on(rows, shown), _notes(rows)) if part), _extra_figures(rows)]
    if len(comparable(rows)) < len(rows):
        kinds = "; ".join(f"{kind}: {_named(own)}" for kind, own in _by_kind(rows))
        parts.append(f"**The rows differ in their arithmetic, and are compared within each kind only.** {kinds}.")
    if to_targets := targets_table(rows, rows[0].experiment.targets, names):
        parts.append(folded("Training time to a target validation accuracy", to_targets))
    timed, cells = False, one_per_cell(rows)
    elsewhere: dict[str, list[str]] = defaultdict(list)
    """By experiment, the machines on which one cell was timed, and for that experiment."""
    others = shown.results.rows.keys() - {rows[0].experiment.name}
    for machine, name in names.items():
        speeds = [speed for row in cells if (speed := row.timed(machine))]
        if len(speeds) == 1 < len(cells) and speeds[0].experiment in others:
            elsewhere[speeds[0].experiment].append(name)
        elif speeds:
            timed = True
            warnings = _warnings(cells, machine, shown.noise.get(machine))
            title, body = f"Speed on {name}", f"{speed_table(cells, machine)}\n\n{warnings}"
            about, alone = f"({labels_text(speeds)}), {timed_when(speeds)}", len(speeds) == 1 < len(cells)
            parts.append(folded(f"{title}: one cell", f"{about}\n\n{body}") if alone else
                         f"**{title}** {about}\n\n{body}")
    parts += [f"**Speed on {', '.join(machines)}**: of one cell, in the section of {code(experiment)}."
              for experiment, machines in elsewhere.items()]
    to_time = [row for row in cells if row.experiment.timings and row.cell.has_steps]
    if to_time and not timed and not elsewhere:
        parts.append(f"**Speed**: waiting, none of {plural(len(to_time), 'cell')} is timed.")
    return parts


def _layers(row: Row) -> str:
    """In closed form; of a network of one's own as its timing saw them."""
    layers = in_closed_form(row.cell.config) if row.experiment.name in WITH_LAYERS else []
    if isinstance(row.cell.config.model, CustomModel):
        layers = next((speed.layers for speed in row.speeds if speed.layers), [])
    return folded(f"Layers, {escape(row.cell.label)}", layer_table(layers)) if layers else ""


def _named(rows: Sequence[Row]) -> str:
    return _listed([row.cell.label for row in rows])


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(map(escape, labels)) if len(labels) <= MOST_NAMED else plural(len(labels), "cell")


def _by_kind(rows: Sequence[Row]) -> list[tuple[Numerics, list[Row]]]:
    kinds = sorted({row.numerics for row in rows if row.numerics})
    return [(kind, [row for row in rows if row.numerics == kind]) for kind in kinds]


def _trained_on(rows: Sequence[Row], shown: Shown) -> str:
    """Where and how the accuracies were made, where it is not one seed at a time on a CPU."""
    about = lambda record: (shown.names[Machine.of(record)], str(Numerics.of(record)), record.labels.captured,
                            record.labels.fused_seeds)
    counts = Counter(about(record) for row in rows for record in row.trained)
    if not any(captured or fused > 1 for _, _, captured, fused in counts):
        return ""
    texts = []
    for (name, kind, captured, fused), number in sorted(counts.items()):
        how = [str(kind), *["captured"] * captured, *[f"{fused} seeds as one module"] * (fused > 1)]
        texts.append(f"{name} ({', '.join(how)}): {plural(number, 'seed')}")
    return f"- Trained on {'; '.join(texts)}"


def _notes(rows: Sequence[Row]) -> str:
    cells: dict[int, Cell] = {id(row.cell): row.cell for row in rows}
    lines = [f"- {escape(cell.label)}: {escape(cell.note)}" for cell in cells.values() if cell.note]
    sources: dict[str, list[str]] = {}
    for cell in cells.values():
        if cell.reported.source:
            sources.setdefault(cell.reported.source, []).append(cell.label)
    lines += [f"- Reported figures{f' of {_listed(labels)}' if len(sources) > 1 else ''}: {escape(source)}"
              for source, labels in sources.items()]
    return "\n".join([*lines, *failures(rows)])


def _extra_figures(rows: Sequence[Row]) -> str:
    """Figures that only some systems have, by name."""
    names = list(dict.fromkeys(name for row in rows for record in row.trained for name in record.extra))
    if not names:
        return ""
    body = [[escape(row.label), *(_extra_figure(row, name) for name in names)] for row in rows]
    return f"**Further figures** (accuracies in %)\n\n{table(['cell', *map(code, names)], body)}"


def _extra_figure(row: Row, name: str) -> str:
    values = [record.extra[name] for record in row.trained if name in record.extra]
    if name.endswith("accuracy") or not values:
        return estimate(values)
    return f"{sum(values):g} of {plural(len(values), 'seed')}"


def _warnings(rows: Sequence[Row], machine: Machine, noise: Pairs | None) -> str:
    timed: list[tuple[Row, SpeedRecord]] = [(row, speed) for row in rows if (speed := row.timed(machine))]
    untimed = [row for row in rows if row.timed(machine) is None]
    lines = []
    once = [row for row, _ in timed if len(row.timings(machine)) == 1]
    if noise is not None and len(once) > 1:
        least = significant(100 * resolvable_unpaired(noise))
        lines.append(f"- Timed once each: by this machine's calibration, steps of two cells that differ by {least} % "
                     "are told apart nine times in ten")
    lines += [f"- Not timed: {_named(untimed)}"] if untimed else []
    for row, speed in timed:
        of_cell = [one for one in row.speeds if one.status == "ok" and one.cell == speed.cell
                   and Machine.of(one) == machine]
        if (number := len(row.timings(machine))) < len(of_cell):
            lines.append(f"- {escape(row.label)}: {number} of {len(of_cell)} timings count; the others were disturbed, "
                         "or are of another commit")
    lines += [f"- {escape(row.label)}: {escape(warning)}" for row, speed in timed for warning in speed.warnings]
    lines += [f"- {escape(row.label)}: {speed.labels.recompiles} recompiles, {speed.labels.graph_breaks} graph breaks"
              for row, speed in timed if speed.labels.recompiles or speed.labels.graph_breaks]
    loads = [speed.environment.load for _, speed in timed if speed.environment.load]
    if loads:
        low, high = min(loads), max(loads)
        lines.append("- Load of the machine when the timings began (one-minute mean): "
                     + (f"{low:g} to {high:g}" if low < high else f"{low:g}"))
    return "\n".join(lines)


def _written_out(rows: Sequence[Row]) -> bool:
    """Whether the labels are names, not the settings themselves."""
    shown = lambda cell: all(str(value).lower() in cell.label.lower() for value in cell.axes.values())
    return not all(shown(row.cell) for row in rows)
