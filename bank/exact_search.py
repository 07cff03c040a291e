"""Exact nearest neighbours: ties go to the lower id, on every machine the same answer."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.own_photo import from_own_photo
from bank.rounding import in_steps

PADDING = -1  # the id where there is no candidate
BLOCK = 1 << 22  # distances held at once: 32 MiB of float64
BLOCK_COLUMNS = 1 << 16  # ... and how many of them belong to one query
EXTRA = 8  # looked at beyond k, so that ties at the k-th place seldom need a second pass


class Pool(NamedTuple):
    """Patches to choose from."""

    ids: NDArray[np.int64]  # (n,) ascending: ties go to the lower id
    features: NDArray[np.float32]  # (n, D) rounded by `bank/rounding.py`


class Neighbours(NamedTuple):
    """The k nearest of a pool, by (distance, id)."""

    ids: NDArray[np.int64]  # (q, k) PADDING where the pool has no more
    squared: NDArray[np.float64]  # (q, k) in rounding steps, exact; inf at padding


def no_neighbours(num_queries: int, k: int) -> Neighbours:
    """All padding."""
    return Neighbours(
        np.full((num_queries, k), PADDING, dtype=np.int64),
        np.full((num_queries, k), np.inf, dtype=np.float64),
    )


def exact_search(
    queries: NDArray[np.float64],
    pool: Pool,
    k: int,
    own_photos: NDArray[np.int64] | None = None,
) -> Neighbours:
    """The k nearest of the pool for each query, exactly.

    queries     (q, D)  from `in_steps`
    own_photos  (q,)    the photo of each query: none of its patches is taken
    """
    neighbours = no_neighbours(len(queries), k)
    columns = max(1, min(len(pool.ids), BLOCK_COLUMNS))
    rows = max(1, BLOCK // columns)
    for c in range(0, len(pool.ids), columns):
        ids = pool.ids[c : c + columns]
        pool_steps = torch.from_numpy(in_steps(pool.features[c : c + columns]))
        for r in range(0, len(queries), rows):
            block = slice(r, r + rows)
            squared = _squared_distances(torch.from_numpy(queries[block]), pool_steps)
            if own_photos is not None:
                own = from_own_photo(ids, own_photos[block])
                squared.masked_fill_(torch.from_numpy(own), torch.inf)
            _keep_nearest(neighbours, block, squared, torch.from_numpy(ids), k)
    return neighbours


def _squared_distances(query_steps: Tensor, pool_steps: Tensor) -> Tensor:
    """(q, D), (n, D) whole numbers -> (q, n), exact."""
    norms = (pool_steps**2).sum(1) + (query_steps**2).sum(1, keepdim=True)
    return torch.addmm(norms, query_steps, pool_steps.T, alpha=-2)


def _keep_nearest(
    neighbours: Neighbours, rows: slice, squared: Tensor, ids: Tensor, k: int
) -> None:
    """Merge a slice of the pool into what these rows have so far."""
    new, places = smallest(squared, k)
    # What was there before has lower ids than this slice and stays in front: ties end in id order.
    both = torch.cat([torch.from_numpy(neighbours.squared[rows]), new], dim=1)
    both_ids = torch.cat([torch.from_numpy(neighbours.ids[rows]), ids[places]], dim=1)
    best, places = smallest(both, k)
    neighbours.squared[rows] = best.numpy()
    neighbours.ids[rows] = both_ids.gather(1, places).masked_fill(best.isinf(), PADDING).numpy()


def smallest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row, ascending, equal ones by column: (q, n) -> 2 x (q, min(k, n)).

    `torch.topk` does not say which of equal values it takes; where that could matter, a second
    pass counts the equal ones from the left.
    """
    num_columns = values.shape[1]
    k = min(k, num_columns)
    looked_at = min(k + EXTRA, num_columns)
    top, places = torch.topk(values, looked_at, dim=1, largest=False)
    if looked_at < num_columns:
        unclear = torch.nonzero(top[:, k - 1] == top[:, -1])[:, 0]
        for rows in torch.split(unclear, max(1, BLOCK // num_columns)):
            places[rows, :k] = _leftmost(values[rows], top[rows, k - 1], k)
            top[rows, :k] = values[rows].gather(1, places[rows, :k])
            top[rows, k:] = torch.inf
    by_column = places.argsort(dim=1)
    top, places = top.gather(1, by_column), places.gather(1, by_column)
    order = top.argsort(dim=1, stable=True)[:, :k]
    return top.gather(1, order), places.gather(1, order)


def _leftmost(values: Tensor, last: Tensor, k: int) -> Tensor:
    """Columns of everything under `last` and of the leftmost equal to it, k a row."""
    under = values < last[:, None]
    equal = values == last[:, None]
    wanted = k - under.sum(1, keepdim=True)
    keep = under | (equal & (equal.cumsum(1) <= wanted))
    return keep.nonzero()[:, 1].reshape(len(values), k)
