"""Nearest neighbours of very many queries: float32 rules out nearly all, exact distances decide.

The result is that of `bank/exact_search.py`, bit for bit. A `LowerBound` gives float32 numbers that
are surely no larger than the true distances; the few patches with the lowest are ranked by exact
distances; where the k-th of these is nearer than the lowest bound left out, no other patch can be
among the k nearest. Queries for which that cannot be said go to a finer bound, in the end to the
exact search.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.exact_search import PADDING, Neighbours, Pool, exact_search, no_neighbours
from bank.own_photo import PatchesByPhoto
from bank.rounding import STEP, in_steps
from pipeline.scene import image_of

CELLS = 1 << 23  # float32 bounds held at once: 32 MiB
COLUMNS = 1 << 15  # ... and how many of them belong to one query
ROWS = 1 << 6  # queries whose proposals are ranked at once
PREPARED = 1 << 14  # patches turned into float64 at once
LEAST_GROUP = 4  # columns whose lowest is looked at first; fewer do not pay
MARGIN = 16  # patches ranked beyond the k nearest by the first bound
SMALL = 1 << 11  # so few patches are searched exactly at once, which is faster
TAIL = 3e-4  # fraction of the variance that a coarse bound may leave out of its directions


class LowerBound:
    """Lower bounds of squared distances, in rounding steps, as one float32 product.

    Vectors are centred and turned (an orthogonal basis keeps distances); the first `dims`
    coordinates stay, the length of the rest becomes one more. By the triangle inequality that
    shortens distances, never lengthens them. With n = |x|^2, each query becomes
    (-2x, (1-e)n, 1, -2e|x|) and each patch (y, 1, (1-e)n, |y|): their product is the squared
    distance less e (|x| + |y|)^2, where e is twice what rounding can amount to.
    """

    def __init__(self, centre: Tensor, basis: Tensor, dims: int) -> None:
        self.centre = centre  # (D,) whole rounding steps, float64
        self.basis = basis  # (D, D) float64, columns by falling variance
        self.dims = dims
        self.slack = (dims + 12) * 2.0**-23

    def of_queries(self, steps: NDArray[np.float64]) -> Tensor:
        """(q, D) from `in_steps` -> (q, dims + 4) float32."""
        kept, norms = self._kept(steps)
        near = (1 - self.slack) * norms**2
        parts = (-2 * kept, near, torch.ones_like(norms), -2 * self.slack * norms)
        return torch.cat(parts, dim=1).float()

    def of_patches(self, steps: NDArray[np.float64]) -> Tensor:
        """(n, D) from `in_steps` -> (n, dims + 4) float32."""
        kept, norms = self._kept(steps)
        near = (1 - self.slack) * norms**2
        return torch.cat((kept, torch.ones_like(norms), near, norms), dim=1).float()

    def _kept(self, steps: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """(n, dims + 1) coordinates and (n, 1) norms."""
        turned = (torch.from_numpy(steps) - self.centre) @ self.basis
        rest = torch.linalg.vector_norm(turned[:, self.dims :], dim=1, keepdim=True)
        kept = torch.cat((turned[:, : self.dims], rest), dim=1)
        return kept, torch.linalg.vector_norm(kept, dim=1, keepdim=True)


def make_lower_bounds(sample: NDArray[np.float64]) -> list[LowerBound]:
    """A coarse one, where few directions hold nearly all variance, and one of all directions."""
    vectors = torch.from_numpy(sample)
    centre = vectors.mean(0).round()
    centred = vectors - centre
    variances, basis = torch.linalg.eigh(centred.T @ centred)  # rising
    basis = basis.flip(1).contiguous()
    left_out = variances.clamp(min=0).cumsum(0).flip(0)  # by directions from here on
    num_dims = len(centre)
    coarse = int((left_out > TAIL * left_out[0]).sum())
    dims = [coarse, num_dims] if 2 * coarse < num_dims else [num_dims]
    return [LowerBound(centre, basis, d) for d in dims]


class Searcher:
    """Finds the nearest training patches of a bank for all of its patches.

    features  (B, D)  rounded by `bank/rounding.py`
    ids       (B,)    patch ids
    pool_rows (n,)    rows that may be found; their order gives the columns of `search`
    """

    def __init__(
        self,
        features: NDArray[np.float32],
        ids: NDArray[np.int64],
        pool_rows: NDArray[np.int64],
    ) -> None:
        self.features, self.ids, self.pool_rows = features, ids, pool_rows
        self.photos = image_of(ids)
        self.by_photo = PatchesByPhoto(ids[pool_rows])
        self.prepared: dict[int, Tensor] = {}  # bound -> (n, dims + 4), at its first use
        self.cells = torch.empty(0)

    @cached_property
    def lower_bounds(self) -> list[LowerBound]:
        every = max(1, len(self.pool_rows) // PREPARED)
        return make_lower_bounds(in_steps(self.features[self.pool_rows[::every]]))

    def search(self, rows: NDArray[np.int64], columns: Sequence[range], k: int) -> Neighbours:
        """The k nearest in some columns for each of some patches, none of its own photo."""
        neighbours = no_neighbours(len(rows), k)
        unsure = np.arange(len(rows))
        small = sum(map(len, columns)) <= SMALL
        for number in range(0 if small else len(self.lower_bounds)):
            wanted = (k + MARGIN) * 4**number
            asked, unsure = unsure, unsure[:0]
            for places in _blocks(asked, self._rows_at_once(columns)):
                near, sure = self._search_by_bound(number, rows[places], columns, k, wanted)
                neighbours.ids[places], neighbours.squared[places] = near
                unsure = np.append(unsure, places[~sure])
        if len(unsure):
            pool = self._pool(columns)
            for places in _blocks(unsure, PREPARED):
                own = self.photos[rows[places]]
                near = exact_search(in_steps(self.features[rows[places]]), pool, k, own)
                neighbours.ids[places], neighbours.squared[places] = near
        return neighbours

    def _rows_at_once(self, columns: Sequence[range]) -> int:
        widest = max((min(len(part), COLUMNS) for part in columns), default=1)
        return max(1, min(PREPARED, CELLS // max(1, widest)))

    def _search_by_bound(
        self, number: int, rows: NDArray[np.int64], columns: Sequence[range], k: int, wanted: int
    ) -> tuple[Neighbours, NDArray[np.bool_]]:
        """The k nearest of `wanted` proposals, and which rows' are surely the k nearest of all."""
        patches = self._patches(number)
        queries = self.lower_bounds[number].of_queries(in_steps(self.features[rows]))
        own_rows, own_columns = map(torch.from_numpy, self.by_photo.own_pairs(self.photos[rows]))
        lows = torch.empty(len(rows), 0)
        proposed = torch.empty(len(rows), 0, dtype=torch.int64)  # columns
        for start, stop in _slices(columns):
            bounds = self._product(queries, patches[start:stop])
            own = (start <= own_columns) & (own_columns < stop)
            bounds[own_rows[own], own_columns[own] - start] = torch.inf
            new, places = lowest(bounds, wanted)
            lows, kept = lowest(torch.cat([lows, new], dim=1), wanted)
            proposed = torch.cat([proposed, places + start], dim=1).gather(1, kept)
        neighbours = self._ranked(rows, proposed, lows, k)
        if sum(map(len, columns)) <= wanted:
            return neighbours, np.ones(len(rows), dtype=np.bool_)
        return neighbours, neighbours.squared[:, -1] < lows.amax(1).numpy()

    def _patches(self, number: int) -> Tensor:
        """(n, dims + 4) of the whole pool, kept from the first time it is asked for."""
        if number not in self.prepared:
            bound = self.lower_bounds[number]
            whole = torch.empty(len(self.pool_rows), bound.dims + 4)
            for columns in _blocks(np.arange(len(self.pool_rows)), PREPARED):
                steps = in_steps(self.features[self.pool_rows[columns]])
                whole[columns[0] : columns[-1] + 1] = bound.of_patches(steps)
            self.prepared[number] = whole
        return self.prepared[number]

    def _product(self, queries: Tensor, patches: Tensor) -> Tensor:
        """(q, n) in the memory of the last one, which spares the system's clearing it."""
        num_cells = len(queries) * len(patches)
        if len(self.cells) < num_cells:
            self.cells = torch.empty(num_cells)
        out = self.cells[:num_cells].view(len(queries), len(patches))
        return torch.mm(queries, patches.T, out=out)

    def _ranked(
        self, rows: NDArray[np.int64], proposed: Tensor, lows: Tensor, k: int
    ) -> Neighbours:
        """Proposals by (exact distance, id); those of infinite bound are none."""
        neighbours = no_neighbours(len(rows), k)
        for places in _blocks(np.arange(len(rows)), ROWS):
            block = slice(places[0], places[-1] + 1)
            theirs = self.pool_rows[proposed[block].numpy()]
            ids, by_id = torch.from_numpy(self.ids[theirs]).sort(dim=1)
            squared = self._squared(rows[block], theirs).masked_fill_(lows[block].isinf(), np.inf)
            best, order = squared.gather(1, by_id).sort(dim=1, stable=True)  # ties by id
            best, ids = best[:, :k], ids.gather(1, order[:, :k])
            neighbours.squared[block, : best.shape[1]] = best.numpy()
            neighbours.ids[block, : best.shape[1]] = ids.masked_fill(best.isinf(), PADDING).numpy()
        return neighbours

    def _squared(self, rows: NDArray[np.int64], theirs: NDArray[np.int64]) -> Tensor:
        """(q,), (q, m) rows -> (q, m) exact squared distances in rounding steps."""
        queries = torch.from_numpy(self.features[rows]).double()
        proposed = torch.from_numpy(self.features[theirs])
        return (queries[:, None] - proposed).square_().sum(2).div_(STEP**2)

    def _pool(self, columns: Sequence[range]) -> Pool:
        rows = np.concatenate([self.pool_rows[part.start : part.stop] for part in columns])
        rows = rows[np.argsort(self.ids[rows])]
        return Pool(self.ids[rows], self.features[rows])


