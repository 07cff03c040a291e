"""Which patches are compared with which to find candidates, in blocks that cost about the same."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bank.errors import BankError
from bank.files import save_array
from bank.own_photo import count_same_photo
from bank.pools import Pools
from bank.recipe import Scope
from pipeline.files import written_folder
from pipeline.options import write_json

COST = 1 << 31  # distances in a block: 7 s on one core
LEAST = 1 << 13  # queries in a block: to project a large pool costs as much as 450 of them
FOUND = 1 << 19  # candidates of a block: 30 MB, with what it takes to find them


@dataclass(frozen=True)
class QueryPlan:
    """Every patch of a bank asks once; made once for a bank, its blocks are searched anywhere."""

    pools: Pools
    photos: NDArray[np.int64]  # (B,) equal where patches are of one photo
    training: NDArray[np.int64]  # (T,) rows of all training patches, rising
    queries: NDArray[np.int64]  # (B,) rows of the patches that ask; those of any category last
    num_own: int  # of the queries; their own category has K for each of them
    blocks: list[tuple[int, int]]  # where in `queries` each starts and stops
    k: int
    scope: Scope

    def save(self, folder: Path) -> None:
        """Files that `open` maps."""
        with written_folder(folder) as partial:
            self.pools.save(partial)
            for name in ("photos", "training", "queries"):
                save_array(partial / f"{name}.npy", getattr(self, name))
            about = {name: getattr(self, name) for name in ("num_own", "blocks", "k", "scope")}
            write_json(partial / "plan.json", about)

    @classmethod
    def open(cls, folder: Path) -> Self:
        about = json.loads((folder / "plan.json").read_text("utf-8"))
        names = ("photos", "training", "queries")
        arrays = {name: np.load(folder / f"{name}.npy", "r") for name in names}
        blocks = [(start, stop) for start, stop in about.pop("blocks")]
        return cls(pools=Pools.open(folder), blocks=blocks, **arrays, **about)


def plan_queries(pools: Pools, photos: NDArray[np.int64], k: int, scope: Scope) -> QueryPlan:
    """The blocks depend on the bank's content alone.

    Scope category: a patch is compared with its own category; where that has fewer than K patches
    of other photos, with all besides. Scope all: every patch is compared with all.

    photos  (B,)  `Contents.photos_of_patches`
    """
    if not len(pools.rows):
        raise BankError(
            "no training patch: the bank is empty; see failures.jsonl for what was left "
            "out, and build it with more photos"
        )
    rows = np.argsort(pools.codes, kind="stable")
    bounds = np.searchsorted(pools.codes[rows], np.arange(len(pools.names) + 2))
    sizes = np.diff(pools.bounds)
    short = np.full(len(rows), scope == "all")
    for code, size in enumerate(sizes.tolist() if scope == "category" else ()):
        own = slice(*bounds[code : code + 2])
        same = count_same_photo(photos[rows[own]], photos[pools.pool(code)])
        short[own] = size - same < k
    queries = np.concatenate([rows[~short], rows[short]])
    num_own = len(rows) - int(short.sum())
    most = max(FOUND // k, 1)
    own_blocks = cut(sizes[pools.codes[queries[:num_own]]], most)
    any_blocks = cut(np.full(len(rows) - num_own, len(pools.rows)), most)
    return QueryPlan(
        pools,
        photos,
        np.sort(pools.rows),
        queries,
        num_own,
        own_blocks + [(num_own + start, num_own + stop) for start, stop in any_blocks],
        k,
        scope,
    )


def cut(costs: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """Ranges of queries that cost `COST` together, or a little less.

    Where that would be fewer than `LEAST` queries, a block has these; where more than `most`, most.

    costs  (q,)  distances that each query asks for
    """
    lowest = -(-COST // most)
    ends = costs.clip(lowest, max(lowest, COST // LEAST)).cumsum()
    full = COST * np.arange(1, ends[-1] // COST + 1 if len(ends) else 1)
    starts = np.searchsorted(ends, full, side="right")
    return [(a, b) for a, b in pairwise([0, *starts.tolist(), len(costs)]) if a < b]
