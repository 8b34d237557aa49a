"""torchvision's networks for ImageNet, adapted to small grey images, and the three-stage ResNet18 of kefth.

One rule for all: the first convolution becomes 3x3 with stride 1, and the max-pool right after it is left out, so that
a 28x28 image is not shrunk before the network begins. Everything else, initialisation too, is torchvision's, but for
VGG11: its fifth pool would find a single pixel at 28x28 and goes, and so does the stretching of that pixel to 7x7.
"""

from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import cfgs, make_layers

from fmnist_core.config import NUM_CLASSES
from fmnist_core.models.layers import Shape


def alexnet(input_shape: Shape, *, batch_norm: bool = False) -> nn.Module:
    """57,022,154 parameters; `batch_norm` adds it after every convolution."""
    model: nn.Module = models.AlexNet(num_classes=NUM_CLASSES)
    _adapt(model, "features.0", "features.2", nn.Conv2d(input_shape[0], 64, 3, padding=1))
    if batch_norm:
        _normalize(model)
    return model


def googlenet(input_shape: Shape) -> nn.Module:
    """5,601,322 parameters, batch-normalized as torchvision has it, without the auxiliary classifiers."""
    model: nn.Module = models.GoogLeNet(num_classes=NUM_CLASSES, aux_logits=False, init_weights=True)
    stem = nn.Conv2d(input_shape[0], 64, 3, padding=1, bias=False)
    nn.init.trunc_normal_(stem.weight, std=0.01)
    _adapt(model, "conv1.conv", "maxpool1", stem)
    return model


def vgg11(input_shape: Shape, *, batch_norm: bool = False) -> nn.Module:
    """28,142,858 parameters at 28x28; `batch_norm` adds it after every convolution."""
    channels, height, width = input_shape
    features = make_layers(cfgs["A"][:-1])
    features[0] = nn.Conv2d(channels, 64, 3, padding=1)
    hidden = lambda inputs: (nn.Linear(inputs, 4096), nn.ReLU(), nn.Dropout(0.5))
    model = nn.Sequential(features, nn.Flatten(), *hidden(512 * (height >> 4) * (width >> 4)), *hidden(4096),
                          nn.Linear(4096, NUM_CLASSES))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    if batch_norm:
        _normalize(model)
    return model


def resnet18(input_shape: Shape) -> nn.Module:
    """11,172,810 parameters, batch-normalized."""
    model: nn.Module = models.ResNet(BasicBlock, [2, 2, 2, 2], num_classes=NUM_CLASSES)
    stem = nn.Conv2d(input_shape[0], 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    _adapt(model, "conv1", "maxpool", stem)
    return model


def kefth_resnet18(input_shape: Shape) -> nn.Module:
    """What github.com/kefth/fashion-mnist calls ResNet18 has no fourth stage: 2,776,522 parameters."""
    model = resnet18(input_shape)
    model.layer4 = nn.Identity()
    model.fc = nn.Linear(256, NUM_CLASSES)
    return model


def densenet121(input_shape: Shape) -> nn.Module:
    """6,955,274 parameters, batch-normalized."""
    model: nn.Module = models.DenseNet(num_classes=NUM_CLASSES)
    stem = nn.Conv2d(input_shape[0], 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight)
    _adapt(model, "features.conv0", "features.pool0", stem)
    return model


def squeezenet(input_shape: Shape, *, batch_norm: bool = False) -> nn.Module:
    """SqueezeNet 1.1: 726,474 parameters; `batch_norm` adds it after every convolution but the classifier.

    As in torchvision a ReLU follows the classifier: no logit is below 0.
    """
    model: nn.Module = models.SqueezeNet("1_1", num_classes=NUM_CLASSES)
    stem = nn.Conv2d(input_shape[0], 64, 3, padding=1)
    nn.init.kaiming_uniform_(stem.weight)
    assert stem.bias is not None
    nn.init.zeros_(stem.bias)
    _adapt(model, "features.0", "features.2", stem)
    if batch_norm:
        _normalize(model.get_submodule("features"))
    return model


def _adapt(model: nn.Module, first: str, pool: str, stem: nn.Conv2d) -> None:
    model.set_submodule(first, stem)
    model.set_submodule(pool, nn.Identity())


def _normalize(model: nn.Module) -> None:
    """Put a batch norm after every convolution inside `model`, in place."""
    for name, child in list(model.named_children()):
        if isinstance(child, nn.Conv2d):
            setattr(model, name, nn.Sequential(child, nn.BatchNorm2d(child.out_channels)))
        else:
            _normalize(child)
