"""A finished bank -> its statistics: counts, sizes, licences, duplicates, recall and failures.

Every file is compared with its recorded digest before it is read. Patches are read shard by shard,
each a task of its own, so that the memory needed is some hundred bytes a patch whatever their
pixels weigh.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bank.bank import Bank
from bank.contents import TABLES
from bank.duplicates import (
    Duplicates,
    Fingerprints,
    Groups,
    fingerprints_of,
    near_duplicates,
)
from bank.errors import BankError
from bank.files import FileDigest, file_digest
from bank.manifest import check_sizes, read_manifest
from bank.quality import QUALITY_FILE, box_sides
from bank.shards import close_shards
from bank.table import column, read_table
from bank.tasks import Place, Results, check_visible, contents_at, here
from pipeline.address import Address, Location
from pipeline.progress import progress
from pipeline.scene import IMAGE, SPLITS, Split, image_of

BLOCK = 1024  # patches read at once: 12 MB of pixels
EXAMPLES = 3  # failures shown for each reason
MOST_REASONS = 50
SIZES_PX = (0, 8, 16, 32, 64, 128, 256, 512)  # a side's length falls between two of these


class CategoryCount(NamedTuple):
    """One name of the vocabulary."""

    name: str
    splits: tuple[int, int, int]  # patches: train, val, test
    photos: int
    side_px: float  # median of the square root of the boxes' areas, in the photo
    fallback: float  # fraction of its patches' candidates that are of another category
    alike: float  # fraction of its patches that have a near duplicate in another photo
    recall: float | None  # of its index against exact search; None: no training patch
    mask_share: float | None  # of a box that its mask covers, median; None: unknown of every patch

    @property
    def patches(self) -> int:
        return sum(self.splits)


class SizeCount(NamedTuple):
    """Boxes whose side lies in [least, under) px of the photo."""

    least: int
    under: int | None
    shorter: int  # boxes, by their shorter side
    longer: int  # ... and by their longer


class Failure(NamedTuple):
    reason: str
    times: int
    examples: tuple[str, ...]


class DuplicateCount(NamedTuple):
    """How many patches have a duplicate."""

    anywhere: int
    other_photo: int
    in_training: int  # validation and test patches that training has as well


class MaskShares(NamedTuple):
    """How much of their boxes the masks cover."""

    quantiles: tuple[float, float, float]  # 10 %, 50 %, 90 % of the known
    unknown: int  # patches


class Statistics(NamedTuple):
    patches: int
    photos: int
    splits: tuple[int, int, int]  # patches: train, val, test
    categories: tuple[CategoryCount, ...]  # all of the vocabulary, in its order
    sizes: tuple[SizeCount, ...]
    enlarged: float  # fraction of boxes with a side shorter than a patch's
    wholly_enlarged: float  # ... with both
    side_px: tuple[float, float, float]  # 10 %, 50 %, 90 % of the square roots of areas
    mask_shares: MaskShares | None  # None: unknown of every patch
    licences: tuple[tuple[str, int, int], ...]  # name, patches, photos: most patches first
    equal: DuplicateCount
    alike: DuplicateCount  # equal or near duplicates
    flat: int  # patches too flat to be compared
    pairs: tuple[tuple[int, int], ...]  # patch ids of some near duplicates in two photos
    fallback: float  # fraction of all candidates
    candidates: int  # K
    failures: tuple[Failure, ...]  # most frequent first
    left_out: int

    @property
    def empty(self) -> tuple[CategoryCount, ...]:
        return tuple(c for c in self.categories if not c.patches)

    @property
    def thin(self) -> tuple[CategoryCount, ...]:
        """With patches, but fewer in training than candidates per object."""
        return tuple(c for c in self.categories if c.patches and c.splits[0] < self.candidates)


def open_checked(path: Location, digest: str | None = None) -> Bank:
    """BankError where the tables are not as they were written: Arrow trusts what it maps."""
    if not isinstance(path, Address):  # a mirror looks at them by itself
        manifest = read_manifest(path)
        check_sizes(path, manifest)
        for name in TABLES:
            check_digest(path, name, manifest.files.get(name))
    return Bank.open(path, digest)


def check_digest(bank: Path, name: str, then: FileDigest | None) -> None:
    """BankError for a file that has changed since it was written."""
    try:
        now = file_digest(bank / name)
    except OSError as error:
        raise BankError(f"{bank / name} cannot be read ({error.strerror})") from error
    if now != then:
        raise BankError(
            f"{bank / name} is not as it was written; `python -m jobs.verify_bank {bank}` names "
            f"all that is damaged"
        )


def _check_recorded(bank: Bank, name: str) -> None:
    bank.file(name)
    check_digest(bank.files.folder, name, bank.manifest.files.get(name))


def collect_statistics(bank: Bank, results: Results = here) -> Statistics:
    """Reads every patch once; `results` has the shards read."""
    table, size = bank.table, len(bank)
    groups = _groups(bank)
    fingerprints = read_fingerprints(bank, results)
    alike, examples = groups.alike(near_duplicates(fingerprints.take(groups.first)))
    fallback, valid = read_fallback(bank)
    widths, heights = box_sides(table)
    sides = np.sqrt(widths * heights)  # of squares as large
    shorter, longer = np.minimum(widths, heights), np.maximum(widths, heights)
    masks = read_mask_shares(bank)
    failures = count_failures(bank)
    return Statistics(
        patches=size,
        photos=len(np.unique(groups.images)),
        splits=_by_split(table),
        categories=_categories(bank, sides, fallback, valid, alike, masks),
        sizes=_sizes(shorter, longer),
        enlarged=float((shorter < bank.patch_size).mean()),
        wholly_enlarged=float((longer < bank.patch_size).mean()),
        side_px=tuple(np.quantile(sides, (0.1, 0.5, 0.9)).tolist()),
        mask_shares=_mask_shares(masks),
        licences=_licences(table, groups.images),
        equal=_count(groups.equal()),
        alike=_count(alike),
        flat=int(fingerprints.flat.sum()),
        pairs=tuple((int(bank.patch_ids[a]), int(bank.patch_ids[b])) for a, b in examples),
        fallback=float(fallback.sum() / max(1, valid.sum())),
        candidates=bank.num_candidates,
        failures=failures,
        left_out=sum(failure.times for failure in failures),
    )


def scenes_like_training(bank: Bank, split: Split, results: Results = here) -> NDArray[np.int64]:
    """Image ids, rising, of the scenes of a held-out split that look like training photos.

    A scene does where one of its patches is equal to a training patch or a near duplicate of one,
    and where its photo's file is a training photo's as well. Reads every patch once; `results` has
    the shards read.
    """
    groups = _groups(bank)
    fingerprints = read_fingerprints(bank, results).take(groups.first)
    alike, _ = groups.alike(near_duplicates(fingerprints))
    files = bank.contents.photos_of_patches
    same_file = np.isin(files, files[groups.train])
    asked = _equal(bank.table, "split", split)
    return np.unique(groups.images[asked & (alike.in_training | same_file)])


def _groups(bank: Bank) -> Groups:
    """The bank's patches by their pixels."""
    train = _equal(bank.table, "split", "train")
    return Groups(_codes(bank.table, "pixels_sha256"), image_of(bank.patch_ids), train)


