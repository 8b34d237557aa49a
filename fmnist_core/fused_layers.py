"""R networks of one architecture as one module: every layer works on all of them at once.

R replicas, N images each, C channels in and O out per replica, H x W pixels, F features in and G out, P parameters.

Before Flatten the replicas lie side by side in the channels, (N, R * C, H, W), after it in front, (R, N, F). Nothing
flows between them. All parameters are one matrix, a row per replica: an optimizer takes them as one tensor, and what
is per replica (a gradient's norm, a replica to be held) is per row.
"""

import importlib.util
import math
import os
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from fmnist_core.capture import CudaGraph
from fmnist_core.clock import clock_for
from fmnist_core.config import Precision
from fmnist_core.models.build import ACTIVATIONS

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's kernels run on the CPU, element by element: for tests."""
AS_THEY_ARE = (nn.ZeroPad2d, nn.MaxPool2d, nn.Dropout, *ACTIVATIONS.values())
"""Layers without parameters that treat every channel, or every element, for itself."""


def is_fusible(model: nn.Module) -> bool:
    """Whether `model` is a plain sequence of layers that have a fused form here."""
    return type(model) is nn.Sequential and all(_has_fused_form(layer) for layer in model)


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
        self._finishes = _finishes(list(self.layers))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (R, N, K) of images (N, R, C, H, W), or of images (N, C, H, W) that all replicas share."""
        if images.ndim == 4:
            images = images.unsqueeze(1).expand(-1, self.num_replicas, -1, -1, -1)
        x: Tensor = images.flatten(1, 2)
        parameters = list(self.parameters_RP.split(self._sizes, dim=1))
        with_kernels, i = has_kernels(x), 0
        while i < len(self.layers):
            step = self._finishes[i] if with_kernels and i in self._finishes else [self.layers[i]]
            num = sum(self._num_parameters[i : i + len(step)])
            own, parameters = parameters[:num], parameters[num:]
            x = _finish(step, x, *own) if len(step) > 1 else step[0](x, *own)
            i += len(step)
        return x

    def convolutions(self) -> list["FusedConv"]:
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


def has_kernels(x: Tensor) -> bool:
    """Whether this project's Triton kernels work on `x`."""
    return HAS_TRITON and (x.is_cuda or INTERPRETED) and x.dtype in (torch.float32, torch.bfloat16)


def _finishes(layers: list[nn.Module]) -> dict[int, list[nn.Module]]:
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


def _finish(run: list[nn.Module], x: Tensor, *rows: Tensor) -> Tensor:
    """What the layers of `run` do one after the other, by one kernel; `rows`: the parameters of the norm."""
    from fmnist_core.finish_kernels import Norm, finish

    first, norm = run[0], None
    if isinstance(first, FusedBatchNorm):
        weight_RC, bias_RC = rows
        norm = Norm(weight_RC, bias_RC, first.running_mean_RC, first.running_var_RC, first.momentum, first.eps,
                    first.training)
    return finish(x, norm, pool=any(isinstance(layer, nn.MaxPool2d) for layer in run),
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


class FusedConv(nn.Module):
    """R convolutions side by side: (N, R * C, H, W) to (N, R * O, H', W')."""

    def __init__(self, layer: nn.Conv2d, num_replicas: int) -> None:
        super().__init__()
        assert isinstance(layer.padding, tuple)
        self.num_replicas, self.in_channels, self.out_channels = num_replicas, layer.in_channels, layer.out_channels
        self.kernel_size, self.stride, self.padding = layer.kernel_size, layer.stride, layer.padding
        self.method = "grouped"
        """A key of `METHODS`."""

    def forward(self, x: Tensor, weight_RP: Tensor, bias_RO: Tensor | None = None) -> Tensor:
        return METHODS[self.method](self, x, weight_RP, bias_RO)

    def extra_repr(self) -> str:
        return f"{self.num_replicas} x ({self.in_channels}, {self.out_channels}), kernel_size={self.kernel_size}, " \
               f"stride={self.stride}, padding={self.padding}"


def grouped(conv: FusedConv, x: Tensor, weight_RP: Tensor, bias_RO: Tensor | None) -> Tensor:
    """One convolution with a group per replica."""
    weight = weight_RP.reshape(-1, conv.in_channels, *conv.kernel_size)
    bias = None if bias_RO is None else bias_RO.flatten()
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, groups=conv.num_replicas)


def grouped_channels_last(conv: FusedConv, x: Tensor, weight_RP: Tensor, bias_RO: Tensor | None) -> Tensor:
    """The same with the channels innermost; the cost of getting there and back is part of it."""
    return grouped(conv, x.contiguous(memory_format=torch.channels_last), weight_RP, bias_RO).contiguous()


def separate(conv: FusedConv, x: Tensor, weight_RP: Tensor, bias_RO: Tensor | None) -> Tensor:
    """A convolution per replica."""
    weights = weight_RP.unflatten(1, (conv.out_channels, conv.in_channels, *conv.kernel_size))
    biases = [None] * conv.num_replicas if bias_RO is None else bias_RO.unbind()
    maps = x.chunk(conv.num_replicas, dim=1)
    return torch.cat([F.conv2d(one, weight, bias, conv.stride, conv.padding)
                      for one, weight, bias in zip(maps, weights.unbind(), biases, strict=True)], dim=1)


