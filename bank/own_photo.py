"""The rule that a candidate never comes from the photo of the object that it is for.

It is defined here only, in three forms: membership of ids in photos (`from_photos`, and how many),
a table of queries by ids (`from_own_photo`), its pairs alone (`PatchesByPhoto`). Equal files under
another image id are not excluded yet.

The candidates that a bank stores are found by bank/pruned_search.py, which always applies it: a
query is a patch, and its photo follows from its id. A graph that is given to `Bank.search` has no
photo: the caller names those to leave out, `exclude_images=[image_id]`, and without that nothing is
left out.
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


def from_own_photo(ids: NDArray[np.int64], photos: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For queries of these photos (q,), which ids (n,) are of the query's own: (q, n)."""
    own: NDArray[np.bool_] = photos[:, None] == image_of(ids)
    return own


class PatchesByPhoto:
    """`from_own_photo` for many queries and ids: the pairs, without a table of all."""

    def __init__(self, ids: NDArray[np.int64]) -> None:
        """ids  (n,) in any order"""
        self.columns = np.argsort(image_of(ids), kind="stable")
        self.photos = image_of(ids)[self.columns]

    def own_pairs(self, photos: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For queries of these photos (q,), each pair of a query and a place in `ids`."""
        first = np.searchsorted(self.photos, photos, side="left")
        counts = np.searchsorted(self.photos, photos, side="right") - first
        starts = np.repeat(first - (counts.cumsum() - counts), counts)
        return np.repeat(np.arange(len(photos)), counts), self.columns[
            starts + np.arange(counts.sum())
        ]
