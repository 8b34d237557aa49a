"""What a shell is told that could come next, and what an unknown option is answered with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.inputs import options
from bench.inputs.decoding import SECTIONS
from fmnist_core.nearest import CUSTOMARY

ROOT = Path(__file__).resolve().parent.parent
RUN = "bench/run.py"


@pytest.fixture
def complete(tmp_path):
    """The continuations of a command line, asked for as argcomplete's shell functions do."""
    pytest.importorskip("argcomplete", reason="the extra `completion` is not installed")

    def ask(arguments: str, **variables: str) -> list[str]:
        line = f"python {RUN} {arguments}"
        question = {"_ARGCOMPLETE": "2", "_ARGCOMPLETE_IFS": "\n", **variables,
                    "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "answer"), "COMP_LINE": line,
                    "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
        environ = {**os.environ, "PYTHONPATH": str(ROOT), **question}
        answer = subprocess.run([sys.executable, RUN], cwd=ROOT, env=environ, check=True, capture_output=True)
        assert b"Traceback" not in answer.stderr
        return [each.strip() for each in (tmp_path / "answer").read_text().split("\n")]

    return ask


@pytest.mark.parametrize(("arguments", "expected"), [
    ("kernel_d", ["kernel_depth"]),
    ("--keep", ["--keep-weights"]),
    ("kernel_depth --only model.kernel", ["model.kernel_size="]),
    ("kernel_depth --only model.kernel_size=", [f"model.kernel_size={size}" for size in (2, 3, 4, 5)]),
    ("table_1_2 --only label=Trial-1", ["label=Trial-1"]),
    ("quick --set train.lea", ["train.learning_rate="]),
    ("--track tens", ["tensorboard"]),
    ("quick --set launch.num", ["launch.num_processes="]),
    ("quick --set train.optimizer=ad", ["train.optimizer=adam", "train.optimizer=adamw"]),
    ("quick --set data.normalize=", ["data.normalize=true", "data.normalize=false"]),
    ("quick --set launch.mode=", ["launch.mode=cells", "launch.mode=ddp"]),
    ("--dataset cif", ["cifar10"]),
])
def test_a_shell_completes(complete, arguments, expected):
    assert complete(arguments, _ARGCOMPLETE_SUPPRESS_SPACE="1") == expected


@pytest.mark.parametrize(("arguments", "expected"), [
    ("quick --set train.optimizer=", ["adam", "adamw", "sgd", "rmsprop", "muon"]),
    ("quick --only model.kernel_size=", ["2", "3", "4", "5"]),
    ("quick --set model.name=net", ["network1", "network2"]),
    ("quick --set train.epochs=", [""]),  # any number
    ("quick --set nothing=", [""]),
    ("quick --set =", [""]),
    ("quick --set launch=", [""]),
    ("quick --only nothing=", [""]),
    ("quick --only data.sha256=", [""]),  # empty text
    ("nowhere.toml --set train.", [""]),
])
def test_a_shell_that_breaks_words_at_the_sign_gets_what_is_behind_it(complete, arguments, expected):
    assert complete(arguments, _ARGCOMPLETE_COMP_WORDBREAKS=" \t\n\"'><=;|&(:", _ARGCOMPLETE_SHELL="bash") == expected


def test_completion_in_any_shell_finds_the_program():
    assert "PYTHON_ARGCOMPLETE_OK" in (ROOT / RUN).read_text()[:1024]


@pytest.mark.parametrize(("option", "nearest"), [("--seed", "--seeds"), ("--retry-fail", "--retry-failed"),
                                                 ("--trak=x", "--track"), ("--profil", "--profile")])
def test_an_unknown_option_is_answered_with_the_nearest(call_run, option, nearest):
    code, out, err = call_run(option)
    assert (code, out) == (2, "")
    assert err == f"bench/run.py: error: unrecognized arguments: {option}; did you mean '{nearest}'?; see --help\n"


@pytest.mark.parametrize(("option", "setting"), [
    ("--epochs", "train.epochs"), ("--batch-size", "train.global_batch_size"), ("--device", "launch.device"),
    ("--lr", "train.learning_rate")])
def test_a_setting_is_no_option(call_run, option, setting):
    assert f"; did you mean '--set {setting}=VALUE'?" in call_run(option, "1")[2]


def test_an_empty_folder_is_not_the_current_one(call_run):
    code, out, err = call_run("--store", "")
    assert (code, out) == (2, "")
    assert err == "bench/run.py: error: argument --store: '': expected a folder; the current one is .; see --help\n"


def test_an_unknown_label_is_answered_with_the_nearest(call_run):
    code, _, err = call_run("table_1_2", "--only", "label=Trail-3")
    assert code == 2
    assert "no cell has label=Trail-3; did you mean 'Trial-3'?" in err


@pytest.mark.parametrize(("text", "label"), [("1", "1"), ("true", "true"), ('"1"', "1"), ("Trial-2", "Trial-2")])
def test_a_label_is_text_whatever_it_reads_as(text, label):
    assert options.filters(options.parser("").parse_args(["quick", "--only", f"label={text}"])) == {"label": [label]}


def test_customary_names_are_of_settings_that_there_are():
    known = {key for kind in SECTIONS.values() for key in kind.__struct_fields__}
    assert set(CUSTOMARY.values()) <= known
    assert not known & set(CUSTOMARY)
