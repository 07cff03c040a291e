"""The chosen patches pasted into their boxes, without a network: what retrieval alone comes to."""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.padding import Padding

GREY = 128


def paste(patches: Tensor, boxes: Tensor, padding: Padding, px: int) -> Tensor:
    """Paste each scene's patches onto a grey square, the larger ones first, i.e. behind.

    patches  (O, P, P, 3)  uint8
    boxes    (O, 4)        sides that lie outside are moved to the edge

    Returns (N, px, px, 3) uint8, on the CPU. The canvas test of Xu and Xu (AAAI 2022), table 5.
    """
    canvas = torch.full((padding.num_images, px, px, 3), GREY, dtype=torch.uint8)
    maps = patches.cpu().permute(0, 3, 1, 2)
    image, corners = padding.image.tolist(), pixels_of(boxes.cpu(), px)
    sides = corners[:, 2:] - corners[:, :2]
    for o in sides.prod(1).argsort(descending=True, stable=True).tolist():
        x0, y0, x1, y1 = corners[o].tolist()
        resized = F.interpolate(
            maps[o : o + 1], size=(y1 - y0, x1 - x0), mode="bilinear", antialias=True
        )
        canvas[image[o], y0:y1, x0:x1] = resized[0].permute(1, 2, 0)
    return canvas


def pixels_of(boxes: Tensor, px: int) -> Tensor:
    """Boxes (O, 4) as shares of a square -> the nearest corners in whole pixels, inside the square
    and at least one pixel apart: (O, 4) int64."""
    corners = (boxes.double() * px).round().long()
    low = corners[:, :2].clamp(0, px - 1)
    high = corners[:, 2:].clamp_max(px).maximum(low + 1)
    return torch.cat([low, high], 1)
