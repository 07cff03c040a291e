"""Search for graphs that are not in the bank: one FAISS index per category, training patches only.

The one module that imports faiss, and after torch: the other order deadlocks forked DataLoader
workers. FAISS proposes in float32; what is returned was ranked again by exact distances, so it is
what `bank/candidates.py` would find, with FAISS or (where it is not installed) without.
"""

import functools
import importlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from bank.candidates import Candidates, Scope, empty_candidates, fill
from bank.errors import BankError
from bank.grid import STEP, scaled
from bank.nearest import PADDING, Nearest, Pool, nearest, smallest
from pipeline.options import write_json
from pipeline.scene import image_of

try:
    faiss: Any = importlib.import_module("faiss")
except (ImportError, RuntimeError):  # RuntimeError: faiss-gpu where the CUDA runtime is missing
    faiss = None  # exact search by torch instead

FORMAT = 1
MARGIN = 16  # asked of FAISS beyond k, so that a rounded distance seldom costs an exact search


class Part(NamedTuple):
    """Where a category's patches lie in ids.npy and vectors.npy, and its FAISS file."""

    start: int
    stop: int
    file: str | None  # None: built where faiss was not installed


def build_indexes(
    folder: Path,
    features: NDArray[np.float32],
    ids: NDArray[np.int64],
    categories: Sequence[str],
    bank_digest: str,
) -> None:
    """Write `folder` anew.

    features     (P, F)  object vectors of the patches that may be offered: the training rows
    ids          (P,)    their patch ids
    categories   (P,)    their categories
    bank_digest          content digest of the bank; the index opens with no other
    """
    names = np.asarray(categories, dtype=np.str_)
    order = np.lexsort((ids, names))
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    parts: dict[str, Part] = {}
    found, starts = np.unique(names[order], return_index=True)
    bounds = [*starts.tolist(), len(ids)]
    for number, name in enumerate(found.tolist()):
        start, stop = bounds[number], bounds[number + 1]
        rows = order[start:stop]
        file = _write_faiss(partial / f"{number:05d}.faiss", features[rows], ids[rows])
        parts[name] = Part(start, stop, file)
    np.save(partial / "ids.npy", ids[order].astype(np.int64))
    np.save(partial / "vectors.npy", features[order].astype(np.float32))
    about = {
        "format": FORMAT,
        "bank": bank_digest,
        "categories": {name: part._asdict() for name, part in parts.items()},
    }
    write_json(partial / "index.json", about)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _write_faiss(path: Path, features: NDArray[np.float32], ids: NDArray[np.int64]) -> str | None:
    """The file's name, or None without faiss."""
    if faiss is None:
        return None
    index = faiss.IndexIDMap2(faiss.IndexFlatL2(features.shape[1]))
    index.add_with_ids(np.ascontiguousarray(features, dtype=np.float32), ids)
    faiss.write_index(index, os.fspath(path))
    return path.name


@functools.lru_cache(maxsize=256)
def _open_faiss(path: Path, bank_digest: str) -> Any:
    """This process's index; the digest makes a rebuilt bank another one."""
    return faiss.read_index(os.fspath(path))


