"""Layers on a CPU that functions in C compute at once, against PyTorch's own layers."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from fmnist_core.config import CellConfig, DataConfig, Network2, TrainConfig
from fmnist_core.cpu import layer_fusion
from fmnist_core.cpu.layer_fusion import (
    MIN_NUMBERS,
    FusedLayers,
    LayerFusingSequential,
    NativeBatchNorm2d,
    fuse_layers,
)
from fmnist_core.observe import observe
from fmnist_core.train import Training
from tests.small import small_dataset

pytestmark = pytest.mark.skipif(layer_fusion.functions(torch.float32) is None, reason="needs a C compiler")

SIZES = [(28, 28), (14, 10), (9, 9), (8, 9), (2, 2)]
ORDERS = {"norm pool relu": (nn.BatchNorm2d, nn.MaxPool2d, nn.ReLU), "norm relu pool": (nn.BatchNorm2d, nn.ReLU,
          nn.MaxPool2d), "norm pool": (nn.BatchNorm2d, nn.MaxPool2d), "norm relu": (nn.BatchNorm2d, nn.ReLU),
          "norm": (nn.BatchNorm2d,), "pool relu": (nn.MaxPool2d, nn.ReLU), "relu pool": (nn.ReLU, nn.MaxPool2d)}


@pytest.fixture(autouse=True)
def any_maps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As small as they are, with one thread, and norms of any number of channels."""
    monkeypatch.setattr(layer_fusion, "MIN_NUMBERS", 0)
    monkeypatch.setattr(layer_fusion, "VECTOR", 1000)
    many = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(many)


@pytest.fixture
def operators(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What ran as a function in C."""
    calls: list[str] = []
    for name in ("norm_pool_relu", "convolve_in_blocks"):
        function = getattr(layer_fusion, name)
        monkeypatch.setattr(layer_fusion, name, lambda *arguments, name=name, function=function, **options: (
            calls.append(name), function(*arguments, **options))[1])
    return calls


def layers(order: str, channels: int) -> list[nn.Module]:
    made = {nn.BatchNorm2d: lambda: nn.BatchNorm2d(channels, momentum=0.3), nn.MaxPool2d: lambda: nn.MaxPool2d(2),
            nn.ReLU: nn.ReLU}
    return [made[kind]() for kind in ORDERS[order]]


def pair(*modules: nn.Module, dtype: torch.dtype = torch.float64) -> tuple[nn.Sequential, nn.Sequential]:
    """PyTorch's layers and ours, with parameters that are not the initial ones: some scales are negative, one is 0."""
    torch.manual_seed(0)
    for module in modules:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1, 2)
            nn.init.uniform_(module.bias, -1, 1)
            module.weight.data[0] = 0
    theirs = nn.Sequential(*modules).to(dtype, memory_format=torch.channels_last)
    ours = fuse_layers(copy.deepcopy(theirs))
    assert type(ours) is LayerFusingSequential
    return theirs, ours


