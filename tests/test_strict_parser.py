"""Every command answers an unknown option in one line, with the nearest it has."""

import importlib

import pytest

COMMANDS = ["calibrate", "compare", "counters", "environment", "ledger", "peers", "report", "run", "scaling"]


def refusal(module, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"bench.{module}").main(arguments)
    said = capsys.readouterr()
    assert (stopped.value.code, said.out) == (2, "")
    return said.err


@pytest.mark.parametrize(("module", "option", "nearest"), [
    ("calibrate", "--round", "--rounds"), ("report", "--out=x", "--output"),
    ("ledger", "--no-compil", "--no-compile"), ("peers", "--epoch", "--epochs"), ("report", "--chek", "--check"),
    ("run", "--keep-weight", "--keep-weights"), ("scaling", "--datadir", "--data-dir"),
    ("counters", "--writ", "--write"), ("environment", "--hlp", "--help")])
def test_a_misspelt_or_shortened_option_is_answered_with_the_nearest(module, option, nearest, capsys):
    command = "bench/run.py" if module == "run" else f"python -m bench.{module}"
    assert refusal(module, [option], capsys) == (
        f"{command}: error: unrecognized arguments: {option}; did you mean '{nearest}'?; see --help\n")


def test_an_option_is_found_out_behind_arguments_that_nobody_takes(capsys):
    assert refusal("compare", ["a", "b", "c", "--treshold", "0.1"], capsys) == (
        "python -m bench.compare: error: unrecognized arguments: c --treshold 0.1; did you mean '--threshold'?; "
        "see --help\n")


@pytest.mark.parametrize("module", COMMANDS)
def test_help_has_examples_and_the_commands_name(module, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(f"bench.{module}").main(["--help"])
    printed = capsys.readouterr().out
    command = "bench/run.py" if module == "run" else f"python -m bench.{module}"
    assert printed.startswith(f"usage: {command}")
    assert f"\n    {'python ' if module == 'run' else ''}{command}" in printed


def test_the_help_of_the_report_says_which_records_it_reads(capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("bench.report").main(["--help"])
    assert "Without --store the records are the published ones, in experiments/results." in capsys.readouterr().out
