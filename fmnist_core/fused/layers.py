"""R networks of one architecture as one module: every layer works on all of them at once.

R replicas, N images each, C channels in and O out per replica, H x W pixels, F features in and G out, P parameters.

Before Flatten the replicas lie side by side in the channels, (N, R * C, H, W), after it in front, (R, N, F). Nothing
flows between them. All parameters are one matrix, a row per replica: an optimizer takes them as one tensor, and what
is per replica (a gradient's norm, a replica to be held) is per row.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from fmnist_core.fused.conv import FusedConv
from fmnist_core.kernels import available
from fmnist_core.models.build import ACTIVATIONS

AS_THEY_ARE = (nn.ZeroPad2d, nn.MaxPool2d, nn.Dropout, *ACTIVATIONS.values())
"""Layers without parameters that treat every channel, or every element, for itself."""


def is_fusible(model: nn.Module) -> bool:
    """Whether `model` is a plain sequence of layers that have a fused form here, and nothing beside them.

    Each layer and parameter once, all of them trained, without hooks or a loss of its own, Linear layers after Flatten.
    """
    if type(model) is not nn.Sequential or hasattr(model, "training_loss"):
        return False
    layers, parameters = list(model), [each for _, each in model.named_parameters(remove_duplicate=False)]
    return (all(_has_fused_form(layer) for layer in layers) and len(set(layers)) == len(layers)
            and len(set(parameters)) == len(parameters) and all(each.requires_grad for each in parameters)
            and not any(_has_hooks(module) for module in (model, *layers)) and _is_flattened_once(layers))


def _has_hooks(module: nn.Module) -> bool:
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


def _is_flattened_once(layers: Sequence[nn.Module]) -> bool:
    """Before any Linear layer; all dimensions but the images' become one."""
    kinds = [type(layer) for layer in layers]
    if nn.Linear not in kinds and nn.Flatten not in kinds:
        return True
    if kinds.count(nn.Flatten) != 1 or nn.Linear in kinds[: kinds.index(nn.Flatten)]:
        return False
    [flatten] = [layer for layer in layers if isinstance(layer, nn.Flatten)]
    return (flatten.start_dim, flatten.end_dim) == (1, -1)


def _has_fused_form(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str) \
            and set(layer.dilation) == {1}
    if type(layer) is nn.BatchNorm2d:
        return layer.affine and layer.track_running_stats and layer.momentum is not None
    return type(layer) in (*AS_THEY_ARE, nn.Flatten, nn.Linear)


