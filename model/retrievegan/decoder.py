"""Canvas -> image: residual blocks, then cascaded refinement (Chen and Koltun 2017)."""

import torch
from torch import Tensor, nn

from model.resizing import doubled, resized
from model.retrievegan.layers import SLOPE, norm


class ResidualBlock(nn.Module):
    """Pre-activation residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            norm(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1),
            norm(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class CascadedDecoder(nn.Module):
    """Each stage doubles the size; its input is the features so far and the canvas at that size."""

    def __init__(self, canvas: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for into, out in zip((0, *channels[:-1]), channels, strict=True):
            self.stages.append(
                nn.Sequential(
                    nn.Conv2d(canvas + into, out, 3, padding=1),
                    norm(out),
                    nn.LeakyReLU(SLOPE),
                    nn.Conv2d(out, out, 3, padding=1),
                    norm(out),
                    nn.LeakyReLU(SLOPE),
                )
            )
        last = channels[-1]
        self.to_rgb = nn.Sequential(
            nn.Conv2d(last, last, 3, padding=1), nn.LeakyReLU(SLOPE), nn.Conv2d(last, 3, 1)
        )

    def forward(self, canvas: Tensor, side: int) -> Tensor:
        """canvas (N, C, h, w) -> image (N, 3, side, side), about [-1, 1]."""
        features: Tensor | None = None
        for i, stage in enumerate(self.stages):
            size = side >> (len(self.stages) - 1 - i)
            inputs = resized(canvas, size)
            if features is not None:
                inputs = torch.cat([inputs, doubled(features)], 1)
            features = stage(inputs)
        out: Tensor = self.to_rgb(features)
        return out
