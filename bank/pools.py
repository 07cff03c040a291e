"""A bank's training patches by category: what its index holds and its candidates are among."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bank.files import save_array
from pipeline.options import write_json


class Pools(NamedTuple):
    """T training patches of C categories, by name; B patches in all."""

    names: list[str]  # C, rising
    bounds: NDArray[
        np.int64
    ]  # (C + 2,) where in `rows` each starts, and where the last stops twice
    rows: NDArray[np.int64]  # (T,) of the training patches in the bank, by (category, id)
    codes: NDArray[np.int32]  # (B,) each patch's category; C where that has no training patch

    def pool(self, code: int) -> NDArray[np.int64]:
        """(n,) rows of a category's training patches, rising as their ids do; of C there is none"""
        return self.rows[self.bounds[code] : self.bounds[code + 1]]

    def save(self, folder: Path) -> None:
        """Into a folder that is there, as files for `open` to map."""
        write_json(folder / "names.json", self.names)
        for name in ("bounds", "rows", "codes"):
            save_array(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def open(cls, folder: Path) -> Self:
        names = json.loads((folder / "names.json").read_text("utf-8"))
        arrays = (np.load(folder / f"{name}.npy", "r") for name in ("bounds", "rows", "codes"))
        return cls(names, *arrays)


def pools_by_category(
    ids: NDArray[np.int64],
    names: Sequence[str],
    codes: NDArray[np.int32],
    train_mask: NDArray[np.bool_],
) -> Pools:
    """The same in whatever order the names are.

    ids         (B,)  patch ids
    names             of categories, each once
    codes       (B,)  which of them a patch is of
    train_mask  (B,)  True for training patches
    """
    sizes = np.bincount(codes[train_mask], minlength=len(names))
    present = [code for code in np.argsort(np.array(names, np.str_)) if sizes[code]]
    new = np.full(len(names), len(present), np.int32)
    new[present] = np.arange(len(present))
    codes = new[codes]
    train = np.flatnonzero(train_mask)
    return Pools(
        [names[code] for code in present],
        np.r_[0, sizes[present].cumsum(), len(train)],
        train[np.lexsort((ids[train], codes[train]))],
        codes,
    )
