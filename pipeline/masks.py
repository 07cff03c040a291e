"""A COCO segmentation -> the (16, 16) mask of its object over its box.

pycocotools draws the polygons. It trusts what it is given (a NaN takes all memory), so everything
is checked before it sees it; run lengths are unrolled here, because its own decoder leaves what the
memory held where they end too early, and warns under numpy 2.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.scene import MASK_SIZE

Mask = NDArray[np.uint8]

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
    _check_runs(segmentation, width, height)
    return {"size": [height, width], "counts": segmentation["counts"]}


def _check_polygon(polygon: Any, width: int, height: int) -> None:
    if not isinstance(polygon, list) or len(polygon) % 2:
        raise ValueError("a polygon is a list of x and y in turn")
    if not all(type(v) in (int, float) for v in polygon):
        raise ValueError("a polygon holds something that is not a number")
    # The work pycocotools does grows with the outline: one photo's size beyond the edge will do.
    for name, values, size in (("x", polygon[::2], width), ("y", polygon[1::2], height)):
        for value in values:
            if not -size <= value <= 2 * size:  # not a number fails this too
                raise ValueError(f"a polygon reaches {name} = {value}, the photo {size} px")


def _check_runs(segmentation: dict[str, Any], width: int, height: int) -> None:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise ValueError(f"its size is not the photo's [height, width], {[height, width]}")
    if isinstance(counts, str):
        total = int(_unpacked(counts).sum())
    elif isinstance(counts, list) and all(type(c) is int and c >= 0 for c in counts):
        total = sum(counts)
    else:
        raise ValueError("its counts are neither a string nor a list of whole numbers from 0")
    if total != width * height:
        raise ValueError(f"its runs cover {total:,} of {width * height:,} pixels")


def _unpacked(counts: str) -> NDArray[np.int64]:
    """Compressed run lengths, of zeros and ones in turn.

    COCO's form: characters 48-111 hold 6 bits each, 5 of a number (low ones first, the last
    group's highest bit being the sign) and one that says whether more follow; from the fourth run
    on, a number is the difference from the run two before.
    """
    codes = np.frombuffer(counts.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("its counts are not compressed run lengths")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > MAX_GROUPS:
        raise ValueError("its counts hold a run longer than any photo")
    place = np.arange(codes.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << 5 * place, starts)
    runs -= ((codes[ends] & 16) != 0) * (np.int64(1) << 5 * lengths)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
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
    usable = usable_segmentation(segmentation, width, height)
    if usable is None:
        return None
    whole = _decode(usable, width, height)
    x, y, box_width, box_height = box_px
    left, top = max(round(x), 0), max(round(y), 0)
    right, bottom = max(left + 1, round(x + box_width)), max(top + 1, round(y + box_height))
    part = whole[top:bottom, left:right].astype(np.float64)
    if part.size == 0:  # the box lies outside the photo
        return np.zeros((MASK_SIZE, MASK_SIZE), np.uint8)
    rows, columns = _weights(part.shape[0]), _weights(part.shape[1])
    return np.asarray(rows @ part @ columns.T > 128 / 255, np.uint8)


def _decode(usable: Any, width: int, height: int) -> Mask:
    """(height, width) in {0, 1}."""
    if isinstance(usable, list):
        usable = coco_mask.merge(coco_mask.frPyObjects(usable, height, width))
    counts = usable["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    runs = _unpacked(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    values = np.arange(len(runs), dtype=np.uint8) & 1
    return np.repeat(values, runs).reshape(width, height).T  # runs go down the columns


def _weights(length: int) -> NDArray[np.float64]:
    """(16, length): how much each of `length` pixels adds to each of 16 cells."""
    weights = np.zeros((MASK_SIZE, length))
    for cell in range(MASK_SIZE):
        place = (cell + 0.5) * length / MASK_SIZE - 0.5
        below = math.floor(place)
        for pixel, weight in ((below, 1 - (place - below)), (below + 1, place - below)):
            if 0 <= pixel < length:
                weights[cell, pixel] += weight
    return weights