class Indexes:
    """An open `index/` folder. Pickles as its path; FAISS files are opened when first asked."""

    def __init__(self, folder: Path, bank_digest: str, parts: dict[str, Part]) -> None:
        self.folder = folder
        self.bank_digest = bank_digest
        self.parts = parts
        self.ids: NDArray[np.int64] = np.load(folder / "ids.npy", mmap_mode="r")
        self.vectors: NDArray[np.float32] = np.load(folder / "vectors.npy", mmap_mode="r")

    @classmethod
    def open(cls, folder: Path, bank_digest: str) -> Self:
        """Refuses an index that was built for another bank."""
        folder = folder.resolve()
        try:
            about = json.loads((folder / "index.json").read_text("utf-8"))
        except FileNotFoundError as error:
            raise BankError(f"no index at {folder}: build the bank again") from error
        except (ValueError, RecursionError) as error:
            raise BankError(f"{folder}/index.json cannot be read: build the bank again") from error
        if not isinstance(about, dict):
            raise BankError(f"{folder}/index.json is not an index's: build the bank again")
        if about.get("format") != FORMAT:
            raise BankError(
                f"{folder} has index format {about.get('format')!r} where {FORMAT} is read: "
                "build the bank again"
            )
        if about.get("bank") != bank_digest:
            raise BankError(
                f"{folder} was built for the bank with content digest "
                f"{str(about.get('bank'))[:12]}..., not for {bank_digest[:12]}...: build the bank "
                f"again"
            )
        try:
            parts = {
                name: Part(int(part["start"]), int(part["stop"]), part["file"])
                for name, part in about["categories"].items()
            }
            return cls(folder, bank_digest, parts)
        # TokenError: of numpy, for a header whose brackets do not close
        except (OSError, ValueError, KeyError, TypeError, AttributeError, TokenError) as error:
            raise BankError(f"{folder} is damaged ({error!r}): build the bank again") from error

    def __reduce__(self) -> Any:
        return type(self).open, (self.folder, self.bank_digest)

    def search(
        self,
        features: NDArray[np.float32],
        categories: Sequence[str],
        k: int,
        exclude_images: Sequence[int] = (),
        scope: Scope = "category",
    ) -> Candidates:
        """K candidates per object; those of another category are marked as fallback.

        features        (O, F)  object vectors of the bank's encoder
        categories      (O,)    names; one that the bank has no patch of falls back at once
        exclude_images          photos whose patches are not wanted
        scope                   category: an object's own first, then others; all: the nearest
        """
        if not len(self.ids):
            raise BankError(f"{self.folder} is empty: the bank has no training patch to offer")
        names = np.asarray(categories, dtype=np.str_)
        queries = scaled(features)
        excluded = np.unique(np.asarray(exclude_images, dtype=np.int64))
        found = empty_candidates(len(names), k)
        if scope == "all":
            near, theirs = self._nearest_of_all(queries, k, excluded)
            fill(found, np.arange(len(names)), near, fallback=theirs != names[:, None])
            return found
        for name in np.unique(names).tolist():
            rows = np.flatnonzero(names == name)
            part = self.parts.get(name, Part(0, 0, None))
            fill(found, rows, self._nearest(part, queries[rows], k, excluded), fallback=False)
            short = rows[~found.valid[rows].all(1)]
            if len(short):
                pool = self._pool(self._others(part), excluded)
                fill(found, short, nearest(queries[short], pool, k), fallback=True)
        return found

    def _nearest(
        self, part: Part, queries: NDArray[np.float64], k: int, excluded: NDArray[np.int64]
    ) -> Nearest:
        """The k nearest of one category: by FAISS where its rounding cannot matter."""
        rows = np.arange(part.start, part.stop)
        wanted = k + MARGIN + int(np.isin(image_of(self.ids[rows]), excluded).sum())
        if faiss is None or part.file is None or wanted >= len(rows):
            return nearest(queries, self._pool(rows, excluded), k)
        found, certain = self._proposed(part, queries, k, wanted, excluded)
        if not certain.all():
            exact = nearest(queries[~certain], self._pool(rows, excluded), k)
            found.ids[~certain], found.squared[~certain] = exact
        return found

    def _nearest_of_all(
        self, queries: NDArray[np.float64], k: int, excluded: NDArray[np.int64]
    ) -> tuple[Nearest, NDArray[np.str_]]:
        """The k nearest of all categories, and the category of each: both (q, k)."""
        found = [self._nearest(part, queries, k, excluded) for part in self.parts.values()]
        ids = np.concatenate([near.ids for near in found], axis=1)
        squared = np.concatenate([near.squared for near in found], axis=1)
        names = np.repeat(np.array([*self.parts], np.str_), k)
        order = np.lexsort((ids, squared), axis=1)[:, :k]  # by distance, then by id
        return Nearest(
            np.take_along_axis(ids, order, axis=1), np.take_along_axis(squared, order, axis=1)
        ), names[order]

    def _proposed(
        self,
        part: Part,
        queries: NDArray[np.float64],
        k: int,
        wanted: int,
        excluded: NDArray[np.int64],
    ) -> tuple[Nearest, NDArray[np.bool_]]:
        """FAISS's proposals ranked exactly, and which rows surely hold the k nearest."""
        assert part.file is not None
        index = _open_faiss(self.folder / part.file, self.bank_digest)
        rounded, ids = index.search((queries * STEP).astype(np.float32), wanted)
        ids = np.sort(ids, axis=1)  # so that ties end in id order
        places = part.start + np.searchsorted(self.ids[part.start : part.stop], ids)
        offered = scaled(self.vectors[places.reshape(-1)]).reshape(*places.shape, -1)
        squared = ((offered - queries[:, None]) ** 2).sum(-1)  # (q, wanted)
        # Whatever FAISS left out is no nearer than this: its worst distance less its rounding.
        longest = 2 * np.sqrt((queries**2).sum(1)) * STEP + np.sqrt(rounded[:, -1].clip(min=0))
        rounding = (queries.shape[1] + 8) * 2.0**-23 * longest**2
        left_out = (rounded[:, -1] - rounding) / STEP**2
        squared[np.isin(image_of(ids), excluded)] = np.inf
        best, order = smallest(torch.from_numpy(squared), k)
        found = Nearest(np.take_along_axis(ids, order.numpy(), axis=1), best.numpy())
        found.ids[np.isinf(found.squared)] = PADDING
        return found, found.squared[:, -1] < left_out

    def _others(self, part: Part) -> NDArray[np.int64]:
        """Rows of all categories but this one."""
        rows: NDArray[np.int64] = np.r_[0 : part.start, part.stop : len(self.ids)]
        return rows

    def _pool(self, rows: NDArray[np.int64], excluded: NDArray[np.int64]) -> Pool:
        rows = rows[~np.isin(image_of(self.ids[rows]), excluded)]
        rows = rows[np.argsort(self.ids[rows])]
        return Pool(self.ids[rows], self.vectors[rows])