@dataclass(frozen=True)
class PatchesOfShard:
    """A task: the patches of one shard."""

    place: Place
    shard: str
    digest: FileDigest | None  # of their file, as recorded


def read_fingerprints(bank: Bank, results: Results = here) -> Fingerprints:
    """Of every patch, shard by shard."""
    bank.fetch_patches()
    place = Place.of(bank.files.folder, bank.manifest)
    tasks = [
        PatchesOfShard(place, shard, bank.manifest.files.get(_patches_of(shard)))
        for shard in bank.contents.patches.shards
    ]
    fingerprints = Fingerprints.empty(len(bank))
    done = results(fingerprint_shard, tasks)
    shown = progress(done, "patches", len(bank), "patch", size=lambda done: len(done[1].dhashes))
    for shard, some in shown:
        rows, _ = bank.contents.rows_of_shard(shard)
        fingerprints.dhashes[rows], fingerprints.thumbnails[rows] = some
    return fingerprints


def fingerprint_shard(task: PatchesOfShard) -> tuple[str, Fingerprints]:
    """The shard, and the fingerprints of its patches by rising id: 64 bytes each."""
    check_visible(task.place.bank)
    check_digest(task.place.bank, _patches_of(task.shard), task.digest)
    contents = contents_at(task.place)
    rows, _ = contents.rows_of_shard(task.shard)
    fingerprints = Fingerprints.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        some = slice(start, start + BLOCK)
        # Unchecked: the whole file has just been compared with its digest.
        pixels = contents.patches.read(contents.patch_ids[rows[some]], check=False)
        fingerprints.dhashes[some], fingerprints.thumbnails[some] = fingerprints_of(pixels)
    close_shards()
    return task.shard, fingerprints


