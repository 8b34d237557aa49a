"""Layers as data and the modules made of them."""

import re
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fmnist_core.config import CustomModel, KernelDepthCNN, Network1, Network2
from fmnist_core.models import layers
from fmnist_core.models.build import ACTIVATIONS, build
from fmnist_core.models.layers import Conv, MaxPool, Pad, trace
from fmnist_core.models.networks import MONOTONIC, layers_of
from fmnist_core.models.own import OwnNetworkError
from fmnist_core.summary import least_bytes, multiply_adds, num_parameters, summarize

SHAPE = (1, 28, 28)


def test_the_printed_networks_by_hand():
    """Network 1: 8*26 + 12*201 + 120*193 + 60*121 + 40*61 + 410. Network 2: 40 + 8 + 1616 + 32 + 392*785 + 3930."""
    assert layers.num_parameters(layers_of(Network1()), SHAPE) == 208 + 2412 + 23160 + 7260 + 2440 + 410
    assert layers.num_parameters(layers_of(Network2()), SHAPE) == 40 + 8 + 1616 + 32 + 307720 + 3930
    assert layers.multiply_adds(layers_of(Network2()), SHAPE) == 4 * 9 * 784 + 16 * 4 * 25 * 196 + 784 * 392 + 3920


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("depth", range(1, 9))
def test_family_has_the_same_maps_for_every_kernel_and_torch_agrees(kernel_size, depth):
    config = KernelDepthCNN(kernel_size=kernel_size, depth=depth, width=6)
    rows = trace(layers_of(config), SHAPE)
    sizes = [row.out_shape for row in rows if isinstance(row.layer, Conv)]
    assert [size[1] for size in sizes] == ([28, 14] + [7] * 6)[:depth]
    model = build(config, SHAPE)
    assert num_parameters(model) == layers.num_parameters(layers_of(config), SHAPE)
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, *SHAPE))
    assert counter.get_total_flops() == 2 * layers.multiply_adds(layers_of(config), SHAPE)


