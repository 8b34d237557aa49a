"""The results in short, between two marks in the README. No torch."""

from collections import Counter
from collections.abc import Sequence

from bench import stats
from bench.claims import Judged
from bench.formatting import NOTHING, escape, estimate, mean_with_interval, percent, plural, ratio_text, table
from bench.judging.final_network import VALIDATION, on_all_images, readings
from bench.judging.trials import SELECTED, place_of_selected
from bench.pages.reported import TEST_SOURCES
from bench.pages.side_tables import rate_text, rates
from bench.pages.verdicts import verdict_text, why
from bench.records import outcomes
from bench.records.cells import training_of
from bench.records.machines import Machine
from bench.records.rows import Results, comparable
from bench.records.side_records import Peers
from fmnist_core.config import to_dict

BEGIN, END = "<!-- results: written by `python -m bench.report` -->", "<!-- end of the results -->"


def render(results: Results, judged: Sequence[Judged]) -> str:
    """Verdicts on the claims, the final network's accuracies beside the report's, speeds beside other systems'."""
    verdicts = [[escape(one.claim.statement), verdict_text(one), why(one)] for one in judged]
    rows = [*readings(results), *on_all_images(results)]
    accuracies = [["the report", percent(VALIDATION, 1), _test_figures(" and "), "1",
                   NOTHING]]
    accuracies += [[f"here, {escape(row.label)}", estimate(row.values(outcomes.validation_last)),
                    estimate(row.values(outcomes.test_last)), str(len(row.trained)), str(row.numerics)]
                   for row in rows if row.trained]
    return "\n\n".join([
        *_in_short(results, judged),
        table(["the report's claim", "verdict here", "why"], verdicts, text_columns=3),
        "The final network in its readings: the report does not say whether a ReLU follows fc1, nor which images its "
        "90.8 % was trained on. Last epoch, mean ± sd over seeds [95 % interval], in per cent:",
        table(["", "validation", "test", "seeds", "arithmetic"], accuracies, text_columns=1),
        *_kernel_depth(results),
        *_speeds(results),
    ])


def _in_short(results: Results, judged: Sequence[Judged]) -> list[str]:
    """The verdicts counted, a typical run of the final network, and how its trial fares among the others."""
    verdicts = Counter(one.verdict for one in judged)
    counted = ", ".join(f"{num} {verdict}" for verdict, num in verdicts.most_common())
    sentences = [f"Of {plural(len(judged), 'claim')}: {counted}."]
    row = max(readings(results), key=lambda row: len(row.trained), default=None)
    if row is not None and row.trained:
        validation, test = (percent(stats.mean(row.values(one)), 1)
                            for one in (outcomes.validation_last, outcomes.test_last))
        sentences.append(f"A run of the final network ends at {validation} % on validation and {test} % on test on "
                         f"average ({escape(row.label)}, n = {len(row.trained)}); the report's one run at "
                         f"{percent(VALIDATION, 1)} % and {_test_figures(' or ')} %.")
    accuracy, loss = (place_of_selected(results, one, sign)
                      for one, sign in ((outcomes.validation_last, 1), (outcomes.validation_loss_last, -1)))
    if accuracy and loss:
        sentences.append(f"{SELECTED}, which the report selects as the best of Table 1.2, takes {accuracy} by "
                         f"mean validation accuracy, and {loss} by mean validation loss, the least first: the tests "
                         "of both belong to claim 2.")
    return [" ".join(sentences)]


def _test_figures(joined: str) -> str:
    return joined.join(percent(figure, 1) for _, figure in TEST_SOURCES)


def _kernel_depth(results: Results) -> list[str]:
    """The sweep that the project is named for, as a grid of accuracies."""
    rows = [row for row in comparable(results.of("kernel_depth")) if row.trained]
    grid = {(row.setting("model.kernel_size"), row.setting("model.depth")): row for row in rows}
    if not grid:
        return []
    sizes, depths = (sorted({at[i] for at in grid}) for i in (0, 1))
    shown = lambda row: mean_with_interval(row.values(outcomes.test_last)) if row else NOTHING
    body = [[str(size), *(shown(grid.get((size, depth))) for depth in depths)] for size in sizes]
    ends = [str(end(len(row.trained) for row in rows)) for end in (min, max)]
    return [f"Kernel size x depth, networks of this project's own, {rows[0].setting('train.epochs')} epochs: mean test "
            f"accuracy at the last epoch [95 % interval], in per cent, {' to '.join(dict.fromkeys(ends))} seeds a "
            f"cell, {rows[0].numerics}:",
            table(["kernel size", *(f"depth {depth}" for depth in depths)], body, text_columns=1)]


def _speeds(results: Results) -> list[str]:
    """The final network beside other systems: the newest comparison on each kind of machine, CPUs first."""
    final = [training_of(to_dict(row.cell.config)) for row in readings(results)]
    peers = [one for one in results.sides if isinstance(one, Peers) and training_of(one.cell) in final]
    newest = {Machine.at(one.environment).hardware: one for one in sorted(peers, key=lambda one: one.started_at)}
    sides = sorted(newest.values(), key=lambda one: (one.environment.device != "cpu", one.started_at))
    sides = [side for side in sides if _accuracies(side)]
    if not sides:
        return []
    columns = [{(peer.name, peer.what): rate_text(peer) for peer in side.systems if peer.runs} for side in sides]
    found = dict.fromkeys(system for column in columns for system in column)
    names = list(dict.fromkeys(peer.name for side in reversed(sides) for peer in side.systems))
    systems = sorted(found, key=lambda one: names.index(one[0]))
    body = [[*map(escape, system), *(column.get(system, NOTHING) for column in columns)] for system in systems]
    body += [["the highest over the tutorial", "", *map(_highest_ratio, sides)],
             ["test accuracy (%), lowest to highest of a column", "equal work", *map(_accuracy_range, sides)]]
    return ["The final network trained for a short while by other systems and by this one, in turns: images per second "
            "over the whole machine, geometric mean over rounds [95 % interval; of two rounds none]; in cells mode and "
            "of fused seeds those of several trainings at once. Captured steps are asked for with "
            "`--set execution.capture=true`.",
            table(["", "what it is", *map(_head, sides)], body, text_columns=2)]


def _head(side: Peers) -> str:
    machine = Machine.at(side.environment)
    processors = f", {plural(machine.num_cpus, 'processor')}" if machine.device == "cpu" else ""
    return (f"{escape(machine.hardware)}{processors}: {plural(side.epochs, 'epoch')} of {side.images_per_epoch:,} "
            f"images, {escape(side.started_at[:10])}")


def _highest_ratio(side: Peers) -> str:
    """Of the fastest system, by its rounds beside those of the first."""
    ran = [peer for peer in side.systems if peer.runs]
    return ratio_text(stats.paired_ratio(rates(max(ran, key=lambda peer: stats.mean(rates(peer)))), rates(ran[0])))


def _accuracy_range(side: Peers) -> str:
    means = _accuracies(side)
    return f"{percent(min(means))} to {percent(max(means))}"


def _accuracies(side: Peers) -> list[float]:
    """Of each system that ran: mean over its trainings."""
    return [stats.mean([accuracy for run in peer.runs for accuracy in run.test_accuracy])
            for peer in side.systems if peer.runs]


def inserted(readme: str, block: str) -> str:
    """`readme` with `block` between its marks; as it was where it has none."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}" if begin and end else readme