def gemm(conv: FusedConv, x: Tensor, weight_RP: Tensor, bias_RO: Tensor | None) -> Tensor:
    """Every patch a column, one batched matrix product over the replicas."""
    (height, width), (top, left), num = conv.kernel_size, conv.padding, conv.num_replicas
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))  # before the patches are copied, not after
    x = F.pad(x, (left, left, top, top))
    patches: Tensor = x.unfold(2, height, conv.stride[0]).unfold(3, width, conv.stride[1])
    size = patches.shape[0], *patches.shape[2:4]
    columns = patches.unflatten(1, (num, -1)).permute(1, 2, 5, 6, 0, 3, 4).flatten(4).flatten(1, 3)
    weight_ROP = weight_RP.unflatten(1, (conv.out_channels, -1))
    y = weight_ROP.bmm(columns) if bias_RO is None else torch.baddbmm(bias_RO.unsqueeze(2), weight_ROP, columns)
    maps: Tensor = y.unflatten(2, size).permute(2, 0, 1, 3, 4).flatten(1, 2)
    return maps.contiguous()


def implicit_gemm(conv: FusedConv, x: Tensor, weight_RP: Tensor, bias_RO: Tensor | None) -> Tensor:
    """The same product without the copy of the patches, by a kernel of this project."""
    from fmnist_core.conv_kernels import convolve

    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return convolve(x, weight_RP, bias_RO, (conv.in_channels, conv.out_channels), conv.kernel_size, conv.padding)


METHODS: dict[str, Callable[[FusedConv, Tensor, Tensor, Tensor | None], Tensor]] = {
    "grouped": grouped, "grouped_channels_last": grouped_channels_last, "separate": separate, "gemm": gemm,
    "implicit_gemm": implicit_gemm,
}
"""Ways to compute the same convolutions. Which is fastest depends on the shape and the device: see `tune`."""


def methods_for(conv: FusedConv, x: Tensor) -> list[str]:
    """Keys of `METHODS` that can take this convolution of `x`."""
    return [name for name in METHODS if name != "implicit_gemm" or (has_kernels(x) and conv.stride == (1, 1))]


NUM_TIMINGS = 5
_fastest: dict[tuple[object, ...], str] = {}


def tune(model: FusedSequential, images_NCHW: Tensor, *, precision: Precision, captured: bool) -> None:
    """Let every convolution use the fastest of `METHODS`, forward and backward, on batches like `images_NCHW`.

    Each shape is timed once in a process; `captured`: as a CUDA graph, in which launches cost next to nothing.
    """
    for conv, (shape, needs_gradient) in _inputs_of_convolutions(model, images_NCHW).items():
        key = (repr(conv), shape, needs_gradient, images_NCHW.device, precision, captured)
        if key not in _fastest:
            x = torch.rand(shape, device=images_NCHW.device, requires_grad=needs_gradient)
            seconds = {method: _seconds(conv, method, x, precision, captured) for method in methods_for(conv, x)}
            _fastest[key] = min(seconds, key=lambda method: seconds[method])
        conv.method = _fastest[key]


def _inputs_of_convolutions(model: FusedSequential, images_NCHW: Tensor) -> dict[FusedConv, tuple[torch.Size, bool]]:
    """The shape of each convolution's input, and whether backward needs its gradient."""
    inputs: dict[FusedConv, tuple[torch.Size, bool]] = {}

    def watch(conv: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(conv, FusedConv)
        inputs[conv] = args[0].shape, args[0].requires_grad

    handles = [conv.register_forward_pre_hook(watch) for conv in model.convolutions()]
    model.eval()(images_NCHW)  # evaluation leaves the statistics of batch norm as they are
    model.train()
    for handle in handles:
        handle.remove()
    return inputs


def _seconds(conv: FusedConv, method: str, x: Tensor, precision: Precision, captured: bool) -> float:
    """The least time of one forward and backward pass; infinite where the memory does not suffice."""
    per_output = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
    weight_RP = torch.rand(conv.num_replicas, conv.out_channels * per_output, device=x.device, requires_grad=True)
    bias_RO = torch.zeros(conv.num_replicas, conv.out_channels, device=x.device, requires_grad=True)
    inputs = [tensor for tensor in (x, weight_RP, bias_RO) if tensor.requires_grad]

    def work() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            y = METHODS[method](conv, x, weight_RP, bias_RO)
        torch.autograd.grad(y, inputs, torch.ones_like(y))

    try:
        run = _captured(work, x.device) if captured else work
        run()
        clock = clock_for(x.device)
        marks = [clock.mark()]
        for _ in range(NUM_TIMINGS):
            run()
            marks.append(clock.mark())
        return min(clock.seconds_between(marks))
    except torch.OutOfMemoryError:
        return math.inf


def _captured(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    graph = CudaGraph(device)
    graph.warm_up(work)
    graph.capture(work)
    return graph.replay
