"""When a notice comes, nothing that this process has begun has died."""

import dataclasses
import os
import signal
import sys

import pytest

from bench import run
from bench.inputs import options
from bench.record import TrainRecord
from bench.sweep import launch
from bench.sweep.attempts import Attempt
from bench.sweep.notice import Notice, Stopped
from bench.sweep.progress import Progress
from bench.sweep.request import Request
from tests.swept import ONE_CELL

pytestmark = pytest.mark.usefixtures("handlers")


def then_comes_a_notice(function):
    def called(*arguments):
        found = function(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)
        return found
    return called


def left_of_attempts(bare_folder):
    return len(list((bare_folder / "runs" / "attempts").iterdir()))


@pytest.mark.parametrize(("place", "name"), [(Attempt, "begin"), (Progress, "start"), (Attempt, "finish")])
def test_a_notice_at_any_moment_of_a_task_leaves_no_note(place, name, call_run, bare_folder, monkeypatch):
    (bare_folder / "mine.toml").write_text(ONE_CELL)
    monkeypatch.setattr(place, name, then_comes_a_notice(getattr(place, name)))
    assert call_run("mine.toml")[0] == run.TERMINATED
    assert left_of_attempts(bare_folder) == 0


def test_a_notice_where_a_cell_is_given_up_keeps_what_is_known_of_it(call_run, bare_folder, monkeypatch):
    """It is recorded, or its deaths still count."""
    (bare_folder / "mine.toml").write_text(ONE_CELL)
    monkeypatch.setattr(Attempt, "begin", then_comes_a_notice(lambda attempt: ("error", "it died")))
    failed = lambda task, status, reason, _: TrainRecord(experiment="mine", quality_key=task.key, seed=0, cell={},
                                                         status=status, reason=reason)
    monkeypatch.setattr(sys.modules["bench.sweep.new_record"], "failed", failed, raising=False)
    assert call_run("mine.toml")[0] == run.TERMINATED
    assert (bare_folder / "runs" / "mine.jsonl").read_text().count("it died") == 1


@pytest.mark.parametrize(("ddp", "num_left"), [(False, 0), (True, 1)])
def test_who_stops_alone_while_others_share_the_cell_leaves_the_note(ddp, num_left, bare_folder, monkeypatch):
    from bench.sweep import loop

    (bare_folder / "mine.toml").write_text(ONE_CELL)
    monkeypatch.setattr(Progress, "start", then_comes_a_notice(Progress.start))
    with Notice() as notice:
        request = Request.of(options.parser(None).parse_args(["mine.toml"]), launch.World())
        work = run.check(request)
        with pytest.raises(Stopped):
            loop.run(dataclasses.replace(request, ddp=ddp), work, notice)
    assert left_of_attempts(bare_folder) == num_left