def lowest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` lowest of each row and their columns, in no order: (q, n) -> 2 x (q, count).

    All of a row where n <= count. Long rows are read once, for the lowest of each group of columns:
    the lowest of all are in the groups that are lowest by that.
    """
    num_rows, num_columns = values.shape
    size = 1 << max(0, round(math.log2(num_columns / count) / 2)) if num_columns else 1
    groups = num_columns // size
    if size < LEAST_GROUP:
        bottom = values.topk(min(count, num_columns), dim=1, largest=False, sorted=False)
        return bottom.values, bottom.indices
    lows = values[:, : groups * size].view(num_rows, size, groups).amin(1)
    chosen = lows.topk(count, dim=1, largest=False, sorted=False).indices
    inside = chosen[:, None] + groups * torch.arange(size)[:, None]
    rest = torch.arange(groups * size, num_columns).expand(num_rows, -1)
    columns = torch.cat([inside.flatten(1), rest], dim=1)
    bottom = values.gather(1, columns).topk(count, dim=1, largest=False, sorted=False)
    return bottom.values, columns.gather(1, bottom.indices)


def _slices(columns: Sequence[range]) -> Iterator[tuple[int, int]]:
    for part in columns:
        for start in range(part.start, part.stop, COLUMNS):
            yield start, min(start + COLUMNS, part.stop)


def _blocks(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