def results(model: nn.Module, x: torch.Tensor, needs_gradient: bool,
            given: torch.dtype | None = None) -> list[torch.Tensor]:
    """Output, all gradients and buffers after two batches, and what evaluation gives then."""
    for images in (x, x.flip(0) * 2):
        images = images.clone(memory_format=torch.preserve_format).requires_grad_(needs_gradient)
        model.zero_grad()
        y = model(images)
        y.backward((torch.linspace(-1, 1, y.numel(), dtype=given or y.dtype).view_as(y) ** 2).to(y.dtype))
    gradients = [images.grad, *(parameter.grad for parameter in model.parameters())]
    model.eval()
    with torch.no_grad():
        return [y, *(g for g in gradients if g is not None), *model.buffers(), model(x)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("channels", [1, 4, 16, 13])
@pytest.mark.parametrize("order", ORDERS)
def test_equals_pytorchs_layers(order, channels, height, width, operators):
    theirs, ours = pair(*layers(order, channels))
    x = (torch.randn(5, channels, height, width, dtype=torch.float64) * 4).round() / 2  # many pixels are equal, or 0
    x = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(results(ours, x, True), results(theirs, x, True))
    assert operators == ["norm_pool_relu"] * 3


@pytest.mark.parametrize(("height", "width", "kernel_size", "padding"), [
    (*size, kernel_size, padding) for size in SIZES
    for kernel_size, padding in [(1, 0), (2, 0), (3, 1), (3, 0), (4, 1), (5, 2), (5, 4), (2, 3), (6, 2), (7, 3)]
    if min(size) + 2 * padding > kernel_size])
@pytest.mark.parametrize(("channels", "order"), [(4, "norm pool relu"), (4, "pool relu"), (1, "norm pool"),
                                                 (7, "relu pool")])
def test_first_convolution_in_blocks(order, channels, kernel_size, padding, height, width, operators):
    conv = nn.Conv2d(1, channels, kernel_size, padding=padding, bias=order != "pool relu")
    theirs, ours = pair(conv, *layers(order, channels))
    x = torch.rand(11, 1, height, width, dtype=torch.float64)
    x[:, :, :height // 2] = 0  # half of each is blank, as in the data
    torch.testing.assert_close(results(ours, x, False), results(theirs, x, False))
    even = all((size + 2 * padding - kernel_size) % 2 for size in (height, width))
    if even or kernel_size > 1:  # what a convolution of one channel and one pixel gives has PyTorch's own format
        assert operators == (["convolve_in_blocks", "norm_pool_relu"] * 3 if even else ["norm_pool_relu"] * 3)


def test_large_maps_and_float32():
    theirs, ours = pair(nn.Conv2d(1, 5, 3, padding=1), *layers("norm pool relu", 5), nn.Conv2d(5, 24, 3),
                        *layers("norm relu", 24), dtype=torch.float32)
    x = torch.rand(70, 1, 66, 94)
    exact = copy.deepcopy(theirs).double()
    wanted = results(exact, x.double(), False)
    errors = [[float((each.detach() - right.detach()).abs().max()) for each, right in zip(found, wanted, strict=True)]
              for found in (results(ours, x, False), results(theirs, x, False))]
    assert all(mine <= 3 * their_own + 1e-6 for mine, their_own in zip(*errors, strict=True)), errors


@pytest.mark.parametrize("order", ORDERS)
def test_bfloat16_under_autocast(order, operators):
    """As near to exact numbers as PyTorch's layers, which round between; the same where nothing is to be rounded."""
    theirs, ours = pair(*layers(order, 13), dtype=torch.float32)
    x = torch.randn(40, 13, 9, 9).bfloat16().to(memory_format=torch.channels_last)
    exact = results(copy.deepcopy(theirs).double(), x.double(), True, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found, their_own = (results(model, x, True) for model in (ours, theirs))
    assert [each.dtype for each in found] == [each.dtype for each in their_own]
    assert operators == ["norm_pool_relu"] * 3
    if "norm" not in order:
        torch.testing.assert_close(found, their_own, rtol=0, atol=0)
        return
    for mine, other, wanted in zip(found, their_own, exact, strict=True):
        errors = [float((each.detach() - wanted.detach()).square().double().mean()) for each in (mine, other)]
        assert errors[0] <= 1.1 * errors[1] + 1e-10, wanted.shape


def test_statistics_of_maps_far_from_zero():
    """One pass over squares would lose the variance: a deviation of 1 at a mean of 10,000."""
    theirs, ours = pair(*layers("norm pool relu", 4), dtype=torch.float32)
    x = torch.randn(64, 4, 28, 28, dtype=torch.float64).to(memory_format=torch.channels_last) + 1e4
    exact = copy.deepcopy(theirs).double()
    torch.testing.assert_close(ours(x.float()).double(), exact(x), rtol=0, atol=5e-3)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_what_is_frozen_gets_no_gradient(frozen):
    theirs, ours = pair(nn.Conv2d(1, 4, 3, padding=1), *layers("norm pool relu", 4))
    for model in (theirs, ours):
        getattr(model[0], frozen).requires_grad_(False)
        getattr(model[1], frozen).requires_grad_(False)
        model(torch.linspace(0, 1, 5 * 784, dtype=torch.float64).view(5, 1, 28, 28)).square().sum().backward()
    assert getattr(ours[0], frozen).grad is None
    assert getattr(ours[1], frozen).grad is None
    for mine, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad)


def test_gradients_against_finite_differences():
    _, ours = pair(nn.Conv2d(1, 3, 3, padding=1), *layers("norm pool relu", 3), nn.Conv2d(3, 2, 2), *layers("norm", 2))
    ours[1].weight.data[0] = 0.5
    parameters = dict(ours.named_parameters())
    x = torch.rand(5, 1, 6, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *values: torch.func.functional_call(
        ours, dict(zip(parameters, values, strict=True)), x), tuple(parameters.values()))


def test_numbers_that_are_not_finite_show():
    """A training that diverges must not look healthy: a NaN is the largest of a window, and no ReLU hides it."""
    _, ours = pair(*layers("pool relu", 4), dtype=torch.float32)
    x = -torch.ones(1, 4, 4, 4).to(memory_format=torch.channels_last)
    for i, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        x[0, i, row, column] = torch.nan
        x[0, i, 2 + row, 2 + column] = torch.inf
    y = ours(x)
    assert y[0, :, 0, 0].isnan().all()
    assert y[0, :, 1, 1].isinf().all()
    assert (y[0, :, 0, 1] == 0).all()
    _, ours = pair(nn.Conv2d(1, 4, 3, padding=1), *layers("norm pool relu", 4), dtype=torch.float32)
    images = torch.rand(2, 1, 8, 8)
    images[0, 0, 3, 3] = torch.nan
    assert ours(images)[:, 1:].isnan().all()


def test_a_gradient_of_what_is_not_a_number_goes_where_pytorch_sends_it():
    theirs, ours = pair(*layers("pool relu", 4))
    x, gradients = torch.full((2, 4, 4, 4), torch.nan, dtype=torch.float64).to(memory_format=torch.channels_last), []
    x[1] = -torch.inf
    for model in (theirs, ours, theirs[:1], ours[:1]):
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        model(given).sum().backward()
        gradients.append(given.grad)
    torch.testing.assert_close(gradients[1::2], gradients[::2])


@pytest.mark.parametrize(("modules", "shape"), [
    ([nn.MaxPool2d(2), nn.ReLU()], (2, 3, 1, 8)), ([nn.MaxPool2d(2), nn.ReLU(), nn.MaxPool2d(2)], (2, 3, 4, 2)),
    ([nn.BatchNorm2d(4), nn.ReLU()], (4, 8, 8, 8)), ([nn.BatchNorm2d(4), nn.ReLU()], (4, 1, 8, 8)),
    ([nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2)], (4, 3, 8, 8)),
    ([nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(3), nn.MaxPool2d(2)], (4, 1, 8, 8))])
def test_maps_that_do_not_fit_the_layers_are_refused_as_pytorch_refuses_them(modules, shape):
    theirs, ours = pair(*modules, dtype=torch.float32)
    x = torch.rand(shape).to(memory_format=torch.channels_last)
    for training in (True, False):
        with torch.no_grad():
            with pytest.raises(RuntimeError) as wanted:
                theirs.train(training)(x)
            with pytest.raises(RuntimeError) as found:
                ours.train(training)(x)
        assert str(found.value) == str(wanted.value)


def test_parameters_that_lie_otherwise_in_memory():
    """Transposed, with gaps, or repeated: functions in C know nothing of strides."""
    theirs, ours = pair(nn.Conv2d(1, 8, 3, padding=1), *layers("norm pool relu", 8))
    names = "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"
    wide = {name: torch.rand(16, dtype=torch.float64) + 0.5 for name in names}
    given = {name: values[::2] for name, values in wide.items()}
    given["1.bias"] = torch.ones(1, dtype=torch.float64).expand(8)
    x, found = torch.rand(4, 1, 8, 8, dtype=torch.float64), []
    for model in (theirs, ours):
        model[0].weight = nn.Parameter(model[0].weight.detach().contiguous().transpose(2, 3))
        y = torch.func.functional_call(model.train(), {**given, "1.running_mean": wide["1.running_mean"][:8].clone(),
                                                       "1.running_var": wide["1.running_var"][:8].clone()}, x)
        y.square().sum().backward()
        with torch.no_grad():
            found.append([y, model[0].weight.grad, torch.func.functional_call(model.eval(), given, x)])
    torch.testing.assert_close(found[1], found[0])


def test_statistics_that_are_switched_off_later():
    theirs, ours = pair(*layers("norm pool relu", 4))
    x = torch.rand(6, 4, 8, 8, dtype=torch.float64).to(memory_format=torch.channels_last)
    for model in (theirs, ours):
        torch.optim.swa_utils.update_bn([x, x * 2], model)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()))
    assert type(fuse_layers(nn.BatchNorm2d(4, bias=False))) is nn.BatchNorm2d


