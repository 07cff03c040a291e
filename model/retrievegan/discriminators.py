"""D_img and D_obj of eq. 4: PasteGAN's layers, with spectral normalisation."""

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from model.losses import ObjectLogits
from model.precision import in_float32
from model.retrievegan.layers import SLOPE


class _Conv2d(nn.Conv2d):
    """The norm of its weights is computed in float32."""

    def forward(self, maps: Tensor) -> Tensor:
        with in_float32(maps.device):
            weight = self.weight
        return F.conv2d(maps, weight, self.bias, self.stride, self.padding)


def _trunk(channels: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for into, out in zip((3, *channels[:-1]), channels, strict=True):
        conv = _Conv2d(into, out, 4, stride=2, padding=1)
        layers += [spectral_norm(conv), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


class ImageDiscriminator(nn.Module):
    """A logit for each of the image's overlapping parts."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.trunk = _trunk(channels)
        self.logits = nn.Conv2d(channels[-1], 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """images (N, 3, H, W) -> logits (N, h, w), above 0 for real."""
        out: Tensor = self.logits(self.trunk(images))[:, 0]
        return out


class ObjectDiscriminator(nn.Module):
    """Real or not, and the category, of each object crop."""

    def __init__(self, channels: tuple[int, ...], hidden: int, categories: int) -> None:
        super().__init__()
        self.trunk = _trunk(channels)
        self.hidden = nn.Linear(channels[-1], hidden)
        self.real = nn.Linear(hidden, 1)
        self.category = nn.Linear(hidden, categories)

    def forward(self, crops: Tensor) -> ObjectLogits:
        """crops (O, 3, h, w)."""
        hidden = F.leaky_relu(self.hidden(self.trunk(crops).mean((2, 3))), SLOPE)
        return ObjectLogits(self.real(hidden)[:, 0], self.category(hidden))