def _patches_of(shard: str) -> str:
    return f"patches/{shard}/data.mdb"


def read_fallback(bank: Bank) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of every patch (B,): candidates of another category, and candidates at all."""
    _check_recorded(bank, "candidates.arrow")
    path = bank.file("candidates.arrow")
    table = read_table(path, ("patch_id", "fallback", "valid"))
    if not np.array_equal(column(table, "patch_id"), bank.patch_ids):
        raise BankError(f"{path} is of other patches; build the bank again")
    return _true_per_row(table, "fallback"), _true_per_row(table, "valid")


def _true_per_row(table: pa.Table, name: str) -> NDArray[np.int64]:
    lists = table.column(name).combine_chunks()
    values = lists.flatten().to_numpy(zero_copy_only=False)
    counts: NDArray[np.int64] = values.reshape(len(lists), -1).sum(1, dtype=np.int64)
    return counts


def read_mask_shares(bank: Bank) -> NDArray[np.float32]:
    """(B,) of each box, the share that its mask covers; NaN where unknown."""
    if QUALITY_FILE not in bank.manifest.files:  # banks of earlier versions
        return np.full(len(bank), np.nan, np.float32)
    _check_recorded(bank, QUALITY_FILE)
    return bank.quality(bank.patch_ids).mask_share


def read_recalls(bank: Bank) -> Mapping[str, float]:
    """Category -> fraction of exact neighbours that its index finds; 1 where none is recorded."""
    _check_recorded(bank, "index/index.json")
    try:
        about = json.loads(bank.file("index/index.json").read_bytes())
        parts = about["categories"].items()
        recalls = {name: part.get("recall") for name, part in parts}
        return {name: 1.0 if recall is None else float(recall) for name, recall in recalls.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BankError(f"{bank.path}/index/index.json is damaged ({error})") from error


def count_failures(bank: Bank) -> tuple[Failure, ...]:
    """Of failures.jsonl, by reason."""
    _check_recorded(bank, "failures.jsonl")
    counts, examples = Counter[str](), dict[str, list[str]]()
    with bank.file("failures.jsonl").open("rb") as lines:
        for line in lines:
            row = json.loads(line)
            counts[row["reason"]] += 1
            shown = examples.setdefault(row["reason"], [])
            if len(shown) < EXAMPLES:
                shown.append(_describe_failure(row))
    return tuple(
        Failure(reason, count, tuple(examples[reason]))
        for reason, count in counts.most_common(MOST_REASONS)
    )


def _describe_failure(row: Mapping[str, Any]) -> str:
    of = "" if row["object_index"] is None else f", object {row['object_index']}"
    return f"photo {row['image_id']}{of}: {row['detail']}"


def _mask_shares(shares: NDArray[np.float32]) -> MaskShares | None:
    known = shares[~np.isnan(shares)]
    if not known.size:
        return None
    tenth, median, most = np.quantile(known, (0.1, 0.5, 0.9)).tolist()
    return MaskShares((tenth, median, most), shares.size - known.size)


def _sizes(shorter: NDArray[np.float32], longer: NDArray[np.float32]) -> tuple[SizeCount, ...]:
    bounds = [*SIZES_PX, np.inf]
    counts = zip(np.histogram(shorter, bounds)[0], np.histogram(longer, bounds)[0], strict=True)
    unders = (*SIZES_PX[1:], None)
    return tuple(
        SizeCount(least, under, int(short), int(long))
        for least, under, (short, long) in zip(SIZES_PX, unders, counts, strict=True)
    )


def _categories(
    bank: Bank,
    sides: NDArray[np.float32],
    fallback: NDArray[np.int64],
    valid: NDArray[np.int64],
    alike: Duplicates,
    masks: NDArray[np.float32],
) -> tuple[CategoryCount, ...]:
    """Of every name in the vocabulary, and of one that only the table has."""
    codes, present = _coded(bank.table, "category")
    splits = np.stack([_equal(bank.table, "split", split) for split in SPLITS], 1)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(present) + 1))
    recalls = read_recalls(bank)
    counts = {}
    for number, name in enumerate(present):
        rows = order[bounds[number] : bounds[number + 1]]
        train, val, test = splits[rows].sum(0).tolist()
        of_masks = _mask_shares(masks[rows])
        counts[name] = CategoryCount(
            name=name,
            splits=(train, val, test),
            photos=len(np.unique(image_of(bank.patch_ids[rows]))),
            side_px=float(np.median(sides[rows])),
            fallback=float(fallback[rows].sum() / max(1, valid[rows].sum())),
            alike=float(alike.other_photo[rows].mean()),
            recall=recalls.get(name, 1.0) if train else None,
            mask_share=of_masks.quantiles[1] if of_masks else None,
        )
    names = dict.fromkeys([*bank.vocabulary.objects, *present])
    none = (0, 0, 0)
    return tuple(
        counts.get(name) or CategoryCount(name, none, 0, 0.0, 0.0, 0.0, None, None)
        for name in names
        if name != IMAGE
    )


def _licences(table: pa.Table, images: NDArray[np.int64]) -> tuple[tuple[str, int, int], ...]:
    codes, names = _coded(table, "licence")
    patches = np.bincount(codes, minlength=len(names))
    _, first = np.unique(images, return_index=True)
    photos = np.bincount(codes[first], minlength=len(names))
    order = np.argsort(-patches, kind="stable")
    return tuple((names[i], int(patches[i]), int(photos[i])) for i in order)


def _by_split(table: pa.Table) -> tuple[int, int, int]:
    train, val, test = (int(_equal(table, "split", split).sum()) for split in SPLITS)
    return train, val, test


def _count(duplicates: Duplicates) -> DuplicateCount:
    return DuplicateCount(*(int(flags.sum()) for flags in duplicates))


def _equal(table: pa.Table, name: str, value: str) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = pc.equal(table.column(name), value).to_numpy()
    return flags


def _coded(table: pa.Table, name: str) -> tuple[NDArray[np.int64], Sequence[str]]:
    """A text column as numbers, and the names they stand for."""
    coded = table.column(name).combine_chunks().dictionary_encode()
    return coded.indices.to_numpy().astype(np.int64), coded.dictionary.to_pylist()


def _codes(table: pa.Table, name: str) -> NDArray[np.int64]:
    """A column as numbers, equal where its values are."""
    coded = table.column(name).combine_chunks().dictionary_encode()
    codes: NDArray[np.int64] = coded.indices.to_numpy().astype(np.int64)
    return codes
