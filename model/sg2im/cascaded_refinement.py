"""Cascaded refinement, layout -> image from coarse to fine (Chen and Koltun 2017), as in sg2im.

Names and shapes of the parameters are those of the published checkpoints.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RefinementModule(nn.Module):
    """Layout and features at one size -> features at that size."""

    def __init__(self, layout: int, into: int, out: int, slope: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(layout + into, out, 3, padding=1), nn.BatchNorm2d(out), nn.LeakyReLU(slope),
            nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out), nn.LeakyReLU(slope),
        )  # fmt: skip
        _kaiming(self.net)

    def forward(self, layout: Tensor, features: Tensor) -> Tensor:
        """(N, layout, h, w) and (N, into, h, w) -> (N, out, h, w)."""
        out: Tensor = self.net(torch.cat([layout, features], 1))
        return out


class RefinementNetwork(nn.Module):
    """Modules that double the size one after the other, and two convolutions to colours."""

    def __init__(self, layout: int, channels: tuple[int, ...], slope: float) -> None:
        super().__init__()
        # The input of the first module is one channel of zeros.
        self.refinement_modules = nn.ModuleList(
            RefinementModule(layout, into, out, slope)
            for into, out in zip((1, *channels[:-1]), channels, strict=True)
        )
        last = channels[-1]
        self.output_conv = nn.Sequential(
            nn.Conv2d(last, last, 3, padding=1), nn.LeakyReLU(slope), nn.Conv2d(last, 3, 1)
        )
        _kaiming(self.output_conv)

    def forward(self, layout: Tensor) -> Tensor:
        """(N, layout, H, W) -> (N, 3, H, W); 2 ** modules divides H and W."""
        layouts = [layout]  # at H, H/2, H/4 ...
        for _ in self.refinement_modules[1:]:
            layouts.append(F.avg_pool2d(layouts[-1], 2))
        n, _, h, w = layouts[-1].shape
        features = layout.new_zeros(n, 1, h // 2, w // 2)
        for module in self.refinement_modules:
            features = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = module(layouts.pop(), features)
        image: Tensor = self.output_conv(features)
        return image


def _kaiming(layers: nn.Sequential) -> None:
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
