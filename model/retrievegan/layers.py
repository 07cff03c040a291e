"""Layers that composition, decoder and discriminators have in common."""

from collections.abc import Callable
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.output import log

SLOPE = 0.1  # of PasteGAN's LeakyReLU
MOST_SHAPES = 64  # that a layer is compiled for


class Norm(nn.GroupNorm):
    """Group normalisation: the same in training and sampling, whatever the batch holds."""

    fused_slope: float | None = None  # of the activation that a fused layer applies as well
    compiles: ClassVar[bool] = True  # as far as is known

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)"""
        slope = self.fused_slope
        if slope is None:
            return super().forward(x)
        if self.training and Norm.compiles:
            fused, failure = _compiled()
            try:
                return fused(x, self.weight, self.bias, self.num_groups, self.eps, slope)
            except failure as error:
                Norm.compiles = False
                log.warning(
                    f"torch.compile makes no kernels here, so steps take longer "
                    f"({str(error).strip().splitlines()[0]}): it needs triton and a C compiler"
                )
        return F.leaky_relu(super().forward(x), slope)


def norm(channels: int) -> Norm:
    """As many groups as divide the channels into 16 or more each; one where none does."""
    groups = max(n for n in range(1, max(1, channels // 16) + 1) if channels % n == 0)
    return Norm(groups, channels)


def fuse_norms(network: nn.Module) -> None:
    """In training, each group normalisation and the activation behind it become kernels made by
    torch.compile, which keep channels-last; PyTorch's own takes each map to another layout and
    back. Parameters keep their names. Seconds for each shape, once on a machine."""
    for layers in network.modules():
        if not isinstance(layers, nn.Sequential):
            continue
        for i in range(len(layers) - 1):
            layer, after = layers[i], layers[i + 1]
            if isinstance(layer, Norm) and isinstance(after, nn.LeakyReLU | nn.ReLU):
                slope = after.negative_slope if isinstance(after, nn.LeakyReLU) else 0.0
                layer.fused_slope = slope
                layers[i + 1] = nn.Identity()


def normalise(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, slope: float
) -> Tensor:
    """Group normalisation, then LeakyReLU, of (N, C, H, W) in channels-last; inside in float32."""
    n, c, h, w = x.shape
    values = x.permute(0, 2, 3, 1).reshape(n, h * w, groups, c // groups).float()
    variance, mean = torch.var_mean(values, (1, 3), correction=0, keepdim=True)
    values = ((values - mean) * torch.rsqrt(variance + eps)).reshape(n, h, w, c)
    values = F.leaky_relu(values * weight + bias, slope)
    return values.to(x.dtype).permute(0, 3, 1, 2)


@cache
def _compiled() -> tuple[Callable[..., Tensor], type[Exception]]:
    """`normalise` by torch.compile, and what it raises where it cannot be compiled. To import the
    compiler takes a second, which a CPU has no use for."""
    from torch._dynamo import config
    from torch._dynamo.exc import TorchDynamoException

    config.recompile_limit = MOST_SHAPES
    return torch.compile(normalise, dynamic=False, fullgraph=True), TorchDynamoException
