"""Patches read by id: a bank's LMDB shards beside Arrow and loose files of the same patches.

python -m benchmarks.reads
python -m benchmarks.reads --patches 200000    8 GB of disk

Batches of random ids, and the same ids sorted, are copied into an array, as training needs them.
Every way takes its turn in each round, all of it in the page cache; figures are medians over the
rounds, ratios medians of the rounds' ratios.
"""

import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from bank.shards import PatchStore, map_size, write_patches
from bank.table import read_table, save_table
from pipeline.options import option, run

SIDE = 64
SHARD = 2_048  # patches
LMDB = "LMDB, as a bank reads it"
Read = Callable[[NDArray[np.int64]], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Reads:
    patches: Annotated[int, option("how many lie in each store")] = 20_480
    batch: Annotated[int, option("patches read at once")] = 512
    rounds: Annotated[int, option("batches of each kind")] = 31
    seed: Annotated[int, option("of pixels and of ids")] = 0


def main(options: Reads) -> None:
    random = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        ways = _stores(Path(folder), random, options.patches)
        rates: dict[tuple[str, str], list[float]] = {}
        for number in range(options.rounds + 1):
            drawn = random.integers(0, options.patches, options.batch)
            for order, ids in (("random", drawn), ("sorted", np.sort(drawn))):
                wanted = ways[LMDB](ids)  # and whatever is checked but once
                for name, read in ways.items():
                    start = time.perf_counter()
                    pixels = read(ids)
                    took = time.perf_counter() - start
                    assert np.array_equal(pixels, wanted), name
                    if number:  # the first is for warming up
                        rates.setdefault((name, order), []).append(options.batch / took)
    print(f"{options.patches:,} patches of {SIDE} x {SIDE}, batches of {options.batch}\n")
    print("| store | random, patches/s | of LMDB | sorted, patches/s | of LMDB |")
    print("|---|---|---|---|---|")
    for name in ways:
        cells = []
        for order in ("random", "sorted"):
            ours, lmdb = rates[name, order], rates[LMDB, order]
            ratio = statistics.median(a / b for a, b in zip(ours, lmdb, strict=True))
            cells.append(f"{statistics.median(ours):,.0f} | {ratio:.2f}")
        print(f"| {name} | {' | '.join(cells)} |")


def _stores(folder: Path, random: np.random.Generator, count: int) -> dict[str, Read]:
    """The same patches in every store, by the way they are read."""
    pixels = np.concatenate([_drawn(random, SHARD) for _ in range(-(-count // SHARD))])[:count]
    loose = {name: folder / name for name in ("raw", "png")}
    for path in loose.values():
        path.mkdir()
    for number, patch in enumerate(pixels):
        (loose["raw"] / f"{number}.raw").write_bytes(patch.tobytes())
        Image.fromarray(patch).save(loose["png"] / f"{number}.png")
    for start in range(0, count, SHARD):
        some = range(start, min(start + SHARD, count))
        numbered = ((i, pixels[i].tobytes()) for i in some)
        write_patches(folder / "lmdb" / f"{start}", numbered, map_size(len(some), SIDE))
    rows = pa.array([patch.tobytes() for patch in pixels], pa.binary(pixels[0].nbytes))
    save_table(folder / "patches.arrow", pa.table({"pixels": rows}))
    arrow = read_table(folder / "patches.arrow").column("pixels").chunk(0)
    mapped = np.frombuffer(arrow.buffers()[1], np.uint8).reshape(-1, SIDE, SIDE, 3)[:count]
    digests = np.stack([_digest(patch) for patch in pixels])

    def store() -> PatchStore:
        ids = np.arange(count)
        names = [f"{start}" for start in range(0, count, SHARD)]
        shard_of = (ids // SHARD).astype(np.int32)
        return PatchStore(folder / "lmdb", ids, shard_of, names, SIDE, digests)

    opened = store()
    return {
        LMDB: partial(opened.read, check=False),
        "... for the first time: compared with its SHA-256": lambda ids: store().read(ids),
        "Arrow, mapped, rows of one array": lambda ids: mapped[ids],
        "Arrow, `take`": lambda ids: _taken(arrow, ids),
        "a file per patch, raw": lambda ids: np.stack([_raw(loose["raw"], int(i)) for i in ids]),
        "a file per patch, PNG": lambda ids: np.stack([_png(loose["png"], int(i)) for i in ids]),
    }


def _drawn(random: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """Smooth and noisy at once, so that PNG packs them as it packs photos."""
    coarse = random.integers(0, 240, (count, 8, 8, 3), np.uint8)
    pixels: NDArray[np.uint8] = coarse.repeat(SIDE // 8, 1).repeat(SIDE // 8, 2)
    return pixels + random.integers(0, 16, pixels.shape, np.uint8)


def _digest(patch: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(patch.tobytes()).digest(), np.uint8)


def _taken(arrow: pa.Array, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    taken = arrow.take(pa.array(ids))
    return np.frombuffer(taken.buffers()[1], np.uint8)[: ids.size * SIDE**2 * 3].reshape(
        -1, SIDE, SIDE, 3
    )


def _raw(folder: Path, patch: int) -> NDArray[np.uint8]:
    return np.fromfile(folder / f"{patch}.raw", np.uint8).reshape(SIDE, SIDE, 3)


def _png(folder: Path, patch: int) -> NDArray[np.uint8]:
    with Image.open(folder / f"{patch}.png") as image:
        return np.asarray(image)


if __name__ == "__main__":
    run(main, Reads, __doc__)
