"""The rule that a candidate never comes from the photo of the object that it is for.

A photo is a file: image ids whose files are equal (`Contents.photos_of_patches`) are one photo.
It is defined here only, in two forms: membership of ids in photos (`from_photos`, and how many),
and the pairs of queries and patches of one photo (`same_photo`, and how many).

The candidates that a bank stores are found by bank/certified_search.py, which always applies it. A
graph that is given to `Bank.search` has no photo: the caller names those to leave out,
`exclude_images=[image_id]`, and without that nothing is left out.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.scene import image_of, patch_id


def from_photos(ids: NDArray[np.int64], photos: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which patch ids (...) are of one of these photos (m,)."""
    return np.isin(image_of(ids), photos)


def count_from_photos(ids: NDArray[np.int64], photos: NDArray[np.int64]) -> int:
    """How many of the ids (n,), rising, are of one of these photos (m,), which are distinct."""
    first, last = np.searchsorted(ids, [patch_id(photos, 0), patch_id(photos + 1, 0)])
    return int((last - first).sum())


def same_photo(
    asking: NDArray[np.int64], offered: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of places in `asking` (q,), rising, and in `offered` (n,) that hold one photo."""
    by_photo = np.argsort(offered, kind="stable")
    first, last = _runs(asking, offered[by_photo])
    counts = last - first
    starts = np.repeat(first - (counts.cumsum() - counts), counts)
    places = by_photo[starts + np.arange(counts.sum())]
    return np.repeat(np.arange(len(asking)), counts), places


def count_same_photo(asking: NDArray[np.int64], offered: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of `offered` (n,) hold the same photo as each of `asking` (q,)."""
    first, last = _runs(asking, np.sort(offered))
    return last - first


def _runs(
    values: NDArray[np.int64], ordered: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each value's run in `ordered` begins and where it stops."""
    return np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
