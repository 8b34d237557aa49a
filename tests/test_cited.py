import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fmnist_core.models import cited
from fmnist_core.models.cited.hierarchical import HierarchicalVGG

SHAPE = (1, 28, 28)

def build(system: str, **options: bool | int | float | str) -> nn.Module:
    torch.manual_seed(0)
    return cited.build(system, SHAPE, **options)


def on_meta(system: str, shape: tuple[int, ...] = SHAPE, /, **options: bool | int | float | str) -> nn.Module:
    with torch.device("meta"):
        return cited.build(system, shape, **options)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def conv(k: int, in_channels: int, channels: int) -> int:
    """With bias."""
    return channels * (k * k * in_channels + 1)


def linear(inputs: int, outputs: int) -> int:
    return outputs * (inputs + 1)


# The first nine were counted by others, or in print: see the reference. torchvision prints its own counts for 1000
# classes and 3 channels; the rest of each line is what the adaptation takes away and adds.
PARAMETERS = [
    ("agarap", {}, 3_274_634),
    ("bhatnagar_cnn2", {}, 113_386),
    ("bhatnagar_bn", {}, 158_508),
    ("bhatnagar_skip", {}, 211_820),
    ("hcnn_vgg19", {}, 44_067_538),
    ("mcnn15", {}, 2_595_914),
    ("kefth_resnet18", {}, 2_776_522),
    ("kefth_simplenet", {}, 421_642),
    ("hardmaru", {}, 83_466),
    # three convolutions and their BN fewer than VGG19: one of 256, two of 512 channels
    ("hcnn_vgg16", {}, 44_067_538 - conv(3, 256, 256) - 2 * 256 - 2 * (conv(3, 512, 512) + 2 * 512)),
    ("khanday", {"kernel_size": 3}, conv(3, 1, 32) + conv(3, 32, 64) + linear(64 * 49, 128) + linear(128, 10)),
    ("khanday", {"kernel_size": 5}, conv(5, 1, 32) + conv(5, 32, 64) + linear(64 * 49, 128) + linear(128, 10)),
    ("khanday", {"kernel_size": 7}, conv(7, 1, 32) + conv(7, 32, 64) + linear(64 * 49, 128) + linear(128, 10)),
    ("alexnet", {}, 61_100_840 - linear(4096, 1000) + linear(4096, 10) - conv(11, 3, 64) + conv(3, 1, 64)),
    ("alexnet", {"batch_norm": True}, 61_100_840 - linear(4096, 1000) + linear(4096, 10) - conv(11, 3, 64)
     + conv(3, 1, 64) + 2 * (64 + 192 + 384 + 256 + 256)),
    ("googlenet", {}, 6_624_904 - linear(1024, 1000) + linear(1024, 10) - 64 * 3 * 49 + 64 * 9),
    ("vgg11", {}, 132_863_336 - linear(4096, 1000) + linear(4096, 10) - conv(3, 3, 64) + conv(3, 1, 64)
     - linear(512 * 49, 4096) + linear(512, 4096)),
    ("vgg11", {"batch_norm": True}, 132_868_840 - linear(4096, 1000) + linear(4096, 10) - conv(3, 3, 64)
     + conv(3, 1, 64) - linear(512 * 49, 4096) + linear(512, 4096)),
    ("resnet18", {}, 11_689_512 - linear(512, 1000) + linear(512, 10) - 64 * 3 * 49 + 64 * 9),
    ("densenet121", {}, 7_978_856 - linear(1024, 1000) + linear(1024, 10) - 64 * 3 * 49 + 64 * 9),
    ("squeezenet", {}, 1_235_496 - linear(512, 1000) + linear(512, 10) - conv(3, 3, 64) + conv(3, 1, 64)),
    # squeeze, expand 1x1 and expand 3x3 of the eight fires, and the stem
    ("squeezenet", {"batch_norm": True}, 1_235_496 - linear(512, 1000) + linear(512, 10) - conv(3, 3, 64)
     + conv(3, 1, 64) + 2 * (64 + 2 * (16 + 128) + 2 * (32 + 256) + 2 * (48 + 384) + 2 * (64 + 512))),
]


