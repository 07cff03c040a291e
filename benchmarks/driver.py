"""What the process that leads a build needs for large banks: time and memory, and how both grow.

python -m benchmarks.driver --what receipts     1 million photos' receipts, no file
python -m benchmarks.driver --what tables       assembling tables of up to 10 million patches
python -m benchmarks.driver --what vectors      features and co-occurrence vectors, from files

Every size is measured in a process of its own, on made-up shards that lie in a temporary folder
(10 million patches take 5 GB). The growth exponent is the slope between two sizes, in logarithms.
Memory is what the process holds of its own (RssAnon, looked at every 10 ms), with and without what
it has mapped of files, which the system may take back at any time (VmHWM).
"""

import hashlib
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa

from bank.contents import Contents, content_digest
from bank.files import FileDigest, canonical_json
from bank.shards import map_size, write_patches
from bank.table import PATCHES, PHOTOS, SCENES, save_table, scene_row
from jobs.stages.assemble import assemble
from jobs.stages.cut import content_files
from jobs.stages.cutting import CutShard
from jobs.stages.derive import (
    Derivation,
    DeriveOptions,
    object_features,
    patch_vectors,
    training_rows,
)
from jobs.stages.receipts import WORK, Receipt
from model.graph.network import GraphEncoder
from model.retrieval.cooccurrence import CooccurrenceNetwork
from pipeline.options import option, run
from pipeline.pack import SceneSample, write_samples
from pipeline.relations import drawn_pairs
from pipeline.scene import GEOMETRIC, IMAGE, IN_IMAGE, Relation, Vocabulary

What = Literal["receipts", "tables", "vectors"]
PHOTOS_PER_SHARD = 256
OBJECTS = 8  # of a photo
WORDS = Vocabulary((IMAGE, *(f"category {i:03d}" for i in range(171))), (IN_IMAGE, *GEOMETRIC))
SIZES: dict[What, tuple[int, ...]] = {
    "receipts": (10_000, 100_000, 1_000_000),  # photos
    "tables": (100_000, 1_000_000, 10_000_000),  # patches
    "vectors": (2_048, 8_192, 32_768),
}


@dataclass(frozen=True, kw_only=True)
class Driver:
    what: Annotated[What, option("receipts of photos, tables of patches, or vectors of patches")]
    sizes: Annotated[
        tuple[int, ...], option("how many; default: three sizes up to the largest")
    ] = ()
    folder: Annotated[Path | None, option("measure the shards here, in this process")] = None


