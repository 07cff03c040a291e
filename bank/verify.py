"""Read a finished bank anew, byte for byte, and name everything that is not as it was written."""

import hashlib
import itertools
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bank.contents import Contents, content_digest
from bank.errors import BankError
from bank.files import FileDigest, file_digest
from bank.manifest import Manifest, derived_digest, read_manifest
from bank.shards import PatchStore, close_shards
from pipeline.pack import sample_digest
from pipeline.progress import progress
from pipeline.scene import image_of
from pipeline.wording import counted

PATCHES_AT_ONCE = 512
UNKNOWN = "cannot be computed"
TABLES = ("patches.arrow", "scenes.index.arrow", "photos.arrow", "vocabulary.json")


class Verification(NamedTuple):
    damages: tuple[str, ...]  # one line each; none means the bank is whole
    content_digest: str  # from the pixels and scenes as they are now
    derived_digest: str  # from the files as they are now


def verify(bank: Path) -> Verification:
    """BankError where there is no finished bank at all."""
    manifest = read_manifest(bank)
    files, damages = _check_files(bank, manifest)
    damages += [f"{path}: is not in the manifest" for path in _unlisted(bank, manifest)]
    derived = derived_digest(files)
    content, more = _check_contents(bank, manifest, files)
    damages += more
    for name, now, then in (
        ("content", content, manifest.content_digest),
        ("derived", derived, manifest.derived_digest),
    ):
        if now != then:
            damages.append(f"manifest.json: {name} digest is {now}, but was {then}")
    return Verification(tuple(damages), content, derived)


def _check_files(bank: Path, manifest: Manifest) -> tuple[dict[str, FileDigest], list[str]]:
    """Digests of the files that are there, and a line for each that is not as it was."""
    digests, damages = {}, []
    for path, then in progress(manifest.files.items(), "files", len(manifest.files), "file"):
        try:
            now = file_digest(bank / path)
        except OSError as error:
            damages.append(f"{path}: {error.strerror or error}")
            continue
        digests[path] = now
        if now != then:
            damages.append(f"{path}: {_change(now, then)}")
    return digests, damages


def _change(now: FileDigest, then: FileDigest) -> str:
    if now.bytes != then.bytes:
        return f"has {now.bytes:,} bytes, but had {then.bytes:,}"
    return f"has other bytes (SHA-256 {now.sha256[:12]}..., but was {then.sha256[:12]}...)"


def _unlisted(bank: Path, manifest: Manifest) -> Iterator[str]:
    """Files that the manifest lacks: readers of `scenes/*.tar` would take them for the bank's."""
    for pattern in ("patches/*/data.mdb", "scenes/*.tar", "index/**/*"):
        for path in sorted(bank.glob(pattern)):
            name = path.relative_to(bank).as_posix()
            if path.is_file() and name not in manifest.files:
                yield name


def _check_contents(
    bank: Path, manifest: Manifest, files: Mapping[str, FileDigest]
) -> tuple[str, list[str]]:
    """The content digest from the pixels and scenes themselves; a line per shard that differs.

    A file that is not as it was written is not opened: LMDB and Arrow trust what they map, and a
    file cut short would end this process.
    """
    whole = {path for path, digest in files.items() if manifest.files[path] == digest}
    if not whole.issuperset(manifest.files.keys() & TABLES):
        return UNKNOWN, []
    try:
        contents = Contents(bank, manifest.recipe["patch_size"])
        patches = Wrong("patches", contents.patch_ids, _wrong_patches(contents, whole))
        scenes = Wrong("scenes", contents.image_ids, _wrong_scenes(contents, whole))
        damages = [*_disagreements(contents, patches), *_disagreements(contents, scenes)]
        if b"" in (*patches.digests.values(), *scenes.digests.values()):
            return UNKNOWN, damages
        replaced = {
            "pixels_sha256": _replaced(contents.patches.digests, patches),
            "sample_sha256": _replaced(contents.sample_digests, scenes),
        }
        known = {name: digests for name, digests in replaced.items() if digests is not None}
        return content_digest(bank, known, manifest.content_rule), damages
    except BankError as error:
        return UNKNOWN, [str(error)]


class Wrong(NamedTuple):
    """Patches or scenes that are not what their table says."""

    folder: str
    ids: NDArray[np.int64]  # of all, in the order of the table
    digests: dict[int, bytes]  # row -> SHA-256 now; empty where it cannot be read


def _wrong_patches(contents: Contents, whole: Container[str]) -> dict[int, bytes]:
    wrong: dict[int, bytes] = {}
    store = contents.patches
    by_shard = np.argsort(store.shard_of, kind="stable")
    bounds = np.searchsorted(store.shard_of[by_shard], np.arange(len(store.shards) + 1))
    shards = zip(store.shards, itertools.pairwise(bounds.tolist()), strict=True)
    for shard, (start, stop) in progress(shards, "patches", len(store.shards), "shard"):
        rows = by_shard[start:stop]
        if f"patches/{shard}/data.mdb" not in whole:
            wrong |= dict.fromkeys(rows.tolist(), b"")
            continue
        for first in range(0, len(rows), PATCHES_AT_ONCE):
            wrong |= _wrong_of_block(store, rows[first : first + PATCHES_AT_ONCE])
        close_shards()
    return wrong


def _wrong_of_block(store: PatchStore, rows: NDArray[np.int64]) -> dict[int, bytes]:
    try:
        pixels = store.read(store.ids[rows], check=False)
    except BankError:
        if len(rows) == 1:
            return {int(rows[0]): b""}
        parts = [_wrong_of_block(store, row) for row in rows[:, None]]
        return {row: digest for part in parts for row, digest in part.items()}
    now = {int(row): hashlib.sha256(p).digest() for row, p in zip(rows, pixels, strict=True)}
    return {row: d for row, d in now.items() if d != store.digests[row].tobytes()}


def _wrong_scenes(contents: Contents, whole: Container[str]) -> dict[int, bytes]:
    wrong = {}
    ids = contents.image_ids
    shards = contents.shards_of_images(ids)
    scenes = zip(range(len(ids)), ids.tolist(), shards, strict=True)
    for row, image_id, shard in progress(scenes, "scenes", len(ids), "scene"):
        digest = b""
        if f"scenes/{shard}.tar" in whole:
            with suppress(BankError):
                digest = sample_digest(contents.scene(image_id, check=False))
        if digest != contents.sample_digests[row].tobytes():
            wrong[row] = digest
    return wrong


def _replaced(digests: NDArray[np.uint8], wrong: Wrong) -> bytes | None:
    """The column with the digests as they are now; None where it is the same."""
    if not wrong.digests:
        return None
    column = digests.copy()
    for row, digest in wrong.digests.items():
        column[row] = np.frombuffer(digest, np.uint8)
    return column.tobytes()


def _disagreements(contents: Contents, wrong: Wrong) -> Iterator[str]:
    """One line for each shard with wrong patches or scenes."""
    rows = np.array(sorted(wrong.digests), np.int64)
    ids = wrong.ids[rows]
    patches = wrong.folder == "patches"
    shards = contents.shards_of_images(image_of(ids) if patches else ids)
    noun = "patch" if patches else "scene"
    for shard in sorted(set(shards.tolist())):
        places = np.flatnonzero(shards == shard)
        what = (
            "with another SHA-256 than recorded"
            if any(wrong.digests[row] for row in rows[places].tolist())
            else "that cannot be read, as their file is damaged"
        )
        yield (
            f"{wrong.folder}/{shard}: {counted(len(places), noun)} {what}, the first is "
            f"{ids[places[0]]}"
        )
