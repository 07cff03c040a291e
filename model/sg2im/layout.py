"""sg2im's scene layout: the vector of each node in the cells of its box and mask."""

import torch
from torch import Tensor

from model.boxes import paste
from model.padding import Padding
from model.precision import in_float32

FILLED_SIDE = 8  # of the filled mask that is used for a box without a mask, in cells


def coverage(boxes: Tensor, masks: Tensor | None, side: int) -> Tensor:
    """Each node's mask, sampled at the cells of the image.

    boxes  (V, 4)       x0 y0 x1 y1; may reach outside the image
    masks  (V, 16, 16)  within the boxes; None: the boxes are filled

    Returns (V, side, side). The outermost cells lie on the image's edges and the outermost values
    of a mask on its box's (align_corners, as the published weights need); outside the box the
    value falls to 0 over one cell of the mask.
    """
    if masks is None:
        masks = boxes.new_ones(len(boxes), FILLED_SIDE, FILLED_SIDE)
    with in_float32(boxes.device):
        return paste(masks[:, None].to(boxes.dtype), boxes, side, align_corners=True)[:, 0]


def lay_out(vectors: Tensor, covered: Tensor, padding: Padding) -> Tensor:
    """Sum over an image's nodes of vector times coverage.

    vectors  (V, D)     of objects, then image nodes
    covered  (V, H, W)
    padding             of the objects

    Returns (N, D, H, W). A vector is the same all over its box, so sampling its mask and then
    multiplying is sampling the product, as sg2im does, without V maps of D channels in between.
    """
    padded = _by_image(vectors, padding).transpose(1, 2)  # (N, D, M + 1)
    cells = _by_image(covered.flatten(1), padding)  # (N, M + 1, H * W)
    return (padded @ cells).reshape(*padded.shape[:2], *covered.shape[1:])


def _by_image(nodes: Tensor, padding: Padding) -> Tensor:
    """(V, ...) -> (N, M + 1, ...): an image's objects, padded, and the image node."""
    objects = len(padding.image)
    return torch.cat([padding.pad(nodes[:objects]), nodes[objects:, None]], 1)
