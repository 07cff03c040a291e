"""How long `jobs.inspect_bank` takes for a large bank, how much memory, and how large its page is.

python -m benchmarks.inspection --patches 1000000
python -m benchmarks.inspection --patches 200000 --shard-photos 256 --workers 0 1 2

The bank is made of random pictures, in a temporary folder that is removed at the end: 16 kB of disk
a patch. It has only what the inspection reads. With several numbers of workers it is read that
often, each time with another. One patch in a hundred is there twice, and one in a
hundred again a little brighter.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bank.candidates import empty_candidates, write_candidates
from bank.contents import write_vocabulary
from bank.files import file_digest
from bank.manifest import Manifest, write_manifest
from bank.shards import map_size, write_patches
from bank.table import PATCHES, SCENES, write_table
from pipeline.options import option, run
from pipeline.progress import progress
from pipeline.scene import GEOMETRIC, IMAGE, IN_IMAGE, Vocabulary

SIDE = 64  # px
CELLS = 16  # pictures are as coarse as this, so that they are no mere noise
OBJECTS = 5  # of a photo
CANDIDATES = 20


@dataclass(frozen=True, kw_only=True)
class Inspection:
    patches: Annotated[int, option("patches of the bank, a multiple of 5")] = 1_000_000
    categories: Annotated[int, option("COCO-Stuff has 171, few of them frequent")] = 171
    shard_photos: Annotated[int, option("photos per shard")] = 4096
    workers: Annotated[tuple[int, ...], option("processes that read patches; 0 = no Dask")] = (0,)
    folder: Annotated[Path | None, option("where there is room; by default the system's")] = None


def main(options: Inspection) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        bank = Path(folder) / "bank"
        write_bank(bank, options.patches, options.categories, options.shard_photos)
        lines = [inspect(bank, workers) for workers in options.workers]
        page = (bank / "report.html").stat().st_size
    print(f"{options.patches:,} patches of {options.categories:,} categories")
    print(*lines, f"page {page / 1e6:.1f} MB", sep="\n")


def inspect(bank: Path, workers: int) -> str:
    """Its time, and the most memory of one of its processes."""
    started = time.monotonic()
    command = [sys.executable, "-m", "jobs.inspect_bank", str(bank), "--workers", str(workers)]
    with subprocess.Popen(command) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds = time.monotonic() - started
    return f"{workers} workers: {seconds:.1f} s, peak memory {usage.ru_maxrss / 1024:,.0f} MiB"


def write_bank(bank: Path, patches: int, categories: int, shard_photos: int) -> None:
    """What `jobs.inspect_bank` reads of a bank."""
    random = np.random.default_rng(0)
    names = [f"category {number}" for number in range(categories)]
    ids = (np.arange(patches // OBJECTS)[:, None] << 16 | np.arange(OBJECTS)).reshape(-1)
    digests = bytearray()
    shards = {}
    starts = range(0, len(ids), shard_photos * OBJECTS)
    for number, start in enumerate(progress(starts, "shards", len(starts), "shard")):
        some = ids[start : start + shard_photos * OBJECTS]
        name = f"train-{number:05d}"
        shards[name] = {"photos": len(some) // OBJECTS, "scenes": len(some) // OBJECTS}
        written = _hashed(some, random, digests)
        write_patches(bank / "patches" / name, written, map_size(len(some), SIDE))
    write_table(bank / "patches.arrow", _patches(ids, names, bytes(digests), random))
    scenes = _scenes(patches // OBJECTS, list(shards), shard_photos)
    write_table(bank / "scenes.index.arrow", scenes)
    write_vocabulary(bank / "vocabulary.json", Vocabulary((IMAGE, *names), (IN_IMAGE, *GEOMETRIC)))
    candidates = empty_candidates(len(ids), CANDIDATES)
    candidates.valid[:] = True
    write_candidates(bank / "candidates.arrow", ids, candidates)
    (bank / "index").mkdir()
    about = {"categories": {name: {"recall": 1.0} for name in names}}
    (bank / "index/index.json").write_text(json.dumps(about))
    row = {"image_id": 1, "object_index": None, "reason": "photo_missing", "detail": "no such file"}
    (bank / "failures.jsonl").write_text(f"{json.dumps(row)}\n" * (patches // 100))
    _write_manifest(bank, shards, patches)


def _hashed(
    ids: NDArray[np.int64], random: np.random.Generator, digests: bytearray
) -> Iterator[tuple[int, bytes]]:
    """Patches with their ids, a photo's at once; their SHA-256 is added to `digests`."""
    step = SIDE // CELLS
    for start in range(0, len(ids), 100):
        some = ids[start : start + 100]
        coarse = random.integers(0, 250, (len(some), CELLS, CELLS, 3), np.uint8)
        if len(some) == 100:
            coarse[97] = coarse[0]
            coarse[98] = coarse[0] + 2
        for patch_id, cells in zip(some.tolist(), coarse, strict=True):
            pixels = cells.repeat(step, 0).repeat(step, 1).tobytes()
            digests += hashlib.sha256(pixels).digest()
            yield patch_id, pixels


