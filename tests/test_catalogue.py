import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import experiment
from fmnist_core.config import CitedModel
from fmnist_core.models import cited
from fmnist_core.models.catalogue import CITED, NON_NEURAL, CitedSystem, by_cell

IDS = [entry.name for entry in CITED]
EXPERIMENTS = sorted({entry.experiment for entry in CITED})


@pytest.mark.parametrize("entry", CITED, ids=IDS)
def test_parameters_and_multiply_adds_are_those_of_the_network(entry: CitedSystem) -> None:
    with torch.device("meta"):
        model = cited.build(entry.system, (1, 28, 28), **entry.options).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 28, 28, device="meta"))
    assert sum(p.numel() for p in model.parameters()) == entry.num_parameters
    assert counter.get_total_flops() == 2 * entry.multiply_adds


@pytest.mark.parametrize("entry", CITED, ids=IDS)
def test_a_cell_trains_it_and_shows_the_same_number(entry: CitedSystem) -> None:
    """Shown beside the cell: the number that the report quotes, or, where it quotes none, the authors'."""
    cells = [cell for cell in experiment.load(entry.experiment).cells if cell.label == entry.name]
    assert len(cells) == 1
    model = cells[0].config.model
    assert isinstance(model, CitedModel)
    assert (model.system, model.options) == (entry.system, dict(entry.options))
    digits = entry.reported.removeprefix("about ")
    quoted = float(digits) / 100 if digits else entry.authors_accuracy
    assert cells[0].reported.test_accuracy == (quoted if quoted is None else pytest.approx(quoted))
    assert bool(cells[0].reported.source) == (quoted is not None)


def test_every_network_is_somebodys_and_every_experiment_is_complete() -> None:
    assert {entry.system for entry in CITED} == set(cited.SYSTEMS)
    files = [name for name in experiment.names() if name.startswith("cited_")]
    assert files == sorted({*EXPERIMENTS, *(entry.experiment for entry in NON_NEURAL)})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_cells_that_are_nobodys_claim_say_so(name: str) -> None:
    """A cell without an entry shows no number; every one that has options can be built with them."""
    for cell in experiment.load(name).cells:
        assert isinstance(cell.config.model, CitedModel)
        with torch.device("meta"):
            cited.build(cell.config.model.system, (1, 28, 28), **cell.config.model.options)
        if by_cell(name, cell.label) is None:
            assert cell.reported == experiment.Reported()
            assert cell.note.startswith("Not his")


def test_names_are_unique_and_findable() -> None:
    assert len(set(IDS)) == len(IDS)
    entry = by_cell("cited_agarap", "CNN-SVM")
    assert entry is not None
    assert entry.authors_accuracy == 0.9072
    assert by_cell("cited_bhatnagar", "CNN-SVM") is None


# The numbers as the report prints them, in its order: sections 1.2 and 1.7.
@pytest.mark.parametrize(("name", "percent"), [
    ("CNN2 + BN + skip", "92.54"), ("CNN-SVM", "90.72"), ("CNN-Softmax", "91.86"), ("H-CNN VGG16", "93.52"),
    ("SqueezeNet + BN", "93.43"), ("MCNN15", "94.04"), ("ResNet18 of kefth, augmented", "94.9"),
    ("Khanday 3x3", "92.68"), ("AlexNet", "about 93"),
])
def test_the_reports_numbers(name: str, percent: str) -> None:
    entry = next(entry for entry in CITED if entry.name == name)
    assert entry.reported == percent


def test_doubtful_numbers_are_marked() -> None:
    entries = {entry.name: entry for entry in CITED}
    for entry in CITED:
        assert (entry.authors_accuracy is None) == (entry.evidence == "none")
        if entry.authors_accuracy is None:
            assert entry.note, entry.name
            assert entry.selection == entry.release == "unknown"
    khanday = entries["Khanday 3x3"]
    assert (khanday.authors_accuracy, khanday.reported, khanday.evidence) == (0.9368, "92.68", "remembered")
    assert "Vijayaraj" in entries["CNN2 + BN + skip"].note
    assert {entry.name for entry in CITED if entry.release == "old"} == {
        "ResNet18 of kefth, augmented", "SimpleNet, augmented", "hardmaru"}


def test_catalogue_needs_no_torch() -> None:
    code = "import sys; import fmnist_core.models.catalogue; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
