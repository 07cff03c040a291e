"""Pixels in, duplicate patches out: equal ones, and near duplicates, which look alike.

Near duplicates are found by a fingerprint of 64 bytes a patch: its difference hash (dhash), 128
bits that say where it grows brighter, and a thumbnail of 4x4 colours.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.progress import progress

CELLS = 8  # a patch is averaged to 8x8 cells; each is compared with its right and lower neighbour
BRIGHTER = 2.0  # grey levels: what a JPEG encoder changes does not count
MOST_BITS = 7  # of 128: so at least one of 8 bands of 16 bits is equal, and no pair is missed
MOST_COLOUR = 6.0  # levels, mean difference of the thumbnails
LEAST_BITS = 16  # fewer, or all but as few: too flat to be compared
WINDOW = 64  # where more are equal in a band, each is compared with so many neighbours
EXAMPLES = 24  # pairs that are kept to be shown

WHAT_IS_NEAR = (
    f"Near duplicates are patches whose difference hashes (8x8 cells, each compared with its right "
    f"and lower neighbour) differ in at most {MOST_BITS} of 128 bits, and whose 4x4 thumbnails "
    f"differ by at most {MOST_COLOUR:.0f} of 255 levels on average. Patches too flat for the hash "
    f"are left out. Where more than {WINDOW} patches have the same 16 bits of it, each is compared "
    f"with {WINDOW} neighbours only, so a few pairs may be missed."
)


class Fingerprints(NamedTuple):
    """Of n patches."""

    dhashes: NDArray[np.uint64]  # (n, 2) 128 bits
    thumbnails: NDArray[np.uint8]  # (n, 48) 4x4 colours

    @classmethod
    def empty(cls, count: int) -> Self:
        return cls(np.zeros((count, 2), np.uint64), np.zeros((count, 48), np.uint8))

    @property
    def flat(self) -> NDArray[np.bool_]:
        """(n,) True where there is too little to compare."""
        ones = np.bitwise_count(self.dhashes).sum(1)
        flat: NDArray[np.bool_] = (ones < LEAST_BITS) | (ones > 128 - LEAST_BITS)
        return flat

    def take(self, rows: NDArray[np.int64]) -> "Fingerprints":
        return Fingerprints(self.dhashes[rows], self.thumbnails[rows])


def fingerprints_of(pixels: NDArray[np.uint8]) -> Fingerprints:
    """Of patches (n, patch_size, patch_size, 3)."""
    cells = _cells(pixels)  # (n, 8, 8, 3)
    grey = cells.mean(3)
    right = np.roll(grey, -1, 2) - grey > BRIGHTER
    lower = np.roll(grey, -1, 1) - grey > BRIGHTER
    bits = np.stack([right, lower], 1).reshape(len(pixels), -1)
    thumbs = cells.reshape(-1, CELLS // 2, 2, CELLS // 2, 2, 3).mean((2, 4))
    return Fingerprints(
        np.packbits(bits, axis=1).view(np.uint64),
        thumbs.round().astype(np.uint8).reshape(len(pixels), -1),
    )


def _cells(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean colours of 8x8 cells: (n, patch_size, patch_size, 3) -> (n, 8, 8, 3)."""
    n, patch_size = pixels.shape[:2]
    step = max(1, patch_size // CELLS)
    if patch_size != CELLS * step:
        lines = np.arange(CELLS * step) * patch_size // (CELLS * step)
        pixels = pixels[:, lines][:, :, lines]
    sums = pixels.reshape(n, CELLS, step, CELLS * step * 3).sum(2, dtype=np.uint32)
    cells: NDArray[np.float32] = sums.reshape(n, CELLS, CELLS, step, 3).sum(3, dtype=np.float32)
    cells /= step**2
    return cells


def near_duplicates(
    fingerprints: Fingerprints,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of rows that look alike, in blocks; a pair may come more than once."""
    dhashes, thumbnails = fingerprints
    rows = np.flatnonzero(~fingerprints.flat)
    bands = dhashes[rows].view(np.uint16)  # (n, 8)
    for band in progress(range(bands.shape[1]), "near duplicates", bands.shape[1], "band"):
        # Sorted by the rest of the hash as well: in a crowded band the nearest stand together.
        order = np.lexsort((dhashes[rows, 1], dhashes[rows, 0], bands[:, band]))
        values, here = bands[order, band], rows[order]
        for step in range(1, WINDOW + 1):
            left = np.flatnonzero(values[step:] == values[:-step])
            if not len(left):
                break
            a, b = here[left], here[left + step]
            near = np.bitwise_count(dhashes[a] ^ dhashes[b]).sum(1) <= MOST_BITS
            a, b = a[near], b[near]
            apart = np.abs(thumbnails[a].astype(np.int16) - thumbnails[b]).mean(1)
            alike = apart <= MOST_COLOUR
            yield a[alike], b[alike]


class Duplicates(NamedTuple):
    """Which patches (B,) have a duplicate, and where."""

    anywhere: NDArray[np.bool_]
    other_photo: NDArray[np.bool_]
    in_training: NDArray[np.bool_]  # of validation and test patches only


class Groups:
    """Patches of equal pixels, and what the members and near duplicates of each group are."""

    def __init__(
        self, group: NDArray[np.int64], images: NDArray[np.int64], train: NDArray[np.bool_]
    ) -> None:
        """
        group   (B,)  which group each patch is of
        images  (B,)  its photo
        train   (B,)  True where it is a training patch
        """
        self.group, self.images, self.train = group, images, train
        _, self.first = np.unique(group, return_index=True)
        self.sizes = np.bincount(group)
        self._lowest = np.full(len(self.sizes), np.iinfo(np.int64).max)
        self._highest = np.full(len(self.sizes), -1, np.int64)
        np.minimum.at(self._lowest, group, images)
        np.maximum.at(self._highest, group, images)
        self._trained = np.bincount(group, train) > 0
        self._many = self.sizes > 1

    def equal(self) -> Duplicates:
        return self._duplicates(self._many, self._lowest, self._highest, self._trained)

    def alike(
        self, pairs: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]
    ) -> tuple[Duplicates, list[tuple[int, int]]]:
        """Equal or alike, from pairs of groups; and some pairs of patches of two photos."""
        many, trained = self._many.copy(), self._trained.copy()
        lowest, highest = self._lowest.copy(), self._highest.copy()
        shown: dict[tuple[int, int], None] = {}
        for left, right in pairs:
            for a, b in ((left, right), (right, left)):
                many[a] = True
                trained[a[self._trained[b]]] = True
                np.minimum.at(lowest, a, self._lowest[b])
                np.maximum.at(highest, a, self._highest[b])
            apart = self.images[self.first[left]] != self.images[self.first[right]]
            for a, b in zip(left[apart][:EXAMPLES], right[apart][:EXAMPLES], strict=True):
                if len(shown) < EXAMPLES:
                    shown[min(a, b), max(a, b)] = None
        examples = [(int(self.first[a]), int(self.first[b])) for a, b in shown]
        return self._duplicates(many, lowest, highest, trained), examples

    def _duplicates(
        self,
        many: NDArray[np.bool_],
        lowest: NDArray[np.int64],
        highest: NDArray[np.int64],
        trained: NDArray[np.bool_],
    ) -> Duplicates:
        """What is known of each group, for each of its patches."""
        g = self.group
        elsewhere = (lowest[g] != self.images) | (highest[g] != self.images)
        return Duplicates(many[g], elsewhere, trained[g] & ~self.train)