@pytest.mark.parametrize(("system", "options", "expected"), PARAMETERS)
def test_number_of_parameters(system: str, options: dict[str, bool | int], expected: int) -> None:
    assert count(on_meta(system, SHAPE, **options)) == expected


def test_every_system_has_a_known_number_of_parameters() -> None:
    assert {system for system, _, _ in PARAMETERS} == set(cited.SYSTEMS)


# In millions of floating-point operations, two for each multiply-add, all heads included.
@pytest.mark.parametrize(("system", "megaflops"), [
    ("agarap", 27.8), ("bhatnagar_skip", 4.5), ("hcnn_vgg19", 563), ("hcnn_vgg16", 458), ("mcnn15", 654),
    ("kefth_resnet18", 643),
])
def test_multiply_adds(system: str, megaflops: float) -> None:
    model = on_meta(system).train()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, *SHAPE, device="meta"))  # batch norm in training mode wants two
    assert counter.get_total_flops() / 2e6 == pytest.approx(megaflops, abs=0.5 if megaflops > 100 else 0.05)


def striped_images(num: int) -> tuple[Tensor, Tensor]:
    """Noise with a bright bar whose row tells the class."""
    labels_N = torch.arange(num) % 10
    generator = torch.Generator().manual_seed(1)
    images_NCHW = 0.2 * torch.rand(num, *SHAPE, generator=generator)
    for image_CHW, label in zip(images_NCHW, labels_N.tolist(), strict=True):
        image_CHW[:, 2 * label + 4 : 2 * label + 7] += 0.8
    return images_NCHW, labels_N


def loss_of(model: nn.Module, images_NCHW: Tensor, labels_N: Tensor) -> Tensor:
    output = model(images_NCHW)
    if isinstance(model, HierarchicalVGG):
        return model.training_loss(output, labels_N, progress=0.99)
    return F.cross_entropy(output, labels_N)


# System, options, images in the one batch, learning rate of Adam, steps: no more than one thread does in seconds.
STEPS: list[tuple[str, dict[str, bool | int | str], int, float, int]] = [
    ("agarap", {}, 32, 1e-3, 6), ("agarap", {"init": "default"}, 32, 1e-3, 6),
    ("alexnet", {}, 10, 3e-4, 4), ("alexnet", {"batch_norm": True}, 10, 1e-4, 2),
    ("bhatnagar_bn", {}, 32, 1e-3, 6), ("bhatnagar_cnn2", {}, 32, 1e-3, 8), ("bhatnagar_skip", {}, 32, 1e-3, 6),
    ("densenet121", {}, 10, 1e-3, 2), ("googlenet", {}, 10, 1e-3, 4), ("hardmaru", {}, 32, 1e-3, 6),
    ("hcnn_vgg16", {}, 10, 1e-4, 3), ("hcnn_vgg19", {}, 10, 1e-4, 3),
    ("kefth_resnet18", {}, 10, 1e-3, 3), ("kefth_simplenet", {}, 32, 1e-3, 6),
    ("khanday", {"kernel_size": 3}, 32, 1e-3, 6), ("khanday", {"kernel_size": 5}, 32, 1e-3, 6),
    ("khanday", {"kernel_size": 7}, 32, 1e-3, 6), ("mcnn15", {}, 10, 1e-3, 4), ("resnet18", {}, 10, 1e-3, 3),
    ("squeezenet", {}, 20, 6e-4, 8), ("squeezenet", {"batch_norm": True}, 20, 1e-3, 4),
    ("vgg11", {}, 10, 5e-4, 7), ("vgg11", {"batch_norm": True}, 10, 5e-4, 3),
]


