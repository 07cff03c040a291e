# ruff: noqa: B023 (functions made in loops are called at once)
"""Nearest neighbours for a whole bank by four methods, and the search index, as a bank grows.

python -m benchmarks.candidates

Features are random with the falling variances of the toy bank's (64 directions, most of it in the
first ten), in clusters; `level` has equal variances in all 128 directions, the worst case. Bulk:
every patch asks for K; of a large bank only so many ask that the block of distances has `cells`
cells, and all methods are asked by the same ones. Preparation that a method does once for a whole
bank is shared out among its patches; so is what ours does once for a block of queries, which are
fewer here than a block has. Only ours leaves out the own photo and settles ties.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray

from bank.candidates import find_candidates
from bank.certified_search import SMALL, Searcher
from bank.exact_search import Pool
from bank.index import Indexes, build_indexes, faiss
from bank.query_plan import COST, FOUND, LEAST
from bank.rounding import rounded
from pipeline.options import option, run
from pipeline.scene import image_of, patch_id

K, F = 20, 128
CATEGORIES = 171  # COCO-Stuff's
PER_PHOTO = 7
AT_ONCE = 1024  # queries of the plain methods' blocks
SINGLE = 100  # queries of the index, one at a time

Method = Callable[[NDArray[np.int64], slice], Any]  # query rows, pool columns


@dataclass(frozen=True, kw_only=True)
class CandidatesOptions:
    rounds: Annotated[int, option("times each method is measured, in turn")] = 3
    most: Annotated[int, option("patches of the largest bank")] = 1_000_000
    cells: Annotated[float, option("distances per measurement, millions")] = 200.0


@dataclass(frozen=True)
class RandomBank:
    """Patches sorted by category and id."""

    features: NDArray[np.float32]  # (n, F)
    ids: NDArray[np.int64]
    bounds: NDArray[np.int64]  # (C + 1,) where each category starts and the last one stops

    @property
    def names(self) -> list[str]:
        return np.repeat(np.arange(len(self.bounds) - 1), np.diff(self.bounds)).astype(str).tolist()


def random_bank(n: int, num_categories: int, *, level: bool = False) -> RandomBank:
    random = np.random.default_rng(0)
    deviations = np.ones(F) if level else np.r_[np.arange(1, 65) ** -1.25, np.zeros(64)]
    turn = np.linalg.qr(random.normal(size=(F, F)))[0] * 3 * deviations[:, None]
    clusters = random.standard_normal((n // 500 + 1, F), dtype=np.float32)
    share = 1 / np.arange(1, num_categories + 1)
    bounds = np.rint(np.r_[0, share.cumsum() / share.sum()] * n).astype(np.int64)
    features = np.empty((n, F), np.float32)
    for start in range(0, n, 1 << 16):
        rows = features[start : start + (1 << 16)]
        own = random.standard_normal(rows.shape, dtype=np.float32) / 2
        mixed = own + clusters[random.integers(0, len(clusters), len(rows))]
        rows[:] = rounded(mixed.astype(np.float64) @ turn + 1)
    places = random.permutation(n)
    ids = np.array([patch_id(p // PER_PHOTO, p % PER_PHOTO) for p in places.tolist()])
    for start, stop in pairwise(bounds.tolist()):
        ids[start:stop].sort()
    return RandomBank(features, ids, bounds)


def asking(bank: RandomBank, cells: float) -> list[tuple[NDArray[np.int64], slice]]:
    """Of each category the same fraction of its patches: all have `cells` cells together."""
    sizes = np.diff(bank.bounds)
    fraction = min(1.0, cells / float((sizes.astype(float) ** 2).sum()))
    blocks = []
    for start, stop in pairwise(bank.bounds.tolist()):
        count = max(1, round(fraction * (stop - start)))
        rows = np.linspace(start, stop - 1, count).astype(np.int64)
        blocks.append((rows, slice(start, stop)))
    return blocks


def searcher_of(bank: RandomBank) -> Searcher:
    return Searcher(Pool(bank.ids, bank.features), image_of(bank.ids))


def ours(bank: RandomBank) -> Method:
    searcher = searcher_of(bank)
    return lambda rows, part: searcher.search(rows, np.arange(part.start, part.stop), K)


def projecting(bank: RandomBank) -> tuple[float, float]:
    """Seconds to project all large pools once, and as often as for the blocks of a whole bank."""
    sizes = np.diff(bank.bounds)
    large = np.flatnonzero(sizes > SMALL + K)
    if not len(large):
        return 0.0, 0.0
    rows = np.concatenate([np.arange(*bank.bounds[c : c + 2]) for c in large])
    searcher = searcher_of(bank)
    searcher.project(rows)
    once = statistics.median(seconds_of(lambda: searcher.project(rows)) for _ in range(3))
    queries = (COST / sizes[large]).clip(LEAST, FOUND // K)
    times = np.ceil(sizes[large] / queries)
    return once, once * float((sizes[large] * times).sum() / len(rows))


def by_faiss(bank: RandomBank) -> Method:
    return lambda rows, part: faiss.knn(bank.features[rows], bank.features[part], K)


def by_torch(bank: RandomBank) -> Method:
    features = torch.from_numpy(bank.features)
    norms = (features**2).sum(1)

    def search(rows: NDArray[np.int64], part: slice) -> None:
        for start in range(0, len(rows), AT_ONCE):
            asked = features[torch.from_numpy(rows[start : start + AT_ONCE])]
            distances = torch.addmm(norms[part], asked, features[part].T, alpha=-2)
            distances.topk(min(K, distances.shape[1]), dim=1, largest=False)

    return search


def by_numpy(bank: RandomBank) -> Method:
    norms = (bank.features**2).sum(1)

    def search(rows: NDArray[np.int64], part: slice) -> None:
        for start in range(0, len(rows), AT_ONCE):
            asked = bank.features[rows[start : start + AT_ONCE]]
            distances = norms[part] - 2 * (asked @ bank.features[part].T)
            k = min(K, distances.shape[1]) - 1
            nearest = np.argpartition(distances, k, axis=1)[:, : k + 1]
            np.take_along_axis(distances, nearest, axis=1).argsort(axis=1)

    return search


METHODS = {"ours": ours, "faiss.knn": by_faiss, "torch": by_torch, "numpy": by_numpy}
OTHERS = ("torch", "faiss.knn")  # that ours is compared with


def seconds_of(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bulk(bank: RandomBank, options: CandidatesOptions) -> tuple[int, dict[str, float]]:
    """How many asked, and each method's seconds per patch of the whole job, medians."""
    asked = asking(bank, options.cells * 1e6)
    count = sum(len(rows) for rows, _ in asked)
    searches: dict[str, Method] = {}
    prepared: dict[str, float] = {}

    def ask(name: str) -> float:
        return seconds_of(lambda: [searches[name](rows, part) for rows, part in asked])

    for name, prepare in METHODS.items():
        first = seconds_of(lambda: searches.update({name: prepare(bank)})) + ask(name)
        prepared[name] = first
    rounds = [{name: ask(name) for name in METHODS} for _ in range(options.rounds)]
    medians = {name: statistics.median(r[name] for r in rounds) for name in METHODS}
    seconds = {
        name: again / count + max(0.0, prepared[name] - again) / len(bank.ids)
        for name, again in medians.items()
    }
    once, for_all = projecting(bank)
    seconds["ours"] += for_all / len(bank.ids) - once / count
    return count, seconds


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """Of the power law that fits the seconds of whole banks."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def bulk_table(options: CandidatesOptions) -> Iterator[str]:
    columns = ("categories", "patches", "that ask", *METHODS, *(f"ours / {o}" for o in OTHERS))
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for title, categories, level in (
        (f"{CATEGORIES}, zipf", CATEGORIES, False),
        ("one", 1, False),
        ("one, level", 1, True),
    ):
        seconds: dict[str, list[float]] = {name: [] for name in METHODS}
        sizes = sizes_up_to(options.most)[-1 if level else 0 :]
        for n in sizes:
            count, by_method = bulk(random_bank(n, categories, level=level), options)
            for name, each in by_method.items():
                seconds[name].append(each * n)
            ours_to = [
                f"{by_method[name] / by_method['ours']:.2f}" for name in ("torch", "faiss.knn")
            ]
            rates = " | ".join(f"{1 / each:,.0f}" for each in by_method.values())
            yield f"| {title} | {n:,} | {count:,} | {rates} | {' | '.join(ours_to)} |"
        if len(sizes) > 1:
            powers = " | ".join(f"n^{exponent(sizes, seconds[name]):.2f}" for name in METHODS)
            yield f"| {title} | seconds grow as | | {powers} | | |"


def sizes_up_to(most: int) -> list[int]:
    return [most >> shift for shift in (5, 4, 3, 2, 1, 0)]


def whole_table(options: CandidatesOptions) -> Iterator[str]:
    """`find_candidates` itself, everything included."""
    yield "| find_candidates, patches | s | vectors/s |"
    yield "|---|---|---|"
    sizes, seconds = sizes_up_to(options.most)[:4], []
    for n in sizes:
        bank = random_bank(n, CATEGORIES)
        by_id = np.argsort(bank.ids)
        features, ids = bank.features[by_id], bank.ids[by_id]
        names, train = np.array(bank.names)[by_id].tolist(), np.ones(n, dtype=np.bool_)
        seconds.append(
            seconds_of(lambda: find_candidates(features, ids, image_of(ids), names, train, K))
        )
        yield f"| {n:,} | {seconds[-1]:.2f} | {n / seconds[-1]:,.0f} |"
    yield f"| seconds grow as | n^{exponent(sizes, seconds):.2f} | |"


def index_table(options: CandidatesOptions) -> Iterator[str]:
    """One category, the worst case: FAISS's Flat beside what `build_indexes` chooses."""
    yield "| one category, patches | kind | build s | nlist | nprobe | recall | ms a query | Flat |"
    yield "|---|---|---|---|---|---|---|---|"
    sizes, builds = sizes_up_to(options.most), []
    for n in sizes:
        bank = random_bank(n, 1)
        names = np.full(n, "one")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "index")
            builds.append(
                seconds_of(lambda: build_indexes(path, bank.features, bank.ids, names, "0" * 64))
            )
            opened = Indexes.open(path, "0" * 64)
            part = opened.parts["one"]
            served = single_query_ms(lambda row: opened.search(row, ["one"], K), bank)
        flat = faiss.IndexFlatL2(F)
        flat.add(bank.features)
        exact = single_query_ms(lambda row: flat.search(row, K), bank)
        nlist, nprobe = part.nlist or "", part.nprobe or ""
        yield (
            f"| {n:,} | {part.kind} | {builds[-1]:.1f} | {nlist} | {nprobe} | {part.recall:.4f} | "
            f"{served:.2f} | {exact:.2f} |"
        )
    yield f"| build seconds grow as | | n^{exponent(sizes, builds):.2f} | | | | | |"


def single_query_ms(search: Callable[[NDArray[np.float32]], Any], bank: RandomBank) -> float:
    """Median over queries that lie between two patches of the bank."""
    rows = np.linspace(0, len(bank.ids) - 2, SINGLE + 1).astype(np.int64)
    queries = (bank.features[rows] + bank.features[rows + 1]) / 2
    search(queries[:1])  # opens the file
    each = [seconds_of(lambda: search(queries[q : q + 1])) for q in range(1, SINGLE + 1)]
    return statistics.median(each) * 1000


def main(options: CandidatesOptions) -> None:
    for table in (bulk_table, whole_table, index_table):
        for line in table(options):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    run(main, CandidatesOptions, __doc__)