def _patches(
    ids: NDArray[np.int64], names: list[str], digests: bytes, random: np.random.Generator
) -> pa.Table:
    """patches.arrow; the n-th category has a share of about 1/n."""
    shares = 1 / np.arange(1, len(names) + 1)
    codes = random.choice(len(names), len(ids), p=shares / shares.sum())
    images = ids >> 16
    corners = random.random((2, len(ids)), np.float32) / 2
    licences = np.array(["cc-by", "cc-by-sa", "cc-by-nc"])[images % 3]
    columns = {
        "patch_id": ids,
        "image_id": images,
        "object_index": ids & 0xFFFF,
        "category": np.array(names)[codes],
        "x0": corners[0],
        "y0": corners[1],
        "x1": corners[0] + random.random(len(ids), np.float32) / 2,
        "y1": corners[1] + random.random(len(ids), np.float32) / 2,
        "source_width": np.full(len(ids), 640),
        "source_height": np.full(len(ids), 480),
        "split": np.array(["train", "train", "train", "val", "test"])[images % 5],
        "licence": licences,
        "source_url": np.char.add("https://example.org/", images.astype(str)),
        "photo_file": np.char.add("train2017/", images.astype(str)),
        "pixels_sha256": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(32), len(ids), [None, pa.py_buffer(digests)]
        ),
    }
    return pa.table({n: pa.array(c).cast(PATCHES.field(n).type) for n, c in columns.items()})


def _scenes(count: int, shards: list[str], shard_photos: int) -> pa.Table:
    """scenes.index.arrow of scenes that are not there."""
    images = np.arange(count)
    columns = {
        field.name: pa.array(np.zeros(count, np.int64))
        for field in SCENES
        if field.type == pa.int64()
    }
    columns["image_id"] = pa.array(images)
    columns["split"] = pa.array(np.array(["train", "train", "train", "val", "test"])[images % 5])
    columns["shard"] = pa.array(np.array(shards)[images // shard_photos])
    columns["sample_sha256"] = pa.array([bytes(32)] * count, pa.binary(32))
    return pa.table({field.name: columns[field.name] for field in SCENES})


def _write_manifest(bank: Path, shards: dict[str, dict[str, int]], patches: int) -> None:
    files = {
        path.relative_to(bank).as_posix(): file_digest(path)
        for path in bank.rglob("*")
        if path.is_file()
    }
    recipe = {
        "image_size": 128,
        "patch_size": SIDE,
        "candidates": CANDIDATES,
        "candidate_scope": "category",
    }
    write_manifest(
        bank,
        Manifest(
            dataset="random pictures",
            recipe=recipe,
            inputs={},
            protocol={},
            counts={"patches": patches},
            left_out={"photo_missing": patches // 100},
            shards=shards,
            files=files,
            content_digest="0" * 64,
            derived_digest="0" * 64,
            versions={},
        ),
    )


if __name__ == "__main__":
    run(main, Inspection, __doc__)
