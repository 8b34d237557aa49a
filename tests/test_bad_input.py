"""Wrong requests: each gets one message that names key, value and what is allowed, exit 2, and nothing is written."""

import gzip
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import experiment
from bench.record import TrainRecord
from bench.store import Store
from bench.sweep import plan
from fmnist_core import files

ROOT = Path(__file__).resolve().parent.parent
SYNTHETIC = ("--dataset", "synthetic")


@pytest.fixture
def refused(call_run, bare_folder):
    """Call the command with a wrong request; gives its one message."""

    def message(*arguments):
        before = sorted(bare_folder.rglob("*"))
        code, out, err = call_run(*arguments)
        assert code == 2
        assert out == ""
        assert sorted(bare_folder.rglob("*")) == before, "something was written"
        if err.startswith("usage:"):
            err = err[err.index("bench/run.py: error: "):]
        assert err.startswith("bench/run.py: ")
        assert err.count("\n") == 1
        return err.strip()

    return message


def written(bare_folder, text):
    path = bare_folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["quik"], ["unknown experiment 'quik'", "did you mean 'quick'?", "kernel_depth", ".toml file"]),
        (["nowhere.toml"], ["nowhere.toml", "No such file"]),
        (["quick", "kernel_dept"], ["unknown experiment 'kernel_dept'"]),
        (["--profile", "--rerun"], ["--rerun has no effect with --profile"]),
        (["--profile", "--track", "tensorboard"], ["--track has no effect with --profile, which trains nothing"]),
        (["--profile", "--keep-weights"], ["--keep-weights has no effect with --profile"]),
        (["--set", "train.epoch=1"], ["unknown key 'train.epoch'", "did you mean 'train.epochs'?"]),
        (["--set", "train.epochs=0"], ["train.epochs = 0", ">= 1"]),
        (["--set", "train.epochs=many"], ["train.epochs = 'many'", "expected `int`"]),
        (["--set", "train.epochs=1e400"], ["train.epochs = inf", "expected `int`"]),
        (["--set", "train.learning_rate=NaN"], ["train.learning_rate = nan", "> 0.0"]),
        (["--set", "train.epochs=" + "9" * 5000], ["train.epochs"]),
        (["--set", "train.optimizer=adm"], ["train.optimizer = 'adm'", "allowed: adam, adamw, sgd, rmsprop"]),
        (["--set", "launch=3"], ["launch = 3", "expected a table"]),
        (["--set", "launch.halve_batch_after_oom=21"], ["launch.halve_batch_after_oom = 21", "<= 20"]),
        (["--set", "launch.mode=dpp"], ["launch.mode = 'dpp'", "allowed: cells, ddp"]),
        (["--set", "model.depth=1"], ["same cell: model.depth = 1 overrides in what they differ"]),
        (["--set", "train.optimizer=adamm"], ["did you mean 'adam'?"]),
        (["cited_khanday", *SYNTHETIC, "--set", "model.options.kernel_sise=3"], ["kernel_sise", "kernel_size"]),
        ([*SYNTHETIC, "--only", "model.depth=1", "--set", "train.identity=true"],
         ["train.identity = true needs a network with two convolutions or more"]),
        ([*SYNTHETIC, "--set", "train.whitening=frozen"], ["train.whitening = 'frozen'"]),
        (["--set", "launch.mode=dpd"], ["did you mean 'ddp'?"]),
        (["--set", "train.lr=0.01"], ["unknown key 'train.lr'", "did you mean 'train.learning_rate'?"]),
        (["--set", "bs=64"], ["unknown key 'bs'", "did you mean 'train.global_batch_size'?"]),
        (["--only", "train.wd=0.1"], ["unknown key 'train.wd'", "did you mean 'train.weight_decay'?"]),
        (["--set", "width=4"], ["unknown key 'width'", "did you mean 'model.width'?"]),
        (["--only", "width=4"], ["unknown key 'width'", "did you mean 'model.width'?"]),
        (["--set", "train.epochs"], ["--set train.epochs", "expected KEY=VALUE"]),
        (["--set", "=1"], ["--set =1", "expected KEY=VALUE"]),
        (["--set", "train..epochs=1"], ["train..epochs"]),
        (["--set", ""], ["--set", "expected KEY=VALUE"]),
        (["--only", "model.depht=1"], ["unknown key 'model.depht'", "did you mean 'model.depth'?"]),
        (["--only", "model.depth=7"], ["quick", "no cell has model.depth=7; values of model.depth: 1, 2, 3"]),
        (["--only", "model.depth"], ["--only model.depth", "expected KEY=VALUE"]),
        (["--only", "model.depth=1", "--only", "model.depth=9"], ["no cell has model.depth=1, model.depth=9"]),
        (["--set", "train.epochs=1", "--set", "train.epochs=2"], ["--set train.epochs: given twice, as 1 and as 2"]),
        ([*SYNTHETIC, "--set", "data.dataset=mnist"], ["--set data.dataset: given twice, as mnist and as synthetic"]),
        (["--seeds", "0"], ["--seeds", "'0'", "from 1 to 10000"]),
        (["--seeds", "-1"], ["--seeds"]),
        (["--seeds", "10001"], ["--seeds", "'10001'", "from 1 to 10000"]),
        (["--seeds", "two"], ["--seeds", "'two'", "from 1 to 10000"]),
        (["--seed", "1"], ["--seed"]),
        (["--dataset", "mnst"], ["data.dataset = 'mnst'", "'mnist'?; allowed: fashion-mnist, synthetic"]),
        ([*SYNTHETIC, "--set", "train.precision=fp16"], ["train.precision = 'fp16'", "GPU", "'no', 'bf16'"]),
        ([*SYNTHETIC, "--set", "execution.capture=true", "--set", "execution.compile=default"],
         ["experiment quick: execution.capture = true", "execution.compile = 'default' on a CPU; allowed: 'no'"]),
        ([*SYNTHETIC, "--set", "execution.capture=true", "--set", "train.optimizer=rmsprop"],
         ["execution.capture = true", "train.optimizer = 'rmsprop' on a CPU"]),
        ([*SYNTHETIC, "--set", "launch.device=cuda"], ["launch.device = 'cuda'", "no CUDA device", "allowed"]),
        ([*SYNTHETIC, "--set", "launch.num_processes=4"],
         ["launch.num_processes = 4", "1 started", "torchrun --nproc-per-node 4 bench/run.py quick"]),
        ([*SYNTHETIC, "--set", "data.validation_size=60000"], ["data.validation_size = 60000", "60000"]),
        (["--data-dir", "nowhere"], ["nowhere", "--data-dir", "--dataset synthetic"]),
        ([], ["Fashion-MNIST was not found", "--data-dir", "--dataset synthetic"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_a_wrong_request_is_refused(refused, arguments, parts):
    message = refused(*arguments)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(("settings", "message"), [
    (["train.global_batch_size=49999"], "leaves a batch of 1 images, too few for 2 processes"),
    (["train.sync_batch_norm=true", "train.gradient_accumulation=39", "data.validation_size=10001"],
     "a batch of 79 images, shared by 2 processes, into 39 parts here and 20 there")])
def test_batches_that_the_processes_cannot_share_are_refused(refused, monkeypatch, settings, message):
    request = [*SYNTHETIC, *(part for setting in settings for part in ("--set", setting))]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert message in refused(*request, "--set", "launch.mode=ddp")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("grid.model.depth = []", ["[grid] model.depth = []", "no cell"]),
        ("grid.model.depth = [2, 2]", ["same cell"]),
        ("grid.model.kernel_size = [3, 12]", ["model.kernel_size = 12", "<= 11"]),
        ("base.model.depth = 4\nbase.model.num_pools = 4\nbase.data.input_size = 8", ["does not fit a map of 1 x 1"]),
        ("base.model.kernel = 3", ["unknown key 'model.kernel'", "did you mean 'model.kernel_size'?"]),
        ("grid = 3", ["grid = 3", "expected a table"]),
        ("base.model.depth = ", ["not TOML"]),
    ],
)
def test_a_wrong_experiment_is_refused(refused, bare_folder, text, parts):
    message = refused(written(bare_folder, f'question = "?"\nbase.model.name = "cnn"\n{text}'))
    for part in ["mine.toml", *parts]:
        assert part in message