class FusedSequential(nn.Module):
    """The models of R seeds as one, with the parameters and the statistics that they have."""

    def __init__(self, singles: Sequence[nn.Module]) -> None:
        """`singles`: R models for which `is_fusible` holds, of one architecture."""
        super().__init__()
        self.num_replicas = len(singles)
        self.parameters_RP = nn.Parameter(torch.stack([parameters_to_vector(m.parameters()) for m in singles]).detach())
        self._sizes = [parameter.numel() for parameter in singles[0].parameters()]
        self._num_parameters = [len(list(layer.parameters())) for layer in singles[0].children()]
        self.layers = nn.ModuleList(map(_fused, zip(*(single.children() for single in singles), strict=True)))
        self._runs = _norm_pool_relu_runs(list(self.layers))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (R, N, K) of images (N, R, C, H, W), or of images (N, C, H, W) that all replicas share."""
        if images.ndim == 4:
            images = images.unsqueeze(1).expand(-1, self.num_replicas, -1, -1, -1)
        x: Tensor = images.flatten(1, 2)
        parameters = list(self.parameters_RP.split(self._sizes, dim=1))
        with_kernels, i = not torch.compiler.is_compiling() and available.has_kernels(x), 0
        while i < len(self.layers):
            step = self._runs[i] if with_kernels and i in self._runs else [self.layers[i]]
            num = sum(self._num_parameters[i : i + len(step)])
            own, parameters = parameters[:num], parameters[num:]
            x = _norm_pool_relu(step, x, *own) if len(step) > 1 else step[0](x, *own)
            i += len(step)
        return x

    def convolutions(self) -> list[FusedConv]:
        return [layer for layer in self.layers if isinstance(layer, FusedConv)]

    @torch.no_grad()
    def unfuse(self, replica: int, single: nn.Module) -> nn.Module:
        """`single`, a model of this architecture, with the parameters and the statistics of one replica."""
        device = next(single.parameters()).device
        vector_to_parameters(self.parameters_RP[replica].to(device, copy=True), single.parameters())
        for layer, mine in zip(single.children(), self.layers, strict=True):
            if isinstance(mine, FusedBatchNorm):
                for statistic, statistics_RC in zip(_statistics(layer), mine.buffers(), strict=True):
                    statistic.copy_(statistics_RC.view(self.num_replicas, -1)[replica])
        return single


def _norm_pool_relu_runs(layers: list[nn.Module]) -> dict[int, list[nn.Module]]:
    """Runs of [batch norm] [2 x 2 max-pooling] [ReLU], two of them at least, by the index of their first layer."""
    found, i = {}, 0
    while i < len(layers):
        run: list[nn.Module] = []
        for kind in (FusedBatchNorm, nn.MaxPool2d, nn.ReLU):
            if i + len(run) < len(layers) and type(layers[i + len(run)]) is kind:
                run.append(layers[i + len(run)])
        if len(run) > 1 and all(_halves(layer) for layer in run if isinstance(layer, nn.MaxPool2d)):
            found[i] = run
        i += max(1, len(run))
    return found


def _halves(pool: nn.MaxPool2d) -> bool:
    return (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode) == (2, 2, 0, 1, False)


def _norm_pool_relu(run: list[nn.Module], x: Tensor, *rows: Tensor) -> Tensor:
    """What the layers of `run` do one after the other, by one kernel; `rows`: the parameters of the norm."""
    from fmnist_core.kernels.norm_pool_relu import Norm, norm_pool_relu

    first, norm = run[0], None
    if isinstance(first, FusedBatchNorm):
        weight_RC, bias_RC = rows
        norm = Norm(weight_RC, bias_RC, first.running_mean_RC, first.running_var_RC, first.momentum, first.eps,
                    first.training)
    return norm_pool_relu(x, norm, pool=any(isinstance(layer, nn.MaxPool2d) for layer in run),
                          relu=isinstance(run[-1], nn.ReLU))


def _fused(layers: tuple[nn.Module, ...]) -> nn.Module:
    """One layer of each replica as one module; it is called with its input and its parameters' rows."""
    layer = layers[0]
    if isinstance(layer, nn.Conv2d):
        return FusedConv(layer, len(layers))
    if isinstance(layer, nn.BatchNorm2d):
        return FusedBatchNorm(layer, *(torch.cat(each) for each in zip(*map(_statistics, layers), strict=True)))
    if isinstance(layer, nn.Linear):
        return FusedLinear(layer.in_features)
    return FusedFlatten(len(layers)) if isinstance(layer, nn.Flatten) else layer


def _statistics(layer: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, nn.BatchNorm2d)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var


class FusedBatchNorm(nn.Module):
    """Over N, H and W for each of R * C channels: the statistics of a replica are its own."""

    running_mean_RC: Tensor
    running_var_RC: Tensor

    def __init__(self, layer: nn.BatchNorm2d, running_mean_RC: Tensor, running_var_RC: Tensor) -> None:
        super().__init__()
        assert layer.momentum is not None
        self.momentum, self.eps = layer.momentum, layer.eps
        self.register_buffer("running_mean_RC", running_mean_RC)
        self.register_buffer("running_var_RC", running_var_RC)

    def forward(self, x: Tensor, weight_RC: Tensor, bias_RC: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean_RC, self.running_var_RC, weight_RC.flatten(), bias_RC.flatten(),
                            self.training, self.momentum, self.eps)


class FusedFlatten(nn.Module):
    """(N, R * C, H, W) to (R, N, F)."""

    def __init__(self, num_replicas: int) -> None:
        super().__init__()
        self.num_replicas = num_replicas

    def forward(self, x: Tensor) -> Tensor:
        x_NRF: Tensor = x.unflatten(1, (self.num_replicas, -1)).flatten(2)
        return x_NRF.transpose(0, 1)


class FusedLinear(nn.Module):
    """(R, N, F) to (R, N, G): one batched matrix product."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.in_features = in_features

    def forward(self, x_RNF: Tensor, weight_RP: Tensor, bias_RG: Tensor | None = None) -> Tensor:
        weight_RGF, x_RFN = weight_RP.unflatten(1, (-1, self.in_features)), x_RNF.transpose(1, 2)
        # The weights on the left: so their gradient has their own layout, and is not copied into it.
        y_RGN = weight_RGF.bmm(x_RFN) if bias_RG is None else torch.baddbmm(bias_RG.unsqueeze(2), weight_RGF, x_RFN)
        return y_RGN.transpose(1, 2)
