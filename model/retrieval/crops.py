"""Which candidates show the same crop of a photo, so that none is selected twice in a scene."""

from typing import NamedTuple

import torch
from torch import Tensor

from model.boxes import overlaps

# Boxes of one photo above this IoU are taken for the same crop. Among 1,398 objects of 50 Visual
# Genome photos, pairs of equal name fall into two groups: side by side (IoU below 0.35) and the
# same object annotated twice (0.5 to 0.95), with 7 of 82 pairs in between.
SAME_CROP_IOU = 0.5


class Crops(NamedTuple):
    """Where patches were cut from."""

    photo: Tensor  # (...) int64, the same for one file under several ids; -1 where the padding is
    box: Tensor  # (..., 4) x0 y0 x1 y1 as fractions of the photo


def same_crop(left: Crops, right: Crops) -> Tensor:
    """True where two crops, broadcast against each other, are of one photo with IoU above 0.5."""
    intersection, union = overlaps(left.box, right.box)
    same: Tensor = (left.photo == right.photo) & (intersection > SAME_CROP_IOU * union)
    return same


def open_slots(valid: Tensor, taken: Tensor) -> Tensor:
    """(..., K) the valid slots that are not taken; of an object that has none, all valid ones."""
    free = valid & ~taken
    return torch.where(free.any(-1, keepdim=True), free, valid)