def test_two_files_of_one_name_are_refused_and_one_that_is_named_twice_counts_once(refused, call_run, bare_folder):
    other = bare_folder / "quick.toml"
    other.write_text((ROOT / "experiments" / "quick.toml").read_text())
    assert "are both named 'quick', and would be taken for one" in refused("quick", str(other))
    assert call_run("quick", "quick", "--list") == call_run("quick", "--list")


@pytest.mark.parametrize(("model", "message"), [
    ('name = "tests.nothing:linear"', "there is no module 'tests.nothing'"),
    ('name = "tests.misbehaving:linea"', "'linea' is not there; did you mean 'linear'?"),
    ('name = "tests.misbehaving:linear", roam = 3', "no argument for the key 'model.roam'; did you mean 'model.room'?"),
    ('name = "tests.misbehaving:linear", rank = "x", after = [1]', "model.after = [1]: expected a number, a string"),
    ('name = "tests.misbehaving:Misbehaving"', "missing key 'model.how', an argument without a default"),
])
def test_a_network_of_ones_own_that_cannot_be_built_is_refused_before_any_work(refused, bare_folder, model, message):
    path = written(bare_folder, f'question = "?"\nbase = {{ model = {{ {model} }}, data.dataset = "synthetic" }}')
    assert message in refused(path)