def test_relu_in_place_changes_what_it_is_given():
    model = fuse_layers(nn.Sequential(nn.ReLU(inplace=True), nn.MaxPool2d(2)))
    x = torch.arange(-8.0, 8).view(1, 1, 4, 4)
    model(x)
    assert x.min() == 0


def test_a_norm_that_runs_once_in_c_and_once_in_pytorch():
    _, ours = pair(*layers("norm", 3))
    x = torch.rand(4, 3, 5, 5, dtype=torch.float64)
    (ours(x).sum() + ours(x.to(memory_format=torch.channels_last)).sum()).backward()
    assert ours[0].num_batches_tracked == 2


def test_transformations_of_functions_have_pytorchs_layers():
    theirs, ours = pair(nn.Conv2d(1, 4, 3, padding=1), *layers("norm pool relu", 4))
    x = torch.rand(3, 5, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(ours.eval())(x), torch.vmap(theirs.eval())(x))


def test_no_image_at_all_and_one_value_per_channel():
    theirs, ours = pair(nn.Conv2d(1, 4, 3, padding=1), *layers("norm pool relu", 4), dtype=torch.float32)
    empty = torch.zeros(0, 1, 28, 28)
    assert ours(empty).shape == theirs(empty).shape == (0, 4, 14, 14)
    with pytest.raises(ValueError, match="more than 1 value"):
        ours[1](torch.ones(1, 4, 1, 1).to(memory_format=torch.channels_last))
    unbatched = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.ReLU())
    x = torch.ones(1, 28, 28)
    torch.testing.assert_close(fuse_layers(copy.deepcopy(unbatched))(x), unbatched(x))


