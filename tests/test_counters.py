"""Deterministic counters against the committed ones, and that a changed step does not get past them."""

import msgspec
import pytest
import torch

from bench import counters
from bench.counters import Counters, OfVersion
from bench.timing import memory
from fmnist_core import observe, train
from fmnist_core.config import Network2
from fmnist_core.models import networks
from fmnist_core.models.layers import multiply_adds, num_parameters
from fmnist_core.train import Training

CELLS = counters.cells()


@pytest.fixture(scope="module")
def expected():
    return counters.load()


@pytest.mark.parametrize("name", CELLS)
def test_counters_are_the_committed_ones(name, expected):
    counted = counters.count(CELLS[name])
    problems, unknown = counters.compare(name, counted, expected.get(name))
    line = counters.line(name, counters.merge(counted, expected.get(name)))
    assert not problems, "\n".join([*problems, "If that is meant, commit to tests/counters.json:", line])
    if unknown:
        pytest.skip("\n".join([*unknown, "To commit to tests/counters.json:", line]))


def test_no_entry_without_a_cell(expected):
    assert set(expected) == set(CELLS), "tests/counters.json: python -m bench.counters --write"


@pytest.mark.parametrize("name", CELLS)
def test_committed_parameters_and_multiply_adds_are_those_of_the_closed_forms(name, expected):
    layers = networks.layers_of(CELLS[name].model)
    assert expected[name].num_parameters == num_parameters(layers, (1, 28, 28))
    assert expected[name].multiply_adds == multiply_adds(layers, (1, 28, 28))


def test_counting_twice_gives_the_same():
    cell = CELLS["kernel 2, depth 1"]
    assert counters.count(cell) == counters.count(cell)


# Seen to fail


@pytest.fixture
def judged(expected):
    """What is said of the final network, counted now."""

    def judge(cell=CELLS["final"]):
        counted = counters.count(cell)
        known = expected["final"]
        here = {key: known.versions[key] for key in counted.versions if key in known.versions}
        if not here:
            pytest.skip(f"no entry for {', '.join(counted.versions)}")
        return counters.compare("final", counted, known)[0]

    return judge


@pytest.fixture
def small_step():
    return Training(CELLS["kernel 2, depth 1"], 0, counters.noise(CELLS["kernel 2, depth 1"], 8))


def with_step(monkeypatch, change):
    """`train_step` with `change(images)` before it, wherever it is called from here."""
    step = train.train_step

    def changed(training, images, labels, size):
        change(images)
        return step(training, images, labels, size)

    monkeypatch.setattr(observe, "train_step", changed)
    monkeypatch.setattr(train, "train_step", changed)


@pytest.mark.parametrize("wait", [
    lambda images: images.sum().item(), lambda images: bool(images.sum() > 0), lambda images: images.sum().tolist(),
    lambda images: images.cpu(), lambda images: images.numpy(), lambda images: images[images > 0],
    lambda images: images.nonzero(), lambda images: torch.equal(images, images),
    lambda images: torch.cuda.synchronize(images.device),
], ids=["item", "bool", "tolist", "cpu", "numpy", "mask", "nonzero", "equal", "synchronize"])
def test_an_added_wait_is_caught(small_step, wait, monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert observe.count_waits(observe.count_operators(small_step)) == 0
    with_step(monkeypatch, wait)
    assert observe.count_waits(observe.count_operators(small_step)) == 1


def test_an_added_wait_is_a_problem(judged, monkeypatch):
    with_step(monkeypatch, lambda images: images.sum().tolist())
    assert any("host_waits is 1, expected 0" in problem for problem in judged())


def test_added_work_is_caught(judged, monkeypatch):
    with_step(monkeypatch, lambda images: images + 1)
    problems = judged()
    assert any("operators is" in problem for problem in problems)
    assert not any("num_parameters" in problem for problem in problems)


def test_memory_held_is_caught(judged, monkeypatch):
    held = []
    with_step(monkeypatch, lambda images: held.append(torch.empty(1 << 20)))
    assert any("peak_bytes is" in problem for problem in judged())


def test_a_larger_optimizer_state_is_caught(judged, monkeypatch):
    amsgrad = lambda model, config: torch.optim.Adam(model.parameters(), amsgrad=True)
    monkeypatch.setattr(memory, "optimizer_for", amsgrad)
    # a third moment for each of 313,346 parameters
    assert judged() == ["final: step_bytes is 13,186,508, expected 11,933,124"]


def test_a_changed_parameter_count_is_caught(judged):
    smaller = msgspec.structs.replace(CELLS["final"], model=Network2(dropout=0.5, fc_sizes=(391,)))
    problems = judged(smaller)
    assert any("num_parameters is 312,551, expected 313,346" in problem for problem in problems)  # 785 + 10 fewer


# The comparison, by hand


HERE = OfVersion(operators=10, peak_bytes=100, graph_breaks=0, recompiles=2)
ENTRY = Counters(num_parameters=5, multiply_adds=7, host_waits=0, step_bytes=50, versions={"cpu, torch 2.14": HERE})


def changed(**values):
    return msgspec.structs.replace(ENTRY, versions={"cpu, torch 2.14": msgspec.structs.replace(HERE, **values)})


@pytest.mark.parametrize("field", ["operators", "peak_bytes", "graph_breaks", "recompiles"])
@pytest.mark.parametrize("step", [-1, 1])
def test_better_and_worse_are_both_told(field, step):
    worse = changed(**{field: getattr(HERE, field) + step})
    problems, unknown = counters.compare("cell", worse, ENTRY)
    assert len(problems) == 1
    assert field in problems[0]
    assert not unknown
    assert counters.compare("cell", ENTRY, ENTRY) == ([], [])


@pytest.mark.parametrize("field", ["num_parameters", "multiply_adds", "host_waits", "step_bytes"])
def test_what_no_device_changes_is_told_on_every_device(field):
    other = msgspec.structs.replace(ENTRY, versions={"cpu, torch 2.11": HERE}, **{field: getattr(ENTRY, field) + 1})
    problems, unknown = counters.compare("cell", ENTRY, other)
    assert len(problems) == len(unknown) == 1
    assert field in problems[0]


def test_a_missing_entry_fails_and_a_missing_version_is_unknown():
    assert counters.compare("cell", ENTRY, None) == (["cell: no entry"], [])
    other = msgspec.structs.replace(ENTRY, versions={"cpu, torch 2.11": HERE})
    assert counters.compare("cell", ENTRY, other) == ([], ["cell: no entry for cpu, torch 2.14"])


def test_merging_keeps_other_versions(tmp_path):
    other = msgspec.structs.replace(ENTRY, versions={"cpu, torch 2.11": HERE})
    merged = counters.merge(ENTRY, other)
    assert list(merged.versions) == ["cpu, torch 2.11", "cpu, torch 2.14"]
    counters.save({"cell": merged}, tmp_path / "counters.json")
    assert counters.load(tmp_path / "counters.json") == {"cell": merged}


def test_noise_has_the_device_and_size_of_the_cell():
    training = Training(CELLS["final"], 0, counters.noise(CELLS["final"], 90))
    assert training.dataset.train.images_NCHW.device == training.device
    assert training.steps_per_epoch == 1
