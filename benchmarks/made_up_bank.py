"""A bank of any size up to its content, made up at random: what the stages after cutting are
measured on.

Categories are as frequent as Zipf's law has them, every photo has 8 objects, and every tenth is one
for validation, so that the splits' ids lie between each other.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa

from bank.candidates import empty_candidates, write_candidates
from bank.contents import write_vocabulary
from bank.files import save_array
from bank.index import IDS, PART, VECTORS, plan_index
from bank.quality import QUALITY, QUALITY_FILE
from bank.query_plan import QueryPlan
from bank.shards import map_size, write_patches
from bank.table import PATCHES, PHOTOS, SCENES, save_table, scene_row
from jobs.stages import quality, search, vectors
from jobs.stages.blocks import even_ranges
from jobs.stages.receipts import WORK
from pipeline.pack import SceneSample, write_samples
from pipeline.relations import drawn_pairs
from pipeline.scene import GEOMETRIC, IMAGE, IN_IMAGE, Relation, Vocabulary

PHOTOS_PER_SHARD = 256
OBJECTS = 8  # of a photo
PATCH_PX = 64
FEATURES = 128  # numbers of an object's vector
K = 20  # candidates
CATEGORIES = 171  # COCO-Stuff's
WORDS = Vocabulary(
    (IMAGE, *(f"category {i:03d}" for i in range(CATEGORIES))), (IN_IMAGE, *GEOMETRIC)
)
SHARES = 1 / np.arange(1, CATEGORIES + 1)


def shard_names(folder: Path) -> list[str]:
    return sorted(p.name.split(".")[0] for p in (folder / WORK / "shards").glob("*.patches.arrow"))


def write_shards(folder: Path, patches: int, *, with_pixels: bool) -> None:
    """What cutting leaves, for `assemble`; with pixels a million patches take 17 GB."""
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
    pixels = [random.bytes(PATCH_PX**2 * 3 if with_pixels else 1) for _ in ids]
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
        write_patches(folder / "patches" / name, numbered, map_size(len(ids), PATCH_PX))


# Tables and parts as they are when a stage's parts are joined: only their shapes and ids matter


def write_tables(folder: Path, patches: int) -> None:
    """A bank's tables, without the shards: what the query plan is made from."""
    random = np.random.default_rng(0)
    images = np.arange(math.ceil(patches / OBJECTS))
    ids = (images[:, None] << 16 | np.arange(OBJECTS)).reshape(-1)
    splits = np.where(images % 10 > 0, "train", "val")
    shards = np.char.mod("shard-%05d", images // PHOTOS_PER_SHARD)
    codes = random.choice(CATEGORIES, len(ids), p=SHARES / SHARES.sum())
    columns = {
        "patch_id": ids,
        "image_id": ids >> 16,
        "object_index": ids & 0xFFFF,
        "category": pa.array(WORDS.objects[1:]).take(pa.array(codes)),
        **{corner: random.random(len(ids), np.float32) for corner in ("x0", "y0", "x1", "y1")},
        "source_width": np.full(len(ids), 640),
        "source_height": np.full(len(ids), 480),
        "split": pa.array(splits.repeat(OBJECTS)),
        **dict.fromkeys(("licence", "source_url", "photo_file"), pa.array([""] * len(ids))),
        "pixels_sha256": _digests(random, len(ids)),
    }
    folder.mkdir(exist_ok=True)
    save_table(folder / "patches.arrow", pa.table(columns, PATCHES))
    scenes = {name: np.zeros(len(images), np.int64) for name in SCENES.names}
    scenes |= {"image_id": images, "split": pa.array(splits), "shard": pa.array(shards)}
    scenes |= {"sample_sha256": _digests(random, len(images))}
    save_table(folder / "scenes.index.arrow", pa.table(scenes, SCENES))
    photos = {name: _digests(random, len(images)) for name in ("annotation_sha256", "sha256")}
    photos |= {"image_id": images, "shard": pa.array(shards), "bytes": images}
    save_table(folder / "photos.arrow", pa.table(photos, PHOTOS))
    write_vocabulary(folder / "vocabulary.json", WORDS)


def _digests(random: np.random.Generator, count: int) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(32), count, [None, pa.py_buffer(random.bytes(32 * count))]
    )


def write_vector_parts(plan: Path, parts: Path) -> None:
    random = np.random.default_rng(0)
    for start, stop in even_ranges(len(QueryPlan.open(plan).photos), vectors.PATCHES):
        part = _part(parts, start)
        some = random.random((stop - start, FEATURES), np.float32)
        (part / vectors.PART).write_bytes(some.data)


def write_candidate_parts(plan: Path, parts: Path) -> None:
    opened = QueryPlan.open(plan)
    for start, stop in opened.blocks:
        found = empty_candidates(stop - start, K)
        ids = _ids(opened.queries[start:stop])
        write_candidates(_part(parts, start) / search.PART, ids, found)


def write_index_parts(plan: Path, parts: Path) -> None:
    """Without FAISS's files, which are linked."""
    pools = QueryPlan.open(plan).pools
    for first, last in plan_index(pools):
        part = _part(parts, first)
        rows = pools.rows[pools.bounds[first] : pools.bounds[last]]
        save_array(part / IDS, _ids(rows))
        save_array(part / VECTORS, np.ones((len(rows), FEATURES), np.float32))
        (part / PART).write_text(json.dumps({}))


def write_quality_parts(plan: Path, parts: Path) -> None:
    random = np.random.default_rng(0)
    for start, stop in even_ranges(len(QueryPlan.open(plan).photos), OBJECTS * quality.SCENES):
        columns = [random.random(stop - start, np.float32) for _ in QUALITY.names[1:]]
        table = pa.table([_ids(np.arange(start, stop)), *columns], schema=QUALITY)
        save_table(_part(parts, start) / QUALITY_FILE, table)


def _ids(rows: np.ndarray) -> np.ndarray:
    """Of the patches in rows of the bank."""
    return rows // OBJECTS << 16 | rows % OBJECTS


def _part(parts: Path, start: int) -> Path:
    folder = parts / f"{start:012d}"
    folder.mkdir(parents=True)
    return folder


def _sample(random: np.random.Generator, image_id: int) -> SceneSample:
    categories = random.choice(CATEGORIES, OBJECTS, p=SHARES / SHARES.sum())
    pairs = list(drawn_pairs(image_id, OBJECTS))
    predicates = random.integers(len(GEOMETRIC), size=len(pairs)).tolist()
    return SceneSample(
        image=np.zeros((1, 1, 3), np.uint8),
        image_id=image_id,
        objects=tuple(WORDS.objects[1 + code] for code in categories),
        boxes=random.random((OBJECTS, 4), np.float32),
        triples=tuple(
            Relation(s, GEOMETRIC[p], o) for p, (s, o) in zip(predicates, pairs, strict=True)
        ),
        patch_ids=image_id << 16 | np.arange(OBJECTS),
        masks=random.integers(0, 2, (OBJECTS, 16, 16), np.uint8),
    )
