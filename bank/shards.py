"""Patch pixels on disk: patch id -> raw RGB, one LMDB environment per shard."""

import functools
import hashlib
import os
import resource
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import lmdb
import numpy as np
from numpy.typing import NDArray

from bank.errors import BankError
from bank.folder import Files
from pipeline.errors import MORE_HANDLES, NO_HANDLES
from pipeline.files import reserve, writing

MEBIBYTE = 1 << 20


def _key(patch_id: int) -> bytes:
    return patch_id.to_bytes(8, "big")  # so that LMDB's byte order is the order of the ids


def map_size(num_patches: int, patch_size: int) -> int:
    """Address space for a shard. It is written into the file, hence a function of the plan alone.

    LMDB stores a patch in whole pages, 4 to 64 KiB each, after a header of 16 bytes.
    """
    page = 1 << 16
    needed = num_patches * (patch_size * patch_size * 3 + 2 * page)
    return (needed // MEBIBYTE + 16) * MEBIBYTE


def write_patches(folder: Path, patches: Iterable[tuple[int, bytes]], size: int) -> None:
    """Fill a new LMDB in `folder` with (patch id, pixels), ids rising; `size` is its map size.

    The bytes of the file are a function of the arguments: sorted appends, one transaction (also
    200 times faster than one per patch) and no uninitialised memory (LMDB's default).
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = MEBIBYTE  # bytes, at the least
    try:
        # lock=False: one writer on a new folder needs no lock.mdb, and none is left behind.
        # sync=False: `put_in_place` syncs it before it gives the file its name.
        with (
            lmdb.open(os.fspath(folder), map_size=size, lock=False, sync=False) as env,
            env.begin(write=True) as txn,
        ):
            for patch_id, pixels in patches:
                if not txn.put(_key(patch_id), pixels, append=True):
                    raise ValueError(f"patch {patch_id} comes out of order or twice")
                written += len(pixels)
    except lmdb.Error:
        # LMDB has no number for what failed, and calls a full disk an input/output error: the
        # system says why it takes no more.
        with writing(folder / "data.mdb"), TemporaryFile(dir=folder) as file:
            reserve(file, written)
        raise


@dataclass(frozen=True)
class _ShardFile:
    """A file is its inode: it may have two paths, and a path may come to name another file."""

    identity: tuple[int, int, int]
    folder: Path = field(compare=False)


@functools.cache
def _environment(file: _ShardFile) -> Any:
    """This process's one handle on a shard: LMDB forbids opening a file twice."""
    path = file.folder / "data.mdb"
    try:
        path.open("rb").close()  # LMDB has no number for what the system refuses
        return lmdb.open(
            os.fspath(file.folder), readonly=True, lock=False, readahead=False, create=False
        )
    except OSError as error:
        if error.errno not in NO_HANDLES:
            raise
        raise BankError(
            f"{path} cannot be opened: too many open files; {MORE_HANDLES}, or build the bank with "
            f"a larger --shard-photos"
        ) from error
    except lmdb.Error as error:
        raise BankError(
            f"{path} cannot be opened ({error}); `python -m jobs.verify_bank` says what else is "
            f"damaged"
        ) from error


# It also forbids using a handle that came through a fork, as a DataLoader worker would.
os.register_at_fork(after_in_child=_environment.cache_clear)


def most_open() -> int:
    """Shards that may be open at once: half of what this process may open leaves room for all else
    that it reads."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if allowed == resource.RLIM_INFINITY else max(1, allowed // 2)


def close_shards() -> None:
    """Close all that is mapped and open: a pass over a whole bank would keep it mapped."""
    _environment.cache_clear()


class PatchStore:
    """Read patches by id out of many shards. Holds paths and no handles: any worker may have it."""

    def __init__(
        self,
        folder: Path,
        ids: NDArray[np.int64],
        shard_of: NDArray[np.int32],
        shards: Sequence[str],
        patch_size: int,
        digests: NDArray[np.uint8],
        files: Files | None = None,
    ) -> None:
        """
        folder               holds one folder per shard
        ids         (B,)     patch ids, rising
        shard_of    (B,)     position in `shards` of the shard that holds the patch
        shards               names of the folders
        patch_size           px, of a patch's sides
        digests     (B, 32)  SHA-256 of each patch's pixels
        files                of the bank whose `patches/` the folder is, where some are yet to come
        """
        self.folder = folder.resolve()
        self.ids = ids
        self.shard_of = shard_of
        self.shards = tuple(shards)
        self.patch_size = patch_size
        self.digests = digests
        self.files = files
        self._checked = np.zeros(len(ids), bool)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of patch ids of any shape; BankError for one that the bank does not have."""
        return rows_of(self.ids, ids, self.folder)

    def read(self, ids: NDArray[np.int64], *, check: bool = True) -> NDArray[np.uint8]:
        """(...) -> pixels (..., patch_size, patch_size, 3); zeros where a patch id is negative.

        A patch is compared with its SHA-256 the first time it is read (in each process), unless
        `check=False`; BankError where they differ. That first time takes about twice as long.
        """
        wanted = np.asarray(ids, np.int64)
        flat = wanted.reshape(-1)
        out = np.zeros((len(flat), self.patch_size**2 * 3), np.uint8)
        present = np.flatnonzero(flat >= 0)
        rows = self.rows(flat[present])
        shard = self.shard_of[rows]
        for number in np.unique(shard).tolist():
            of_shard = shard == number
            some = _Some(rows[of_shard], flat[present[of_shard]], present[of_shard])
            if self.files is None:
                self._read_shard(self.folder / self.shards[number], some, out, check)
                continue
            file = f"patches/{self.shards[number]}/data.mdb"
            path = self.files.file(file)
            try:
                self._read_shard(path.parent, some, out, check)
            except BankError as error:
                path = self.files.refetch(file, error)
                self._read_shard(path.parent, some, out, check)
        return out.reshape(*wanted.shape, self.patch_size, self.patch_size, 3)

    def _read_shard(self, path: Path, some: "_Some", out: NDArray[np.uint8], check: bool) -> None:
        """BankError where a patch cannot be read or, with `check`, is not what was cut."""
        with open_shard(path).begin(buffers=True) as txn:
            for patch_id, place in zip(some.ids.tolist(), some.places.tolist(), strict=True):
                try:
                    pixels = txn.get(_key(patch_id))
                except lmdb.Error as error:
                    raise _damaged(patch_id, f"cannot be read ({error})", path) from error
                if pixels is None:
                    raise _damaged(patch_id, "is missing", path)
                if len(pixels) != out.shape[1]:
                    raise _damaged(patch_id, f"has {len(pixels)} bytes", path)
                out[place] = np.frombuffer(pixels, np.uint8)
        if check:
            self._check(some, out, path)

    def _check(self, some: "_Some", out: NDArray[np.uint8], path: Path) -> None:
        """BankError where what was read is not what was cut."""
        new = np.flatnonzero(~self._checked[some.rows])
        for row, place in zip(some.rows[new], some.places[new], strict=True):
            if hashlib.sha256(out[place]).digest() != self.digests[row].tobytes():
                raise _damaged(int(self.ids[row]), "is not what was cut: its SHA-256 differs", path)
        self._checked[some.rows[new]] = True


class _Some(NamedTuple):
    """Patches of one shard that are wanted."""

    rows: NDArray[np.int64]  # of the store
    ids: NDArray[np.int64]
    places: NDArray[np.int64]  # among what is read


def _damaged(patch_id: int, what: str, shard: Path) -> BankError:
    return BankError(
        f"patch {patch_id} {what}, in {shard}/data.mdb; `python -m jobs.verify_bank BANK` names "
        f"all that is damaged, copy those files anew or build the bank again"
    )


def open_shard(path: Path) -> Any:
    """This process's LMDB environment for a shard's folder."""
    try:
        status = (path / "data.mdb").stat()
    except FileNotFoundError as error:
        raise BankError(f"{path}/data.mdb is missing; build the bank again") from error
    identity = (status.st_dev, status.st_ino, status.st_mtime_ns)
    if _environment.cache_info().currsize >= most_open():
        close_shards()
    return _environment(_ShardFile(identity, path))


def rows_of(known: NDArray[np.int64], ids: NDArray[np.int64], where: object) -> NDArray[np.int64]:
    """Positions in `known` (sorted) of `ids`; BankError for one that is not there."""
    rows = np.searchsorted(known, ids)
    if len(known) == 0:
        is_there = np.zeros(np.shape(ids), bool)
    else:
        is_there = known[np.minimum(rows, len(known) - 1)] == ids
    if not np.all(is_there):
        missing = np.asarray(ids)[~is_there].flat[0]
        raise BankError(f"no patch {missing} among the {len(known):,} of {where}")
    return rows
