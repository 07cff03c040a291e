"""D_img and D_obj of sg2im: whether images and objects are real, and the objects' categories.

Names and shapes of the parameters are those of the published `d_img_state` and `d_obj_state`.
"""

from itertools import pairwise

from torch import Tensor, nn

from model.boxes import crop
from model.config import SG2IM_KERNEL as KERNEL
from model.config import SG2IM_STRIDE as STRIDE
from model.losses import ObjectLogits
from model.masked_norm import MaskedBatchNorm2d, MaskedSequential
from model.precision import in_float32
from model.sg2im.network import SLOPE


def _trunk(channels: tuple[int, ...]) -> MaskedSequential:
    """Normalisation and activation stand before every convolution but the first."""
    layers: list[nn.Module] = [nn.Conv2d(3, channels[0], KERNEL, STRIDE)]
    for into, out in pairwise(channels):
        convolution = nn.Conv2d(into, out, KERNEL, STRIDE)
        layers += [MaskedBatchNorm2d(into), nn.LeakyReLU(SLOPE), convolution]
    return MaskedSequential(*layers)


class Sg2ImImageDiscriminator(nn.Module):
    """Every value of the last map is a logit for one part of the image."""

    def __init__(self, channels: tuple[int, ...] = (64, 128, 256)) -> None:
        super().__init__()
        self.cnn = _trunk(channels)
        # sg2im has this layer and never applies it: 256 logits per part of the image, not one.
        self.classifier = nn.Conv2d(channels[-1], 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, C, h, w), above 0 for real."""
        out: Tensor = self.cnn(images)
        return out.float()


class _Average(nn.Module):
    """(O, C, h, w) -> (O, C)"""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


class _CropClassifier(nn.Module):
    def __init__(self, channels: tuple[int, ...], hidden: int, categories: int) -> None:
        super().__init__()
        self.cnn = MaskedSequential(_trunk(channels), _Average(), nn.Linear(channels[-1], hidden))
        self.real_classifier = nn.Linear(hidden, 1)
        self.obj_classifier = nn.Linear(hidden, categories)

    def forward(self, crops: Tensor, rows: Tensor | None) -> ObjectLogits:
        """crops (V, 3, h, w)"""
        hidden = self.cnn(crops, rows)
        real, category = self.real_classifier(hidden)[:, 0], self.obj_classifier(hidden)
        return ObjectLogits(real.float(), category.float())


class Sg2ImObjectDiscriminator(nn.Module):
    """Real or not, and the category, of what is in each box."""

    def __init__(
        self,
        categories: int,
        channels: tuple[int, ...] = (64, 128, 256),
        hidden: int = 1024,
        side: int = 32,
    ) -> None:
        super().__init__()
        self.side = side
        self.discriminator = _CropClassifier(channels, hidden, categories)

    def forward(
        self, images: Tensor, boxes: Tensor, node_image: Tensor, rows: Tensor | None = None
    ) -> ObjectLogits:
        """
        images      (N, 3, H, W)
        boxes       (V, 4)
        node_image  (V,)
        rows        (V,)  False for nodes that batch normalisation is not to see; None: it sees all
        """
        with in_float32(images.device):
            crops = crop(images, boxes, node_image, self.side, align_corners=True)
        out: ObjectLogits = self.discriminator(crops, rows)
        return out
