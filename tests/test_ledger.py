"""The ledger of a step: that its ways train alike, and what its table says of known times."""

import pytest
import torch

from bench import environment, ledger
from bench.pages import side_tables
from bench.record import Environment
from bench.records import side_records
from bench.records.side_records import Ledger, LedgerLine
from bench.timing import step_variants
from fmnist_core.config import CellConfig, DataConfig, Network2, TrainConfig
from fmnist_core.train import Training, train_step
from tests.small import small_dataset

CELL = CellConfig(model=Network2(dropout=0.0), data=DataConfig(dataset="synthetic", validation_size=40),
                  train=TrainConfig(global_batch_size=30, learning_rate=0.01))


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("way", [step_variants.raw_step, step_variants.accelerated_step])
def test_every_way_takes_the_same_step(way, monkeypatch):
    ours, other = (Training(CELL, 0, small_dataset()) for _ in range(2))
    built = []
    original = step_variants.build

    def build(*arguments):
        built.append(original(*arguments))
        built[0].load_state_dict(ours.model.state_dict())
        return built[0]

    monkeypatch.setattr(step_variants, "build", build)
    step = way(other)
    trained = built[0] if built else other.model
    before = weights(ours.model)
    for index_N in ours.order().split(30)[:3]:
        train_step(ours, *ours.batch(index_N), 30)
        step(other, *other.batch(index_N), 30)
    for start, mine, theirs in zip(before, weights(ours.model), weights(trained), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
        assert not torch.equal(start, theirs)


def test_lines_that_are_not_possible_here_say_why():
    def prepare():
        raise step_variants.NotHere("no compiler")

    raw = step_variants.Way("raw", "all", lambda: lambda: 0.5)
    lines = step_variants.time_ways([raw, step_variants.Way("more", "x", prepare)], rounds=3)
    assert lines == [LedgerLine(name="raw", what="all", step_s=[0.5] * 3),
                     LedgerLine(name="more", what="x", skipped="no compiler")]


def test_the_table_by_hand():
    lines = [LedgerLine(name="raw", what="all", step_s=[0.001] * 3),
             LedgerLine(name="more", what="x", step_s=[0.0011] * 3),
             LedgerLine(name="none", what="y", skipped="no compiler")]
    record = Ledger(environment=Environment(), started_at="", cell={}, lines=lines)
    _, rows = side_tables.headers_and_rows(record)
    assert rows == [["raw", "all", "1,000 [1,000, 1,000]", "-", "-"],
                    ["more", "x", "1,100 [1,100, 1,100]", "+100 [+100, +100]", "1.100 [1.100, 1.100]"],
                    ["none", "skipped: no compiler", "-", "-", "-"]]


def test_all_ways_on_this_machine():
    dataset = small_dataset()
    with step_variants.world_of_one(torch.device("cpu")):
        lines = step_variants.time_ways(step_variants.all_ways(CELL, dataset, 0.0, compiler=False), rounds=2)
    assert not torch.distributed.is_initialized()
    skipped = {line.name: line.skipped for line in lines if line.skipped}
    assert skipped == {"+ compile": "--no-compile"}
    assert all(len(line.step_s) == 2 for line in lines if not line.skipped)


def test_the_model_of_the_ddp_line_is_distributed():
    with step_variants.world_of_one(torch.device("cpu")):
        training = Training(CELL, 0, small_dataset())
        step_variants._distribute(training)
        train_step(training, *training.batch(torch.arange(30)), 30)
        assert isinstance(training.model, torch.nn.parallel.DistributedDataParallel)


def test_markdown_without_a_ledger_is_wrong_input(tmp_path, capsys):
    assert ledger.main(["--markdown", "--store", str(tmp_path)]) == 2
    assert "no ledger of this machine" in capsys.readouterr().err


def test_markdown_prints_what_is_stored(tmp_path, capsys):
    lines = [LedgerLine(name="raw", what="all", step_s=[0.001, 0.001])]
    side_records.save(tmp_path, Ledger(environment=environment.collect(), started_at="", cell={}, lines=lines))
    assert ledger.main(["--markdown", "--store", str(tmp_path)]) == 0
    assert "| raw" in capsys.readouterr().out


@pytest.mark.parametrize(("settings", "said"), [
    ('model.name = "network2"\ntrain.precision = "bf16"', "with the default train.precision"),
    ('model.name = "network2"\ntrain.gradient_clip_norm = 1.0', "with the default train.gradient_clip_norm"),
    ('model.name = "network2"\ntrain.ema = 0.9\nexecution.capture = true', "with the default train.ema, execution"),
    ('model = { name = "cited", system = "hcnn_vgg16" }', "this network has a training_loss of its own"),
])
def test_a_cell_that_raw_pytorch_would_not_run_alike_is_refused(settings, said, tmp_path, capsys):
    toml = tmp_path / "mine.toml"
    toml.write_text(f'question = "?"\n[[cells]]\n{settings}\ndata.dataset = "synthetic"\n')
    assert ledger.main(["--experiment", str(toml), "--store", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))
