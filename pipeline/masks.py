"""COCO segmentations of a photo -> the (16, 16) mask of each object over its box.

pycocotools draws the polygons. It trusts its input (a NaN takes all memory), so everything
is checked before it sees it; run lengths are unrolled here, because its own decoder leaves what the
memory held where they end too early, and warns under numpy 2.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.checks import whole
from pipeline.scene import MASK_SIZE

Mask = NDArray[np.uint8]
Runs = NDArray[np.int64]
Places = NDArray[np.int64]
BoxPx = tuple[float, float, float, float]  # x, y, width, height

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
        if segmentation and all(type(value) in (int, float) for value in segmentation):
            raise ValueError(
                "it is one flat list of numbers where COCO has a list of polygons: put it into "
                "another pair of brackets, [[x, y, ...]]"
            )
        for polygon in segmentation:
            _check_polygon(polygon, width, height)
        return [polygon for polygon in segmentation if len(polygon) >= 6] or None
    if not isinstance(segmentation, dict):
        raise ValueError("it is neither a list of polygons nor run lengths")
    counts = _counts_in(segmentation, width, height)
    if isinstance(counts, str):
        _unpacked([counts], width * height)
    return {"size": [height, width], "counts": counts}


def _check_polygon(polygon: Any, width: int, height: int) -> None:
    if isinstance(polygon, list) and polygon and all(isinstance(v, list) for v in polygon):
        raise ValueError("a polygon holds lists, as points [x, y]: COCO has [x, y, x, y, ...]")
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


def _counts_in(segmentation: dict[str, Any], width: int, height: int) -> str | list[int]:
    """Its counts, a string's content unchecked; ValueError for what cannot be run lengths of this
    photo."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise ValueError(f"its size is not the photo's [height, width], {[height, width]}")
    if isinstance(counts, str):
        return counts
    runs = [whole(count) for count in counts] if isinstance(counts, list) else [None]
    known = [run for run in runs if run is not None and run >= 0]
    if len(known) < len(runs):
        raise ValueError("its counts are neither a string nor a list of whole numbers from 0")
    if sum(known) != width * height:
        raise ValueError(_coverage(sum(known), width * height))
    return known


def _coverage(covered: int, pixels: int) -> str:
    return f"its runs cover {covered:,} of {pixels:,} pixels"


def _unpacked(counts: Sequence[str], pixels: int) -> tuple[Runs, Places]:
    """Compressed run lengths of n objects of one photo -> the runs of all, of zeros and ones in
    turn, laid end to end, and (n,) where each object's begin.

    COCO's form: characters 48-111 hold 6 bits each, 5 of a number (low ones first, the last
    group's highest bit being the sign) and one that says whether more follow; from the fourth run
    on, a number is the difference from the run two before.
    """
    codes = np.frombuffer("".join(counts).encode("utf-8"), np.uint8) - np.uint8(48)
    last = np.array([len(c) for c in counts]).cumsum() - 1  # character of each object
    # Below 48 comes out above 207, and so does every byte of a character of several.
    if not all(counts) or codes.max() > 63 or (codes[last] & 32).any():
        raise ValueError("its counts are not compressed run lengths")
    (ends,) = (codes < 32).nonzero()
    groups = np.diff(ends, prepend=-1)
    if (most := int(groups.max())) > MAX_GROUPS:
        raise ValueError("its counts hold a run longer than any photo")
    numbers = (codes[ends].astype(np.int64) ^ 16) - 16  # the last group has the sign
    for group in range(1, most):
        (longer,) = (groups > group).nonzero()
        numbers[longer] = numbers[longer] << 5 | codes[ends[longer] - group] & 31
    stops = ends.searchsorted(last) + 1
    starts = np.append(0, stops[:-1])
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        for first in (start + 1, start + 2):
            numbers[first:stop:2] = numbers[first:stop:2].cumsum()
    if numbers.min() < 0:
        raise ValueError("its counts hold a negative run")
    covered = np.add.reduceat(numbers, starts)
    if (wrong := covered[covered != pixels]).size:
        raise ValueError(_coverage(int(wrong[0]), pixels))
    return numbers, starts