def main(options: Driver) -> None:
    if options.folder:
        print(json.dumps(MEASURES[options.what](options.folder, options.sizes[0])))
        return
    print("| what | how many | s | growth exponent | peak of its own, MB | with mapped files, MB |")
    print("|---|---|---|---|---|---|")
    before: dict[str, tuple[int, float]] = {}
    for size in options.sizes or SIZES[options.what]:
        with tempfile.TemporaryDirectory() as folder:
            if options.what != "receipts":
                _write_shards(Path(folder), size, with_pixels=options.what == "vectors")
            command = [sys.executable, "-m", "benchmarks.driver", "--what", options.what]
            command += ["--sizes", str(size), "--folder", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        for name, (seconds, own_mb, all_mb) in json.loads(done.stdout.splitlines()[-1]).items():
            growth = "-"
            if name in before:
                size_before, seconds_before = before[name]
                growth = f"{math.log(seconds / seconds_before) / math.log(size / size_before):.2f}"
            print(f"| {name} | {size:,} | {seconds:.2f} | {growth} | {own_mb:.0f} | {all_mb:.0f} |")
            before[name] = size, seconds


# What is measured: name -> seconds, and the process's peaks until then in MB.

Measured = dict[str, tuple[float, float, float]]


@contextmanager
def _memory() -> Iterator[Callable[[], tuple[float, float]]]:
    own = 0.0
    over = threading.Event()

    def poll() -> None:
        nonlocal own
        while not over.wait(0.01):
            own = max(own, _status_mb("RssAnon"))

    looking = threading.Thread(target=poll)
    looking.start()
    try:
        yield lambda: (max(own, _status_mb("RssAnon")), _status_mb("VmHWM"))
    finally:
        over.set()
        looking.join()


def _status_mb(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024 / 1e6


def _measured(steps: dict[str, Callable[[], object]]) -> Measured:
    measured: Measured = {}
    with _memory() as peaks:
        for name, step in steps.items():
            start = time.perf_counter()
            kept = step()  # until its memory was looked at
            measured[name] = time.perf_counter() - start, *peaks()
            del kept
    return measured


def _receipts(folder: Path, photos: int) -> Measured:
    """As `jobs.stages.cut.cut` collects them, and what a manifest keeps of them."""

    def collect() -> object:
        done = {f"train-{i:05d}": _receipt(i) for i in range(math.ceil(photos / PHOTOS_PER_SHARD))}
        counts = {name: shard.receipt.counts for name, shard in done.items()}
        return done, canonical_json([content_files(done), counts])

    return _measured({"receipts of photos": collect})


def _receipt(number: int) -> CutShard:
    """As it comes over the wire: with strings of its own."""
    name = f"train-{number:05d}"
    rows = f"{WORK}/shards/{name}"
    paths = [f"patches/{name}/data.mdb", f"scenes/{name}.tar", f"{rows}.failures.json"]
    paths += [f"{rows}.{table}.arrow" for table in ("patches", "scenes", "photos")]
    outputs = {path: FileDigest(f"{number:064x}", number) for path in paths}
    counts = {"photos": PHOTOS_PER_SHARD, "scenes": PHOTOS_PER_SHARD, "patches": 2048}
    receipt = Receipt(f"cut-{name}", f"{number:064x}", outputs, counts)
    return CutShard(name, Receipt.from_json(receipt.to_json()), fresh=True)


def _tables(folder: Path, patches: int) -> Measured:
    opened: list[Contents] = []
    return _measured(
        {
            "process started": lambda: None,
            "tables assembled": lambda: assemble(folder, _shard_names(folder), WORDS),
            "content digest": lambda: content_digest(folder),
            "contents opened": lambda: opened.append(Contents(folder, 64)),
            "training rows": lambda: training_rows(opened[0]),
            "categories": lambda: opened[0].strings("category"),
        }
    )


def _vectors(folder: Path, patches: int) -> Measured:
    assemble(folder, _shard_names(folder), WORDS)
    contents = Contents(folder, 64)
    options = DeriveOptions("train", "train", 0, "train", "train", 0, 20, "category")
    derivation = Derivation(contents, "", options)
    GraphEncoder(WORDS, masks=True).save(folder / "graph_encoder.safetensors")
    CooccurrenceNetwork().save(folder / "cooccurrence.safetensors")
    network = Receipt("", "", {})
    return _measured(
        {
            "process started": lambda: None,
            "object features": lambda: object_features(derivation, network),
            "co-occurrence vectors": lambda: patch_vectors(derivation, network),
        }
    )


MEASURES = {"receipts": _receipts, "tables": _tables, "vectors": _vectors}


# Made-up shards


def _shard_names(folder: Path) -> list[str]:
    return sorted(p.name.split(".")[0] for p in (folder / WORK / "shards").glob("*.patches.arrow"))


def _write_shards(folder: Path, patches: int, with_pixels: bool) -> None:
    """Every tenth photo is one for validation, so that the splits' ids lie between each other."""
    (folder / WORK / "shards").mkdir(parents=True)
    ids = np.arange(math.ceil(patches / OBJECTS))
    for split, some in (("train", ids[ids % 10 > 0]), ("val", ids[ids % 10 == 0])):
        for number, start in enumerate(range(0, len(some), PHOTOS_PER_SHARD)):
            name = f"{split}-{number:05d}"
            _write_shard(folder, name, split, some[start : start + PHOTOS_PER_SHARD], with_pixels)


def _write_shard(
    folder: Path, name: str, split: str, images: np.ndarray, with_pixels: bool
) -> None:
    random = np.random.default_rng(int(images[0]))
    samples = [_sample(random, int(image)) for image in images]
    ids = np.concatenate([s.patch_ids for s in samples])
    files = [f"{split}2017/{image:012d}.jpg" for image in np.repeat(images, OBJECTS)]
    pixels = [random.bytes(64 * 64 * 3 if with_pixels else 1) for _ in ids]
    rows = folder / WORK / "shards" / name
    columns = {
        "patch_id": ids,
        "image_id": ids >> 16,
        "object_index": ids & 0xFFFF,
        "category": [o for s in samples for o in s.objects],
        **{corner: random.random(len(ids)) for corner in ("x0", "y0", "x1", "y1")},
        "source_width": np.full(len(ids), 640),
        "source_height": np.full(len(ids), 480),
        "split": [split] * len(ids),
        "licence": ["http://creativecommons.org/licenses/by-nc-sa/2.0/"] * len(ids),
        "source_url": [f"http://images.cocodataset.org/{file}" for file in files],
        "photo_file": files,
        "pixels_sha256": [hashlib.sha256(p).digest() for p in pixels],
    }
    save_table(rows.with_name(f"{name}.patches.arrow"), pa.table(columns, PATCHES))
    tar = folder / "scenes" / f"{name}.tar" if with_pixels else Path("/dev/null")
    tar.parent.mkdir(exist_ok=True)
    places = write_samples(tar, samples)
    scenes = [scene_row(s, split, name, place) for s, place in zip(samples, places, strict=True)]
    save_table(rows.with_name(f"{name}.scenes.arrow"), pa.Table.from_pylist(scenes, SCENES))
    photos = {
        "image_id": images,
        "shard": [name] * len(images),
        "annotation_sha256": [random.bytes(32) for _ in images],
        "bytes": np.full(len(images), 160_000),
        "sha256": [random.bytes(32) for _ in images],
    }
    save_table(rows.with_name(f"{name}.photos.arrow"), pa.table(photos, PHOTOS))
    rows.with_name(f"{name}.failures.json").write_bytes(b"[]")
    if with_pixels:
        numbered = zip(ids.tolist(), pixels, strict=True)
        write_patches(folder / "patches" / name, numbered, map_size(len(ids), 64))


def _sample(random: np.random.Generator, image_id: int) -> SceneSample:
    return SceneSample(
        image=np.zeros((1, 1, 3), np.uint8),
        image_id=image_id,
        objects=tuple(WORDS.objects[i] for i in random.integers(1, 172, OBJECTS)),
        boxes=random.random((OBJECTS, 4), np.float32),
        triples=tuple(Relation(s, GEOMETRIC[0], o) for s, o in drawn_pairs(image_id, OBJECTS)),
        patch_ids=image_id << 16 | np.arange(OBJECTS),
        masks=random.integers(0, 2, (OBJECTS, 16, 16), np.uint8),
    )


if __name__ == "__main__":
    run(main, Driver, __doc__)
