"""Features in, K candidate patches per object out: exact nearest neighbours from other photos."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.errors import BankError
from bank.grid import STEP, scaled
from pipeline.scene import image_of

Scope = Literal["category", "all"]

PADDING = -1  # the id where there is no candidate
BLOCK = 1 << 22  # distances held at once: 32 MiB of float64
BLOCK_COLUMNS = 1 << 16  # ... and how many of them belong to one query
EXTRA = 8  # looked at beyond k, so that ties at the k-th place seldom need a second pass


class Candidates(NamedTuple):
    """What the bank offers to each of O objects, nearest first."""

    ids: NDArray[np.int64]  # (O, K) patch ids; PADDING where there is none
    distances: NDArray[np.float32]  # (O, K) l2 in feature space; inf where there is none
    valid: NDArray[np.bool_]  # (O, K) False where the padding is
    fallback: NDArray[np.bool_]  # (O, K) True where the patch is of another category


class Pool(NamedTuple):
    """Patches to choose from."""

    ids: NDArray[np.int64]  # (n,) ascending: ties go to the lower id
    vectors: NDArray[np.float64]  # (n, F) from `scaled`


class Nearest(NamedTuple):
    """The k nearest of a pool, by (distance, id)."""

    ids: NDArray[np.int64]  # (q, k) PADDING where the pool has no more
    squared: NDArray[np.float64]  # (q, k) in grid steps, exact; inf at padding


def empty_candidates(num_objects: int, k: int) -> Candidates:
    """All padding."""
    return Candidates(
        np.full((num_objects, k), PADDING, dtype=np.int64),
        np.full((num_objects, k), np.inf, dtype=np.float32),
        np.zeros((num_objects, k), dtype=np.bool_),
        np.zeros((num_objects, k), dtype=np.bool_),
    )


def nearest(
    queries: NDArray[np.float64],
    pool: Pool,
    k: int,
    own_images: NDArray[np.int64] | None = None,
) -> Nearest:
    """The k nearest of the pool for each query, exactly.

    queries     (q, F)  from `scaled`
    own_images  (q,)    the photo each query was cut from: none of its patches is offered
    """
    found = Nearest(
        np.full((len(queries), k), PADDING, dtype=np.int64),
        np.full((len(queries), k), np.inf, dtype=np.float64),
    )
    if not len(pool.ids):
        return found
    columns = min(len(pool.ids), BLOCK_COLUMNS)
    rows = max(1, BLOCK // columns)
    for r in range(0, len(queries), rows):
        images = None if own_images is None else own_images[r : r + rows]
        ids, squared = _nearest_of_block(queries[r : r + rows], pool, k, images, columns)
        found.ids[r : r + rows, : ids.shape[1]] = ids
        found.squared[r : r + rows, : ids.shape[1]] = squared
    return found


def _nearest_of_block(
    queries: NDArray[np.float64],
    pool: Pool,
    k: int,
    own_images: NDArray[np.int64] | None,
    columns: int,
) -> Nearest:
    """`nearest` for a few queries: the pool in slices, keeping the best k so far."""
    asked = torch.from_numpy(queries)
    asked_norms = (asked**2).sum(1, keepdim=True)
    best = torch.empty(len(asked), 0, dtype=torch.float64)  # (q, up to k)
    best_ids = torch.empty(len(asked), 0, dtype=torch.int64)
    for c in range(0, len(pool.ids), columns):
        ids = torch.from_numpy(pool.ids[c : c + columns])
        offered = torch.from_numpy(pool.vectors[c : c + columns])
        squared = torch.addmm((offered**2).sum(1) + asked_norms, asked, offered.T, alpha=-2)
        if own_images is not None:
            offered_images = torch.from_numpy(image_of(pool.ids[c : c + columns]))
            own = torch.from_numpy(own_images)[:, None] == offered_images
            squared.masked_fill_(own, torch.inf)
        new, places = smallest(squared, k)
        # What was kept has lower ids than this slice and stays in front: ties end in id order.
        best, places_in_both = smallest(torch.cat([best, new], dim=1), k)
        best_ids = torch.cat([best_ids, ids[places]], dim=1).gather(1, places_in_both)
    return Nearest(
        best_ids.masked_fill(best.isinf(), PADDING).numpy(),
        best.numpy(),
    )


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


def find_candidates(
    features: NDArray[np.float32],
    ids: NDArray[np.int64],
    categories: Sequence[str],
    train_mask: NDArray[np.bool_],
    k: int,
    scope: Scope = "category",
) -> Candidates:
    """K candidates for every patch of a bank; those of another category are marked as fallback.

    Scope category: a patch's own category first, then any; scope all: the nearest of any.

    features    (Q, F)  object vectors on the grid of `bank/grid.py`
    ids         (Q,)    patch ids
    categories  (Q,)    their categories
    train_mask  (Q,)    True where a patch may be offered; the others only ask
    """
    if not train_mask.any():
        raise BankError(
            "no training patch to offer: the bank is empty; see failures.jsonl for what was left "
            "out, and build it with more photos"
        )
    names = np.asarray(categories, dtype=np.str_)
    vectors = scaled(features)
    images = image_of(ids)
    by_id = np.argsort(ids, kind="stable")
    offered = by_id[train_mask[by_id]]  # rows of the pool, by ascending id
    found = empty_candidates(len(ids), k)
    if scope == "all":
        everything = Pool(ids[offered], vectors[offered])
        rows = np.arange(len(ids))
        for part in _parts(rows, len(offered)):
            near = nearest(vectors[part], everything, k, images[part])
            theirs = names[offered[np.searchsorted(everything.ids, near.ids)]]
            fill(found, part, near, fallback=theirs != names[part, None])
        return found
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        same = offered[names[offered] == name]
        pool = Pool(ids[same], vectors[same])
        for part in _parts(rows, len(same)):
            fill(found, part, nearest(vectors[part], pool, k, images[part]), fallback=False)
        short = rows[~found.valid[rows].all(1)]
        if len(short):
            other = offered[names[offered] != name]
            pool = Pool(ids[other], vectors[other])
            fill(found, short, nearest(vectors[short], pool, k, images[short]), fallback=True)
    return found


def _parts(rows: NDArray[np.int64], num_columns: int) -> Iterator[NDArray[np.int64]]:
    """Rows in blocks, so that what is copied of the features stays small."""
    size = max(1, BLOCK // max(1, min(num_columns, BLOCK_COLUMNS)))
    return (rows[start : start + size] for start in range(0, len(rows), size))


def fill(
    found: Candidates,
    rows: NDArray[np.int64],
    new: Nearest,
    *,
    fallback: bool | NDArray[np.bool_],
) -> None:
    """Put what was found behind what these rows hold already, as far as there is room.

    `fallback` is of all of `new`, or (q, k) of each.
    """
    k = found.ids.shape[1]
    held = found.valid[rows].sum(1)
    source, place = np.nonzero(new.ids != PADDING)
    target = held[source] + place
    fits = target < k
    source, place, target = source[fits], place[fits], target[fits]
    found.ids[rows[source], target] = new.ids[source, place]
    found.distances[rows[source], target] = np.sqrt(new.squared[source, place]) * STEP
    found.valid[rows[source], target] = True
    marks = np.broadcast_to(fallback, new.ids.shape)
    found.fallback[rows[source], target] = marks[source, place]


def write_candidates(path: Path, patch_ids: NDArray[np.int64], candidates: Candidates) -> None:
    """An Arrow IPC file: patch_id, candidate_ids, distances, valid, fallback."""
    k = candidates.ids.shape[1]

    def rows_of(values: NDArray[Any]) -> Any:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), k)

    table = pa.table(
        {
            "patch_id": pa.array(patch_ids),
            "candidate_ids": rows_of(candidates.ids),
            "distances": rows_of(candidates.distances),
            "valid": rows_of(candidates.valid),
            "fallback": rows_of(candidates.fallback),
        }
    )
    partial = path.with_name(path.name + ".partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    partial.replace(path)


def read_candidates(path: Path) -> tuple[NDArray[np.int64], Candidates]:
    """Patch ids (Q,) and their candidates (Q, K); ids and distances stay on disk until used."""
    if not path.is_file():
        raise BankError(f"no candidates at {path}: the bank is unfinished, build it again")
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()
        patch_ids = table.column("patch_id").to_numpy()
        k = table.schema.field("candidate_ids").type.list_size
        names = ("candidate_ids", "distances", "valid", "fallback")
        ids, distances, valid, fallback = (_matrix(table.column(name), k) for name in names)
    except (pa.ArrowException, OSError, KeyError, AttributeError, ValueError) as error:
        raise BankError(f"{path} cannot be read ({error}): build the bank again") from error
    return patch_ids, Candidates(ids, distances, valid, fallback)


def _matrix(column: Any, k: int) -> NDArray[Any]:
    """A column of lists of k as (Q, k)."""
    parts = [c.flatten().to_numpy(zero_copy_only=False) for c in column.chunks]
    flat = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0), *parts])
    return flat.reshape(-1, k)
