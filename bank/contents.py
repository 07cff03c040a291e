"""The part of a bank that is cut from photos: patches, table, scenes, vocabulary."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from tarfile import TarError
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bank.errors import BankError
from bank.files import canonical_json, file_digest
from bank.folder import Files, Folder
from bank.names import is_part
from bank.shards import PatchStore
from bank.table import (
    MEMBERS,
    PATCH_CONTENT,
    PATCHES,
    PHOTO_CONTENT,
    PHOTOS,
    SCENE_CONTENT,
    SCENES,
    codes,
    column,
    digest_column,
    interned_strings,
    read_table,
    rows_digest,
    sound,
)
from pipeline.checks import show
from pipeline.files import UNREADABLE, write_bytes
from pipeline.pack import (
    Member,
    SamplePlace,
    SceneSample,
    iterate_samples,
    read_sample,
    sample_digest,
)
from pipeline.scene import Split, Vocabulary, image_of

CONTENT_RULE = 2  # of `content_digest`; banks of earlier versions have 1
TABLES = ("patches.arrow", "scenes.index.arrow", "vocabulary.json")  # of `Contents`
CREDITS = ("patch_id", "image_id", "category", "licence", "source_url", "photo_file")


class Contents:
    """Patches and scenes of a bank, finished or still being built."""

    def __init__(self, folder: Path, patch_size: int, files: Files | None = None) -> None:
        """`files`: those of `folder`, where some are yet to come (bank/mirror.py)."""
        self.files = files or Folder(folder)
        self.folder = self.files.folder
        self.table = read_table(self.files.file("patches.arrow"), PATCHES.names)
        self.scenes = read_table(self.files.file("scenes.index.arrow"), SCENES.names)
        self.vocabulary = read_vocabulary(self.files.file("vocabulary.json"))
        self.patch_ids: NDArray[np.int64] = column(self.table, "patch_id")
        self.image_ids: NDArray[np.int64] = column(self.scenes, "image_id")
        self.splits: NDArray[np.object_] = interned_strings(self.scenes, "split")
        names, self._shard_of_scene = codes(self.scenes, "shard")
        if foreign := [name for name in names if not is_part(name)]:
            raise BankError(
                f"{self.files.place}, scenes.index.arrow: {show(foreign[0])} can be no shard's "
                f"name; build the bank again, and do not trust where this one came from"
            )
        self._shards = np.array(names, np.str_)
        self._places = {
            f"{m}_{what}": column(self.scenes, f"{m}_{what}")
            for m in MEMBERS
            for what in Member._fields
        }
        images = image_of(self.patch_ids)
        rows = np.searchsorted(self.image_ids, images)
        if not np.array_equal(self.image_ids.take(rows, mode="clip"), images):
            raise BankError(
                f"{self.files.place} has patches of photos that scenes.index.arrow does not name; "
                f"`python -m jobs.verify_bank {self.files.place}` names all that is damaged"
            )
        self.patches = PatchStore(
            self.folder / "patches",
            self.patch_ids,
            self._shard_of_scene[rows],
            self._shards.tolist(),
            patch_size,
            digest_column(self.table, "pixels_sha256"),
            self.files,
        )
        self.sample_digests = digest_column(self.scenes, "sample_sha256")
        self._checked = np.zeros(len(self.image_ids), bool)

    @cached_property
    def has_masks(self) -> bool:
        """Whether any scene has masks."""
        return bool((self._places["masks_size"] >= 0).any())

    def scene_ids(self, split: Split) -> NDArray[np.int64]:
        """Image ids of a split's scenes, rising."""
        ids: NDArray[np.int64] = self.image_ids[self.splits == split]
        return ids

    def scene(self, image_id: int, *, image: bool = True, check: bool = True) -> SceneSample:
        """One scene; `image=False` leaves its picture unread.

        A whole scene is compared with its recorded SHA-256 the first time it is read (in each
        process), unless `check=False`; BankError where they differ.
        """
        row = int(np.searchsorted(self.image_ids, image_id))
        if row == len(self.image_ids) or self.image_ids[row] != image_id:
            raise BankError(
                f"no scene {image_id} among the {len(self.image_ids):,} of {self.files.place}"
            )
        shard = f"scenes/{self._shards[self._shard_of_scene[row]]}.tar"
        path = self.files.file(shard)
        try:
            return self._read_scene(row, path, image=image, check=check)
        except BankError as error:
            path = self.files.refetch(shard, error)
            return self._read_scene(row, path, image=image, check=check)

    def _read_scene(self, row: int, path: Path, *, image: bool, check: bool) -> SceneSample:
        place = SamplePlace(
            *(
                Member(*(int(self._places[f"{m}_{what}"][row]) for what in Member._fields))
                for m in MEMBERS
            )
        )
        try:
            sample = read_sample(path, place, image=image)
            if check and image:
                self._check(row, sample)
            return sample
        except UNREADABLE as error:
            raise BankError(
                f"scene {self.image_ids[row]} cannot be read from {path} ({error}); "
                f"`python -m jobs.verify_bank {self.files.place}` names all that is damaged"
            ) from error

    def scenes_of_shard(self, shard: str) -> list[SceneSample]:
        """All scenes of a shard in the order in which they lie there, compared like single ones.

        BankError where the shard cannot be read to its end, or holds other scenes than
        scenes.index.arrow says.
        """
        file = f"scenes/{shard}.tar"
        path = self.files.file(file)
        try:
            return self._read_shard(shard, path)
        except BankError as error:
            return self._read_shard(shard, self.files.refetch(file, error))

    def _read_shard(self, shard: str, path: Path) -> list[SceneSample]:
        number = int(np.flatnonzero(self._shards == shard)[0])
        left = {int(i) for i in self.image_ids[self._shard_of_scene == number]}
        samples = []
        try:
            for sample in iterate_samples(path):
                left.remove(sample.image_id)
                self._check(int(np.searchsorted(self.image_ids, sample.image_id)), sample)
                samples.append(sample)
            if left:
                raise ValueError(f"it lacks scene {min(left)}")
            return samples
        except (*UNREADABLE, TarError) as error:
            raise BankError(
                f"{path} cannot be read ({error}); `python -m jobs.verify_bank "
                f"{self.files.place}` names all that is damaged"
            ) from error

    def _check(self, row: int, sample: SceneSample) -> None:
        """ValueError where a scene is not what was written; once for each in a process."""
        if not self._checked[row]:
            if sample_digest(sample) != self.sample_digests[row].tobytes():
                raise ValueError("it is not what was written: its SHA-256 differs")
            self._checked[row] = True

    def iterate(self, image_ids: Iterable[int], *, image: bool = True) -> Iterator[SceneSample]:
        return (self.scene(int(i), image=image) for i in image_ids)

    def num_patches_of_images(self, image_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N,) how many patches, and so objects, each photo has."""
        first, end = (
            np.searchsorted(self.patch_ids, ids << 16) for ids in (image_ids, image_ids + 1)
        )
        counts: NDArray[np.int64] = end - first
        return counts

    def patches_of_images(self, image_ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The patch ids of each photo, rising."""
        first = np.searchsorted(self.patch_ids, image_ids << 16)
        last = np.searchsorted(self.patch_ids, (image_ids + 1) << 16)
        return [self.patch_ids[a:b] for a, b in zip(first, last, strict=True)]

    @cached_property
    def photos(self) -> NDArray[np.int64]:
        """(N,) for each scene the least image id whose photo is the same file (SHA-256)."""
        path = self.files.file("photos.arrow")
        if not path.is_file():  # banks of earlier versions
            return self.image_ids
        photos = read_table(path, PHOTOS.names)
        photos = photos.filter(pc.is_valid(photos["sha256"])).sort_by("image_id").combine_chunks()
        ids = column(photos, "image_id")
        digests = digest_column(photos, "sha256")
        _, first, group = np.unique(digests, axis=0, return_index=True, return_inverse=True)
        least = ids[first][group.ravel()]  # ids rise, so the first of equal files has the least
        rows = np.searchsorted(ids, self.image_ids)
        known = ids.take(rows, mode="clip") == self.image_ids
        return np.where(known, least.take(rows, mode="clip"), self.image_ids)

    @cached_property
    def photos_of_patches(self) -> NDArray[np.int64]:
        """(B,) the photo of each patch, as `photos` names it."""
        rows = np.searchsorted(self.image_ids, image_of(self.patch_ids))
        photos: NDArray[np.int64] = self.photos[rows]
        return photos

    def equal_files(self) -> tuple[int, int]:
        """How many files have scenes under several ids, and how many of those in and out of train.

        Files are equal by their bytes, whatever their names.
        """
        _, scenes = np.unique(self.photos, return_inverse=True)
        of_train = np.bincount(scenes, self.splits == "train")
        all_of = np.bincount(scenes)
        again = all_of > 1
        return int(again.sum()), int((again & (of_train > 0) & (of_train < all_of)).sum())

    def shards_of_images(self, image_ids: NDArray[np.int64]) -> NDArray[np.str_]:
        """The name of the shard that holds each photo's patches and scene."""
        shards: NDArray[np.str_] = self._shards[
            self._shard_of_scene[np.searchsorted(self.image_ids, image_ids)]
        ]
        return shards

    def rows_of_shard(self, shard: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rising rows of patches.arrow and of scenes.index.arrow that lie in a shard."""
        number = self.patches.shards.index(shard)
        patches = np.flatnonzero(self.patches.shard_of == number)
        return patches, np.flatnonzero(self._shard_of_scene == number)

    def strings(self, name: str) -> list[str]:
        """A text column of patches.arrow; equal rows are one string."""
        values: list[str] = interned_strings(self.table, name).tolist()
        return values

    def credits(self, patch_ids: Sequence[int]) -> list[dict[str, Any]]:
        """For each patch: which photo it is of, whose terms apply, where the photo can be seen."""
        rows = self.patches.rows(np.asarray(patch_ids, np.int64))
        with sound(f"{self.files.place}/patches.arrow"):
            table = self.table.select(CREDITS)
            for row in rows.tolist():
                table.slice(row, 1).validate(full=True)
            credits = table.take(pa.array(rows)).to_pylist()
        return [{"file": row.pop("photo_file"), **row} for row in credits]


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    write_bytes(path, canonical_json(vocabulary.to_json()) + b"\n")


def read_vocabulary(path: Path) -> Vocabulary:
    try:
        return Vocabulary.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BankError(f"{path} is missing or damaged ({error}); build the bank again") from error


def content_digest(
    folder: Path, replaced: Mapping[str, bytes] | None = None, rule: int = CONTENT_RULE
) -> str:
    """The root over vocabulary, patches, scenes and their photos, whatever shards they lie in.

    replaced    columns of digests computed anew from pixels and scenes, end to end
    rule        2: a photo counts by its image id and the SHA-256 of its file; 1: by its path
    """
    patches = read_table(folder / "patches.arrow", PATCHES.names)
    scenes = read_table(folder / "scenes.index.arrow", SCENES.names).select(SCENE_CONTENT)
    parts = [
        f"retrievegan bank content {rule}",
        file_digest(folder / "vocabulary.json").sha256,
        rows_digest(patches.select(PATCHES.names if rule == 1 else PATCH_CONTENT), replaced),
        rows_digest(scenes, replaced),
    ]
    if rule > 1:
        photos = read_table(folder / "photos.arrow", PHOTOS.names).select(PHOTO_CONTENT)
        with_scene = pc.is_in(photos["image_id"], value_set=scenes["image_id"])
        parts.append(rows_digest(photos.filter(with_scene)))
    return hashlib.sha256(canonical_json(parts)).hexdigest()
