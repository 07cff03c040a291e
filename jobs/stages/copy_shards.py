"""A finished bank -> the shards of its next version, without some photos.

From the bank alone: neither photos nor annotations are needed. Files of shards that lose nothing
are linked, so the next version costs no second copy; the others are written anew, without the bytes
of what left.
"""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bank.contents import Contents
from bank.errors import BankError
from bank.files import FileDigest, canonical_json, file_digest
from bank.manifest import Manifest, check_sizes, read_manifest
from bank.shards import map_size, write_patches
from bank.table import PHOTOS, SCENES, column, read_table, scene_row, write_table
from jobs.stages.cutting import CutShard, shard_files
from jobs.stages.receipts import WORK, Receipt
from pipeline.files import link_or_copy, put_in_place
from pipeline.pack import write_samples
from pipeline.scene import LeftOut, image_of

PATCHES_AT_ONCE = 512


def copy_shards(
    bank: Path, target_bank: Path, without: Collection[int] = ()
) -> dict[str, CutShard]:
    """Put the shards' files and records into `target_bank`; every shard by name.

    without    image ids that are left out
    """
    manifest = read_manifest(bank)
    check_sizes(bank, manifest)
    photos = read_photos(bank)
    contents = Contents(bank, manifest.recipe["patch_size"])
    gone = np.fromiter(sorted(without), np.int64)
    names = sorted(manifest.shards)
    shards = np.searchsorted(names, column(photos, "shard").astype(str))
    images = column(photos, "image_id")
    tables = {
        "patches": (contents.table, image_of(contents.patch_ids)),
        "scenes": (contents.scenes, contents.image_ids),
        "photos": (photos, images),
    }
    rows = {
        name: _rows_by_shard(ids, images, shards, gone, len(names))
        for name, (_, ids) in tables.items()
    }
    failures = _failures_by_shard(bank, images, shards, gone, names)
    copied = {}
    for number, shard in enumerate(names):
        parts = {name: table.take(rows[name][number]) for name, (table, _) in tables.items()}
        copied[shard] = _copy_shard(contents, target_bank, manifest, shard, parts, failures[shard])
    return copied


def read_photos(bank: Path) -> pa.Table:
    """photos.arrow: what the bank knows of every photo of its shards."""
    if not (bank / "photos.arrow").is_file():
        raise BankError(
            f"{bank} has no photos.arrow: it was built by an earlier version and can only be "
            f"built again (--mode overwrite)"
        )
    return read_table(bank / "photos.arrow", PHOTOS.names)


def _rows_by_shard(
    ids: NDArray[np.int64],
    images: NDArray[np.int64],
    shards: NDArray[np.int64],
    gone: NDArray[np.int64],
    count: int,
) -> list[NDArray[np.int64]]:
    """For each shard the rows whose image id lies in it, in their order."""
    kept = np.flatnonzero(~np.isin(ids, gone))
    places = shards[np.searchsorted(images, ids[kept])]
    order = np.argsort(places, kind="stable")
    bounds = np.searchsorted(places[order], np.arange(count + 1))
    return [kept[order[a:b]] for a, b in pairwise(bounds)]


def _failures_by_shard(
    bank: Path,
    images: NDArray[np.int64],
    shards: NDArray[np.int64],
    gone: NDArray[np.int64],
    names: Sequence[str],
) -> dict[str, list[LeftOut]]:
    """Without those of quarantined photos, which are in no shard."""
    failures: dict[str, list[LeftOut]] = {name: [] for name in names}
    kept = set(images.tolist()) - set(gone.tolist())
    for row in read_failures(bank):
        if row.image_id in kept:
            failures[names[shards[np.searchsorted(images, row.image_id)]]].append(row)
    return failures


def read_failures(bank: Path) -> Iterator[LeftOut]:
    """The rows of failures.jsonl."""
    path = bank / "failures.jsonl"
    try:
        with path.open("rb") as lines:
            for line in lines:
                yield LeftOut(**json.loads(line))
    except (OSError, ValueError, TypeError) as error:
        raise BankError(f"{path} is missing or damaged ({error}); build the bank again") from error


def _copy_shard(
    contents: Contents,
    target_bank: Path,
    manifest: Manifest,
    shard: str,
    parts: Mapping[str, pa.Table],
    failures: Sequence[LeftOut],
) -> CutShard:
    counts = {name: parts[name].num_rows for name in ("photos", "scenes", "patches")}
    before = manifest.shards[shard]
    scenes = parts["scenes"]
    outputs: dict[str, FileDigest] = {}
    whole = all(counts[kind] == before[kind] for kind in ("scenes", "patches"))
    if whole:
        outputs = _link(contents.folder, target_bank, manifest, shard)
    elif scenes.num_rows:
        scenes = _write_anew(contents, target_bank, manifest, shard, parts)
        outputs = {p: file_digest(target_bank / p) for p in shard_files(shard)[:2]}
    records = target_bank / WORK / "shards"
    for name, table in {**parts, "scenes": scenes}.items():
        write_table(records / f"{shard}.{name}.arrow", table)
    text = canonical_json([asdict(row) for row in failures])
    (records / f"{shard}.failures.json").write_bytes(text)
    receipt = Receipt(f"cut-{shard}", f"copied from {manifest.content_digest}", outputs, counts)
    return CutShard(shard, receipt, fresh=not whole)


def _link(bank: Path, target_bank: Path, manifest: Manifest, shard: str) -> dict[str, FileDigest]:
    files = [path for path in shard_files(shard)[:2] if path in manifest.files]
    for path in files:
        target = target_bank / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        link_or_copy(bank / path, target)
    return {path: manifest.files[path] for path in files}


def _write_anew(
    contents: Contents,
    target_bank: Path,
    manifest: Manifest,
    shard: str,
    parts: Mapping[str, pa.Table],
) -> pa.Table:
    """The shard's patches and packed scenes that stay; where the scenes lie now."""
    folder = target_bank / WORK / "tmp" / shard
    shutil.rmtree(folder, ignore_errors=True)
    lmdb, tar = (folder / path for path in shard_files(shard)[:2])
    for parent in (lmdb.parent, tar.parent):
        parent.mkdir(parents=True)
    ids = column(parts["patches"], "patch_id")
    size = map_size(len(ids), manifest.recipe["patch_size"])
    write_patches(lmdb.parent, _pixels(contents, ids), size)
    images = column(parts["scenes"], "image_id").tolist()
    splits = column(parts["scenes"], "split").tolist()
    places = write_samples(tar, contents.iterate(images))
    rows = [
        scene_row(contents.scene(image_id), split, shard, place)
        for image_id, split, place in zip(images, splits, places, strict=True)
    ]
    for path in (lmdb, tar):
        put_in_place(path, target_bank / path.relative_to(folder))
    shutil.rmtree(folder)
    return pa.Table.from_pylist(rows, SCENES)


def _pixels(contents: Contents, ids: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(ids), PATCHES_AT_ONCE):
        some = ids[start : start + PATCHES_AT_ONCE]
        for patch_id, pixels in zip(some.tolist(), contents.patches.read(some), strict=True):
            yield patch_id, pixels.tobytes()
