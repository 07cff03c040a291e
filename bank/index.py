"""Search for graphs that are not in the bank: one FAISS index per category, training patches only.

The one module that imports faiss, and after torch: the other order deadlocks forked DataLoader
workers. FAISS proposes in float32; what is returned was ranked again by exact distances. Of a
category of up to `IVF_ABOVE` patches that is what `bank/candidates.py` would find, with FAISS or
(where it is not installed) without. In a larger one an inverted file (IVF) looks only at the cells
nearest to the query and can miss a neighbour; how seldom was measured when the index was built and
is kept in index.json.
"""

import functools
import importlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bank.candidates import Candidates, empty_candidates, fill
from bank.certified_search import certified, rank
from bank.errors import BankError
from bank.exact_search import PADDING, Neighbours, Pool, exact_search
from bank.files import save_array, save_pieces
from bank.names import is_part
from bank.own_photo import count_from_photos, from_photos
from bank.pools import Pools, pools_by_category
from bank.recipe import Scope
from bank.rounding import STEP, in_steps
from pipeline.checks import show
from pipeline.files import PARTIAL, UNREADABLE, link_or_copy, writing, written_folder
from pipeline.options import write_json

try:
    faiss: Any = importlib.import_module("faiss")
except (ImportError, RuntimeError):  # RuntimeError: faiss-gpu where the CUDA runtime is missing
    faiss = None  # exact search by torch instead

Kind = Literal["exact", "flat", "ivf"]

FORMAT = 2
IDS, VECTORS, ABOUT = "ids.npy", "vectors.npy", "index.json"  # files beside those of FAISS
PART = "part.json"  # in place of the last, where a folder holds a part of an index
TOGETHER = 1 << 18  # patches of small categories in a block: a second or two
READ_AT_ONCE = 1 << 14  # vectors
WRITTEN_AT_ONCE = 1 << 20  # bytes
MARGIN = 16  # asked of FAISS beyond k: its float32 distances then seldom cost an exact search
IVF_ABOVE = 1 << 16  # patches of a category: up to here FAISS compares one query with all in 1-3 ms
SEED = 0  # of IVF's cells
RECALL = 0.99  # the least that IVF must find of the nearest ...
RECALL_K = 20  # ... this many, which is the candidates of a default build
SAMPLE = 256  # patches that ask, to measure it
FIRST_PROBES = 4  # cells looked into at first; doubled until the recall is reached
GPU_MOST = 2048  # neighbours that FAISS gives on a GPU


class Part(NamedTuple):
    """Where a category's patches lie in ids.npy and vectors.npy, and its FAISS file."""

    start: int
    stop: int
    file: str | None  # None: built where faiss was not installed
    kind: Kind
    nlist: int | None  # IVF's cells ...
    nprobe: int | None  # ... and how many of them a query looks into
    recall: float  # fraction of the RECALL_K nearest that it finds

    @property
    def size(self) -> int:
        return self.stop - self.start


NO_PART = Part(0, 0, None, "exact", None, None, 1.0)


def build_indexes(
    folder: Path,
    features: NDArray[np.float32],
    ids: NDArray[np.int64],
    categories: Sequence[str],
    bank_digest: str,
    ivf_above: int = IVF_ABOVE,
) -> None:
    """Write `folder` anew; the same bytes for the same arguments in any order of rows.

    features     (B, D)  object vectors of the training patches
    ids          (B,)    their patch ids
    categories   (B,)    their categories
    bank_digest          content digest of the bank; the index opens with no other
    ivf_above            a category of more patches gets an approximate index
    """
    names, codes = np.unique(np.asarray(categories, dtype=np.str_), return_inverse=True)
    train_mask = np.ones(len(ids), np.bool_)
    pools = pools_by_category(ids, names.tolist(), codes.astype(np.int32), train_mask)
    with (
        writing(folder),
        tempfile.TemporaryDirectory(
            prefix=folder.name, suffix=PARTIAL, dir=folder.parent, ignore_cleanup_errors=True
        ) as temporary,
    ):
        parts = []
        for block in plan_index(pools, ivf_above):
            parts.append(Path(temporary, str(block[0])))
            write_index_block(parts[-1], pools, Pool(ids, features), block, ivf_above)
        join_index(folder, parts, bank_digest)