@pytest.mark.parametrize("kernel_size", [2, 4])
def test_even_kernels_pad_the_odd_pixel_after_as_torchs_same_padding(kernel_size):
    """torch's padding="same" does it in a hidden copy, with a warning; here it is a layer."""
    model = build(KernelDepthCNN(kernel_size=kernel_size, depth=1, width=3, batch_norm=False, num_pools=0), SHAPE)
    assert isinstance(model[0], nn.ZeroPad2d)
    image = torch.rand(2, *SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its copy, once
        expected = torch.nn.functional.conv2d(image, model.conv1.weight, model.conv1.bias, padding="same")
    torch.testing.assert_close(model.conv1(model[0](image)), expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_pooling_first_is_exact_and_only_done_where_it_is(activation):
    image = torch.randn(4, 3, 8, 8) * 3
    function, pool = ACTIVATIONS[activation](), nn.MaxPool2d(2)
    assert torch.equal(function(pool(image)), pool(function(image))) == (activation in MONOTONIC)
    names = [layer.name for layer in layers_of(Network2(activation=activation))]
    assert (names.index("maxpool1") < names.index("activation1")) == (activation in MONOTONIC)


def test_table_1_1_sizes_follow_from_one_pool_and_stride_2():
    rows = trace(layers_of(Network1(conv1_channels=32, conv2_channels=64, conv2_stride=2, num_pools=1)), SHAPE)
    assert {row.layer.name: row.out_shape for row in rows}["flatten"] == (1024,)


def test_dropout_stands_where_it_was_asked_for():
    names = lambda config: [layer.name for layer in layers_of(config)]
    after = lambda config: names(config)[names(config).index("dropout") - 1]
    assert after(Network1()) == "fc_activation1"
    assert after(Network1(dropout_after=3)) == "fc_activation3"
    assert after(Network2(fc_activation="none")) == "fc1"
    assert after(Network2(dropout_after=0)) == "flatten"
    assert after(KernelDepthCNN(dropout=0.1, fc_sizes=(7,))) == "fc_activation1"
    assert "dropout" not in names(Network1(dropout=0.0))
    assert names(Network2(conv_dropout=0.2)).count("conv_dropout2") == 1


@pytest.mark.parametrize(("config", "size", "message"), [
    (Network1(conv1_kernel_size=11, conv2_kernel_size=11), 28, "conv2: a kernel of 11 does not fit a map of 9 x 9"),
    (Network1(), 9, "conv2: a kernel of 5 does not fit a map of 2 x 2"),
    (Network1(conv2_kernel_size=2), 8, "maxpool2: a 2 x 2 pool does not fit a map of 1 x 1"),
])
def test_what_does_not_fit_is_named(config, size, message):
    with pytest.raises(ValueError, match=message):
        trace(layers_of(config), (1, size, size))


def test_layer_shapes_against_torch():
    for layer, module in ((Conv(name="c", channels=5, kernel_size=3, stride=2, padding=1), nn.Conv2d(2, 5, 3, 2, 1)),
                          (MaxPool(name="m"), nn.MaxPool2d(2)),
                          (Pad(name="p", padding=(1, 2, 3, 4)), nn.ZeroPad2d((1, 2, 3, 4)))):
        for size in (5, 6, 7, 8):
            output = module(torch.zeros(1, 2, size, size + 1))
            assert layer.out_shape((2, size, size + 1)) == tuple(output.shape[1:])


def test_summary_is_what_runs():
    model = build(Network2(), SHAPE)
    rows = summarize(model, SHAPE)
    assert [row.name for row in rows] == [layer.name for layer in layers_of(Network2())]
    assert multiply_adds(rows) == layers.multiply_adds(layers_of(Network2()), SHAPE)
    assert sum(row.num_parameters for row in rows) == num_parameters(model) == 313_346
    conv2 = next(row for row in rows if row.name == "conv2")
    assert (conv2.in_shape, conv2.out_shape, conv2.kernel_size, conv2.padding) == ((4, 14, 14), (16, 14, 14), 5, "2")
    assert model.training


class Concat(nn.Module):
    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(maps, 1)


class Idioms(nn.Module):
    """What a network of one's own may do: padding by name, a list for a layer, a layer called by keyword."""

    def __init__(self):
        super().__init__()
        self.same, self.valid = nn.Conv2d(1, 2, 3, padding="same"), nn.Conv2d(1, 2, 1, padding="valid")
        self.concat, self.fc = Concat(), nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(input=self.concat([self.same(x), self.valid(x)]).mean((2, 3)))


class RowByRow(nn.Module):
    """Products that are neither Conv2d nor Linear, and a Linear that sees each row of the image as one of a batch."""

    def __init__(self):
        super().__init__()
        self.rows, self.recurrent = nn.Linear(28, 16), nn.LSTM(16, 32, batch_first=True)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.up = nn.ConvTranspose2d(1, 4, 3, stride=2)
        self.classes_KC = nn.Parameter(torch.ones(10, 32))

    def forward(self, images_NCHW):
        num_images = len(images_NCHW)
        rows = self.rows(images_NCHW.reshape(-1, 28)).reshape(num_images, 28, 16)
        states, _ = self.recurrent(rows)
        states, _ = self.attention(states, states, states)
        self.up(images_NCHW)
        return states.mean(1) @ self.classes_KC.T


def test_multiply_adds_of_any_layer_and_of_none():
    model = RowByRow()
    rows = summarize(model.train(), SHAPE)
    assert {row.name: row.multiply_adds for row in rows} == {
        "rows": 28 * 28 * 16, "recurrent": 28 * 4 * 32 * (16 + 32), "up": 28 * 28 * 4 * 9,
        # four projections of 28 places, their products, the sum of values; the ten classes
        "": 28 * 4 * 32 * 32 + 2 * 28 * 28 * 32 + 32 * 10}
    assert rows[-1].kind == "outside of layers"
    assert rows[-1].num_parameters == 10 * 32 + 4 * 32 * (32 + 1), "the classes; the four projections"
    assert sum(row.num_parameters for row in rows) == num_parameters(model)
    assert model.training
    assert torch.backends.mkldnn.enabled
    assert torch.backends.mha.get_fastpath_enabled()


def test_multiply_adds_of_attention_that_keeps_no_weights_and_of_bilinear_layers():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(28, 4, 64, batch_first=True)
            self.classes = nn.Bilinear(28, 28, 10)

        def forward(self, images_NCHW):
            rows = self.encoder(images_NCHW[:, 0])
            rows = nn.functional.scaled_dot_product_attention(rows, rows, rows)
            return self.classes(rows[:, 0], rows[:, 1])

    rows = {row.name: row.multiply_adds for row in summarize(Encoder(), SHAPE)}
    assert rows["classes"] == 10 * 28 * 28
    feed_forward = rows["encoder.linear1"] + rows["encoder.linear2"]
    assert feed_forward == 2 * 28 * 28 * 64
    assert rows[""] == 28 * 4 * 28 * 28 + 2 * 28 * 28 * 28 + 2 * 28 * 28 * 28, "projections, attention, the other one"


def test_networks_of_ones_own_are_summarized_whatever_their_layers_are_given():
    rows = {row.name: row for row in summarize(Idioms(), SHAPE)}
    assert [rows["same"].padding, rows["valid"].padding] == ["same", "valid"]
    assert rows["concat"].out_shape == (4, 28, 28)
    assert (rows["fc"].in_shape, rows["fc"].out_shape, rows["fc"].num_parameters) == ((4,), (10,), 50)


class Shared(nn.Module):
    """A grouped convolution with a kernel that is not square, a pool, a layer that runs twice, one that does not learn.
    """

    def __init__(self):
        super().__init__()
        self.grouped, self.pool = nn.Conv2d(4, 8, (3, 5), groups=2), nn.AvgPool2d(4, stride=2, padding=1)
        self.twice, self.frozen = nn.Linear(8, 8), nn.Linear(8, 10).requires_grad_(False)

    def forward(self, images_NCHW):
        means = self.pool(self.grouped(images_NCHW.expand(-1, 4, -1, -1))).mean((2, 3))
        return self.frozen(self.twice(self.twice(means)))


def test_a_summary_counts_groups_kernels_and_what_learns_once():
    model = Shared().eval()
    rows = summarize(model, SHAPE)
    assert [(row.name, row.multiply_adds, row.num_parameters) for row in rows] == [
        ("grouped", 8 * 26 * 24 * 2 * 3 * 5, 8 * 2 * 15 + 8), ("pool", 0, 0), ("twice", 64, 72), ("twice", 64, 0),
        ("frozen", 80, 0)]
    assert (rows[1].kernel_size, rows[1].stride, rows[1].padding) == (4, 2, "1")
    assert num_parameters(model) == 8 * 2 * 15 + 8 + 72
    assert not model.training


def test_least_bytes_by_hand():
    """One Linear layer of 4 to 3: 3 outputs x 4 passes x 2 images, and 15 parameters x 6 and 30 moments x 2."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    rows, params = summarize(model, (1, 2, 2)), num_parameters(model)
    assert least_bytes(rows, params, 30, 2) == 4 * (3 * 4 * 2 + 15 * 6 + 30 * 2)
    assert least_bytes(rows, params, 0, 2, itemsize=2) == 2 * 3 * 4 * 2 + 4 * 15 * 6


def good_factory(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.Linear(width, 10))


def bad_factory() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 9))


def raising_factory(*, error: str) -> nn.Module:
    raise KeyError(f"{error}\nand more")


def leaving_factory() -> nn.Module:
    sys.exit(3)


def other_factory(*sizes: int, **options: float) -> object:
    return options


def test_your_own_model():
    model = build(CustomModel(factory="tests.test_models:good_factory", options={"width": 5}), SHAPE)
    assert num_parameters(model) == 785 * 5 + 60
    assert model.training


@pytest.mark.parametrize(("factory", "options", "reason"), [
    ("bad_factory", {}, "2 images gave Tensor of shape (2, 9), not logits of shape (2, 10)"),
    ("good_factori", {}, "'good_factori' is not there; did you mean 'good_factory'?"),
    ("SHAPE", {}, "'SHAPE' is a tuple, not a function"),
    ("good_factory", {"widht": 3}, "it has no argument for the key 'model.widht'; did you mean 'model.width'?; "
                                   "its arguments: width"),
    ("bad_factory", {"depth": 3}, "it has no argument for the key 'model.depth'; it has no arguments"),
    ("raising_factory", {}, "missing key 'model.error', an argument without a default"),
    ("raising_factory", {"error": "no"}, "KeyError: 'no\\nand more'"),
    ("good_factory", {"width": -1}, "RuntimeError: Trying to create tensor with negative dimension -1: [-1, 784]"),
    ("other_factory", {"any": 1.0}, "it gave a dict, not an nn.Module"),
    ("leaving_factory", {}, "SystemExit: 3"),
])
def test_what_is_wrong_with_your_own_model_is_said_in_one_line(factory, options, reason):
    name = f"tests.test_models:{factory}"
    with pytest.raises(OwnNetworkError) as error:
        build(CustomModel(factory=name, options=options), SHAPE)
    told = f"model.name = '{name}' cannot be used: {reason}"
    if "Error: " in reason or "Exit: " in reason:  # of the factory's own: where in it
        assert re.fullmatch(re.escape(told) + r" \(test_models\.py, line \d+\)", str(error.value))
    else:
        assert str(error.value) == told


@pytest.mark.parametrize(("module", "reason"), [
    ("tests.test_model", "there is no module 'tests.test_model'; did you mean 'tests.test_models'?; a module must be"),
    ("own_broken_nets", "there is no module 'own_broken_nets'; did you mean 'own_broken_net'?; a module must be"),
    ("tests.test_models.below", "there is no module 'tests.test_models.below'; a module must be installed, or its "
                                "folder named before the command: PYTHONPATH=FOLDER"),
    ("own_broken_net", "importing own_broken_net: ModuleNotFoundError: No module named 'what_it_needs' "
                       "(own_broken_net.py, line 1)"),
    ("own_unreadable_net", "importing own_unreadable_net: SyntaxError: invalid syntax (own_unreadable_net.py, line 1)"),
])
def test_a_module_that_cannot_be_imported(module, reason, tmp_path, monkeypatch):
    (tmp_path / "own_broken_net.py").write_text("import what_it_needs")
    (tmp_path / "own_unreadable_net.py").write_text("import !")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OwnNetworkError) as error:
        build(CustomModel(factory=f"{module}:net"), SHAPE)
    told = str(error.value).removeprefix(f"model.name = '{module}:net' cannot be used: ")
    assert told == reason if reason.startswith("importing") else told.startswith(reason)


def test_a_lack_of_memory_is_no_fault_of_your_own_model(monkeypatch):
    for lack in (MemoryError("no room"), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        monkeypatch.setattr(nn, "Linear", lambda *sizes, lack=lack: (_ for _ in ()).throw(lack))
        with pytest.raises(type(lack), match=str(lack)):
            build(CustomModel(factory="tests.test_models:bad_factory"), SHAPE)
