"""Read a finished bank anew, byte for byte, and name everything that is not as it was written.

A task is a shard: its files are hashed, and its patches and scenes compared with the tables. The
other files come before, as the tables must be whole for that.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bank.contents import TABLES, Contents, content_digest
from bank.errors import BankError
from bank.files import FileDigest, file_digest
from bank.manifest import Manifest, derived_digest, read_manifest
from bank.shards import PatchStore, close_shards
from bank.tasks import Place, Results, check_visible, contents_at, here
from pipeline.pack import sample_digest
from pipeline.progress import progress
from pipeline.scene import image_of
from pipeline.wording import counted

PATCHES_AT_ONCE = 512
BYTES_AT_ONCE = 1 << 28  # of small files, by one task
UNKNOWN = "cannot be computed"
CONTENT = (*TABLES, "photos.arrow")  # what the content digest is computed from, beside shards


class Verification(NamedTuple):
    damages: tuple[str, ...]  # one line each; none means the bank is whole
    content_digest: str  # from the pixels and scenes as they are now
    derived_digest: str  # from the files as they are now


@dataclass(frozen=True)
class Part:
    """A task: files of a bank; where they are a shard's, with what its tables say of it."""

    bank: Path  # absolute
    files: Mapping[str, FileDigest]  # path in the bank -> its digest, as recorded
    shard: str = ""
    tables: Place | None = None  # None: the files are hashed, and that is all


class Found(NamedTuple):
    """What is there now."""

    files: dict[str, FileDigest | str]  # path in the bank -> its digest, or why it has none
    patches: dict[int, bytes]  # row of patches.arrow -> SHA-256 that is not the recorded one
    scenes: dict[int, bytes]  # ... of scenes.index.arrow; empty where it cannot be read


def verify(bank: Path, results: Results = here) -> Verification:
    """Have `results` read a bank anew; BankError where there is no finished bank at all."""
    manifest = read_manifest(bank)
    place = Place.of(bank, manifest)
    shards, others = _by_shard(manifest.files)
    found = Found({}, {}, {})
    done = results(check, [Part(place.bank, files) for files in _batches(others)])
    _gather(found, progress(done, "files", len(others), "file", size=lambda part: len(part.files)))
    contents, unusable = _open_tables(place, manifest, found.files)
    parts = _parts(place, shards, contents)
    _gather(found, progress(results(check, parts), "shards", len(parts), "shard"))
    damages = [*_changed(manifest, found.files)]
    damages += [f"{path}: is not in the manifest" for path in _unlisted(bank, manifest)]
    derived = derived_digest({p: d for p, d in found.files.items() if isinstance(d, FileDigest)})
    content, more = _check_contents(contents, manifest, found) if contents else (UNKNOWN, unusable)
    damages += more
    for name, now, then in (
        ("content", content, manifest.content_digest),
        ("derived", derived, manifest.derived_digest),
    ):
        if now != then:
            damages.append(f"manifest.json: {name} digest is {now}, but was {then}")
    return Verification(tuple(damages), content, derived)


def _by_shard(
    files: Mapping[str, FileDigest],
) -> tuple[dict[str, dict[str, FileDigest]], dict[str, FileDigest]]:
    """The files of each shard, and all others."""
    shards: dict[str, dict[str, FileDigest]] = {}
    others = {}
    for path, digest in files.items():
        folder, _, rest = path.partition("/")
        if folder in ("patches", "scenes"):
            shards.setdefault(rest.split("/")[0].removesuffix(".tar"), {})[path] = digest
        else:
            others[path] = digest
    return shards, others


def _batches(files: Mapping[str, FileDigest]) -> Iterator[dict[str, FileDigest]]:
    """The largest file first, each alone; small ones together."""
    batch: dict[str, FileDigest] = {}
    size = 0
    for path, digest in sorted(files.items(), key=lambda item: -item[1].bytes):
        if batch and size + digest.bytes > BYTES_AT_ONCE:
            yield batch
            batch, size = {}, 0
        batch[path] = digest
        size += digest.bytes
    if batch:
        yield batch


