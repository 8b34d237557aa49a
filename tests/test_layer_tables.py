"""Layers in closed form against the network that is built, and where RESULTS.md shows them."""

import pytest

from bench import experiment
from bench.pages.layer_tables import in_closed_form, layer_table
from bench.pages.sections import WITH_LAYERS, section
from bench.pages.shown import Shown
from bench.record import Layer
from bench.records.machines import machine_names
from bench.records.rows import collect
from fmnist_core.config import CellConfig, KernelDepthCNN, Network1, Network2, input_shape
from fmnist_core.models.build import build
from fmnist_core.summary import summarize
from tests.made import complete, timed


@pytest.mark.parametrize("model", [
    *(cell.config.model for name in WITH_LAYERS for cell in experiment.load(name).cells),
    *(KernelDepthCNN(kernel_size=k, depth=d) for k in (2, 3, 4, 5) for d in (1, 3)),
    Network2(activation="leaky_relu"), Network2(activation="tanh", batch_norm=False), Network1(activation="gelu"),
])
def test_closed_form_is_what_the_built_network_shows(model):
    config = CellConfig(model=model)
    built = summarize(build(model, input_shape(config.data)), input_shape(config.data))
    found = in_closed_form(config)
    assert [(row.name, row.kind, tuple(row.in_shape), tuple(row.out_shape), row.kernel_size, row.stride, row.padding,
             row.num_parameters, row.multiply_adds) for row in found] == [tuple(vars(row).values()) for row in built]


def test_a_network_that_is_no_sequence_has_none():
    assert in_closed_form(experiment.load("cited_mcnn15").cells[0].config) == []


def test_the_trials_are_shown_layer_by_layer():
    records = complete(["table_1_1", "kernel_depth"])
    for name, is_shown in (("table_1_1", True), ("kernel_depth", False)):
        of = experiment.load(name)
        results = collect(records, [of])
        text = section(of, Shown(results, machine_names(results.records, ())))
        assert ("<summary>Layers, " in text) == is_shown
        assert (layer_table(in_closed_form(of.cells[0].config)) in text) == is_shown


def test_a_network_of_ones_own_is_shown_as_its_timing_saw_it():
    content = {"question": "?", "base": {"model": {"name": "tests.test_dry_run:make", "width": 4}}}
    of = experiment.parse(content, name="mine")
    seen = [Layer(name="1", kind="Linear", in_shape=[784], out_shape=[10], num_parameters=7850, multiply_adds=7840)]
    for layers in (seen, []):
        results = collect([timed(of, of.cells[0], layers=layers)], [of])
        text = section(of, Shown(results, machine_names(results.records, ())))
        assert (layer_table(seen) in text) == ("<summary>Layers, " in text) == bool(layers)
