"""Flatten with a gradient in the format of its input, against PyTorch's own."""

import torch
from torch import nn

from fmnist_core.cpu.flatten import KeepFormatFlatten, keep_format_of_flattened_maps


def test_same_result_and_gradient():
    ours = keep_format_of_flattened_maps(nn.Sequential(nn.Flatten()))[0]
    assert type(ours) is KeepFormatFlatten
    weight = torch.randn(3, 2 * 4 * 5)
    x = torch.randn(3, 2, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    gradients = []
    for layer in (nn.Flatten(), ours):
        flat = layer(x)
        assert flat.equal(x.flatten(1))
        gradients += torch.autograd.grad((flat * weight).sum(), x)
    assert gradients[0].equal(gradients[1])


def test_the_layer_before_gets_a_gradient_in_channels_last():
    seen = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone(memory_format=torch.preserve_format)

        @staticmethod
        def backward(ctx, g):
            seen.append(g.is_contiguous(memory_format=torch.channels_last))
            return g

    x = torch.randn(3, 2, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    for layer in (nn.Flatten(), keep_format_of_flattened_maps(nn.Flatten())):
        (layer(Watch.apply(x)) * torch.randn(3, 40)).sum().backward()
    assert seen == [False, True]


def test_others_stay_and_contiguous_maps_are_left_alone():
    class Own(nn.Flatten):
        pass

    assert type(keep_format_of_flattened_maps(Own())) is Own
    ours = keep_format_of_flattened_maps(nn.Flatten())
    assert ours(torch.ones(2, 3)).shape == (2, 3)
    assert ours(torch.ones(2, 3, 2, 2, requires_grad=True)).shape == (2, 12)
