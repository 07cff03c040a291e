"""K candidate patches per object, exact nearest neighbours from other photos: own category
first."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bank.certified_search import Searcher
from bank.errors import BankError
from bank.exact_search import PADDING, Neighbours, Pool
from bank.pools import pools_by_category
from bank.query_plan import QueryPlan, plan_queries
from bank.recipe import Scope
from bank.rounding import STEP
from bank.table import array_to_fill, write_table


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
    """K candidates for every patch of a bank, block by block (bank/query_plan.py).

    features    (B, D)  object vectors, rounded by `bank/rounding.py`
    ids         (B,)    patch ids, rising
    photos      (B,)    `Contents.photos_of_patches`
    categories  (B,)    their categories
    train_mask  (B,)    True for training patches: only these become candidates
    """
    names, codes = np.unique(np.asarray(categories, dtype=np.str_), return_inverse=True)
    pools = pools_by_category(ids, names.tolist(), codes.astype(np.int32), train_mask)
    plan = plan_queries(pools, photos, k, scope)
    candidates = empty_candidates(len(ids), k)
    for start, stop in plan.blocks:
        found = search_block(plan, Pool(ids, features), start, stop)
        put(candidates, plan.queries[start:stop], found)
    return candidates


def search_block(plan: QueryPlan, patches: Pool, start: int, stop: int) -> Candidates:
    """K candidates for each of `plan.queries[start:stop]`; of another category, marked as fallback.

    None comes from the patch's own photo: bank/own_photo.py. The nearest of its own category come
    first, then those of any; with scope all, the nearest of any.

    patches  all of the bank, B; may be mapped from files
    """
    rows = np.array(plan.queries[start:stop])
    own = plan.pools.codes[rows]
    searcher = Searcher(patches, plan.photos)
    candidates = empty_candidates(len(rows), plan.k)
    for code in np.unique(own) if plan.scope == "category" else ():
        places = np.flatnonzero(own == code)
        near = searcher.search(rows[places], plan.pools.pool(code), plan.k)
        fill(candidates, places, near, fallback=False)
    if start >= plan.num_own:
        near = searcher.search(rows, plan.training, plan.k)
        other = plan.pools.codes[np.searchsorted(patches.ids, near.ids)] != own[:, None]
        if plan.scope == "category":  # all of the own are there already, and leave room for these
            near.ids[~other] = PADDING
        fill(candidates, np.arange(len(rows)), near, fallback=other)
    return candidates


def put(candidates: Candidates, rows: NDArray[np.int64], found: Candidates) -> None:
    """Write all that was found for these rows (q,)."""
    for name in Candidates._fields:
        getattr(candidates, name)[rows] = getattr(found, name)


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


def join_candidates(
    path: Path, patch_ids: NDArray[np.int64], k: int, parts: Iterable[Path]
) -> None:
    """`write_candidates` of what several such files hold, of each patch once.

    patch_ids  (B,)  of all of them, rising
    """
    with ExitStack() as files:
        candidates = Candidates(
            *(
                files.enter_context(array_to_fill(path, (len(patch_ids), k), some.dtype))
                for some in empty_candidates(0, k)
            )
        )
        num_filled = 0
        for part in parts:
            some_ids, found = read_candidates(part)
            rows = np.searchsorted(patch_ids, some_ids)
            put(candidates, rows, found)
            num_filled += len(rows)
        if num_filled != len(patch_ids):
            raise ValueError(f"{num_filled:,} of {len(patch_ids):,} patches have candidates")
        write_candidates(path, patch_ids, candidates)


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
