"""Two banks side by side: how much of them is the same, what differs first, and why it may.

Both are taken for whole (bank/verify.py). Tables are compared in blocks of rows, so memory does
not grow with what differs.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bank.bank import Bank
from bank.manifest import Manifest, is_derived
from bank.recipe import complete_recipe
from bank.table import PATCH_CONTENT, PHOTOS, SCENE_CONTENT, column, read_table, whole_column
from pipeline.scene import image_of
from pipeline.wording import counted

LEVELS = (
    "not even the same patch ids",
    "the same patch ids",
    "the same patches: pixels and metadata",
    "the same content: scenes and names too",
    "the same content and derived parts",
    "the same files, byte for byte",
)
SAME = 4  # the level from which on two banks are the same bank
ROWS_AT_ONCE = 1 << 14
PATCHES_AT_ONCE = 512
# What another version, instruction set or setting can alter.
MAY_ALTER = {
    "simplejpeg": "pixels of JPEGs",
    "pillow": "pixels of what is no plain JPEG, and of --resizer pillow",
    "pillow-simd": "pixels of what is no plain JPEG, and of --resizer pillow",
    "libjpeg of pillow": "pixels of JPEGs that simplejpeg does not read",
    "pycocotools": "masks",
    "torch": "resized pixels, networks, vectors",
    "numpy": "vectors",
    "instructions": "networks that are trained, hence vectors and candidates",
    "faiss-cpu": "files of index/",
    "faiss-gpu": "files of index/",
    "lmdb": "bytes of patches/, not what they say",
    "pyarrow": "bytes of the tables, not what they say",
    "webdataset": "bytes of scenes/, not what they say",
    "--shard-photos": "which file holds what, no more",
}


class Comparison(NamedTuple):
    level: int  # the highest of LEVELS that is reached
    causes: tuple[str, ...]  # how the manifests say the banks were built, where it differs
    differences: tuple[str, ...]  # in the banks themselves, content first


class Gap(NamedTuple):
    """How far the vectors of the same patches lie apart."""

    rows: int
    differ: int  # rows of these that are not equal
    largest: float  # difference of two numbers
    relative: float  # largest l2 distance of two vectors, over the longer one's length


class Overlap(NamedTuple):
    """How many candidates of the same objects are the same."""

    rows: int
    # Of an object's candidates that are the same, in any order; mean of the objects.
    fraction: float
    equal: int  # objects with the same candidates in the same order, as far as both go
    first: int  # objects with the same first candidate


def compare(a: Bank, b: Bank) -> Comparison:
    """Two whole banks."""
    common = _Common.of(a.patch_ids, b.patch_ids)
    patches = [*_only_in_one(a, b, common), *_patches(a, b, common, PATCH_CONTENT)]
    content = [*patches, *_scenes(a, b), *_names(a, b), *_photos(a, b)]
    reached = (
        common.all,
        not patches,
        a.content_digest == b.content_digest,
        a.manifest.derived_digest == b.manifest.derived_digest,
        a.manifest.files == b.manifest.files,
    )
    places = _patches(a, b, common, ("photo_file",))
    differences = (*content, *_derived(a, b, common), *places, *_files(a, b))
    # Each holds only where those before it do.
    return Comparison(sum(reached), tuple(_causes(a, b)), differences)


class _Common(NamedTuple):
    """Where the rows of two tables that have the same key lie."""

    in_a: NDArray[np.int64]
    in_b: NDArray[np.int64]
    all: bool  # neither has others

    @classmethod
    def of(cls, a: NDArray[np.int64], b: NDArray[np.int64]) -> "_Common":
        """Keys, rising and each once."""
        if np.array_equal(a, b):
            rows = np.arange(len(a))
            return cls(rows, rows, True)
        _, in_a, in_b = np.intersect1d(a, b, assume_unique=True, return_indices=True)
        return cls(in_a, in_b, False)

    def blocks(self, size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        for start in range(0, len(self.in_a), size):
            yield self.in_a[start : start + size], self.in_b[start : start + size]


# How they were built, by their manifests


def _causes(a: Bank, b: Bank) -> Iterator[str]:
    ours, theirs = a.manifest, b.manifest
    entries: tuple[tuple[str, Mapping[str, Any], Mapping[str, Any]], ...] = (
        ("setting", _settings(ours.recipe), _settings(theirs.recipe)),
        ("input", _short(ours.inputs), _short(theirs.inputs)),
        ("answer of the codec to", ours.codec, theirs.codec),
        ("version of", ours.versions, theirs.versions),
        ("machine's", ours.machine, theirs.machine),
        ("left out for", ours.left_out, theirs.left_out),
        ("rule of", _rule(ours), _rule(theirs)),
    )
    for what, mine, other in entries:
        yield from _unlike(what, mine, other)
    if ours.edits != theirs.edits:
        yield f"edits: A {_edits(ours.edits)}; B {_edits(theirs.edits)}"


def _unlike(what: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    """A line for each entry that is not the same."""
    for name in sorted(a.keys() | b.keys()):
        if a.get(name) != b.get(name):
            alters = f" (may alter {MAY_ALTER[name]})" if name in MAY_ALTER else ""
            values = f"A {a.get(name, 'none')}, B {b.get(name, 'none')}"
            yield f"{what} {name}: {values}{alters}"


def _settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """By flag."""
    settings = complete_recipe(recipe).items()
    return {f"--{name.replace('_', '-')}": value for name, value in settings}


def _short(digests: Mapping[str, str]) -> dict[str, str]:
    return {name: f"{digest[:12]}..." for name, digest in digests.items()}


def _rule(manifest: Manifest) -> dict[str, int]:
    return {"the content digest": manifest.content_rule}


def _edits(edits: tuple[Mapping[str, Any], ...]) -> str:
    if not edits:
        return "none"
    last = json.dumps(dict(edits[-1]), ensure_ascii=False)
    return f"{len(edits):,}, the last {last if len(last) <= 200 else last[:200] + '...'}"


# Content


def _only_in_one(a: Bank, b: Bank, common: _Common) -> Iterator[str]:
    """Patches that only one has."""
    if common.all:
        return
    for name, other_name, bank, other, rows in (
        ("A", "B", a, b, common.in_a),
        ("B", "A", b, a, common.in_b),
    ):
        alone = np.ones(len(bank), bool)
        alone[rows] = False
        if not alone.any():
            continue
        first = int(bank.patch_ids[int(alone.argmax())])
        (credit,) = bank.credits([first])
        reason = _left_out(other, first)
        yield (
            f"patches: {alone.sum():,} only in {name}, the first is {first}, a "
            f"{credit['category']} of photo {credit['image_id']}"
            + (f"; {other_name} left it out: {reason}" if reason else "")
        )


def _left_out(bank: Bank, patch_id: int) -> str:
    """Why, by failures.jsonl; empty where that does not say."""
    image_id, object_index = int(image_of(np.array(patch_id))), patch_id & 0xFFFF
    with bank.file("failures.jsonl").open("rb") as lines:
        for row in map(json.loads, lines):
            if row["image_id"] == image_id and row["object_index"] in (None, object_index):
                return f"{row['reason']}, {row['detail']}"
    return ""


def _patches(a: Bank, b: Bank, common: _Common, names: Sequence[str]) -> Iterator[str]:
    """A line for each of these columns of patches.arrow in which common patches differ."""
    for name in names:
        unlike = _unlike_rows(a.table, b.table, name, common)
        if not len(unlike):
            continue
        first = int(a.patch_ids[common.in_a[unlike[0]]])
        if name == "pixels_sha256":
            yield _pixels(a, b, a.patch_ids[common.in_a[unlike]])
        else:
            values = [
                column(bank.table.slice(int(rows[unlike[0]]), 1), name)[0]
                for bank, rows in ((a, common.in_a), (b, common.in_b))
            ]
            yield (
                f"patches: {len(unlike):,} with another {name}, the first is {first}: "
                f"A {values[0]}, B {values[1]}"
            )


def _unlike_rows(a: pa.Table, b: pa.Table, name: str, common: _Common) -> NDArray[np.int64]:
    """Positions among the common rows at which a column differs."""
    ours, theirs = whole_column(a, name), whole_column(b, name)
    rows, start = [], 0
    for in_a, in_b in common.blocks(ROWS_AT_ONCE):
        x, y = ours.take(pa.array(in_a)), theirs.take(pa.array(in_b))
        if not x.equals(y):
            # Null is like null, and unlike all else.
            unlike = pc.fill_null(pc.not_equal(x, y), pc.xor(pc.is_null(x), pc.is_null(y)))
            rows.append(start + np.flatnonzero(unlike.to_numpy(zero_copy_only=False)))
        start += len(in_a)
    return np.concatenate(rows) if rows else np.zeros(0, np.int64)


def _pixels(a: Bank, b: Bank, ids: NDArray[np.int64]) -> str:
    (credit,) = a.credits([int(ids[0])])
    photos = counted(len(np.unique(image_of(ids))), "photo")
    line = (
        f"patches: {len(ids):,} with other pixels, of {photos}, "
        f"the first is {ids[0]} of {credit['file']}"
    )
    if a.patch_size != b.patch_size:
        return f"{line}; their sides are {a.patch_size} and {b.patch_size} px"
    most, total = 0, 0
    for start in range(0, len(ids), PATCHES_AT_ONCE):
        some = ids[start : start + PATCHES_AT_ONCE]
        apart = np.abs(a.patches(some).astype(np.int16) - b.patches(some))
        most, total = max(most, int(apart.max())), total + int(apart.sum())
    mean = total / (len(ids) * a.patch_size**2 * 3)
    return f"{line}; by at most {most} of 255, {mean:.3g} on average"


def _scenes(a: Bank, b: Bank) -> Iterator[str]:
    ours, theirs = a.contents, b.contents
    common = _Common.of(ours.image_ids, theirs.image_ids)
    for name, num, both in (
        ("A", len(ours.image_ids), len(common.in_a)),
        ("B", len(theirs.image_ids), len(common.in_b)),
    ):
        if num > both:
            yield f"scenes: {num - both:,} only in {name}"
    for what in SCENE_CONTENT:
        unlike = _unlike_rows(ours.scenes, theirs.scenes, what, common)
        if not len(unlike):
            continue
        first = int(ours.image_ids[common.in_a[unlike[0]]])
        if what == "sample_sha256":
            parts = ", ".join(_unlike_parts(a, b, first))
            yield f"scenes: {len(unlike):,} with other contents, the first is {first} ({parts})"
        else:
            yield f"scenes: {len(unlike):,} with another {what}, the first is {first}"


def _unlike_parts(a: Bank, b: Bank, image_id: int) -> Iterator[str]:
    mine, other = a.scene(image_id), b.scene(image_id)
    for name, x, y in zip(mine._fields, mine, other, strict=True):
        same = x == y if isinstance(x, tuple) else np.array_equal(x, y)  # type: ignore[arg-type]
        if not same:
            yield name


def _names(a: Bank, b: Bank) -> Iterator[str]:
    ours, theirs = a.vocabulary, b.vocabulary
    for what in ("objects", "predicates"):
        mine, other = getattr(ours, what), getattr(theirs, what)
        if mine != other:
            only = [sorted(set(x) - set(y)) for x, y in ((mine, other), (other, mine))]
            said = "; ".join(
                f"only in {name}: {', '.join(words[:5])}{', ...' if len(words) > 5 else ''}"
                for name, words in zip("AB", only, strict=True)
                if words
            )
            yield f"names of {what}: {said or 'the same in another order'}"


def _photos(a: Bank, b: Bank) -> Iterator[str]:
    """Whether it was the photos that differed, or what was read from them."""
    paths = [bank.file("photos.arrow") for bank in (a, b)]
    if not all(path.is_file() for path in paths):  # banks of earlier versions have none
        return
    ours, theirs = (read_table(path, PHOTOS.names) for path in paths)
    ids = column(ours, "image_id")
    common = _Common.of(ids, column(theirs, "image_id"))
    for name, what in (("sha256", "bytes"), ("annotation_sha256", "annotations")):
        unlike = _unlike_rows(ours, theirs, name, common)
        if len(unlike):
            first = ids[common.in_a[unlike[0]]]
            yield f"photos: {len(unlike):,} with other {what}, the first is {first}"


# What is derived from it


def _derived(a: Bank, b: Bank, common: _Common) -> Iterator[str]:
    for network in ("graph_encoder.safetensors", "cooccurrence.safetensors"):
        if a.manifest.files.get(network) != b.manifest.files.get(network):
            yield f"{network}: other weights"
    for file, vectors in (
        ("features.arrow", Bank.features),
        ("cooccurrence.arrow", Bank.cooccurrence),
    ):
        if a.manifest.files[file] != b.manifest.files[file]:
            yield from _gap(file, gap(a, b, vectors, common))
    if a.manifest.files["candidates.arrow"] != b.manifest.files["candidates.arrow"]:
        yield from _overlap(overlap(a, b, common))


def gap(
    a: Bank,
    b: Bank,
    vectors: Callable[[Bank, NDArray[np.int64]], NDArray[np.float32]],
    common: _Common | None = None,
) -> Gap | None:
    """`vectors` is Bank.features or Bank.cooccurrence; None where their widths differ."""
    common = common or _Common.of(a.patch_ids, b.patch_ids)
    differ, largest, relative = 0, 0.0, 0.0
    for in_a, in_b in common.blocks(ROWS_AT_ONCE):
        x = vectors(a, a.patch_ids[in_a]).astype(np.float64)
        y = vectors(b, b.patch_ids[in_b]).astype(np.float64)
        if x.shape != y.shape:
            return None
        apart = np.linalg.norm(x - y, axis=1)
        longer = np.maximum(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))
        differ += int((apart > 0).sum())
        largest = max(largest, float(np.abs(x - y).max()))
        relative = max(relative, float((apart / longer.clip(min=1e-30)).max()))
    return Gap(len(common.in_a), differ, largest, relative)


def _gap(file: str, apart: Gap | None) -> Iterator[str]:
    if apart is None:
        yield f"{file}: vectors of other widths"
    elif apart.differ:
        yield (
            f"{file}: {apart.differ:,} of {apart.rows:,} vectors of the same patches differ, by at "
            f"most {apart.largest:.2g} in one number and {apart.relative:.2g} of a vector's length"
        )


def overlap(a: Bank, b: Bank, common: _Common | None = None) -> Overlap:
    common = common or _Common.of(a.patch_ids, b.patch_ids)
    total, equal, first = 0.0, 0, 0
    for in_a, in_b in common.blocks(PATCHES_AT_ONCE):
        x, y = a.candidates(a.patch_ids[in_a]), b.candidates(b.patch_ids[in_b])
        same = (x.ids[:, :, None] == y.ids[:, None, :]) & x.valid[:, :, None]
        num_valid = np.maximum(x.valid.sum(1), y.valid.sum(1))
        total += float((same.sum((1, 2)) / num_valid.clip(min=1)).sum() + (num_valid == 0).sum())
        k = min(x.ids.shape[1], y.ids.shape[1])
        equal += int((x.ids[:, :k] == y.ids[:, :k]).all(1).sum())
        first += int((x.ids[:, 0] == y.ids[:, 0]).sum())
    return Overlap(len(common.in_a), total / max(len(common.in_a), 1), equal, first)


def _overlap(same: Overlap) -> Iterator[str]:
    if same.equal < same.rows:
        yield (
            f"candidates.arrow: {100 * same.fraction:.2f} % of an object's candidates are the "
            f"same; {same.equal:,} of {same.rows:,} objects have all the same in the same order, "
            f"{same.first:,} the same nearest"
        )


def _files(a: Bank, b: Bank) -> Iterator[str]:
    """Files whose bytes differ: what they hold may be the same in another layout."""
    ours, theirs = a.manifest.files, b.manifest.files
    for what, wanted in (("derived", True), ("other", False)):
        unlike = [
            path
            for path in sorted(ours.keys() | theirs.keys())
            if is_derived(path) is wanted and ours.get(path) != theirs.get(path)
        ]
        if unlike:
            yield (f"files: {len(unlike):,} {what} with other bytes, the first is {unlike[0]}")
    if a.manifest.shards.keys() != b.manifest.shards.keys():
        yield (
            f"files: {counted(len(a.manifest.shards), 'shard')} in A, "
            f"{len(b.manifest.shards):,} in B (another --shard-photos, or --mode extend)"
        )
