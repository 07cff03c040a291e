"""K candidate patches per object, exact nearest neighbours from other photos: own category
first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bank.certified_search import Projection, Searcher
from bank.errors import BankError
from bank.exact_search import PADDING, Neighbours, Pool
from bank.recipe import Scope
from bank.rounding import STEP
from bank.table import write_table

AT_ONCE = 1 << 16  # patches that ask for those of any category together


class Candidates(NamedTuple):
    """K patches for each of O objects, nearest first."""

    ids: NDArray[np.int64]  # (O, K) patch ids; PADDING where there is none
    distances: NDArray[np.float32]  # (O, K) l2 in feature space; inf where there is none
    valid: NDArray[np.bool_]  # (O, K) False where the padding is
    fallback: NDArray[np.bool_]  # (O, K) True where the patch is of another category


def empty_candidates(num_objects: int, k: int) -> Candidates:
    """All padding."""
    return Candidates(
        np.full((num_objects, k), PADDING, dtype=np.int64),
        np.full((num_objects, k), np.inf, dtype=np.float32),
        np.zeros((num_objects, k), dtype=np.bool_),
        np.zeros((num_objects, k), dtype=np.bool_),
    )


def find_candidates(
    features: NDArray[np.float32],
    ids: NDArray[np.int64],
    photos: NDArray[np.int64],
    categories: Sequence[str],
    train_mask: NDArray[np.bool_],
    k: int,
    scope: Scope = "category",
) -> Candidates:
    """K candidates for every patch of a bank; those of another category are marked as fallback.

    None comes from the patch's own photo: bank/own_photo.py.

    Scope category: a patch's own category first, then any; scope all: the nearest of any.

    features    (B, D)  object vectors, rounded by `bank/rounding.py`
    ids         (B,)    patch ids, rising
    photos      (B,)    `Contents.photos_of_patches`
    categories  (B,)    their categories
    train_mask  (B,)    True for training patches: only these become candidates
    """
    if not train_mask.any():
        raise BankError(
            "no training patch: the bank is empty; see failures.jsonl for what was left "
            "out, and build it with more photos"
        )
    patches, project = Pool(ids, features), Projection(features)
    _, of_name = np.unique(np.asarray(categories, dtype=np.str_), return_inverse=True)
    train_rows = np.flatnonzero(train_mask)
    everything = Searcher(patches, photos, train_rows, project)
    candidates = empty_candidates(len(ids), k)
    by_name = np.split(np.argsort(of_name, kind="stable"), np.bincount(of_name).cumsum()[:-1])
    for rows in by_name if scope == "category" else ():
        pool = rows[train_mask[rows]]
        near = Searcher(patches, photos, pool, project).search(rows, k)
        fill(candidates, rows, near, fallback=False)
    unfilled = np.flatnonzero(~candidates.valid.all(1))
    for first in range(0, len(unfilled), AT_ONCE):
        rows = unfilled[first : first + AT_ONCE]
        near = everything.search(rows, k)
        other = of_name[np.searchsorted(ids, near.ids)] != of_name[rows, None]
        if scope == "category":  # all of the own are held already, so that there is room for these
            near.ids[~other] = PADDING
        fill(candidates, rows, near, fallback=other)
    return candidates


def fill(
    candidates: Candidates,
    rows: NDArray[np.int64],
    new: Neighbours,
    *,
    fallback: bool | NDArray[np.bool_],
) -> None:
    """Append neighbours to what these rows hold already, as far as there is room.

    `fallback` is of all of `new`, or (q, k) of each.
    """
    k = candidates.ids.shape[1]
    found = new.ids != PADDING
    source, place = np.nonzero(found)
    target = (candidates.valid[rows].sum(1, keepdims=True) + found.cumsum(1) - 1)[source, place]
    fits = target < k
    source, place, target = source[fits], place[fits], target[fits]
    candidates.ids[rows[source], target] = new.ids[source, place]
    candidates.distances[rows[source], target] = np.sqrt(new.squared[source, place]) * STEP
    candidates.valid[rows[source], target] = True
    marks = np.broadcast_to(fallback, new.ids.shape)
    candidates.fallback[rows[source], target] = marks[source, place]


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
    write_table(path, table)


def read_candidates(path: Path) -> tuple[NDArray[np.int64], Candidates]:
    """Patch ids (B,) and their candidates (B, K); ids and distances stay on disk until used."""
    if not path.is_file():
        raise BankError(f"no candidates at {path}: the bank is unfinished, build it again")
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()
        patch_ids = table.column("patch_id").to_numpy()
        k = table.schema.field("candidate_ids").type.list_size
        names = ("candidate_ids", "distances", "valid", "fallback")
        ids, distances, valid, fallback = (_matrix(table.column(name), k) for name in names)
        if any(len(rows) != len(patch_ids) for rows in (ids, distances, valid, fallback)):
            raise ValueError("its columns are not of one length")
    except (pa.ArrowException, OSError, KeyError, AttributeError, ValueError) as error:
        raise BankError(f"{path} cannot be read ({error}): build the bank again") from error
    return patch_ids, Candidates(ids, distances, valid, fallback)


def _matrix(column: Any, k: int) -> NDArray[Any]:
    """A column of lists of k as (B, k)."""
    parts = [c.flatten().to_numpy(zero_copy_only=False) for c in column.chunks]
    flat = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0), *parts])
    return flat.reshape(-1, k)
