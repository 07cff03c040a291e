"""Read a finished bank anew, byte for byte, and name everything that is not as it was written."""

import hashlib
from collections.abc import Iterator
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

UNKNOWN = "cannot be computed"


class Verdict(NamedTuple):
    damages: tuple[str, ...]  # one line each; none means the bank is whole
    content_digest: str  # from the pixels and scenes as they are now
    derived_digest: str  # from the files as they are now


def verify(bank: Path) -> Verdict:
    """BankError where there is no finished bank at all."""
    manifest = read_manifest(bank)
    files, damages = _check_files(bank, manifest)
    derived = derived_digest(files)
    try:
        content, found = _check_contents(bank, manifest)
        damages += found
    except BankError as error:
        content = UNKNOWN
        damages.append(f"content: {error}")
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
    damages += [f"{path}: is not in the manifest" for path in _strangers(bank, manifest)]
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


def _check_contents(bank: Path, manifest: Manifest) -> tuple[str, list[str]]:
    """The content digest from the pixels and scenes themselves; a line per shard that differs."""
    contents = Contents(bank, manifest.recipe["patch_size"])
    pixels = _patch_digests(contents)
    samples = _scene_digests(contents)
    damages = _disagreements(contents, pixels, samples)
    if len(contents.patch_ids) != manifest.counts["patches"]:
        damages.append(
            f"patches.arrow: {len(contents.patch_ids):,} rows for {manifest.counts['patches']:,} "
            f"patches"
        )
    replaced = {"pixels_sha256": pixels, "sample_sha256": samples}
    return content_digest(bank, replaced), damages


def _patch_digests(contents: Contents) -> list[bytes]:
    """SHA-256 of every patch's pixels, empty where they cannot be read."""
    digests = []
    ids = contents.patch_ids
    for patch_id in progress(ids, "patches", len(ids), "patch"):
        try:
            pixels = contents.patches.read(np.array(patch_id)).tobytes()
            digests.append(hashlib.sha256(pixels).digest())
        except BankError:
            digests.append(b"")
    return digests


def _scene_digests(contents: Contents) -> list[bytes]:
    digests = []
    ids = contents.image_ids
    for image_id in progress(ids, "scenes", len(ids), "scene"):
        try:
            digests.append(sample_digest(contents.scene(int(image_id))))
        except BankError:
            digests.append(b"")
    return digests


def _disagreements(contents: Contents, pixels: list[bytes], samples: list[bytes]) -> list[str]:
    """One line for each shard with wrong patches or scenes."""
    lines = []
    for folder, ids, images, now, then in (
        ("patches", contents.patch_ids, contents.patch_ids >> 16, pixels, "pixels_sha256"),
        ("scenes", contents.image_ids, contents.image_ids, samples, "sample_sha256"),
    ):
        table = contents.table if folder == "patches" else contents.scenes
        wrong = np.array([a != b for a, b in zip(now, column(table, then), strict=True)], bool)
        shards = contents.shards_of_images(images[wrong])
        for shard in sorted(set(shards)):
            there = ids[wrong][shards == shard]
            lines.append(
                f"{folder}/{shard}: {len(there):,} {folder} differ from their recorded SHA-256, "
                f"the first is {there[0]}"
            )
    return lines