def plan_index(pools: Pools, ivf_above: int = IVF_ABOVE) -> list[tuple[int, int]]:
    """Blocks of consecutive categories: their first and the one after their last.

    Categories of up to `ivf_above` patches are put `TOGETHER`, a larger one is a block of its own.
    """
    starts, filled = [0], 0
    for number, size in enumerate(np.diff(pools.bounds[:-1]).tolist()):
        cost = TOGETHER if size > ivf_above else size
        if filled and filled + cost > TOGETHER:
            starts.append(number)
            filled = 0
        filled += cost
    return list(pairwise([*starts, len(pools.names)]))


def write_index_block(
    folder: Path,
    pools: Pools,
    patches: Pool,
    block: tuple[int, int],
    ivf_above: int = IVF_ABOVE,
) -> None:
    """The part of an index that some categories are, for `join_index`; the same bytes on each run.

    It holds one category's index at a time, 4 D + 8 bytes a patch; of one above `ivf_above` up to
    twice that, as lists grow, and 150 MB to train it and to measure its recall (460 MB in all for
    500,000 patches of 128 dimensions). Vectors are mapped from the part's own file.

    patches  all of the bank, B; may be mapped from files
    block    from `plan_index`
    """
    first, last = block
    bounds = pools.bounds[first : last + 1].tolist()
    rows, width = pools.rows[bounds[0] : bounds[-1]], patches.features.shape[1]
    starts = range(0, len(rows), READ_AT_ONCE)
    pieces = (patches.features[rows[start : start + READ_AT_ONCE]] for start in starts)
    with written_folder(folder) as partial:
        save_array(partial / IDS, np.asarray(patches.ids[rows], np.int64))
        save_pieces(partial / VECTORS, (len(rows), width), np.float32, pieces)
        mapped = Pool(*(np.load(partial / name, "r") for name in (IDS, VECTORS)))
        categories = {}
        for number, (start, stop) in enumerate(pairwise(bounds), first):
            own = slice(start - bounds[0], stop - bounds[0])
            pool = Pool(mapped.ids[own], mapped.features[own])
            path = partial / f"{number:05d}.faiss"
            part = _write_faiss(path, pool, ivf=len(pool.ids) > ivf_above)
            part = part._replace(start=start, stop=stop)
            categories[pools.names[number]] = {"size": part.size, **part._asdict()}
        write_json(partial / PART, categories)


def join_index(folder: Path, parts: Sequence[Path], bank_digest: str) -> None:
    """Write `folder` anew from what `write_index_block` made of the blocks, in their order.

    The FAISS files are linked, where the file system has links.
    """
    categories = {}
    with written_folder(folder) as partial:
        for part in parts:
            categories.update(json.loads((part / PART).read_text("utf-8")))
            for path in sorted(part.glob("*.faiss")):
                link_or_copy(path, partial / path.name)
        for name in (IDS, VECTORS):
            arrays = [np.load(part / name, "r") for part in parts]
            shape = (sum(len(array) for array in arrays), *arrays[0].shape[1:])
            save_pieces(partial / name, shape, arrays[0].dtype, arrays)
        about = {"format": FORMAT, "bank": bank_digest, "categories": categories}
        write_json(partial / ABOUT, about)


def _write_faiss(path: Path, pool: Pool, *, ivf: bool) -> Part:
    """Its place is filled in by the caller."""
    if faiss is None:
        return NO_PART
    if not ivf:
        index = faiss.IndexIDMap2(faiss.IndexFlatL2(pool.features.shape[1]))
        index.add_with_ids(pool.features, pool.ids)
        part = NO_PART._replace(kind="flat")
    else:
        index = _make_ivf(pool)
        recall = _raise_probes(index, pool)
        part = NO_PART._replace(
            kind="ivf", nlist=index.nlist, nprobe=index.nprobe, recall=round(recall, 4)
        )
    with path.open("wb") as file:
        # Given a path, faiss would only print what goes wrong when it closes the file.
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, WRITTEN_AT_ONCE))
    return part._replace(file=path.name)