def masks_over_boxes(
    segmentations: Sequence[Any], boxes_px: Sequence[BoxPx], width: int, height: int
) -> list[Mask | None]:
    """(16, 16) in {0, 1} for each of a photo's segmentations, cut at its box (x, y, w, h px) and
    made small; None for one that covers nothing.

    As sg2im does (sg2im/data/coco.py): edges rounded, at least a pixel each way; bilinear *without*
    antialiasing, zeros beyond the cut-out; a cell is set above 128/255.
    """
    # All at once: for a single mask, numpy's calls take longer than their work.
    counts = [_counts_of(segmentation, width, height) for segmentation in segmentations]
    with_mask = [i for i, packed in enumerate(counts) if packed is not None]
    masks: list[Mask | None] = [None] * len(counts)
    if with_mask:
        runs, starts = _unpacked([c for c in counts if c is not None], width * height)
        edges = np.array([_edges(boxes_px[i], width, height) for i in with_mask])
        for i, mask in zip(with_mask, _sampled(runs, starts, edges, width, height), strict=True):
            masks[i] = mask
    return masks


def _counts_of(segmentation: Any, width: int, height: int) -> str | None:
    """Compressed run lengths, a string unchecked; None where it covers nothing."""
    if isinstance(segmentation, dict):
        runs = _counts_in(segmentation, width, height)
        if isinstance(runs, str):
            return runs
        form = {"size": [height, width], "counts": runs}
        drawn = [coco_mask.frPyObjects(form, height, width)]
    elif usable := usable_segmentation(segmentation, width, height):
        drawn = coco_mask.frPyObjects(usable, height, width)
    else:
        return None
    merged = drawn[0] if len(drawn) == 1 else coco_mask.merge(drawn)
    return str(merged["counts"], "ascii")


def _edges(box_px: BoxPx, width: int, height: int) -> tuple[int, int, int, int]:
    """left, top, right, bottom in whole pixels; right <= left or bottom <= top outside."""
    x, y, box_width, box_height = box_px
    left, top = max(round(x), 0), max(round(y), 0)
    right = min(max(left + 1, round(x + box_width)), width)
    bottom = min(max(top + 1, round(y + box_height)), height)
    return left, top, right, bottom


def _sampled(
    runs: Runs, starts: Places, edges: NDArray[np.int64], width: int, height: int
) -> NDArray[np.uint8]:
    """(n, 16, 16) out of what `_unpacked` gives and each object's edges (n, 4)."""
    outside = (edges[:, 2] <= edges[:, 0]) | (edges[:, 3] <= edges[:, 1])
    edges[outside] = (0, 0, 1, 1)  # of some pixels, but none of the mask's
    left, top, right, bottom = edges.T[:, :, None]
    columns, across = _samples(right - left)
    rows, down = _samples(bottom - top)
    # Runs go down the columns of one photo after the other; every second one is of ones.
    photos = np.arange(len(edges))[:, None] * (width * height)
    places = (photos + (left + columns) * height)[:, :, None] + (top + rows)[:, None]
    run = runs.cumsum().searchsorted(places, side="right") - starts[:, None, None]
    parts = (run & 1).astype(np.int32) * down[:, None]  # (n, 32, 32) across, down
    halves = (parts[..., ::2] + parts[..., 1::2]) * across[..., None]
    cells = halves[:, ::2] + halves[:, 1::2]  # (n, 16, 16) across, down
    masks = 255 * cells.transpose(0, 2, 1) > 128 * WHOLE**2
    masks[outside] = False
    return np.ascontiguousarray(masks, np.uint8)


def _samples(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which pixels of a side the cells see, two each, and how much of each: (n, 32) of WHOLE.

    Bilinear, in whole numbers: cell centres lie at odd multiples of length / 32. `lengths` is
    (n, 1); a pixel that would lie beyond the side weighs 0.
    """
    centres = np.arange(1, WHOLE, 2) * lengths - MASK_SIZE  # of the cells, in parts of a pixel
    below, part = np.divmod(centres, WHOLE)
    pixels = np.stack([below, below + 1], 2).reshape(len(lengths), WHOLE)
    weights = np.stack([WHOLE - part, part], 2).reshape(len(lengths), WHOLE)
    weights[(pixels < 0) | (pixels >= lengths)] = 0
    return pixels.clip(0, lengths - 1), weights.astype(np.int32)
