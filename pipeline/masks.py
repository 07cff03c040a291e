"""A COCO segmentation -> the (16, 16) mask of its object over its box.

pycocotools draws the polygons. It trusts what it is given (a NaN takes all memory), so everything
is checked before it sees it; run lengths are unrolled here, because its own decoder leaves what the
memory held where they end too early, and warns under numpy 2.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.scene import MASK_SIZE

Mask = NDArray[np.uint8]
Runs = NDArray[np.int64]

WHOLE = 2 * MASK_SIZE  # a pixel, in the parts that a cell's centre may lie at
MAX_GROUPS = 6  # six characters hold 30 bits, more than any photo has pixels


def usable_segmentation(segmentation: Any, width: int, height: int) -> Any:
    """The segmentation as pycocotools can take it, or None where it covers nothing.

    Polygons of fewer than three points are dropped: pycocotools would read one of two points as a
    box. Raises ValueError, saying what is wrong, for everything that is not a segmentation of a
    photo of this size (px).
    """
    if segmentation is None:
        return None
    if isinstance(segmentation, list):
        for polygon in segmentation:
            _check_polygon(polygon, width, height)
        return [polygon for polygon in segmentation if len(polygon) >= 6] or None
    if not isinstance(segmentation, dict):
        raise ValueError("it is neither a list of polygons nor run lengths")
    _checked_runs(segmentation, width, height)
    return {"size": [height, width], "counts": segmentation["counts"]}


def _check_polygon(polygon: Any, width: int, height: int) -> None:
    if not isinstance(polygon, list) or len(polygon) % 2:
        raise ValueError("a polygon is a list of x and y in turn")
    if not set(map(type, polygon)) <= {int, float}:
        raise ValueError("a polygon holds something that is not a number")
    # The work pycocotools does grows with the outline: one photo's size beyond the edge will do.
    for name, values, size in (("x", polygon[::2], width), ("y", polygon[1::2], height)):
        if not _within(values, -size, 2 * size):
            value = next(v for v in values if not -size <= v <= 2 * size)
            raise ValueError(f"a polygon reaches {name} = {value}, the photo {size} px")


def _within(values: list[float], least: int, most: int) -> bool:
    # min and max pass over a NaN that does not come first; a sum does not.
    return not values or (
        least <= min(values) and max(values) <= most and not math.isnan(sum(values))
    )


def _checked_runs(segmentation: dict[str, Any], width: int, height: int) -> Runs:
    """Its run lengths; ValueError where they are not those of a photo of this size."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise ValueError(f"its size is not the photo's [height, width], {[height, width]}")
    if isinstance(counts, str):
        runs = _unpacked(counts)
        total = int(runs.sum())
    elif isinstance(counts, list) and all(type(c) is int and c >= 0 for c in counts):
        total = sum(counts)
    else:
        raise ValueError("its counts are neither a string nor a list of whole numbers from 0")
    if total != width * height:
        raise ValueError(f"its runs cover {total:,} of {width * height:,} pixels")
    return runs if isinstance(counts, str) else np.array(counts, np.int64)


def _unpacked(counts: str) -> Runs:
    """Compressed run lengths, of zeros and ones in turn.

    COCO's form: characters 48-111 hold 6 bits each, 5 of a number (low ones first, the last
    group's highest bit being the sign) and one that says whether more follow; from the fourth run
    on, a number is the difference from the run two before.
    """
    codes = np.frombuffer(counts.encode("utf-8"), np.uint8) - np.uint8(48)  # below 48: above 207
    if codes.size == 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("its counts are not compressed run lengths")
    (ends,) = (codes < 32).nonzero()
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > MAX_GROUPS:
        raise ValueError("its counts hold a run longer than any photo")
    values = (codes & 31).astype(np.int64)
    values[ends] = (values[ends] ^ 16) - 16  # with its sign
    groups = np.arange(codes.size) - starts.repeat(lengths)
    runs: Runs = np.add.reduceat(values << 5 * groups, starts)
    for first in (1, 2):
        runs[first::2] = runs[first::2].cumsum()
    if runs.min() < 0:
        raise ValueError("its counts hold a negative run")
    return runs


def mask_over_box(
    segmentation: Any, width: int, height: int, box_px: Sequence[float]
) -> Mask | None:
    """(16, 16) in {0, 1}: the segmentation cut at the box (x, y, w, h px), then made small.

    sg2im's recipe: edges rounded, at least a pixel each way; bilinear *without* antialiasing,
    zeros beyond the cut-out; a cell is set above 128/255. None where there is no segmentation.
    """
    runs = _runs_of(segmentation, width, height)
    if runs is None:
        return None
    x, y, box_width, box_height = box_px
    left, top = max(round(x), 0), max(round(y), 0)
    right = min(max(left + 1, round(x + box_width)), width)
    bottom = min(max(top + 1, round(y + box_height)), height)
    if left >= right or top >= bottom:  # the box lies outside the photo
        return np.zeros((MASK_SIZE, MASK_SIZE), np.uint8)
    across, down = _samples(right - left), _samples(bottom - top)
    # Runs go down the columns; every second one is of ones.
    places = (left + across.pixels)[:, None] * height + (top + down.pixels)
    inside = runs.cumsum().searchsorted(places, side="right") & 1
    parts = inside * down.weights
    columns = (parts[:, ::2] + parts[:, 1::2]) * across.weights[:, None]
    cells = columns[::2] + columns[1::2]  # across, down
    return np.asarray(255 * cells.T > 128 * WHOLE**2, np.uint8)


def _runs_of(segmentation: Any, width: int, height: int) -> Runs | None:
    """Run lengths of zeros and ones in turn; None where it covers nothing."""
    if isinstance(segmentation, dict):
        return _checked_runs(segmentation, width, height)
    usable = usable_segmentation(segmentation, width, height)
    if usable is None:
        return None
    drawn = coco_mask.frPyObjects(usable, height, width)
    whole = drawn[0] if len(drawn) == 1 else coco_mask.merge(drawn)
    return _unpacked(whole["counts"].decode("ascii"))


class Samples(NamedTuple):
    """Which pixels of a side the cells see, two each, and how much of each."""

    pixels: NDArray[np.int64]  # (32,)
    weights: NDArray[np.int64]  # (32,) of WHOLE; 0 where the pixel would lie beyond the side


@functools.lru_cache(maxsize=4096)
def _samples(length: int) -> Samples:
    """Bilinear, in whole numbers: cell centres lie at odd multiples of length / 32."""
    places = np.arange(1, WHOLE, 2) * length - MASK_SIZE  # of the cells, in parts of a pixel
    below, part = np.divmod(places, WHOLE)
    pixels = np.stack([below, below + 1], 1).ravel()
    weights = np.stack([WHOLE - part, part], 1).ravel()
    weights[(pixels < 0) | (pixels >= length)] = 0
    return Samples(pixels.clip(0, length - 1), weights)
