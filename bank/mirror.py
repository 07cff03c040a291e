"""A bank at an address: its files come into a folder of this machine as they are asked for.

The folder is named by the manifest's own SHA-256, so that another version of the bank has another,
and may be deleted at any time. Its manifest.json is written when the tables were found to have the
content digest that it claims; what comes later is compared with the digests it records.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from bank.contents import TABLES, content_digest
from bank.errors import BankError
from bank.files import FileDigest, file_digest
from bank.manifest import NAME, SMALL, Manifest, is_finished, parse_manifest, read_manifest
from pipeline.address import Address, Location
from pipeline.cache import VARIABLE, cache_folder
from pipeline.checks import show
from pipeline.fetch import FetchError, UnreachableError, fetch, fetch_bytes
from pipeline.files import PARTIAL, write_bytes
from pipeline.output import log
from pipeline.progress import Bar
from pipeline.wording import counted

CACHE_GB = 50.0  # of a bank's scenes
MOST_MANIFEST = 1 << 28  # bytes; a million files
MANIFEST_TRIES = 3
SHOWN = 1 << 24  # bytes, from which on it is said that they come
CONTENT = (*TABLES, "photos.arrow")  # what the content digest is computed from
SCENES = "scenes/"
MEGABYTE = 10**6


class Mirror:
    """The folder, for one bank. It pickles as the address and that version of the bank."""

    def __init__(
        self, place: Address, folder: Path, manifest: Manifest, cache_gb: float = CACHE_GB
    ) -> None:
        self.place = place
        self.folder = folder
        self.manifest = manifest
        self.cache_gb = cache_gb
        self._checked: set[str] = set()  # whose bytes this process has looked at

    @classmethod
    def open(cls, place: Address, digest: str | None = None, cache_gb: float = CACHE_GB) -> Self:
        """BankError where there is no bank, or not the one that has the digest.

        digest    64 hex digits, the bank's content digest or its `manifest_digest`. A bank that was
                  opened before is then found without the server, by its content digest only
                  where that cannot be reached
        cache_gb  GB that the mirror's scenes may take
        """
        if digest is not None:
            check_digest(digest, place)
        if here := digest and _mirrored(lambda manifest: manifest.manifest_digest == digest):
            return cls(place, *here, cache_gb)
        try:
            data = _fetch_manifest(place)
        except UnreachableError as error:
            here = digest and _mirrored(lambda manifest: manifest.content_digest == digest)
            if not here:
                raise BankError(str(error)) from error
            log.warning(f"note: the bank is taken as it was fetched to {here[0]}: {error}")
            return cls(place, *here, cache_gb)
        except FetchError as error:
            raise BankError(f"there is no bank at {place}: {error}") from error
        manifest = parse_manifest(data, place.file(NAME))
        check_pin(manifest, digest, place)
        mirror = cls(place, _folder_of(data), manifest, cache_gb)
        if not is_finished(mirror.folder):
            mirror._begin(data)
        return mirror

    def _begin(self, data: bytes) -> None:
        """Fetch the tables, and believe no content digest that they do not have."""
        self.fetch(name for name in CONTENT if name in self.manifest.files)
        check_content(self.manifest, self.folder, self.place)
        write_bytes(self.folder / NAME, data)

    def __reduce__(self) -> tuple[Callable[..., "Mirror"], tuple[Address, str, float]]:
        return _again, (self.place, self.folder.name, self.cache_gb)

    def file(self, name: str) -> Path:
        """The path of a file that is here now; of one that the bank lacks, a path that leads to
        none. For a shard of scenes those read longest ago make room: they are decoded whole."""
        path = self.folder / name
        if name in self.manifest.files:
            if not self._is_here(name):
                if name.startswith(SCENES):
                    self._make_room(name)
                self.fetch([name])
            if name.startswith(SCENES):
                with suppress(OSError):
                    os.utime(path)  # used now
        return path

    def fetch(
        self,
        names: Iterable[str],
        *,
        check: bool = False,
        failed: Callable[[BankError], None] | None = None,
    ) -> None:
        """Bring files here that are not.

        check    those that are here are compared with their digests first
        failed   is given what is wrong with each that cannot be had; by default the first is raised
        """
        digests = self.manifest.files
        missing = [name for name in names if not self._is_here(name, check=check)]
        total = sum(digests[name].bytes for name in missing)
        if not missing:
            return
        self._check_disk(missing)
        with self._shown(missing, total) as told:
            for name in missing:
                try:
                    self._fetch(name, told)
                except FetchError as error:
                    if failed is None:
                        raise BankError(str(error)) from error
                    failed(BankError(str(error)))

    def refetch(self, name: str, error: BankError) -> Path:
        """For a file that was found damaged or gone: what is not as it was written is fetched anew.
        `error` where the bank has no such file."""
        if name not in self.manifest.files:
            raise error
        if not self._is_here(name, check=True):
            log.warning(f"note: {error}; it is fetched anew from {self.place}")
        return self.file(name)

    def _fetch(self, name: str, told: Callable[[int], None]) -> None:
        digest = self.manifest.files[name]
        fetch(
            self.place.file(name),
            self.folder / name,
            size=digest.bytes,
            sha256=digest.sha256,
            told=told,
        )
        self._checked.add(name)

    def _is_here(self, name: str, *, check: bool = False) -> bool:
        """Whether a file is here, with as many bytes as it should have. Those that are read without
        a look at what they say are compared with their digests, once; with `check`, all. What is
        not as it was written is dropped."""
        path, digest = self.folder / name, self.manifest.files[name]
        try:
            here = path.stat().st_size == digest.bytes
        except OSError:
            return False
        if here and (check or (name not in self._checked and name.endswith((*SMALL, *CONTENT)))):
            here = _has_digest(path, digest)
            self._checked.add(name)
        if not here:
            path.unlink(missing_ok=True)
        return here

    def _check_disk(self, names: Collection[str]) -> None:
        """BankError where they do not fit on the disk."""
        digests = self.manifest.files
        begun = sum(_size(self.folder / f"{name}{PARTIAL}") for name in names)
        needed = sum(digests[name].bytes for name in names) - begun
        free = self._free()
        if needed > free:
            raise BankError(
                f"{self.place}: {needed / 1e9:.2f} GB are to be fetched into {self.folder}, where "
                f"{free / 1e9:.2f} GB are free; make room, or name another folder in ${VARIABLE}"
            )

    def _free(self) -> int:
        """Bytes on its disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.folder).free

    @contextmanager
    def _shown(self, names: Sequence[str], total: int) -> Iterator[Callable[[int], None]]:
        """How far many bytes are, in MB. Of a shard of scenes nothing is shown: one comes every so
        often while a training reads them."""
        first, *others = names
        if total < SHOWN or (first.startswith(SCENES) and not others):
            yield lambda _: None
            return
        what = counted(len(names), "file") if others else first
        log.info(f"{self.place}: {what}, {total / 1e6:,.0f} MB, to be fetched into {self.folder}")
        done = 0
        with Bar("fetch", round(total / MEGABYTE), "megabyte") as bar:

            def told(more: int) -> None:
                nonlocal done
                done += more
                bar.reach(round(done / MEGABYTE))

            yield told

    def _make_room(self, name: str) -> None:
        """Drop the scenes that were used longest ago, where there is no room for these."""
        held = []
        for path in (self.folder / SCENES).glob("*.tar"):
            with suppress(OSError):  # another process has dropped it
                status = path.stat()
                held.append((status.st_mtime_ns, status.st_size, path))
        used = sum(size for _, size, _ in held)
        room = min(int(self.cache_gb * 1e9), used + self._free()) - self.manifest.files[name].bytes
        for _, size, path in sorted(held):
            if used <= room:
                return
            path.unlink(missing_ok=True)
            used -= size