@pytest.mark.parametrize(("system", "options", "num_images", "rate", "steps"), STEPS)
def test_a_few_steps_lower_the_loss(system: str, options: dict[str, bool | int | str], num_images: int, rate: float,
                                    steps: int) -> None:
    """With dropout off, so that only the weights change the loss."""
    model = build(system, **options).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images_NCHW, labels_N = striped_images(num_images)
    optimizer = torch.optim.Adam(model.parameters(), rate, fused=True)
    losses = []
    for _ in range(steps + 1):
        loss = loss_of(model, images_NCHW, labels_N)
        losses.append(loss.item())
        if len(losses) <= steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[-1] < 0.95 * losses[0], losses


def test_every_system_takes_some_steps() -> None:
    assert {system for system, *_ in STEPS} == set(cited.SYSTEMS)


@pytest.mark.parametrize("system", cited.SYSTEMS)
def test_evaluation_is_deterministic_and_gives_logits(system: str) -> None:
    model = build(system).eval()
    images_NCHW, _ = striped_images(3)
    with torch.no_grad():
        logits_NK = model(images_NCHW)
        assert logits_NK.shape == (3, 10)
        assert torch.equal(model(images_NCHW), logits_NK)
        # An image's logits do not depend on the others in its batch.
        torch.testing.assert_close(model(images_NCHW[1:2]), logits_NK[1:2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("system", ["agarap", "bhatnagar_skip", "googlenet", "mcnn15", "squeezenet"])
def test_same_seed_same_weights(system: str) -> None:
    first, second = build(system).state_dict(), build(system).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def forced_forward(system: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = cited.SYSTEMS[system].factory(shape)
    model.eval()(torch.zeros(2, *shape, device="meta"))


@pytest.mark.parametrize("system", cited.SYSTEMS)
def test_smallest_images(system: str) -> None:
    """The smallest that are allowed work; a pixel less is refused, and rightly where it can be forced."""
    smallest = cited.SYSTEMS[system].smallest
    shape = (1, smallest, smallest + 3)
    model = on_meta(system, shape).eval()
    assert model(torch.zeros(2, *shape, device="meta")).shape == (2, 10)
    if smallest > 1:
        with pytest.raises(ValueError, match=rf"'{system}' does not fit images of .* the smallest are {smallest} x"):
            cited.build(system, (1, smallest + 3, smallest - 1))
        with pytest.raises((ValueError, RuntimeError, UserWarning)):
            forced_forward(system, (1, smallest - 1, smallest + 3))


def test_other_sizes_and_channels() -> None:
    for system in cited.SYSTEMS:
        shape = (1 if system == "bhatnagar_skip" else 3, 40, 32)
        assert on_meta(system, shape).eval()(torch.zeros(2, *shape, device="meta")).shape == (2, 10), system
    with pytest.raises(ValueError, match="images of 1 channel, not 3"):
        cited.build("bhatnagar_skip", (3, 28, 28))
    with pytest.raises(ValueError, match=r"expected \(channels, height, width\)"):
        cited.build("agarap", (28, 28))


def test_unknown_system_and_options() -> None:
    with pytest.raises(ValueError, match=r"'mcnn': unknown; did you mean 'mcnn15'\?; systems: agarap, .*, vgg11"):
        build("mcnn")
    with pytest.raises(ValueError, match=r"'model.options.kernel' of system 'khanday'; did you mean 'kernel_size'\?"):
        build("khanday", kernel=3)
    with pytest.raises(ValueError, match="it has no options"):
        build("mcnn15", width=3)
    with pytest.raises(ValueError, match=r"unknown key 'model\.options\.input_shape'"):
        build("khanday", input_shape=3)
    for options in ({"kernel_size": "3"}, {"kernel_size": True}, {"kernel_size": 3.0}):
        with pytest.raises(ValueError, match=r"kernel_size = .*: expected int"):
            build("khanday", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_norm = 1: expected bool"):
        build("alexnet", batch_norm=1)
    with pytest.raises(ValueError, match="kernel_size = 4; allowed: 1, 3"):
        build("khanday", kernel_size=4)
    with pytest.raises(ValueError, match="allowed: truncated_normal, default"):
        build("agarap", init="normal")
    with pytest.raises(ValueError, match="input_scale = 0: expected a number above 0"):
        build("hcnn_vgg16", input_scale=0)


def test_agarap_initialisation() -> None:
    model = build("agarap")
    weights = torch.cat([p.detach().flatten() for name, p in model.named_parameters() if name.endswith("weight")])
    biases = torch.cat([p.detach() for name, p in model.named_parameters() if name.endswith("bias")])
    assert torch.all(biases == 0.1)
    assert 0.199 < weights.abs().max() <= 0.2
    # A normal law cut at two deviations keeps 0.8796 of its deviation.
    assert weights.std() == pytest.approx(0.1 * 0.8796, rel=1e-2)
    assert build("agarap", init="default").get_parameter("hidden.weight").abs().max() <= 3136**-0.5


def test_bhatnagar_initialisation() -> None:
    """Only the first convolution has the small uniform weights, but in the network with skips both have."""
    for system, small in (("bhatnagar_cnn2", {"conv1"}), ("bhatnagar_bn", {"conv1"}),
                          ("bhatnagar_skip", {"conv1", "conv2"})):
        model = build(system)
        for name, bound in (("conv1", (6 / (9 + 9 * 32)) ** 0.5), ("conv2", (6 / (2 * 9 * 32)) ** 0.5)):
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            bound = 0.05 if name in small else bound
            assert 0.9 * bound < layer.weight.abs().max() <= bound, (system, name)
            assert (layer.bias.std() > 0.02) == (name in small)


def test_skip_network_by_hand() -> None:
    """Against the same arithmetic spelt out, in training mode: normalize, convolve, ReLU, add, pool, twice."""
    model = build("bhatnagar_skip").train()
    model.dropout = nn.Identity()
    images_NCHW, _ = striped_images(6)
    weights = dict(model.named_parameters())

    def normalized(x: Tensor, i: int) -> Tensor:
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-3).sqrt()

    x = images_NCHW
    for i in (1, 2):
        x = normalized(x, i)
        convolved = F.conv2d(x, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], padding=1)
        x = F.max_pool2d(x.expand_as(convolved) + convolved.clamp(min=0), 2)
    x = F.linear(normalized(x, 3).flatten(1), weights["hidden.weight"], weights["hidden.bias"]).clamp(min=0)
    expected = F.linear(x, weights["classifier.weight"], weights["classifier.bias"])
    torch.testing.assert_close(model(images_NCHW), expected)


def test_keras_running_statistics() -> None:
    """One batch moves them by a hundredth."""
    model = build("bhatnagar_bn").train()
    images_NCHW, _ = striped_images(6)
    model(images_NCHW)
    assert model.get_buffer("batchnorm1.running_mean").item() == pytest.approx(0.01 * images_NCHW.mean().item())


def test_mcnn15_is_fifteen_convolutions_without_a_nonlinearity_before_the_last_layer() -> None:
    model = on_meta("mcnn15")
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [32, 64, 64, 32, 64, 256, 192, 128, 64, 32, 256, 256, 256, 128, 32]
    assert [type(module) for module in list(model.children())[-3:]] == [nn.Flatten, nn.Linear, nn.Linear]


def test_batch_norm_follows_each_convolution_of_imagenet_networks() -> None:
    for system, without in (("alexnet", 0), ("vgg11", 0), ("squeezenet", 1)):
        kinds = [type(module) for module in on_meta(system, batch_norm=True).modules()]
        assert kinds.count(nn.Conv2d) - kinds.count(nn.BatchNorm2d) == without, system
        assert nn.BatchNorm2d not in [type(module) for module in on_meta(system).modules()]


def test_build_of_other_models_does_not_import_torchvision() -> None:
    code = "import sys; import fmnist_core.models.build; print('torchvision' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
