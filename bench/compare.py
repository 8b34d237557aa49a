"""Is B faster, slower, better or worse than A, and how sure is that?

    python -m bench.compare runs other/runs            two sets of records: folders, or .jsonl files
    python -m bench.compare HEAD~3 HEAD                two revisions, timed in turns here and now
    python -m bench.compare HEAD working-tree          what is not committed yet
    python -m bench.compare HEAD~3 HEAD --set train.precision=bf16

Records: cells of both sets, speeds only where machine and labels agree, accuracies by Welch's test over seeds.
Revisions: fmnist_core of each, a process per block, A B, B A, ... Several questions at once are corrected by Holm.
An epoch is what the training loop takes, between its steps too: of records the median epoch of undisturbed trainings.
Exit code 0; 1 if anything is slower or worse by more than the threshold, or failed in B alone; 2 for wrong input; with
--strict 3 if anything could not be told: not resolved, not compared, or in one of the sets alone.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import NamedTuple

from bench import command, environment, stats, store
from bench.formatting import first_of, ratio_text, table
from bench.judging import record_sets
from bench.judging.questions import NOT_RESOLVED, SLOWER, WORSE, Answer, judge, speed_question
from bench.judging.record_sets import Sets
from bench.record import Environment, Record
from bench.records import cells
from bench.records.noise import POWER, pairs_to_find, resolvable_text
from bench.records.side_records import PAIRS, THRESHOLD, Calibration, Metric, Pairs, calibration_for
from bench.sample_size import MAX_NEEDED
from bench.timing import revisions, side_runs
from fmnist_core.nearest import nearest

LEGEND = ("B against A: of times A over B, so that above 1 B is faster; of accuracies B less A; in brackets the 95 % "
          "interval.")
MAX_NAMED = 5
"""Cells that are not compared, by one reason."""
MAX_DIFFERENCES = 3
"""Settings in which two cells differ that an error names."""
ACCURACY_THRESHOLD = 0.001
"""A change below 0.1 points does not count."""
OF_RECORDS = "allow", "accuracy_threshold"
OF_REVISIONS = "rounds", "experiment", "set", "dataset", "data_dir", "threads", "block_s"
"""Options without effect on the other kind of comparison."""
KINDS = "faster", "better", SLOWER, WORSE, "the same", "identical", NOT_RESOLVED
"""How a verdict begins."""
NOT_TOLD = 3
"""Exit code."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    given = {name for name, value in vars(options).items() if value != parser.get_default(name)}
    try:
        found = _compare(options, given)
    except ValueError as error:
        print(f"bench.compare: {error}", file=sys.stderr)
        return side_runs.WRONG_INPUT
    headers = ["cell", "metric", "A", "B", "B against A", "B is"]
    print(table(headers, found.answers, text_columns=2))
    print(f"\n{LEGEND}\n\n{found.in_short}")
    if found.num_failures or any(answer.is_a_loss for answer in found.answers):
        return side_runs.SLOWER
    return NOT_TOLD if options.strict and found.is_open else side_runs.OK