def _parts(
    place: Place, shards: Mapping[str, Mapping[str, FileDigest]], contents: Contents | None
) -> list[Part]:
    """Of every shard that the manifest or the tables name."""
    known = set(contents.patches.shards) if contents else set()
    return [
        Part(place.bank, shards.get(name, {}), name, place if name in known else None)
        for name in sorted(shards.keys() | known)
    ]


def _gather(found: Found, parts: Iterable[Found]) -> None:
    for part in parts:
        found.files.update(part.files)
        found.patches.update(part.patches)
        found.scenes.update(part.scenes)


def _open_tables(
    place: Place, manifest: Manifest, now: Mapping[str, FileDigest | str]
) -> tuple[Contents | None, list[str]]:
    """None where they cannot be used, and why, unless their files' digests say it.

    A file that is not as it was written is not opened: LMDB and Arrow trust what they map, and a
    file cut short would end this process.
    """
    if any(now[name] != manifest.files[name] for name in manifest.files.keys() & CONTENT):
        return None, []
    try:
        return contents_at(place), []
    except BankError as error:
        return None, [str(error)]


def _changed(manifest: Manifest, files: Mapping[str, FileDigest | str]) -> Iterator[str]:
    """A line for each file that is not as it was."""
    for path, then in manifest.files.items():
        now = files[path]
        if now != then:
            yield f"{path}: {now if isinstance(now, str) else _change(now, then)}"


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


class Wrong(NamedTuple):
    """Patches or scenes that are not what their table says."""

    folder: str
    ids: NDArray[np.int64]  # of all, in the order of the table
    digests: dict[int, bytes]  # row -> SHA-256 now; empty where it cannot be read


def _check_contents(contents: Contents, manifest: Manifest, found: Found) -> tuple[str, list[str]]:
    """The content digest from the pixels and scenes themselves; a line per shard that differs."""
    patches = Wrong("patches", contents.patch_ids, found.patches)
    scenes = Wrong("scenes", contents.image_ids, found.scenes)
    damages = [*_disagreements(contents, patches), *_disagreements(contents, scenes)]
    if b"" in (*patches.digests.values(), *scenes.digests.values()):
        return UNKNOWN, damages
    replaced = {
        "pixels_sha256": _replaced(contents.patches.digests, patches),
        "sample_sha256": _replaced(contents.sample_digests, scenes),
    }
    known = {name: digests for name, digests in replaced.items() if digests is not None}
    try:
        return content_digest(contents.folder, known, manifest.content_rule), damages
    except BankError as error:
        return UNKNOWN, [str(error)]


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


# One part


def check(part: Part) -> Found:
    """Hash its files, and compare patches and scenes in those that are as they were written."""
    check_visible(part.bank)
    files = {path: _digest_or_reason(part.bank / path) for path in part.files}
    if part.tables is None:
        return Found(files, {}, {})
    whole = {path for path, digest in part.files.items() if files[path] == digest}
    contents = contents_at(part.tables)
    patches, scenes = contents.rows_of_shard(part.shard)
    found = Found(
        files,
        _wrong_patches(contents.patches, patches, f"patches/{part.shard}/data.mdb" in whole),
        _wrong_scenes(contents, scenes, f"scenes/{part.shard}.tar" in whole),
    )
    close_shards()
    return found


def _digest_or_reason(path: Path) -> FileDigest | str:
    try:
        return file_digest(path)
    except OSError as error:
        return error.strerror or str(error)


def _wrong_patches(store: PatchStore, rows: NDArray[np.int64], whole: bool) -> dict[int, bytes]:
    if not whole:
        return dict.fromkeys(rows.tolist(), b"")
    wrong: dict[int, bytes] = {}
    for first in range(0, len(rows), PATCHES_AT_ONCE):
        wrong |= _wrong_of_block(store, rows[first : first + PATCHES_AT_ONCE])
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


def _wrong_scenes(contents: Contents, rows: NDArray[np.int64], whole: bool) -> dict[int, bytes]:
    wrong = {}
    for row, image_id in zip(rows.tolist(), contents.image_ids[rows].tolist(), strict=True):
        digest = b""
        if whole:
            with suppress(BankError):
                digest = sample_digest(contents.scene(image_id, check=False))
        if digest != contents.sample_digests[row].tobytes():
            wrong[row] = digest
    return wrong
