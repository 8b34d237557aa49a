"""What the harness promises of sweeps that are killed, starved and fed nonsense: docs/promises.md. No torch.

    pytest -m faults --long-faults --faults-record experiments/results/faults.json    inject the faults, count them
    python -m tests.promises                                                          write the page

The page is made of `PROMISES` and of the record of some runs; a test holds it to both.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from bench import command
from bench.environment import ROOT
from bench.formatting import code, count, escape, table
from bench.inputs.strict_parser import StrictParser
from bench.record import Environment
from bench.sweep import attempts, launch
from bench.sweep.notice import GRACE_S

RECORD = ROOT / "experiments" / "results" / "faults.json"
PAGE = ROOT / "docs" / "promises.md"


class FaultRun(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One run of tests marked `faults`, none of which failed."""

    files: list[str]
    """Of the tests that ran."""
    share: float
    """Of the kills and inputs of the long form, `--long-faults`; 0: the short form."""
    stopped: bool = False
    """By its time limit, or by hand: not all the tests had their turn, or all their inputs."""
    num_tests: int
    """Those that passed."""
    seconds: float
    counts: dict[str, int]
    """What was injected or tried, to how often."""
    environment: Environment
    started_at: str
    """UTC, ISO 8601."""


class Promise(NamedTuple):
    what: str
    tests: tuple[str, ...]
    """`file::function`, below `tests/`."""
    counted: tuple[str, ...] = ()
    """Keys of `FaultRun.counts`."""


