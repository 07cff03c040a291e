"""Node vectors, boxes and masks in, the layout out: each vector laid where its node is (sg2im)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.retrieval.greedy import grid_of

BOX_CELLS = 8  # side of the filled square that stands for a box without a mask
THINNEST = 1e-6  # a predicted box may have no width at all, and nothing is divided by that


def coverage(boxes: Tensor, masks: Tensor | None, side: int) -> Tensor:
    """How much of each cell of the picture each node takes up.

    boxes  (V, 4)     x0 y0 x1 y1; may reach outside the picture
    masks  (V, M, M)  within the boxes; None: the boxes are filled

    Returns (V, side, side). The outermost cells lie on the picture's edges and the outermost
    values of a mask on its box's (align_corners of the published weights); a cell outside the box
    fades to 0 over one cell of the mask.
    """
    cells = torch.linspace(0, 1, side, device=boxes.device, dtype=boxes.dtype)
    low, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    extent = torch.where(extent.abs() < THINNEST, THINNEST, extent)
    within = (cells[None, :, None] - low[:, None]) / extent[:, None]  # (V, side, 2), 0 to 1
    x, y = (within * 2 - 1).unbind(-1)
    grid = torch.stack([x[:, None].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], -1)
    if masks is None:
        shapes = boxes.new_ones(len(boxes), 1, BOX_CELLS, BOX_CELLS)
    else:
        shapes = masks[:, None].to(boxes.dtype)
    return F.grid_sample(shapes, grid, align_corners=True)[:, 0]


def lay_out(vectors: Tensor, covered: Tensor, node_image: Tensor, num_images: int) -> Tensor:
    """Sum over an image's nodes of vector times coverage.

    vectors     (V, D)
    covered     (V, H, W)
    node_image  (V,)       in any order

    Returns (N, D, H, W). A vector is the same all over its box, so sampling its mask and then
    multiplying is sampling the product, as sg2im does, without V maps of D channels in between.
    """
    order = torch.argsort(node_image, stable=True)
    grid = grid_of(node_image[order], num_images)
    across = grid.spread(vectors[order]).transpose(1, 2)  # (N, D, M)
    cells = grid.spread(covered[order].flatten(1))  # (N, M, H * W)
    return (across @ cells).reshape(*across.shape[:2], *covered.shape[1:])
