"""Cut boxes out of images, and put maps into boxes: bilinear, and differentiable in the pixels.

Boxes are parallel to the axes, so that sampling is a product with a matrix of weights along each.
Its gradient has a deterministic form on CUDA, which that of `F.grid_sample` lacks.

`align_corners` says where the cells lie, of what is read and of what is filled, and what is beyond:
  True   sg2im's rule: the outermost cells lie on the edges; beyond, values fall to 0 over one cell
  False  a cell's value is that of its centre; beyond an image its outermost pixels go on, outside a
         box nothing is put; a box under one pixel of its image, or one cell of its square, is
         widened to one
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.rows import gather

SMALLEST_SIDE = 1e-6  # with align_corners: a predicted box may have no width, which is divided by
EDGE = 1e-4  # of a box's side: so near its edge a cell's centre lies on it, whatever the rounding


def crop(
    images: Tensor, boxes: Tensor, box_image: Tensor, side: int, *, align_corners: bool
) -> Tensor:
    """Cut each box out of its image.

    images     (N, C, H, W)
    boxes      (B, 4)        x0 y0 x1 y1 as shares of the image; may reach outside
    box_image  (B,)

    Returns (B, C, side, side).
    """
    low, high = _sides(boxes, None if align_corners else 1 / images.shape[-1])
    at = torch.lerp(low, high, _cells(side, boxes, align_corners))
    x, y = _weights(at, images.shape[-2:], align_corners)
    return y @ gather(images, box_image) @ x.mT


def paste(maps: Tensor, boxes: Tensor, side: int, *, align_corners: bool) -> Tensor:
    """Put each map into its box on an empty square.

    maps   (B, C, h, w)
    boxes  (B, 4)        x0 y0 x1 y1 as shares of the square; may reach outside

    Returns (B, C, side, side).
    """
    x, y = _paste_weights(boxes, side, maps.shape[-2:], align_corners)
    return y @ maps @ x.mT


def paste_weights(boxes: Tensor, side: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What `paste` multiplies maps of size (h, w) with, without align_corners.

    Returns (B, side, w) for the columns and (B, side, h) for the rows: the shares that the cells
    of a map have in those of the square.
    """
    x, y = _paste_weights(boxes, side, size, False)
    return x[:, 0], y[:, 0]


def _paste_weights(
    boxes: Tensor, side: int, size: Sequence[int], align_corners: bool
) -> tuple[Tensor, Tensor]:
    at = _within(boxes, side, align_corners)
    x, y = _weights(at, size, align_corners)
    if not align_corners:
        inside_x, inside_y = _inside(at)
        x, y = x * inside_x, y * inside_y
    return x, y


def covered(boxes: Tensor, side: int) -> Tensor:
    """(B, 4) -> (B, 1, side, side): 1 where `paste` fills a cell, without align_corners: where its
    centre lies in the box, edges included; else 0."""
    x, y = _inside(_within(boxes, side, False))
    return y * x.mT


def overlaps(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (..., 4), broadcast against each other -> areas (...) of intersection and of union."""
    low = torch.maximum(left[..., :2], right[..., :2])
    high = torch.minimum(left[..., 2:], right[..., 2:])
    intersection = (high - low).clamp_min(0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (left, right)]
    return intersection, areas[0] + areas[1] - intersection


def _sides(boxes: Tensor, least: float | None) -> tuple[Tensor, Tensor]:
    """The low and the high ends (B, 1, 2) of boxes, where need be widened around their centres."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    if least is None:
        return low, high
    missing = (least - (high - low)).clamp_min(0) / 2
    return low - missing, high + missing


def _cells(side: int, like: Tensor, align_corners: bool) -> Tensor:
    """(side, 1) where cells lie on a side of length 1."""
    if align_corners:
        return torch.linspace(0, 1, side, dtype=like.dtype, device=like.device)[:, None]
    return (torch.arange(side, dtype=like.dtype, device=like.device)[:, None] + 0.5) / side


def _within(boxes: Tensor, side: int, align_corners: bool) -> Tensor:
    """Where the cells of a square lie within boxes: (B, side, 2), 0 at the low end, 1 at the high
    one."""
    low, high = _sides(boxes, None if align_corners else 1 / side)
    extent = high - low
    extent = torch.where(extent.abs() < SMALLEST_SIDE, SMALLEST_SIDE, extent)
    return (_cells(side, boxes, align_corners) - low) / extent


def _inside(at: Tensor) -> tuple[Tensor, Tensor]:
    """(B, side, 2) -> whether x and y, (B, 1, side, 1) each, lie within the box: 1 or 0."""
    inside = ((at - 0.5).abs() <= 0.5 + EDGE).to(at.dtype)
    x, y = inside[:, None, :, :, None].unbind(3)
    return x, y


def _weights(at: Tensor, size: Sequence[int], align_corners: bool) -> tuple[Tensor, Tensor]:
    """The shares that the columns and the rows of maps of size (h, w) have in the points `at`
    (B, side, 2): (B, 1, side, w) for x, (B, 1, side, h) for y."""
    h, w = size
    return _weights_of(at[..., 0], w, align_corners), _weights_of(at[..., 1], h, align_corners)


def _weights_of(at: Tensor, size: int, align_corners: bool) -> Tensor:
    cell = at * (size - 1) if align_corners else (at * size - 0.5).clamp(0, size - 1)
    cells = torch.arange(size, device=at.device)
    return (1 - (cell[:, None, :, None] - cells).abs()).clamp_min(0)