PROMISES = (
    Promise(
        "A kill at any instant loses at most the cell in flight. No finished record is lost or written twice, and the "
        "store can always be read.",
        ("test_kills.py::test_a_sweep_is_killed_again_and_again",
         "test_kills.py::test_a_sweep_that_really_trains_is_killed_again_and_again",
         "test_faults.py::test_a_kill_after_any_byte_loses_only_the_record_in_flight"), ("kills survived",)),
    Promise(
        "The same holds where a write is short, a line torn, the disk full, a sync failing, a lock refused: at every "
        "call that an append makes, alone and in any sequence.",
        ("test_faults.py::test_a_fault_at_any_call_loses_and_doubles_nothing",
         "test_faults.py::test_any_sequence_of_faults",
         "test_faults.py::test_a_disk_that_fills_in_the_middle_of_a_line_leaves_the_file_as_it_was",
         "test_faults.py::test_nobody_sees_a_record_that_may_yet_be_taken_back",
         "test_checkpoint.py::test_a_write_that_fails_leaves_the_earlier_file"), ("faults injected",)),
    Promise(
        "Several sweeps on one store do no cell twice, and the cell of a dead one is free again at once.",
        ("test_kills.py::test_two_sweeps_on_one_store_do_no_cell_twice",
         "test_kills.py::test_the_cell_of_a_dead_sweep_is_done_by_the_other",
         "distributed/test_faults.py::test_what_a_dead_process_was_at_returns_to_the_pool")),
    Promise(
        f"A cell that kills its process {attempts.MAX_DEATHS} times without getting further is recorded as failed, and "
        "the sweep goes on.",
        ("distributed/test_faults.py::test_a_cell_that_kills_its_process_every_time_is_given_up",
         "test_attempts.py::test_a_cell_is_given_up_after_its_process_died_so_often"),
        ("processes killed by their cell",)),
    Promise(
        "A machine that is lost, launcher and all, takes nothing along: whole cells go to the others; where processes "
        "share a cell it ends with a record that says who was lost, and the sweep goes on when a machine is back.",
        ("distributed/test_machines.py::test_cells_of_a_lost_machine_are_done_by_the_other",
         "distributed/test_machines.py::test_a_shared_cell_ends_with_its_machine_and_the_sweep_goes_on"),
        ("machines lost",)),
    Promise(
        "A training that is resumed ends with the parameters of one that was never interrupted, bit by bit on a CPU. "
        "The record counts the resumes.",
        ("test_checkpoint.py::test_resumed_is_bit_equal_to_uninterrupted",
         "test_checkpoint.py::test_resuming_twice_and_saving_at_every_step_change_nothing",
         "test_one_task.py::test_resumes_are_counted")),
    Promise(
        "Ctrl-C, SIGTERM and SIGUSR1 save a checkpoint and end the sweep at the next step, or after "
        f"{GRACE_S:g} s.",
        ("distributed/test_faults.py::test_a_stopped_sweep_goes_on_where_it_was",
         "test_one_task.py::test_a_notice_leaves_a_checkpoint_and_the_next_attempt_the_same_record",
         "test_notice.py::test_a_held_notice_does_not_wait_for_ever",
         "test_loop.py::test_a_notice_at_any_moment_of_a_task_leaves_no_note"),
        ("notices obeyed within a cell, and gone on from",)),
    Promise(
        "A damaged checkpoint is reported and not used.",
        ("test_checkpoint.py::test_damaged_files_are_reported_and_not_used",
         "test_one_task.py::test_a_damaged_checkpoint_is_reported_and_the_record_is_the_same")),
    Promise(
        "Of processes that share a cell, one that raises, is killed or has no memory ends the cell with a record that "
        "names rank and cause.",
        ("distributed/test_faults.py::test_a_rank_that_fails_ends_its_cell_and_not_the_sweep",
         "test_attempts.py::test_blame"), ("ranks that raised, were killed or had no memory",)),
    Promise(
        "What `--rerun` and `--retry-failed` ask for is done once a launch, also where that starts processes anew "
        "or one late.",
        ("distributed/test_faults.py::test_failures_are_tried_again_when_asked_though_one_fails_again_and_the_launcher_"
         "starts_anew",
         "distributed/test_faults.py::test_a_process_that_comes_late_runs_nothing_that_this_launch_has_run_again",
         "test_attempts.py::test_processes_that_the_launcher_started_again_do_not_run_again_what_they_did")),
    Promise(
        "A training beside which another of the same store ran on its machine says so, and its time is no measurement.",
        ("test_together.py::test_a_sweep_knows_of_another_on_its_machine_and_store",
         "test_one_task.py::test_who_trained_beside_it_is_recorded")),
    Promise(
        "Of processes that share a cell, one that stalls is given up after FMNIST_DDP_TIMEOUT_S seconds, "
        f"{launch.DDP_TIMEOUT_S:g} unless set.",
        ("distributed/test_faults.py::test_stop_and_stall_of_processes_that_share_a_cell",), ("ranks that stalled",)),
    Promise(
        "A cell without memory is recorded with the batch that was asked for. A smaller batch is tried only where "
        "`launch.halve_batch_after_oom` asks for it, by all processes alike, and has a record of its own.",
        ("test_attempts.py::test_a_smaller_batch_is_tried_when_asked_and_has_a_record_of_its_own",
         "test_plan.py::test_a_smaller_batch_follows_only_where_asked_and_only_what_ran_out_of_memory",
         "distributed/test_faults.py::test_a_rank_that_fails_ends_its_cell_and_not_the_sweep"),
        ("smaller batches tried, as asked",)),
    Promise(
        "Seeds that have no room as one module are trained one by one.",
        ("test_together.py::test_a_group_without_room_is_trained_seed_by_seed",)),
    Promise(
        "A cell beyond its time limit is stopped and recorded.",
        ("test_one_task.py::test_a_cell_stops_when_its_time_is_up",
         "test_one_task.py::test_time_before_a_resume_counts")),
    Promise(
        "A loss that is not finite stops the cell with step and value, before a fused optimizer spreads it; one of "
        "evaluation stops it, too.",
        ("test_one_task.py::test_a_failure_is_a_record_with_its_reason",
         "test_one_task.py::test_parameters_are_those_before_the_step_that_diverged",
         "test_train.py::test_a_network_that_is_not_finite_in_evaluation_has_diverged")),
    Promise(
        "An edited network of one's own is another one: its records are not mixed with those of its earlier code, "
        "which is its file and what that imports of its package or from beside it.",
        ("test_experiment.py::test_an_edited_network_of_ones_own_is_another_one",
         "test_own_source.py::test_what_it_is_made_of_is_watched")),
    Promise(
        "Whatever an experiment, an option, a store or a data file holds: a right result, or an error that says what "
        "is wrong. Never a traceback, never a write outside the store.",
        ("test_fuzz.py::test_text_of_an_experiment", "test_fuzz.py::test_structure_of_an_experiment",
         "test_fuzz.py::test_options_of_the_command", "test_fuzz.py::test_content_of_a_store",
         "test_fuzz.py::test_names_of_experiments", "test_fuzz.py::test_bytes_of_a_data_file",
         "test_fuzz.py::test_data_files_that_are_not_the_release"), ("inputs tried",)),
    Promise(
        "Text from records is shown as text, in Markdown and in HTML.",
        ("test_formatting.py::test_escape_leaves_nothing_that_markdown_reads",
         "test_explorer.py::test_no_record_can_end_its_script",
         "test_explorer_page.py::test_foreign_text_is_shown_as_text")),
    Promise(
        "Nothing that is read from a file is unpickled or run.",
        ("test_purity.py::test_nothing_from_a_file_is_unpickled_or_run",)),
    Promise(
        "What the launcher cannot give is refused before any work: devices, processes, batches that the processes "
        "cannot share, FSDP and its like.",
        ("test_launch.py::test_what_an_experiment_asks_for_is_checked",
         "test_bad_input.py::test_batches_that_the_processes_cannot_share_are_refused",
         "test_launch.py::test_what_accelerate_is_configured_for_and_the_harness_has_not_is_refused")),
    Promise(
        "The commands of [many-machines.md](many-machines.md), for torchrun and Slurm, do what they say.",
        ("test_recipes.py::test_every_sweep_plans_something",
         "test_recipes.py::test_a_job_of_the_array_ends_on_notice_and_the_same_goes_on",
         "test_recipes.py::test_the_job_of_several_nodes_starts_what_the_page_says_to_start_by_hand")),
    Promise(
        "With 100,000 records an append, a resume and a report take linear time, and 1,000 cells in one sweep leave "
        "neither memory nor open files behind.",
        ("test_store_load.py::test_what_an_append_and_a_look_cost_does_not_grow_with_the_store",
         "test_store_load.py::test_reading_100_000_records_takes_linear_time",
         "test_store_load.py::test_planning_and_reporting_with_100_000_records_take_linear_time",
         "test_store_load.py::test_a_thousand_cells_leave_no_memory_and_no_files_open")),
)

