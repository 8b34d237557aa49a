"""The page of promises: made of the record of a run, naming tests that are there."""

import ast
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from bench.record import Environment
from tests import promises
from tests.promises import PROMISES, FaultRun

TESTS = Path(__file__).resolve().parent
RUN = FaultRun(files=["tests/test_kills.py"], share=0.25, num_tests=12, seconds=90.0, counts={"kills survived": 1234},
               environment=Environment(num_cpus=1, cpu="a|b", python="3.11", commit="c" * 40), started_at="")


def test_the_page_is_what_the_record_gives():
    assert promises.PAGE.read_text() == promises.render(promises.load()), "python -m tests.promises writes it anew"


def test_the_record_has_all_that_is_counted():
    counts = sum((Counter(run.counts) for run in promises.load()), Counter())
    counted = [key for promise in PROMISES for key in promise.counted]
    assert len(counted) == len(set(counted))
    assert set(counted) == {key for key, number in counts.items() if number > 0}


@pytest.mark.parametrize("test", sorted({test for promise in PROMISES for test in promise.tests}))
def test_every_test_that_is_named_is_there(test):
    name, _, function = test.partition("::")
    assert function in {node.name for node in ast.parse((TESTS / name).read_text()).body
                        if isinstance(node, ast.FunctionDef)}


def test_figures_come_from_the_record_and_stay_in_their_cell():
    page = promises.render([RUN, msgspec.structs.replace(RUN, share=0.0, stopped=True)])
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(PROMISES) + 2 + 2
    assert {row.replace(r"\|", "").count("|") for row in rows} == {4, 6}
    assert page.count("2,468 kills survived") == 1
    assert r"| `test_kills.py` | 25 % | 12 | 2 | a\|b, processors: 1, Python 3.11" in page
    assert "| `test_kills.py`; stopped before its end | short form | 12 |" in page


@pytest.mark.parametrize(("argument", "code"), [("--foo", 2), ("page.md", 2), ("--help", 0)])
def test_nothing_is_written_but_by_the_bare_command(tmp_path, monkeypatch, argument, code):
    monkeypatch.setattr(promises, "PAGE", tmp_path / "promises.md")
    with pytest.raises(SystemExit) as stopped:
        promises.main([argument])
    assert stopped.value.code == code
    assert not promises.PAGE.exists()
    assert promises.main([]) == 0
    assert promises.PAGE.read_text() == promises.render(promises.load())


def test_runs_are_added_to_the_record(tmp_path):
    path = tmp_path / "faults.json"
    promises.add(path, RUN)
    promises.add(path, RUN)
    assert promises.load(path) == [RUN, RUN]
