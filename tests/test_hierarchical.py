import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fmnist_core.models import cited
from fmnist_core.models.cited.hierarchical import HierarchicalOutput, HierarchicalVGG

SHAPE = (1, 28, 28)


@pytest.fixture(scope="module")
def hcnn() -> HierarchicalVGG:
    model = cited.build("hcnn_vgg16", SHAPE)
    assert isinstance(model, HierarchicalVGG)
    return model


@pytest.mark.parametrize(("progress", "weights"), [
    (0.0, (0.98, 0.01, 0.01)), (16 / 60 - 1e-4, (0.98, 0.01, 0.01)),
    (16 / 60, (0.1, 0.8, 0.1)), (26 / 60 - 1e-4, (0.1, 0.8, 0.1)),
    (26 / 60, (0.1, 0.2, 0.7)), (36 / 60 - 1e-4, (0.1, 0.2, 0.7)),
    (36 / 60, (0.0, 0.0, 1.0)), (1 - 1e-6, (0.0, 0.0, 1.0)),
])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_weights_of_the_hierarchical_loss(hcnn: HierarchicalVGG, progress: float, weights: tuple[float, ...],
                                          as_tensor: bool) -> None:
    torch.manual_seed(2)
    output = HierarchicalOutput(torch.randn(5, 2), torch.randn(5, 6), torch.randn(5, 10))
    # T-shirt, coat, sandal, bag, boot: tops, outers, shoes, accessories, shoes; three of them goods.
    labels_N = torch.tensor([0, 4, 5, 8, 9])
    coarse2_N, coarse1_N = torch.tensor([0, 3, 5, 4, 5]), torch.tensor([0, 0, 1, 1, 1])
    expected = sum(weight * F.cross_entropy(logits, labels) for weight, logits, labels in zip(
        weights, output, (coarse1_N, coarse2_N, labels_N), strict=True))
    loss = hcnn.training_loss(output, labels_N, torch.tensor(progress) if as_tensor else progress)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(float(expected), rel=1e-5)


def test_weights_change_at_the_first_step_of_an_epoch(hcnn: HierarchicalVGG) -> None:
    """Step 16 * 469 of 60 * 469 is the first with the second weights, whatever the rounding."""
    output = HierarchicalOutput(torch.zeros(1, 2), torch.zeros(1, 6), torch.zeros(1, 10))
    loss_at = lambda step: hcnn.training_loss(output, torch.zeros(1, dtype=torch.long), step / (60 * 469)).item()
    levels = torch.tensor([2.0, 6.0, 10.0]).log()  # cross-entropy of equal logits
    for epoch, before, after in ((16, (0.98, 0.01, 0.01), (0.1, 0.8, 0.1)), (26, (0.1, 0.8, 0.1), (0.1, 0.2, 0.7)),
                                 (36, (0.1, 0.2, 0.7), (0.0, 0.0, 1.0))):
        assert loss_at(epoch * 469 - 1) == pytest.approx((torch.tensor(before) * levels).sum().item(), rel=1e-5)
        assert loss_at(epoch * 469) == pytest.approx((torch.tensor(after) * levels).sum().item(), rel=1e-5)


@pytest.mark.parametrize(("progress", "learning"), [(0.0, {"coarse1", "coarse2", "fine"}), (0.9, {"fine"})])
def test_heads_that_learn(hcnn: HierarchicalVGG, progress: float, learning: set[str]) -> None:
    """In the last stage the coarse heads get gradients of zero, not none: DDP waits for every parameter."""
    images_NCHW, labels_N = torch.rand(4, *SHAPE), torch.tensor([0, 4, 5, 8])
    hcnn.zero_grad()
    output = hcnn.train()(images_NCHW)
    assert [tuple(logits.shape) for logits in output] == [(4, 2), (4, 6), (4, 10)]
    hcnn.training_loss(output, labels_N, progress).backward()
    for name, head in (("coarse1", hcnn.coarse1), ("coarse2", hcnn.coarse2), ("fine", hcnn.fine)):
        gradients = [p.grad for p in head.parameters()]
        assert all(g is not None for g in gradients)
        assert any(g.abs().sum() > 0 for g in gradients if g is not None) == (name in learning)


def test_input_scale_multiplies_the_pixels(hcnn: HierarchicalVGG) -> None:
    scaled = cited.build("hcnn_vgg16", SHAPE, input_scale=255.0)
    scaled.load_state_dict(hcnn.state_dict())
    images_NCHW = torch.rand(2, *SHAPE)
    with torch.no_grad():
        assert torch.equal(scaled.eval()(images_NCHW), hcnn.eval()(images_NCHW * 255))
        assert not torch.equal(scaled(images_NCHW), hcnn(images_NCHW))


def test_constants_of_the_hierarchy_are_not_saved(hcnn: HierarchicalVGG) -> None:
    assert not {"loss_weights", "stage_starts", "coarse1_of_class", "coarse2_of_class"} & hcnn.state_dict().keys()


def test_relu_comes_before_batch_norm(hcnn: HierarchicalVGG) -> None:
    block = [nn.Conv2d, nn.ReLU, nn.BatchNorm2d]
    assert [type(module) for module in hcnn.middle] == [*block * 3, nn.MaxPool2d]
    hidden = [nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Dropout]
    assert [type(module) for module in hcnn.coarse2] == [nn.Flatten, *hidden * 2, nn.Linear]


def test_evaluation_gives_the_logits_of_the_classes(hcnn: HierarchicalVGG) -> None:
    with torch.no_grad():
        logits_NK = hcnn.eval()(torch.rand(2, *SHAPE))
    assert isinstance(logits_NK, torch.Tensor)
    assert logits_NK.shape == (2, 10)


@pytest.mark.parametrize(("option", "message"), [
    ({"loss": "mse"}, "train.loss = 'mse' has no effect on a network that has a loss of its own; allowed: 'cross_"),
    ({"label_smoothing": 0.1}, "train.label_smoothing = 0.1 has no effect on a network that has a loss of its own"),
])
def test_what_the_networks_own_loss_would_not_heed_is_refused(option, message):
    from fmnist_core.config import CellConfig, CitedModel, DataConfig, TrainConfig
    from fmnist_core.train import Training
    from tests.small import small_dataset

    cell = CellConfig(model=CitedModel(system="hcnn_vgg16"), train=TrainConfig(global_batch_size=4, **option),
                      data=DataConfig(dataset="synthetic", validation_size=4))
    with pytest.raises(ValueError, match=message):
        Training(cell, 0, small_dataset(num_train=8, num_validation=4, num_test=4))


def test_the_training_core_uses_the_networks_own_loss():
    """Progress comes from the run: the coarse heads weigh most at its start, nothing at its end."""
    from fmnist_core.config import CellConfig, CitedModel, DataConfig, TrainConfig
    from fmnist_core.train import Training, train_step
    from tests.small import small_dataset

    cell = CellConfig(model=CitedModel(system="hcnn_vgg16"), train=TrainConfig(epochs=2, global_batch_size=4),
                      data=DataConfig(dataset="synthetic", validation_size=4))
    training = Training(cell, 0, small_dataset(num_train=8, num_validation=4, num_test=4))
    seen = []
    own_loss = training.own_loss
    training.own_loss = lambda output, labels, progress: seen.append(progress) or own_loss(output, labels, progress)
    images, labels = training.batch(torch.arange(4))
    assert torch.isfinite(train_step(training, images, labels, 4))
    training.epoch = 1
    train_step(training, images, labels, 4)
    assert seen == [0.0, 0.5]