def check_content(manifest: Manifest, folder: Path, place: Location | None = None) -> None:
    """BankError where the tables in the folder do not have the content digest that is claimed."""
    computed = content_digest(folder, rule=manifest.content_rule)
    if computed != manifest.content_digest:
        raise BankError(
            f"{place or folder} claims content digest {manifest.content_digest[:12]}..., but its "
            f"tables have {computed[:12]}...; it was damaged or forged: do not use it"
        )


def check_digest(digest: str, place: Location) -> None:
    """BankError for what cannot be one."""
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise BankError(
            f"{show(digest)} is no digest of a bank: one has 64 hexadecimal digits, and is printed "
            f"by `python -m jobs.verify_bank {place}` as its content digest"
        )


def check_pin(manifest: Manifest, digest: str | None, place: Location) -> None:
    """BankError where the bank is not the one that has the digest, by what its manifest says."""
    if digest is None:
        return
    check_digest(digest, place)
    if digest in (manifest.content_digest, manifest.manifest_digest):
        return
    raise BankError(
        f"{place} has content digest {manifest.content_digest[:12]}... and manifest digest "
        f"{manifest.manifest_digest[:12]}..., but the bank asked for has {digest[:12]}...; it is "
        f"another one, or another version"
    )


def _again(place: Address, name: str, cache_gb: float) -> Mirror:
    """For another process: the same version of the bank, from its folder where that is there."""
    folder = _mirrors() / name
    if is_finished(folder):
        return Mirror(place, folder, read_manifest(folder), cache_gb)
    mirror = Mirror.open(place, cache_gb=cache_gb)
    if mirror.folder != folder:
        raise BankError(f"{place} has another manifest now; the mirror of the first is gone")
    return mirror


def _fetch_manifest(place: Address) -> bytes:
    return fetch_bytes(place.file(NAME), most=MOST_MANIFEST, tries=MANIFEST_TRIES)


def _mirrors() -> Path:
    return cache_folder() / "banks"


def _folder_of(manifest: bytes) -> Path:
    return _mirrors() / hashlib.sha256(manifest).hexdigest()[:16]


def _mirrored(is_it: Callable[[Manifest], bool]) -> tuple[Path, Manifest] | None:
    """A bank that is mirrored already; the last, where several are."""
    folders = [path for path in _mirrors().glob("*") if is_finished(path)]
    for folder in sorted(folders, key=lambda path: -(path / NAME).stat().st_mtime_ns):
        with suppress(BankError):
            if is_it(manifest := read_manifest(folder)):
                return folder, manifest
    return None


def _has_digest(path: Path, digest: FileDigest) -> bool:
    try:
        return file_digest(path) == digest
    except OSError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
