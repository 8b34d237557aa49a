"""Labels that are seen, not copied."""

import pytest
import torch
from torch import nn

from fmnist_core.config import CellConfig, DataConfig, ExecutionConfig, Network2, TrainConfig
from fmnist_core.observe import count_operators, graph_counts, memory_format, observe, reset_graph_counts
from fmnist_core.train import Training
from tests.small import small_dataset


def training(precision="no", form="contiguous"):
    return Training(CellConfig(model=Network2(), data=DataConfig(dataset="synthetic", validation_size=40),
                               train=TrainConfig(precision=precision, global_batch_size=16),
                               execution=ExecutionConfig(memory_format=form)), 0, small_dataset(num_train=48))


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("form", ["contiguous", "channels_last"])
def test_precision_and_memory_format_as_they_are(precision, form):
    seen = observe(training(precision, form))
    assert seen.precision == {"no": "float32", "bf16": "bfloat16"}[precision]
    assert (seen.weight_memory_format, seen.activation_memory_format) == (form, form)
    assert seen.num_processes == 1
    assert not seen.compiled


def test_a_label_follows_the_model_and_not_the_request():
    trained = training(form="channels_last")
    trained.model.to(memory_format=torch.contiguous_format)
    assert observe(trained).weight_memory_format == "contiguous"


def test_observing_changes_nothing():
    trained = training()
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    state = torch.get_rng_state()
    observe(trained)
    assert all(torch.equal(value, before[name]) for name, value in trained.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert trained.model.training


def test_memory_format_of_tensors():
    last = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert memory_format([last]) == "channels_last"
    assert memory_format([torch.zeros(2, 3, 4, 4)]) == "contiguous"
    assert memory_format([last, torch.zeros(2, 3, 4, 4)]) == "mixed"
    assert memory_format([torch.zeros(2, 1, 4, 4)]) == "any"
    assert memory_format([]) == "any"


def test_operators_of_a_step():
    operators = count_operators(training())
    assert operators["aten::convolution"] == 2
    assert operators["aten::convolution_backward"] == 2
    assert operators["aten::native_batch_norm"] == 2
    assert operators["aten::addmm"] == 2


def test_graph_breaks_and_recompiles_by_hand():
    class Breaks(nn.Module):
        def forward(self, x):
            y = x + 1
            torch._dynamo.graph_break()
            return y * 2

    reset_graph_counts()
    model = torch.compile(Breaks(), backend="eager", dynamic=False)
    model(torch.zeros(2))
    assert graph_counts().graph_breaks == 1
    assert graph_counts().recompiles == 0
    model(torch.zeros(3))  # the frame and what follows the break: two compilations more
    assert graph_counts().recompiles == 2
    reset_graph_counts()
    assert graph_counts() == (0, 0)