def _make_ivf(pool: Pool) -> Any:
    """The same bytes on every run: one thread, one seed, patches in the order of their ids."""
    num_dims = pool.features.shape[1]
    nlist = 2 * int(len(pool.ids) ** 0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(num_dims), num_dims, nlist, faiss.METRIC_L2)
    index.cp.seed, index.cp.niter = SEED, 10
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64
    with _one_thread():
        index.train(pool.features)
        index.add_with_ids(pool.features, pool.ids)
    return index


def _raise_probes(index: Any, pool: Pool) -> float:
    """Look into more cells until the recall is reached; returns it.

    Patches spread evenly over the category ask for the nearest besides the first, which is
    themselves. One counts as found at the k-th distance or nearer: which of equally near ones came
    is not asked.
    """
    asking = np.linspace(0, len(pool.ids) - 1, min(SAMPLE, len(pool.ids))).astype(np.int64)
    queries = in_steps(pool.features[asking])
    k = min(RECALL_K + 1, len(pool.ids))
    exact = exact_search(queries, pool, k)
    index.nprobe = min(FIRST_PROBES, index.nlist)
    while True:
        with _one_thread():
            _, ids = index.search((queries * STEP).astype(np.float32), k + MARGIN)
        ranked = _ranked(queries, pool, ids, k, np.empty(0, np.int64))
        recall = float((ranked.squared[:, 1:] <= exact.squared[:, -1:]).mean())
        if recall >= RECALL or index.nprobe == index.nlist:
            return recall
        index.nprobe = min(2 * index.nprobe, index.nlist)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _ranked(
    queries: NDArray[np.float64],
    pool: Pool,
    proposed: NDArray[np.int64],
    k: int,
    excluded: NDArray[np.int64],
) -> Neighbours:
    """The k nearest of FAISS's proposals (q, m); -1 is none."""
    ids = np.sort(proposed, axis=1)
    none = (ids == PADDING) | from_photos(ids, excluded)
    return rank(queries, pool, np.searchsorted(pool.ids, ids), none, k)


@functools.lru_cache(maxsize=256)
def _open_faiss(path: Path, bank_digest: str) -> Any:
    """This process's index, on the GPU where it can be; the digest makes a rebuilt bank another."""
    index = faiss.read_index(os.fspath(path))
    return index if _gpu() is None else faiss.index_cpu_to_gpu(_gpu(), 0, index)


@functools.cache
def _gpu() -> Any:
    """FAISS's handle on the first CUDA device; None without one, or where faiss is the CPU's."""
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        return None
    return faiss.StandardGpuResources()


def _part(fields: dict[str, Any]) -> Part:
    """From index.json."""
    part = Part(**{name: fields[name] for name in Part._fields})
    if not (part.file is None or is_part(part.file)):
        raise ValueError(f"{show(part.file)} can be no file's name")
    return part._replace(start=int(part.start), stop=int(part.stop), recall=float(part.recall))


def _can_give(wanted: int, size: int) -> bool:
    """Whether FAISS is here and gives that many of a category's patches, but not just all."""
    return faiss is not None and wanted < size and (wanted <= GPU_MOST or _gpu() is None)


