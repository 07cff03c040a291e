"""D_img and D_obj of sg2im: whether images and objects are real, and the objects' categories.

Names and shapes of the parameters are those of the published `d_img_state` and `d_obj_state`.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import SG2IM_KERNEL as KERNEL
from model.config import SG2IM_STRIDE as STRIDE
from model.losses import ObjectLogits
from model.sg2im.network import SLOPE


def _trunk(channels: tuple[int, ...]) -> nn.Sequential:
    """Normalisation and activation stand before every convolution but the first."""
    layers: list[nn.Module] = [nn.Conv2d(3, channels[0], KERNEL, STRIDE)]
    for into, out in pairwise(channels):
        layers += [nn.BatchNorm2d(into), nn.LeakyReLU(SLOPE), nn.Conv2d(into, out, KERNEL, STRIDE)]
    return nn.Sequential(*layers)


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
        return out


class _Average(nn.Module):
    """(O, C, h, w) -> (O, C)"""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


class _CropClassifier(nn.Module):
    def __init__(self, channels: tuple[int, ...], hidden: int, categories: int) -> None:
        super().__init__()
        self.cnn = nn.Sequential(_trunk(channels), _Average(), nn.Linear(channels[-1], hidden))
        self.real_classifier = nn.Linear(hidden, 1)
        self.obj_classifier = nn.Linear(hidden, categories)

    def forward(self, crops: Tensor) -> ObjectLogits:
        """crops (V, 3, h, w)"""
        hidden = self.cnn(crops)
        return ObjectLogits(self.real_classifier(hidden)[:, 0], self.obj_classifier(hidden))


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

    def forward(self, images: Tensor, boxes: Tensor, node_image: Tensor) -> ObjectLogits:
        """images (N, 3, H, W), boxes (V, 4), node_image (V,)"""
        crops = crop_to_corners(images, boxes, node_image, self.side)
        out: ObjectLogits = self.discriminator(crops)
        return out


def crop_to_corners(images: Tensor, boxes: Tensor, node_image: Tensor, side: int) -> Tensor:
    """Cut boxes out of their images: (N, 3, H, W), (V, 4), (V,) -> (V, 3, side, side).

    The outermost samples lie on the box's edges (align_corners); outside the image is 0,
    ImageNet's mean colour. Differentiable in the pixels.
    """
    fraction = torch.linspace(0, 1, side, device=boxes.device, dtype=boxes.dtype)[None, :, None]
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    x, y = ((low * (1 - fraction) + high * fraction) * 2 - 1).unbind(-1)  # (V, side) each
    coordinates = torch.stack(
        [x[:, None].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], -1
    )
    # index_select: the gradient of images[node_image] is summed in whatever order threads come.
    return F.grid_sample(images.index_select(0, node_image), coordinates, align_corners=True)