NOT_TRIED = """\
NCCL, NFS, a real Slurm and machines apart: everything above was tried on one machine, with several processes under
gloo, two launchers on loopback, and a stand-in for `srun`. A disk that says it has synced and has not is beyond us."""


def render(runs: Sequence[FaultRun]) -> str:
    """The page, from the record of some runs; their counts are added up."""
    counts = sum((Counter(run.counts) for run in runs), Counter[str]())
    rows = [[_spans(promise.what), "<br>".join(code(test) for test in promise.tests),
             "<br>".join(f"{count(counts[key])} {key}" for key in promise.counted)] for promise in PROMISES]
    return "\n\n".join([
        "# What is promised, and how it is tested",
        "This page is generated by `python -m tests.promises`; do not edit it. The tests are in `tests/`.",
        table(["promise", "tests", "in the runs below"], rows, text_columns=3),
        "The figures are of runs of `pytest -m faults` in which no test failed. The short form, with fewer kills and "
        "inputs, is part of `make test`; the long one, or a share of it:",
        "    pytest -m faults --long-faults --faults-record experiments/results/faults.json\n"
        "    python -m tests.promises",
        table(["run", "share of the long form", "tests", "minutes", "on"], [_about(run) for run in runs]),
        f"Not tried: {NOT_TRIED}",
    ]) + "\n"


def load(path: Path = RECORD) -> list[FaultRun]:
    return msgspec.json.decode(path.read_bytes(), type=list[FaultRun])


def add(path: Path, run: FaultRun) -> None:
    """To the record, which is begun where there is none."""
    runs = [*(load(path) if path.exists() else []), run]
    path.write_bytes(msgspec.json.format(msgspec.json.encode(runs), indent=1) + b"\n")


def _about(run: FaultRun) -> list[str]:
    where = run.environment
    files = ", ".join(code(name.removeprefix("tests/")) for name in run.files)
    share = f"{100 * run.share:.0f} %" if run.share else "short form"
    return [f"{files}{'; stopped before its end' * run.stopped}", share,
            count(run.num_tests), f"{run.seconds / 60:.0f}",
            f"{escape(where.cpu)}, processors: {where.num_cpus}, Python {escape(where.python)}, torch "
            f"{escape(where.libraries.get('torch', '?'))}, commit {code(where.commit[:12])}"
            f"{', with changes' * where.dirty}"]


def _spans(text: str) -> str:
    """Our own words, code spans and all, as a cell of a table."""
    return text.replace("|", "\\|")


def main(arguments: Sequence[str] | None = None) -> int:
    StrictParser("python -m tests.promises", __doc__).parse_args(arguments)
    PAGE.write_text(render(load()))
    print(f"{PAGE}: written")
    return 0


if __name__ == "__main__":
    command.leave(main)
