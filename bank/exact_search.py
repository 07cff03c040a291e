"""Exact nearest neighbours: ties go to the lower id, on every machine the same answer."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.rounding import in_steps

PADDING = -1  # the id where there is no candidate
BLOCK = 1 << 20  # keys held at once: 8 MiB
BLOCK_COLUMNS = 1 << 15  # ... and how many of them belong to one query
WHOLE = 2.0**53  # up to here float64 holds every whole number
BARRED = 2.0**100  # above every key, and a multiple of every scale
GROUP = 8  # columns whose lowest is looked at first

# (p,) queries, rising; (p,) places in the pool
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
NO_PAIRS: Pairs = (np.empty(0, np.int64), np.empty(0, np.int64))


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
    queries: NDArray[np.float64], pool: Pool, k: int, barred: Pairs = NO_PAIRS
) -> Neighbours:
    """The k nearest of the pool for each query, exactly.

    queries  (q, D)  from `in_steps`
    barred           patches that a query may not be given

    Patches are compared by keys: the squared distance less the query's own square, times a power
    of two above every column, plus the column. Keys are whole numbers; equal distances come in the
    order of their ids.
    """
    neighbours = no_neighbours(len(queries), k)
    squares = (queries**2).sum(1, keepdims=True)
    rows = max(1, BLOCK // max(1, min(len(pool.ids), BLOCK_COLUMNS)))
    for start, steps, offsets, scale in _slices(pool, squares.max(initial=0.0)):
        for first in range(0, len(queries), rows):
            block = slice(first, first + rows)
            asked = torch.from_numpy(queries[block])
            keys = torch.addmm(offsets, asked, steps.T, alpha=-2 * scale)
            bar(keys, barred, first, start)
            low = lowest_values(keys.numpy(), k)
            whole = np.floor(low / scale)
            ids = pool.ids[start + (low - whole * scale).astype(np.int64)]
            merge(neighbours, block, Neighbours(ids, whole + squares[block]))
    neighbours.ids[neighbours.squared > WHOLE] = PADDING
    neighbours.squared[neighbours.squared > WHOLE] = np.inf
    return neighbours


def _slices(pool: Pool, longest: float) -> Iterator[tuple[int, Tensor, Tensor, int]]:
    """Parts of the pool: (first column, (n, D) steps, (n,) scaled squares + columns, scale).

    Keys are exact: no sum on the way to one, in whatever order, is above
    scale (|y|^2 + 2 |x| |y| + 1), where `longest` is the greatest |x|^2.
    """
    for start in range(0, len(pool.ids), BLOCK_COLUMNS):
        steps = torch.from_numpy(in_steps(pool.features[start : start + BLOCK_COLUMNS]))
        squares = steps.square().sum(1)
        most = WHOLE / (3 * max(longest, float(squares.max())) + 1)
        scale = min(BLOCK_COLUMNS, 1 << int(math.log2(most)))
        for first in range(0, len(steps), scale):
            part = steps[first : first + scale]
            offsets = scale * squares[first : first + scale] + torch.arange(len(part))
            yield start + first, part, offsets, scale


def bar(values: Tensor, barred: Pairs, first_row: int, first_column: int) -> None:
    """Make those of a block of all queries and places (q, n) too great that are barred."""
    pairs = slice(*np.searchsorted(barred[0], (first_row, first_row + len(values))))
    rows, columns = barred[0][pairs] - first_row, barred[1][pairs] - first_column
    here = (columns >= 0) & (columns < values.shape[1])
    values[torch.from_numpy(rows[here]), torch.from_numpy(columns[here])] = BARRED


def merge(neighbours: Neighbours, block: slice, further: Neighbours) -> None:
    """The nearest of what a block of queries has and of what comes later in the pool.

    What was there before has lower ids and stays in front: ties end in the order of ids.
    """
    k = neighbours.ids.shape[1]
    squared = np.concatenate([neighbours.squared[block], further.squared], axis=1)
    ids = np.concatenate([neighbours.ids[block], further.ids], axis=1)
    order = squared.argsort(axis=1, kind="stable")[:, :k]
    neighbours.squared[block] = np.take_along_axis(squared, order, axis=1)
    neighbours.ids[block] = np.take_along_axis(ids, order, axis=1)


def lowest_values(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The `count` lowest of each row, rising: (q, n) -> (q, min(count, n)); reorders `values`."""
    if count < values.shape[1]:
        values.partition(count - 1, axis=1)  # several times as fast as torch's topk
    return np.sort(values[:, :count], axis=1)


def lowest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` lowest of each row, rising, and their columns: (q, n) -> 2 x (q, count).

    All of a row where n <= count. Long rows are read once, for the lowest of each group of columns:
    the lowest of all are in the groups that are lowest by that.
    """
    num_rows, num_columns = values.shape
    groups = num_columns // GROUP
    if groups < 2 * count:
        bottom = values.topk(min(count, num_columns), dim=1, largest=False)
        return bottom.values, bottom.indices
    lows = values[:, : groups * GROUP].view(num_rows, GROUP, groups).amin(1)
    _, chosen = lowest(lows, count)
    inside = chosen[:, None] + groups * torch.arange(GROUP)[:, None]
    rest = torch.arange(groups * GROUP, num_columns).expand(num_rows, -1)
    columns = torch.cat([inside.flatten(1), rest], dim=1)
    bottom = values.gather(1, columns).topk(count, dim=1, largest=False)
    return bottom.values, columns.gather(1, bottom.indices)