class _Found(NamedTuple):
    answers: list[Answer]
    num_failures: int = 0
    """In B alone."""
    num_other_failures: int = 0
    num_refused: int = 0
    """Cells of which something was not compared."""
    num_alone: int = 0
    """Cells that one set has alone."""
    num_stale: int = 0
    """Trainings left out."""

    @property
    def is_open(self) -> bool:
        return (any([self.num_other_failures, self.num_refused, self.num_alone, self.num_stale])
                or not all(answer.is_resolved for answer in self.answers))

    @property
    def in_short(self) -> str:
        """e.g. `1 slower, 3 the same, 2 not resolved; 1 failed in B alone`."""
        kinds = Counter(next(kind for kind in KINDS if answer.verdict.startswith(kind)) for answer in self.answers)
        told = [", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])] if kinds else []
        told += [f"{num} {what}" for num, what in ((self.num_failures, "failed in B alone"),
                                                   (self.num_other_failures, "failed in A, too, or alone"),
                                                   (self.num_refused, "not compared"),
                                                   (self.num_alone, "in one set alone"),
                                                   (self.num_stale, "left out")) if num]
        return f"In short: {'; '.join(told) or 'nothing to compare'}."


def _compare(options: argparse.Namespace, given: Collection[str]) -> _Found:
    sides = (options.a, options.b)
    if all(Path(side).exists() for side in sides):
        _check_effects("records", OF_REVISIONS, given)
        return _compare_records(options)
    commits = [revisions.commit_of(side) for side in sides]
    for side, commit in zip(sides, commits, strict=True):
        if commit is None and not Path(side).exists():
            raise ValueError(f"'{side}' is neither a folder or file of records nor a revision")
    if None in commits:
        raise ValueError(f"'{options.a}' and '{options.b}': compare records with records and revisions with revisions")
    _check_effects("revisions", OF_RECORDS, given)
    return _Found(_compare_revisions(options, [commit for commit in commits if commit]))


def _check_effects(what: str, others: Sequence[str], given: Collection[str]) -> None:
    for name in others:
        if name in given:
            raise ValueError(f"--{name.replace('_', '-')} has no effect on a comparison of {what}")


def _compare_records(options: argparse.Namespace) -> _Found:
    folder_of = lambda side: Path(side) if Path(side).is_dir() else Path(side).parent
    folders = [Path(options.store), folder_of(options.b), folder_of(options.a)]

    used: list[Calibration] = []

    def known_noise(of: Environment) -> Calibration | None:
        known = [each for folder in folders if (each := calibration_for(folder, of))]
        found = min(known, key=lambda each: bool(each.reason_against), default=None)
        if found and found not in used:
            used.append(found)
        return found

    a, b = read(options.a), read(options.b)
    sets: Sets = record_sets.compare(
        a, b, calibration_for=known_noise, threshold=options.threshold,
        accuracy_threshold=options.accuracy_threshold, allowed=options.allow)
    if differences := record_sets.software_differences(a, b):
        print(f"A against B: {', '.join(differences)}.\n")
    for reason, names in sets.refused.items():
        print(f"not compared: {reason}: {first_of(names, MAX_NAMED, ', ')}")
    if sets.refused:
        print("To compare all the same, name what may differ: --allow NAME\n")
    for failure in sets.failed:
        print(f"failed: {failure}")
    for warning in (f"the calibration of {each.started_at[:10]}: {text}" for each in used for text in each.warnings):
        print(f"WARNING: {warning}\n")
    if sets.stale_a or sets.stale_b:
        print("Left out, of another version of the training code or of a configuration that can no longer be read: "
              f"{sets.stale_a} trainings of A, {sets.stale_b} of B.\n")
    for side, texts in (("A", sets.only_a), ("B", sets.only_b)):
        if texts:
            print(f"Only in {side}: {first_of([sets.names[text] for text in texts], MAX_NAMED, ', ')}.\n")
    if not sets.answers and not sets.refused and not sets.failed:
        raise ValueError(f"{options.a} and {options.b} have no cell in common{_nearest(sets)}")
    return _Found(sets.answers, sets.num_failed_in_b_alone, len(sets.failed) - sets.num_failed_in_b_alone,
                  len({name for names in sets.refused.values() for name in names}),
                  len(sets.only_a) + len(sets.only_b), sets.stale_a + sets.stale_b)


def _nearest(sets: Sets) -> str:
    """What the two cells most alike differ in, and how to compare them all the same."""
    differences = cells.nearest_settings(sets.only_a, sets.only_b)
    if len(differences) > MAX_DIFFERENCES:
        return f"; the most alike differ in {len(differences)} settings"
    if not differences:
        return ": neither seeds nor timings of any are in both"
    told = ", ".join(f"{key}: {how}" for key, how in differences.items())
    allow = " ".join(f"--allow {key}" for key in differences)
    return f"; the most alike differ in {told}; to compare such cells: {allow}"


def read(path: str) -> list[Record]:
    """The records of a folder or of one of its .jsonl files that count. Raises ValueError where there are none."""
    records = store.read(path) if Path(path).is_dir() else store.read_file(path)
    if not records:
        hint = "; it is a checkout: in one, name two of its revisions" if (Path(path) / ".git").exists() else ""
        raise ValueError(f"{path} holds no records{hint}")
    return records


def _compare_revisions(options: argparse.Namespace, commits: list[str]) -> list[Answer]:
    cell = side_runs.cell_of(options)
    with side_runs.alone(options.store) as load_warnings:
        metrics = revisions.time_in_turns(commits, revisions.request(cell, options), options.rounds)
        for warning in load_warnings():
            print(f"WARNING: {warning}\n")
    here = environment.collect(options.threads)
    _say_resolvable(metrics["train_step"], calibration_for(options.store, here), options.threshold)
    return judge_revisions(f"{commits[1][:12]} against {commits[0][:12]}", metrics, options.threshold)


def judge_revisions(what: str, metrics: Mapping[Metric, Pairs], threshold: float) -> list[Answer]:
    """Each pair is one block of A and one of B, taken next to each other."""
    a, b = ({metric: geometric_mean(getattr(pairs, side)) for metric, pairs in metrics.items()}
            for side in ("a_s", "b_s"))
    ratios = {metric: stats.paired_ratio(pairs.a_s, pairs.b_s) for metric, pairs in metrics.items()}
    return judge([speed_question(what, metric, a, b, ratio, ratio_text(ratio), threshold)
                  for metric, ratio in ratios.items()])


def _say_resolvable(pairs: Pairs, calibration: Calibration | None, threshold: float) -> None:
    """What this many pairs can find, and how many it takes: by this run's own spread, and by the calibration."""
    rounds = len(pairs.a_s)
    if rounds < 2 or not threshold:
        return
    known = {"the spread of these pairs": pairs}
    if calibration and not calibration.reason_against:
        known[f"the calibration of {calibration.started_at[:10]}"] = calibration.metrics["train_step"]
    found = [f"{resolvable_text(noise, rounds, threshold)} % by {source}"
             for source, noise in known.items()]
    needed = [f"{_pairs_needed(noise, threshold)} by {source}" for source, noise in known.items()]
    print(f"A change of the training step that {rounds} pairs find {100 * POWER:g} times in 100: {'; '.join(found)}.\n"
          f"Pairs (--rounds) that find {200 * threshold:g} %: {'; '.join(needed)}.\n")
    if len(known) == 1:
        why = calibration.reason_against if calibration else "this machine has no calibration"
        print(f"{why[0].upper()}{why[1:]}, see python -m bench.calibrate.\n")


def _pairs_needed(noise: Pairs, threshold: float) -> str:
    try:
        return f"{pairs_to_find(noise, threshold):,}"
    except ValueError:  # a threshold that is next to nothing beside the noise
        return f"more than {MAX_NEEDED:,}"


def _parser() -> argparse.ArgumentParser:
    parser = side_runs.parser("compare", __doc__, rounds=PAIRS, settings=True)
    parser.add_argument("a", metavar="A", help="records, or a revision")
    parser.add_argument("b", metavar="B",
                        help=f"the same; {revisions.WORKING_TREE}: the files as they are, committed or not")
    parser.add_argument("--threshold", type=side_runs.up_to(1), default=THRESHOLD, metavar="X",
                        help=f"least relative change of a speed that counts; default: {THRESHOLD}")
    parser.add_argument("--accuracy-threshold", type=side_runs.up_to(1), default=ACCURACY_THRESHOLD, metavar="X",
                        help=f"least change of an accuracy that counts, as a fraction; default: {ACCURACY_THRESHOLD}")
    parser.add_argument("--strict", action="store_true", help=f"exit code {NOT_TOLD} if anything could not be told")
    parser.add_argument("--allow", action="append", type=_fact, default=[], metavar="NAME",
                        help="records: a fact or a setting that may differ all the same, e.g. torch, train.ema")
    return parser


def _fact(text: str) -> str:
    known = record_sets.names_of_facts()
    if text not in known and not cells.is_setting(text):
        raise argparse.ArgumentTypeError(f"{text!r}: unknown{nearest(text, known)}; allowed: {', '.join(known)}")
    return text


if __name__ == "__main__":
    command.leave(main)