def test_the_next_layer_gets_channels_last(operators):
    _, ours = pair(nn.Conv2d(1, 4, 3, padding=1), *layers("norm pool relu", 4), dtype=torch.float32)
    assert ours(torch.rand(5, 1, 28, 28)).is_contiguous(memory_format=torch.channels_last)
    assert operators == ["convolve_in_blocks", "norm_pool_relu"]


def test_what_does_not_fit_is_left_to_pytorch(operators):
    _, ours = pair(nn.Conv2d(1, 4, 3, padding=1), *layers("norm pool relu", 4), dtype=torch.float32)
    images = torch.rand(5, 1, 28, 28)
    with torch.autocast("cpu", torch.bfloat16):
        ours(images)
    assert operators == ["norm_pool_relu"]  # the convolution computes in bfloat16
    operators.clear()
    ours(images.clone().requires_grad_()).sum().backward()  # whose gradient the blocks do not have
    assert operators == ["norm_pool_relu"]
    operators.clear()
    ours.eval()(images).sum().backward()  # a norm in evaluation has a gradient in PyTorch's layers alone
    assert not operators
    torch.set_num_threads(layer_fusion.MAX_THREADS + 1)
    ours.train()(images)
    assert not operators
    ours[1:](ours[0](images).contiguous())
    assert not operators


