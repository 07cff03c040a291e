"""E_p: patch pixels -> the feature in which patches that go together lie close (section 2.1)."""

import torch
from torch import Tensor, nn

from model.config import Pooling


class PatchEmbedding(nn.Module):
    """A small convolutional network; the feature is a linear map of its maps' means and deviations.

    Its maps are not normalised: they would lose light and palette, on which compatibility depends.
    With pooling "all" the moments of all layers are, together: what all share is lost, and their
    proportions stay. The feature has no fixed length: distances between unit vectors are small
    beside Gumbel noise.
    """

    def __init__(
        self, channels: tuple[int, ...], width: int, *, stem_stride: int = 2, pooling: Pooling
    ) -> None:
        """
        stem_stride  of the first layer, whose kernel is half as wide again; later layers halve maps
        pooling      "last": of the last layer's maps; "all": of all layers', layer-normalised
                     together, so that the fine texture of the first layers counts too
        """
        super().__init__()
        self.pooling = pooling
        layers: list[nn.Module] = []
        strides = (stem_stride, *(2 for _ in channels[1:]))
        for into, out, stride in zip((3, *channels[:-1]), channels, strides, strict=True):
            kernel = stride + stride // 2
            padding = (kernel - stride + 1) // 2
            layers += [nn.Conv2d(into, out, kernel, stride, padding), nn.LeakyReLU(0.1)]
        self.trunk = nn.Sequential(*layers)
        moments = 2 * (sum(channels) if pooling == "all" else channels[-1])
        self.norm = nn.LayerNorm(moments) if pooling == "all" else nn.Identity()
        self.head = nn.Linear(moments, width)
        for module in self.trunk:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, 0.1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, patches: Tensor) -> Tensor:
        """patches (B, 3, P, P) in [-1, 1] -> (B, E)."""
        every_map, maps = [], patches
        for layer in self.trunk:
            maps = layer(maps)
            if isinstance(layer, nn.LeakyReLU):
                every_map.append(maps)
        pooled = every_map if self.pooling == "all" else every_map[-1:]
        moments = torch.cat([part for each in pooled for part in _moments(each)], 1)
        out: Tensor = self.head(self.norm(moments))
        return out


def _moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the places of maps (B, C, h, w): (B, C) each."""
    mean = maps.mean((2, 3))
    # Tensor.var takes 30 times as long on a CPU where maps are in channels-last.
    variance = (maps - mean[:, :, None, None]).square().mean((2, 3))
    return mean, (variance + 1e-6).sqrt()