class Indexes:
    """An open `index/` folder. Pickles as its path; FAISS files are opened when first asked."""

    def __init__(self, folder: Path, bank_digest: str, parts: dict[str, Part]) -> None:
        self.folder = folder
        self.bank_digest = bank_digest
        self.parts = parts
        self.ids: NDArray[np.int64] = np.load(folder / IDS, mmap_mode="r")
        self.vectors: NDArray[np.float32] = np.load(folder / VECTORS, mmap_mode="r")

    @classmethod
    def open(cls, folder: Path, bank_digest: str) -> Self:
        """Refuses an index that was built for another bank."""
        folder = folder.resolve()
        try:
            about = json.loads((folder / ABOUT).read_text("utf-8"))
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
            parts = {name: _part(fields) for name, fields in about["categories"].items()}
            return cls(folder, bank_digest, parts)
        except (*UNREADABLE, AttributeError) as error:
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

        Exact, but for categories whose `Part.kind` is ivf: there a neighbour can be missing, and a
        farther one stands in its place; `Part.recall` says how seldom, for RECALL_K candidates.

        features        (O, D)  object vectors of the bank's encoder
        categories      (O,)    names; one that the bank has no patch of falls back at once
        exclude_images          photos whose patches are left out (bank/own_photo.py)
        scope                   category: an object's own first, then others; all: the nearest
        """
        if not len(self.ids):
            raise BankError(f"{self.folder} is empty: the bank has no training patch")
        names = np.asarray(categories, dtype=np.str_)
        queries = in_steps(features)
        excluded = np.unique(np.asarray(exclude_images, dtype=np.int64))
        candidates = empty_candidates(len(names), k)
        if scope == "all":
            near, theirs = self._nearest_of(list(self.parts), queries, k, excluded)
            fill(candidates, np.arange(len(names)), near, fallback=theirs != names[:, None])
            return candidates
        for name in np.unique(names).tolist():
            rows = np.flatnonzero(names == name)
            part = self.parts.get(name, NO_PART)
            fill(candidates, rows, self._nearest(part, queries[rows], k, excluded), fallback=False)
            short = rows[~candidates.valid[rows].all(1)]
            others = [other for other in self.parts if other != name]
            if len(short) and others:
                near, _ = self._nearest_of(others, queries[short], k, excluded)
                fill(candidates, short, near, fallback=True)
        return candidates

    def _nearest(
        self, part: Part, queries: NDArray[np.float64], k: int, excluded: NDArray[np.int64]
    ) -> Neighbours:
        """The k nearest of one category: by FAISS where it gives enough and may be trusted."""
        pool = Pool(self.ids[part.start : part.stop], self.vectors[part.start : part.stop])
        wanted = k + MARGIN + count_from_photos(pool.ids, excluded)
        if part.file is None or not _can_give(wanted, part.size):
            return exact_search(queries, _without(excluded, pool), k)
        index = _open_faiss(self.folder / part.file, self.bank_digest)
        approximate, proposed = index.search((queries * STEP).astype(np.float32), wanted)
        neighbours = _ranked(queries, pool, proposed, k, excluded)
        farthest = neighbours.squared[:, -1]
        if part.kind == "ivf":  # what came is taken, if there are enough
            trusted = np.isfinite(farthest)
        else:
            left_out = approximate[:, -1].astype(np.float64) / STEP**2
            lengths = np.sqrt((queries**2).sum(1))
            trusted = certified(farthest, left_out, lengths, queries.shape[1])
        if not trusted.all():
            exact = exact_search(queries[~trusted], _without(excluded, pool), k)
            neighbours.ids[~trusted], neighbours.squared[~trusted] = exact
        return neighbours

    def _nearest_of(
        self,
        names: Sequence[str],
        queries: NDArray[np.float64],
        k: int,
        excluded: NDArray[np.int64],
    ) -> tuple[Neighbours, NDArray[np.str_]]:
        """The k nearest of some categories together, and the category of each: both (q, k)."""
        parts = [self._nearest(self.parts[name], queries, k, excluded) for name in names]
        ids = np.concatenate([near.ids for near in parts], axis=1)
        squared = np.concatenate([near.squared for near in parts], axis=1)
        theirs = np.repeat(np.array(names, np.str_), k)
        order = np.lexsort((ids, squared), axis=1)[:, :k]  # by distance, then by id
        return Neighbours(
            np.take_along_axis(ids, order, axis=1), np.take_along_axis(squared, order, axis=1)
        ), theirs[order]


def _without(photos: NDArray[np.int64], pool: Pool) -> Pool:
    allowed = ~from_photos(pool.ids, photos)
    return Pool(pool.ids[allowed], pool.features[allowed])