def test_a_layer_that_is_watched_is_called_by_itself(operators):
    theirs, ours = pair(nn.Conv2d(1, 4, 3, padding=1), *layers("norm pool relu", 4))
    seen = []
    for model in (theirs, ours):
        handles = [layer.register_forward_hook(lambda module, inputs, output: seen.append(output)) for layer in model]
        model(torch.rand(5, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(seen[4:], seen[:4])
    assert operators == ["norm_pool_relu"]  # the norm alone
    ours(torch.rand(5, 1, 28, 28, dtype=torch.float64))
    assert operators == ["norm_pool_relu", "convolve_in_blocks", "norm_pool_relu"]


def parts(*modules: nn.Module) -> list[int]:
    """Of how many layers each part is."""
    return [len(part.layers) if isinstance(part, FusedLayers) else 1 for part in layer_fusion._parts(modules)]


TWICE = nn.Conv2d(1, 1, 3, padding=1)


@pytest.mark.parametrize(("modules", "expected"), [
    ([nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()], [4, 1]),
    ([nn.Conv2d(1, 4, 3), nn.MaxPool2d(2)], [2]), ([nn.Conv2d(1, 16, 3), nn.MaxPool2d(2)], [1, 1]),
    ([nn.Conv2d(1, 16, 3), nn.MaxPool2d(2), nn.ReLU()], [1, 2]),
    ([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)], [1, 2]),
    ([nn.Conv2d(1, 4, 3, stride=2), nn.MaxPool2d(2)], [1, 1]), ([nn.Conv2d(1, 4, 3), nn.MaxPool2d(3)], [1, 1]),
    ([nn.Conv2d(1, 4, 3), nn.MaxPool2d(2, padding=1)], [1, 1]),
    ([nn.Conv2d(1, 4, 3), nn.MaxPool2d(2, stride=1)], [1, 1]),
    ([nn.Conv2d(1, 4, 3), nn.MaxPool2d(2, ceil_mode=True)], [1, 1]), ([nn.Conv2d(1, 4, 3), nn.AvgPool2d(2)], [1, 1]),
    ([nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.MaxPool2d(2)], [1, 1, 1]),
    ([nn.Conv2d(1, 4, 9), nn.MaxPool2d(2)], [1, 1]), ([nn.Conv2d(1, 4, 3)], [1]), ([], []),
    ([nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU()], [1, 3, 1]),
    ([nn.MaxPool2d(2), nn.LeakyReLU()], [1, 1]), ([nn.ReLU(), nn.ReLU()], [1, 1]),
    ([nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Tanh()], [2, 1]),
    ([TWICE, nn.MaxPool2d(2), TWICE], [2, 1])])
def test_layers_that_are_computed_at_once(modules, expected):
    assert parts(*modules) == expected


class Forked(nn.Sequential):
    """Reads the convolution's output twice."""

    def forward(self, x):
        return self[1](self[0](x)) + self[0](x).mean()


@pytest.mark.parametrize("model", [
    Forked(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2)), nn.ModuleList([nn.Conv2d(1, 4, 3), nn.MaxPool2d(2)]),
    nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, momentum=None), nn.BatchNorm2d(4, track_running_stats=False)])
def test_other_networks_stay_as_they_are(model):
    before = [type(module) for module in model.modules()]
    assert [type(module) for module in fuse_layers(model).modules()] == before


def training() -> Training:
    cell = CellConfig(model=Network2(), train=TrainConfig(global_batch_size=32),
                      data=DataConfig(dataset="synthetic", validation_size=40))
    return Training(cell, 0, small_dataset())


def losses(one: Training) -> list[float]:
    order = one.order().split(32)
    return [float(one.step_on(index_N)) for index_N in order[:6]]


def test_a_training_follows_the_curve_of_pytorchs_layers(monkeypatch, operators):
    ours = training()
    assert (type(ours.model), type(ours.model[1])) == (LayerFusingSequential, NativeBatchNorm2d)
    assert observe(ours).native_layers
    operators.clear()
    curve = losses(ours)
    assert operators == ["convolve_in_blocks", "norm_pool_relu", "norm_pool_relu"] * 6
    monkeypatch.setattr("fmnist_core.cpu.layer_fusion.functions", lambda dtype: None)  # as without a compiler
    theirs = training()
    assert (type(theirs.model), type(theirs.model[1])) == (nn.Sequential, nn.BatchNorm2d)
    assert not observe(theirs).native_layers
    assert curve == pytest.approx(losses(theirs), rel=1e-4)
    assert curve[0] != curve[5]


@pytest.mark.parametrize(("batch_size", "native"), [(90, True), (8, False)])
def test_the_label_tells_of_the_layers_of_a_whole_batch(monkeypatch, batch_size, native):
    """The maps of a few images are too small for the layers in C, which the training has nevertheless."""
    monkeypatch.setattr("fmnist_core.cpu.layer_fusion.MIN_NUMBERS", MIN_NUMBERS)
    cell = CellConfig(model=Network2(), train=TrainConfig(global_batch_size=batch_size),
                      data=DataConfig(dataset="synthetic", validation_size=40))
    assert observe(Training(cell, 0, small_dataset())).native_layers is native


@pytest.mark.parametrize(("batch_size", "accumulation", "num_processes", "expected"), [
    (90, 1, 1, 90), (91, 2, 1, 46), (91, 2, 3, 16), (1000, 1, 1, 230)])
def test_the_largest_part_of_a_step(batch_size, accumulation, num_processes, expected):
    cell = CellConfig(model=Network2(), data=DataConfig(dataset="synthetic", validation_size=40),
                      train=TrainConfig(global_batch_size=batch_size, gradient_accumulation=accumulation))
    one = Training(cell, 0, small_dataset())
    one.num_processes = num_processes
    assert one.largest_part().tolist() == list(range(expected))
