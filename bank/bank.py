"""Open a built bank: patches, features, candidates, scenes, search."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bank.candidates import Candidates, read_candidates
from bank.contents import Contents
from bank.errors import BankError
from bank.exact_search import PADDING
from bank.folder import Files, Folder
from bank.index import Indexes
from bank.manifest import Manifest, check_sizes, check_small, read_manifest
from bank.mirror import CACHE_GB, Mirror, check_content, check_pin
from bank.quality import QUALITY_FILE, Quality, read_quality
from bank.recipe import Scope
from bank.shards import rows_of
from bank.table import column, read_vectors
from pipeline.address import Address, Location, location
from pipeline.pack import SceneSample
from pipeline.scene import Split, Vocabulary
from pipeline.wording import counted

INDEX = "index/"


class Bank:
    """A finished bank. Holds paths and mapped files, so it may be forked or pickled.

    Of one at an address, `path` is that address, and `file` brings what is asked for.
    """

    def __init__(self, files: Path | Mirror, manifest: Manifest) -> None:
        self.files: Files = files if isinstance(files, Mirror) else Folder(files)
        self.path = self.files.place
        self.manifest = manifest
        self.image_size: int = manifest.recipe["image_size"]  # px, of a scene's picture
        self.patch_size: int = manifest.recipe["patch_size"]  # px, of a patch
        self.contents = Contents(self.files.folder, self.patch_size, self.files)

    @classmethod
    def open(
        cls, path: Location | str, digest: str | None = None, cache_gb: float = CACHE_GB
    ) -> Self:
        """BankError where there is no finished bank of this format, or its files are not whole.

        Looked at are the sizes of all files and the bytes of the small ones. Patches and scenes
        are compared with their SHA-256 when they are first read; a changed byte in the tables of
        vectors, candidates and quality is found by `python -m jobs.verify_bank` alone.

        path      a folder, or an address whose files then come as they are needed, each compared
                  with its SHA-256 as it comes
        digest    64 hex digits that the bank must have: its content digest, which is computed from
                  its tables, or the `manifest_digest` of its manifest.json, which stands for every
                  byte of it
        cache_gb  of a bank at an address: GB that its scenes may take on this machine
        """
        place = location(path)
        if isinstance(place, Address):
            mirror = Mirror.open(place, digest, cache_gb)
            return cls(mirror, mirror.manifest)
        manifest = read_manifest(place)
        check_sizes(place, manifest)
        check_small(place, manifest)
        if digest is not None:
            check_pin(manifest, digest, place)
            check_content(manifest, place)
        return cls(place, manifest)

    def __reduce__(self) -> tuple[Callable[..., "Bank"], tuple[object, ...]]:
        if isinstance(self.path, Address):
            return _of_mirror, (self.files,)
        return type(self).open, (self.path,)

    def __repr__(self) -> str:
        return (
            f"Bank({str(self.path)!r}, {counted(len(self), 'patch')}, {self.content_digest[:12]})"
        )

    def file(self, name: str) -> Path:
        """The local path of one of the bank's files, `features.arrow`, fetched where it is not
        here. Of a file that this bank does not have, a path that leads to none."""
        return self.files.file(name)

    def fetch_patches(self, split: Split | None = None) -> None:
        """Have the patches of a split, or of all, on this machine: how much that is is said
        first. They stay, as candidates lie all over the bank."""
        contents = self.contents
        ids = contents.image_ids if split is None else contents.scene_ids(split)
        shards = sorted(set(contents.shards_of_images(ids).tolist()))
        self.files.fetch(f"patches/{shard}/data.mdb" for shard in shards)

    def refetch(self, name: str, error: BankError) -> Path:
        """For a file found damaged, short or gone: it is fetched anew where the bank is at an
        address and it is not as it was written; else `error` is raised."""
        return self.files.refetch(name, error)

    def __len__(self) -> int:
        return len(self.patch_ids)

    def __contains__(self, patch_id: int) -> bool:
        """Whether the bank has this patch."""
        row = bisect_left(self.patch_ids, patch_id)
        return row < len(self) and bool(self.patch_ids[row] == patch_id)

    @property
    def content_digest(self) -> str:
        return self.manifest.content_digest

    @property
    def num_candidates(self) -> int:
        """K, candidates stored per patch."""
        stored: int = self.manifest.recipe["candidates"]
        return stored

    @property
    def vocabulary(self) -> Vocabulary:
        return self.contents.vocabulary

    @property
    def table(self) -> pa.Table:
        """patches.arrow, memory-mapped."""
        return self.contents.table

    @property
    def patch_ids(self) -> NDArray[np.int64]:
        """(B,) rising."""
        return self.contents.patch_ids

    @property
    def has_masks(self) -> bool:
        """Whether the dataset has masks; an object without one then fills its box."""
        return self.contents.has_masks

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of patches among `patch_ids`; BankError for an id that is not there."""
        return self.contents.patches.rows(np.asarray(ids, np.int64))

    def patches(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(...) -> (..., patch_size, patch_size, 3) uint8; zeros for padding, a negative id.

        BankError, naming patch and file, where pixels are not those that were cut.
        """
        return self.contents.patches.read(ids)

    def features(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(...) -> (..., D), as wide as the bank's graph encoder; zeros for padding.

        Candidates are searched by these vectors.
        """
        return self._vectors(self._features, ids)

    def cooccurrence(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(...) -> (..., F), as wide as F_occur's output; zeros for padding.

        Patches of one photo lie close.
        """
        return self._vectors(self._cooccurrence, ids)

    def crops(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Where patches (...) were cut from: photo (...), box (..., 4); for padding -1 and zeros.

        A photo is the least image id that has its file, so one file under two ids is one photo.
        """
        return self.crops_at(self.padded_rows(ids))

    def padded_rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """`rows`, and -1 where there is padding, a negative id."""
        wanted = np.asarray(ids, np.int64)
        padding = wanted < 0
        if not padding.any():
            return self.rows(wanted)
        return np.where(padding, PADDING, self.rows(np.where(padding, self.patch_ids[0], wanted)))

    def crops_at(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """`crops` of the patches in these rows, with padding."""
        padding = rows < 0
        photos, boxes = self.contents.photos_of_patches[rows], self._boxes[rows]
        if padding.any():
            photos[padding], boxes[padding] = PADDING, 0
        return photos, boxes

    def cooccurrence_at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """`cooccurrence` of the patches in these rows, with padding."""
        return _at(self._cooccurrence, rows)

    def quality(self, ids: NDArray[np.int64]) -> Quality:
        """How much of their boxes the masks of patches (...) cover, and the boxes' sides in px.

        Padding has an unknown share and sides of 0. BankError where the bank has no quality.arrow.
        """
        wanted = np.asarray(ids, np.int64)
        present = wanted > PADDING
        rows = self.rows(wanted[present])
        shape, kind = wanted.shape, np.float32
        found = Quality(np.full(shape, np.nan, kind), np.zeros(shape, kind), np.zeros(shape, kind))
        for values, stored in zip(found, self._quality, strict=True):
            values[present] = stored[rows]
        return found

    def candidates(self, ids: NDArray[np.int64], k: int | None = None) -> Candidates:
        """The stored candidates (O, K) of the bank's own patches (O,), or the first k of them."""
        known, all_candidates = self._candidates
        rows = rows_of(known, np.asarray(ids, np.int64), self.path)
        most = self.num_candidates
        if k is not None and not 0 < k <= most:
            raise BankError(
                f"{self.path} has {most} candidates per object, asked for are {k}; "
                f"build it with --candidates {k}"
            )
        return Candidates(
            all_candidates.ids[rows, :k],
            all_candidates.distances[rows, :k],
            all_candidates.valid[rows, :k],
            all_candidates.fallback[rows, :k],
        )

    def search(
        self,
        features: NDArray[np.float32],
        categories: Sequence[str],
        k: int,
        exclude_images: Sequence[int] = (),
    ) -> Candidates:
        """Candidates for objects of any graph: features (O, D) and categories (O,).

        Patches of the photos in `exclude_images` are left out: for the graph of a training scene,
        give its image id, as no object's candidates come from its own photo (bank/own_photo.py).
        Own category first, or the nearest of any, as the bank's stored candidates.
        """
        scope: Scope = self.manifest.recipe["candidate_scope"]
        return self._indexes.search(features, categories, k, exclude_images, scope)

    def scene_ids(self, split: Split) -> NDArray[np.int64]:
        """Image ids of a split's scenes, rising."""
        return self.contents.scene_ids(split)

    def scene(self, image_id: int) -> SceneSample:
        return self.contents.scene(image_id)

    def credits(self, patch_ids: Sequence[int]) -> list[dict[str, Any]]:
        """patch_id, image_id, category, licence, source_url and file of each patch."""
        return self.contents.credits(patch_ids)

    @cached_property
    def _features(self) -> NDArray[np.float32]:
        return self._rows_of_patches("features.arrow", "feature")

    @cached_property
    def _cooccurrence(self) -> NDArray[np.float32]:
        return self._rows_of_patches("cooccurrence.arrow", "co_occurrence")

    @cached_property
    def _boxes(self) -> NDArray[np.float32]:
        """(B, 4)"""
        corners = [column(self.table, name) for name in ("x0", "y0", "x1", "y1")]
        return np.stack(corners, axis=-1).astype(np.float32)

    @cached_property
    def _quality(self) -> Quality:
        if QUALITY_FILE not in self.manifest.files:
            raise BankError(
                f"{self.path} has no {QUALITY_FILE}: it was built by an earlier version; "
                f"`python -m jobs.build_bank` with --mode overwrite makes one"
            )
        ids, quality = read_quality(self.file(QUALITY_FILE))
        self._check_ids(QUALITY_FILE, ids)
        return quality

    @cached_property
    def _candidates(self) -> tuple[NDArray[np.int64], Candidates]:
        return read_candidates(self.file("candidates.arrow"))

    @cached_property
    def _indexes(self) -> Indexes:
        self.files.fetch(name for name in self.manifest.files if name.startswith(INDEX))
        return Indexes.open(self.files.folder / INDEX, self.content_digest)

    def _rows_of_patches(self, file: str, name: str) -> NDArray[np.float32]:
        ids, vectors = read_vectors(self.file(file), name)
        self._check_ids(file, ids)
        return vectors

    def _check_ids(self, file: str, ids: NDArray[np.int64]) -> None:
        if not np.array_equal(ids, self.patch_ids):
            raise BankError(f"{self.path}/{file} is of other patches; build the bank again")

    def _vectors(self, vectors: NDArray[np.float32], ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return _at(vectors, self.padded_rows(ids))


def _at(vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of vectors; zeros for padding."""
    out: NDArray[np.float32] = np.asarray(vectors)[rows]
    padding = rows < 0
    if padding.any():
        out[padding] = 0
    return out


def _of_mirror(mirror: Mirror) -> Bank:
    return Bank(mirror, mirror.manifest)
