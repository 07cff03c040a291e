"""Nearest neighbours of very many queries: float32 proposes, exact distances decide.

The result is that of `bank/exact_search.py`, bit for bit. A matrix product in float32 gives all
distances but for a rounding error of known size. The few patches that it puts first are ranked
exactly (`rank`). Where the k-th of these is nearer than a patch that was left out can be
(`certified`), they are the k nearest of all. Other queries go to the exact search.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.exact_search import (
    BARRED,
    PADDING,
    Neighbours,
    Pool,
    bar,
    exact_search,
    lowest,
    merge,
    no_neighbours,
)
from bank.own_photo import same_photo
from bank.rounding import STEP, in_steps

CELLS = 1 << 22  # float32 distances held at once: 16 MiB
COLUMNS = 1 << 15  # ... and how many of them belong to one query
RANKED = 1 << 6  # queries whose proposals are ranked at once
PREPARED = 1 << 14  # patches turned into float64 at once
MARGIN = 8  # patches proposed beyond the k nearest: the certificate then seldom fails
SMALL = 1 << 11  # so few patches are searched exactly at once, which is faster
SAMPLE = 1 << 12  # patches, at least, that the directions of a projection are fitted to
TAIL = 1e-4  # fraction of the variance that the directions of a projection may leave out
ROUNDING = 2.0**-24  # of float32, relative


def rank(
    queries: NDArray[np.float64],
    pool: Pool,
    places: NDArray[np.int64],
    barred: NDArray[np.bool_],
    k: int,
) -> Neighbours:
    """The k nearest of a few proposals for each query, by (exact distance, id).

    queries  (q, D)  from `in_steps`
    places   (q, m)  of the proposals in the pool, rising
    barred   (q, m)  True for a proposal that is none
    """
    neighbours = no_neighbours(len(queries), k)
    for first in range(0, len(queries), RANKED):
        block = slice(first, first + RANKED)
        apart = torch.from_numpy(pool.features.take(places[block], axis=0)).double()  # (q, m, D)
        apart.sub_(torch.from_numpy(queries[block, None] * STEP))
        squared = apart.square_().sum(2).div_(STEP**2)
        squared.masked_fill_(torch.from_numpy(barred[block]), torch.inf)
        best, order = (part[:, :k].numpy() for part in squared.sort(dim=1, stable=True))
        ids = np.take_along_axis(pool.ids[places[block]], order, axis=1)
        neighbours.squared[block, : best.shape[1]] = best
        neighbours.ids[block, : best.shape[1]] = np.where(np.isinf(best), PADDING, ids)
    return neighbours


def certified(
    squared: NDArray[np.float64],
    left_out: NDArray[np.float64],
    lengths: NDArray[np.float64],
    terms: int,
) -> NDArray[np.bool_]:
    """For which queries (q,) no patch that was left out can be as near as the k-th.

    squared   (q,)  the k-th's squared distance, exact
    left_out  (q,)  none of those left out has a lesser squared distance in float32
    lengths   (q,)  of the queries
    terms           that are summed for a distance in float32

    Let x be a query, y a patch that was left out, d their distance and u = 2^-24. In float32, d^2
    comes out as at most d^2 + e (|x| + |y|)^2 with e = (terms + 8) u:

    - n products, summed in any order, are off by at most n u / (1 - n u) times the sum of their
      magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1), and
      |x|^2 + |y|^2 + 2 |x| |y| is (|x| + |y|)^2: `terms` of the terms + 8;
    - vectors rounded to float32 are u (|x| + |y|) farther apart at most, which is 2 u of the square
      and a little; squared lengths rounded to float32, and their sum, 3 u: 5 of the 8. The rest is
      for 1 / (1 - n u), up to some thousand terms, and for float64's rounding.

    If d were no more than the k-th's t, then |y| <= |x| + t, and float32 would have put y at most
    at t^2 + e (2 |x| + t)^2: nothing above it needs to be looked at. This holds for float32 as IEEE
    has it, torch's default; `torch.set_float32_matmul_precision` may not be lowered.
    """
    reach = 2 * lengths + np.sqrt(squared)
    return left_out > squared + (terms + 8) * ROUNDING * reach**2


class Projection:
    """Vectors in float32 whose distances are no longer than those of the vectors themselves.

    They are centred and turned into the directions of most variance, and an orthogonal basis keeps
    distances. Of the directions that hold next to no variance only the length is kept, as one more
    coordinate: by the triangle inequality that shortens distances, never lengthens them.
    """

    def __init__(self, features: NDArray[np.float32]) -> None:
        """Fitted to some of the features (B, D)."""
        every = max(1, len(features) // SAMPLE)
        vectors = torch.from_numpy(in_steps(features[::every]))
        self.centre = vectors.mean(0).round()
        centred = vectors - self.centre
        variances, self.basis = torch.linalg.eigh(centred.T @ centred)  # rising
        shares = variances.clamp(min=0).cumsum(0)
        self.rest = int((shares <= TAIL * shares[-1]).sum())

    def __call__(self, steps: NDArray[np.float64]) -> Tensor:
        """(n, D) from `in_steps` -> (n, M): M - 1 coordinates, and their squared length."""
        turned = (torch.from_numpy(steps) - self.centre) @ self.basis
        rest = torch.linalg.vector_norm(turned[:, : self.rest], dim=1, keepdim=True)
        kept = torch.cat([turned[:, self.rest :], rest], dim=1).float()
        return torch.cat([kept, kept.double().square().sum(1, keepdim=True).float()], dim=1)


class Searcher:
    """Finds the nearest of some patches of a bank for others, none of the same photo.

    Of a pool it holds `COLUMNS` patches at a time, of the queries some hundred bytes each.

    patches  all of the bank, B; may be mapped from a file
    photos   (B,)  equal where patches are of one photo
    """

    def __init__(self, patches: Pool, photos: NDArray[np.int64]) -> None:
        self.patches, self.photos = patches, photos

    def search(self, rows: NDArray[np.int64], pool_rows: NDArray[np.int64], k: int) -> Neighbours:
        """The k nearest for each of the bank's patches `rows` (q,).

        pool_rows  (n,)  of the patches that may be found, rising as their ids do
        """
        neighbours = no_neighbours(len(rows), k)
        unsure = np.arange(len(rows))
        if len(pool_rows) > SMALL + k:
            unsure = self._search_certified(neighbours, rows, pool_rows)
        for places in _blocks(unsure, PREPARED):
            near = self._search_exactly(rows[places], pool_rows, k)
            neighbours.ids[places], neighbours.squared[places] = near
        return neighbours

    def _search_exactly(
        self, rows: NDArray[np.int64], pool_rows: NDArray[np.int64], k: int
    ) -> Neighbours:
        neighbours = no_neighbours(len(rows), k)
        queries = in_steps(self.patches.features[rows])
        for part in _blocks(pool_rows, COLUMNS):
            pool = Pool(self.patches.ids[part], self.patches.features[part])
            barred = same_photo(self.photos[rows], self.photos[part])
            merge(neighbours, slice(None), exact_search(queries, pool, k, barred))
        return neighbours

    def _search_certified(
        self, neighbours: Neighbours, rows: NDArray[np.int64], pool_rows: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Fill in the neighbours (q, k); returns the places of those that are not certified."""
        k = neighbours.ids.shape[1]
        queries = self.project(rows)
        low, columns = self._propose(queries, rows, pool_rows, k + MARGIN)
        unsure = [np.empty(0, np.int64)]
        for places in _blocks(np.arange(len(rows)), PREPARED):
            steps = in_steps(self.patches.features[rows[places]])
            proposed, order = torch.from_numpy(pool_rows[columns[places].numpy()]).sort(dim=1)
            none = low[places].gather(1, order) == BARRED
            near = rank(steps, self.patches, proposed.numpy(), none.numpy(), k)
            neighbours.ids[places], neighbours.squared[places] = near
            squares = queries[places, -1].double().numpy()
            left_out = squares + low[places, -1].double().numpy()
            sure = certified(near.squared[:, -1], left_out, np.sqrt(squares), queries.shape[1])
            unsure.append(places[~sure])
        return np.concatenate(unsure)

    def _propose(
        self, queries: Tensor, rows: NDArray[np.int64], pool_rows: NDArray[np.int64], count: int
    ) -> tuple[Tensor, Tensor]:
        """The `count` lowest squared distances, less the query's own square, and their columns."""
        asked = -2 * queries
        asked[:, -1] = 1
        low = torch.full((len(rows), count), BARRED)
        columns = torch.zeros((len(rows), count), dtype=torch.int64)
        size = CELLS // min(len(pool_rows), COLUMNS)
        for start in range(0, len(pool_rows), COLUMNS):
            part = pool_rows[start : start + COLUMNS]
            projected = self.project(part).T
            barred = same_photo(self.photos[rows], self.photos[part])
            for first in range(0, len(rows), size):
                block = slice(first, first + size)
                distances = asked[block] @ projected
                bar(distances, barred, first, 0)
                nearer, places = lowest(distances, count)
                both = torch.cat([low[block], nearer], dim=1)
                low[block], kept = lowest(both, count)
                both = torch.cat([columns[block], places + start], dim=1)
                columns[block] = both.gather(1, kept)
        return low, columns

    def project(self, rows: NDArray[np.int64]) -> Tensor:
        """(n,) rows -> (n, M), as `Projection`."""
        features = self.patches.features
        return torch.cat(
            [self._projection(in_steps(features[some])) for some in _blocks(rows, PREPARED)]
        )

    @cached_property
    def _projection(self) -> Projection:
        return Projection(self.patches.features)


def _blocks(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