def test_a_network_of_ones_own_is_not_built_for_a_list_or_where_nothing_is_left(call_run, bare_folder):
    model = 'name = "tests.small:small_dataset"'  # gives no network
    path = written(bare_folder, f'question = "?"\nbase = {{ model = {{ {model} }}, data.dataset = "synthetic" }}')
    assert call_run(path, "--list")[0] == 0
    (task,) = plan.tasks([experiment.load(path)], num_seeds=1, gpu=False, machine={})[:1]
    Store("runs").check_writable()
    Store("runs").append(TrainRecord(experiment="mine", quality_key=task.key, seed=0, cell={}, status="error"))
    assert call_run(path, "--seeds", "1", "--timings", "0")[0] == 1
    code, _, err = call_run(path, "--seeds", "2", "--timings", "0")
    assert (code, err) == (2, "bench/run.py: model.name = 'tests.small:small_dataset' cannot be used: it gave a "
                              "Dataset, not an nn.Module\n")


def test_an_experiment_whose_name_could_leave_the_store_is_refused(refused, bare_folder):
    for name in ("..toml", "-x.toml", "a\nb.toml", "a" * 120 + ".toml"):
        path = bare_folder / name
        path.write_text('question = "?"\nbase = { model.name = "cnn", data.dataset = "synthetic" }')
        assert "cannot name a file" in refused(str(path))
        path.unlink()


@pytest.mark.parametrize("damage", ["old release", "truncated", "no gzip", "cut gzip"])
def test_data_that_is_not_the_current_release_is_refused(refused, bare_folder, monkeypatch, damage):
    content = b"\0\0\x08\x01\0\0\0\x01\x07"
    monkeypatch.setattr(files, "SHA256", dict.fromkeys(files.SHA256, hashlib.sha256(content).hexdigest()))
    (bare_folder / "mine").mkdir()
    for name in files.SHA256:
        (bare_folder / "mine" / name).write_bytes(content)
    path = bare_folder / "mine" / "train-images-idx3-ubyte"
    path.write_bytes(content[:-1] + (b"\x08" if damage == "old release" else b""))
    if "gzip" in damage:
        path.unlink()
        path = path.with_name(f"{path.name}.gz")
        path.write_bytes(content if damage == "no gzip" else gzip.compress(content)[:-3])
    message = refused("--data-dir", "mine")
    assert str(path.relative_to(bare_folder)) in message
    assert ("cannot be read" if "gzip" in damage else "SHA-256 differs") in message


def test_a_store_that_cannot_be_written_is_refused(refused, bare_folder):
    (bare_folder / "file").write_text("")
    for store in ("file", "file/below", "x" * 300):
        assert f"store {store} cannot be" in refused(*SYNTHETIC, "--store", store)
        refused("--list", "--store", store)


def test_a_store_of_a_newer_version_is_refused(refused, bare_folder):
    (bare_folder / "runs").mkdir()
    (bare_folder / "runs" / "quick.jsonl").write_text('{"kind":"train","schema":999}\n')
    for arguments in (SYNTHETIC, ["--list"]):
        message = refused(*arguments)
        assert "quick.jsonl, line 1" in message
        assert "schema 999 is newer than" in message


def test_experiments_of_both_modes_do_not_share_a_launch(refused, bare_folder):
    path = written(bare_folder, 'question = "?"\nbase.model.name = "cnn"\nlaunch.mode = "ddp"')
    assert "cannot share one launch" in refused("quick", path)


@pytest.mark.parametrize("value", ["x", "-1", "1.5"])
def test_a_launcher_that_talks_nonsense_is_refused(refused, monkeypatch, value):
    monkeypatch.setenv("WORLD_SIZE", value)
    assert f"WORLD_SIZE = '{value}'" in refused(*SYNTHETIC)


def test_the_command_itself_ends_with_the_same_code_and_message(tmp_path):
    script = [sys.executable, str(ROOT / "bench" / "run.py")]
    answer = subprocess.run([*script, "quik"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert re.fullmatch(r"bench/run\.py: unknown experiment 'quik'.*\n", answer.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "complaint"), [
    (["{store}", "trails"], "no stage 'trails'; allowed: equality speed trials"),
    (["trials"], "'trials' is a stage; name the store first"),
])
def test_the_gpu_script_refuses_a_wrong_stage_before_any_work(arguments, complaint, tmp_path):
    asked = [one.format(store=tmp_path / "store") for one in arguments]
    done = subprocess.run(["bash", str(ROOT / "experiments" / "gpu.sh"), *asked], capture_output=True, text=True,
                          check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert not list(tmp_path.iterdir())
