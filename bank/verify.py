"""Read a finished bank anew, byte for byte, and name everything that is not as it was written."""

import hashlib
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bank.contents import Contents, content_digest
from bank.errors import BankError
from bank.files import FileDigest, file_digest
from bank.manifest import Manifest, derived_digest, read_manifest
from bank.table import column
from pipeline.pack import sample_digest
from pipeline.progress import progress
from pipeline.scene import image_of

UNKNOWN = "cannot be computed"
TABLES = ("patches.arrow", "scenes.index.arrow", "vocabulary.json")


class Verdict(NamedTuple):
    damages: tuple[str, ...]  # one line each; none means the bank is whole
    content_digest: str  # from the pixels and scenes as they are now
    derived_digest: str  # from the files as they are now


def verify(bank: Path) -> Verdict:
    """BankError where there is no finished bank at all."""
    manifest = read_manifest(bank)
    files, damages = _check_files(bank, manifest)
    damages += [f"{path}: is not in the manifest" for path in _strangers(bank, manifest)]
    derived = derived_digest(files)
    content, found = _check_contents(bank, manifest, files)
    damages += found
    for name, now, then in (
        ("content", content, manifest.content_digest),
        ("derived", derived, manifest.derived_digest),
    ):
        if now != then:
            damages.append(f"manifest.json: {name} digest is {now}, but was {then}")
    return Verdict(tuple(damages), content, derived)


def _check_files(bank: Path, manifest: Manifest) -> tuple[dict[str, FileDigest], list[str]]:
    """Digests of the files that are there, and a line for each that is not as it was."""
    found, damages = {}, []
    for path, then in progress(manifest.files.items(), "files", len(manifest.files), "file"):
        try:
            now = file_digest(bank / path)
        except OSError as error:
            damages.append(f"{path}: {error.strerror or error}")
            continue
        found[path] = now
        if now != then:
            damages.append(f"{path}: {_change(now, then)}")
    return found, damages


def _change(now: FileDigest, then: FileDigest) -> str:
    if now.bytes != then.bytes:
        return f"has {now.bytes:,} bytes, but had {then.bytes:,}"
    return f"has other bytes (SHA-256 {now.sha256[:12]}..., but was {then.sha256[:12]}...)"


def _strangers(bank: Path, manifest: Manifest) -> Iterator[str]:
    """Shards that nobody wrote: a reader of `scenes/*.tar` would take them for the bank's."""
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
    if not whole.issuperset(TABLES):
        return UNKNOWN, []
    try:
        contents = Contents(bank, manifest.recipe["patch_size"])
        pixels = _patch_digests(contents, whole)
        samples = _scene_digests(contents, whole)
        damages = _disagreements(contents, pixels, samples)
        replaced = {"pixels_sha256": pixels, "sample_sha256": samples}
        if b"" in pixels or b"" in samples:
            return UNKNOWN, damages
        return content_digest(bank, replaced), damages
    except BankError as error:
        return UNKNOWN, [str(error)]


def _patch_digests(contents: Contents, whole: Container[str]) -> list[bytes]:
    """SHA-256 of every patch's pixels, empty where they cannot be read."""
    digests = []
    ids = contents.patch_ids
    shards = contents.shards_of_images(image_of(ids))
    for patch_id, shard in progress(zip(ids, shards, strict=True), "patches", len(ids), "patch"):
        digest = b""
        if f"patches/{shard}/data.mdb" in whole:
            with suppress(BankError):
                pixels = contents.patches.read(np.array(patch_id))
                digest = hashlib.sha256(pixels.tobytes()).digest()
        digests.append(digest)
    return digests


def _scene_digests(contents: Contents, whole: Container[str]) -> list[bytes]:
    """SHA-256 of every scene, empty where it cannot be read."""
    digests = []
    ids = contents.image_ids
    shards = contents.shards_of_images(ids)
    for image_id, shard in progress(zip(ids, shards, strict=True), "scenes", len(ids), "scene"):
        digest = b""
        if f"scenes/{shard}.tar" in whole:
            with suppress(BankError):
                digest = sample_digest(contents.scene(int(image_id)))
        digests.append(digest)
    return digests


def _disagreements(contents: Contents, pixels: list[bytes], samples: list[bytes]) -> list[str]:
    """One line for each shard with wrong patches or scenes."""
    lines = []
    for folder, ids, images, now, then in (
        ("patches", contents.patch_ids, image_of(contents.patch_ids), pixels, "pixels_sha256"),
        ("scenes", contents.image_ids, contents.image_ids, samples, "sample_sha256"),
    ):
        table = contents.table if folder == "patches" else contents.scenes
        wrong = np.array([a != b for a, b in zip(now, column(table, then), strict=True)], bool)
        shards = contents.shards_of_images(images[wrong])
        for shard in sorted(set(shards)):
            places = np.flatnonzero(wrong)[shards == shard]
            what = (
                "differ from their recorded SHA-256"
                if any(now[place] for place in places)
                else "could not be read, as their file is damaged"
            )
            lines.append(
                f"{folder}/{shard}: {len(places):,} {folder} {what}, the first is {ids[places[0]]}"
            )
    return lines
