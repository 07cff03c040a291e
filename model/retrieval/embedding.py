"""E_p: patch pixels -> the feature in which patches that go together lie close (section 2.1)."""

import torch
from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """A small convolutional network without normalisation layers.

    Normalised activations would lose light and palette, on which compatibility depends. The
    feature has no fixed length: distances between unit vectors are small beside Gumbel noise.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into, out in zip((3, *channels[:-1]), channels, strict=True):
            layers += [nn.Conv2d(into, out, 3, stride=2, padding=1), nn.LeakyReLU(0.1)]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(2 * channels[-1], width)
        for module in self.trunk:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, 0.1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, patches: Tensor) -> Tensor:
        """patches (B, 3, P, P) in [-1, 1] -> (B, E)."""
        maps = self.trunk(patches)
        mean = maps.mean((2, 3))
        # Tensor.var takes 30 times as long on a CPU where maps are in channels-last.
        variance = (maps - mean[:, :, None, None]).square().mean((2, 3))
        out: Tensor = self.head(torch.cat([mean, (variance + 1e-6).sqrt()], dim=1))
        return out
