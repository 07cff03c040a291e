"""Scenes streamed block by block: the next block is read while batches are taken from this one.

A block's shards are read once on a machine. Where several processes take batches (ranks, loader
workers), the first that needs a block writes it to a folder that all of them map. The folder's name
says of which scenes and in which order, and a block is used only if it holds the scenes it should;
a process that finds none, or one that is not whole, writes it again.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.bank import Bank
from bank.files import json_digest, save_array
from model.scene_table import SceneTable
from model.sources import Part, Scenes
from pipeline.cache import cache_folder
from pipeline.files import written_folder
from pipeline.lock import locked
from pipeline.stream import Block, SceneOrder

PICTURES = "pictures.npy"
USERS = "users"  # locked by whoever uses a folder
KEPT = 3  # blocks of a folder: the next, the current, and one that a slower process may be at


class LoadedBlock(NamedTuple):
    """A block's scenes."""

    first: int  # position of its first scene
    table: SceneTable  # by rising image id
    pictures: NDArray[np.uint8]  # (n, H, W, 3), in the order of the table

    @property
    def end(self) -> int:
        """Position of the first scene that is not of the block."""
        return self.first + len(self.table)


class SharedBlocks:
    """The folder through which a machine's processes share the blocks of one order of scenes.

    Whoever uses it holds a lock on it; one that nobody holds any more is removed by the next
    training. It pickles as its path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._users: IO[Any] | None = None

    @classmethod
    def of(cls, bank: Bank, order: SceneOrder) -> "SharedBlocks":
        index = bank.manifest.files["scenes.index.arrow"].sha256
        key = json_digest([bank.content_digest, index, order.seed, order.block_shards])
        folder = cache_folder() / "blocks" / key[:32]
        with suppress(OSError):
            for other in folder.parent.iterdir():
                if other != folder:
                    cls(other).close()
        return cls(folder)

    def __reduce__(self) -> tuple[type["SharedBlocks"], tuple[Path]]:
        return SharedBlocks, (self.folder,)

    def read(self, bank: Bank, block: Block) -> LoadedBlock:
        """A block, from the folder or into it."""
        try:
            self._join()
            with locked(self.folder / "lock"):
                path = self.folder / f"{block.first:012d}"
                found = _open_block(path, block)
                if found is None:
                    loaded = read_block(bank, block)
                    with written_folder(path) as partial:
                        loaded.table.save(partial)
                        save_array(partial / PICTURES, loaded.pictures)
                    self._remove_before(path.name)
                    found = _open_block(path, block) or loaded
                return found
        except OSError:  # a full disk, or one that maps or locks nothing: each reads for itself
            return read_block(bank, block)

    def close(self) -> None:
        """Remove the folder unless another process uses it."""
        if self._users is not None:
            self._users.close()
            self._users = None
        with suppress(OSError), (self.folder / USERS).open("r+") as users:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _join(self) -> None:
        """Hold the lock of a user until `close`, or this process's end."""
        while self._users is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            users = (self.folder / USERS).open("a+")
            fcntl.flock(users, fcntl.LOCK_SH)
            with suppress(OSError):  # who removed it may have been faster
                if os.path.samestat(os.fstat(users.fileno()), os.stat(users.name)):
                    self._users = users
            if self._users is None:
                users.close()

    def _remove_before(self, name: str) -> None:
        """Blocks before the last KEPT up to this one."""
        names = sorted(path.name for path in self.folder.iterdir() if path.name.isdecimal())
        for old in [each for each in names if each <= name][:-KEPT]:
            shutil.rmtree(self.folder / old, ignore_errors=True)


def _open_block(path: Path, block: Block) -> LoadedBlock | None:
    """None where there is none, or not these scenes' or not whole."""
    try:
        table = SceneTable.open(path)
        pictures = np.load(path / PICTURES, mmap_mode="r")
    except (OSError, ValueError):
        return None
    if table.image_ids.tolist() != sorted(block.image_ids) or len(pictures) != len(table):
        return None
    return LoadedBlock(block.first, table, pictures)


class StreamedSource:
    """Reads scenes in the order of their positions, which may only rise; patches as they lie."""

    def __init__(self, bank: Bank, order: SceneOrder, shared: SharedBlocks | None) -> None:
        """shared: with which other processes; None: this one is alone"""
        self.bank, self.order, self.shared = bank, order, shared
        # Made by the process that reads: loader workers are given the source before.
        self._reader: ThreadPoolExecutor | None = None
        self._blocks: Iterator[Block]
        self._next: Future[LoadedBlock]
        self._block: LoadedBlock

    def scenes(self, part: Part) -> Scenes:
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, "blocks")
            self._blocks = self.order.blocks(part.first)
            self._next = self._read_next()
            self._advance()
        tables, pictures, position, ids = [], [], part.first, part.image_ids
        while len(ids):
            while position >= self._block.end:
                self._advance()
            block = self._block
            of_block, ids = np.split(ids, [block.end - position])
            rows = np.searchsorted(block.table.image_ids, of_block)
            tables.append(block.table.take(rows))
            pictures.append(block.pictures[rows])
            position += len(rows)
        joined = pictures[0] if len(pictures) == 1 else np.concatenate(pictures)
        return Scenes(SceneTable.joined(tables), torch.from_numpy(joined))

    def patches(self, ids: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.bank.patches(ids))

    def close(self) -> None:
        if self._reader is not None:
            self._reader.shutdown(cancel_futures=True)
            self._reader = None

    def _advance(self) -> None:
        self._block = self._next.result()
        self._next = self._read_next()

    def _read_next(self) -> Future[LoadedBlock]:
        assert self._reader is not None
        block = next(self._blocks)
        if self.shared is None:
            return self._reader.submit(read_block, self.bank, block)
        return self._reader.submit(self.shared.read, self.bank, block)


def read_block(bank: Bank, block: Block) -> LoadedBlock:
    """Read a block's shards; BankError, naming it, for one that is not whole."""
    side = bank.image_size
    ids = np.sort(np.array(block.image_ids, np.int64))
    wanted = set(block.image_ids)
    pictures = np.empty((len(ids), side, side, 3), np.uint8)
    tables, rows = [], []
    for shard in block.shards:
        of_shard = bank.contents.scenes_of_shard(shard)
        samples = [sample for sample in of_shard if sample.image_id in wanted]
        tables.append(SceneTable.of_samples(samples, bank.vocabulary, masks=bank.has_masks))
        rows.append(np.searchsorted(ids, tables[-1].image_ids))
        pictures[rows[-1]] = [sample.image for sample in samples]
    table = SceneTable.joined(tables)
    return LoadedBlock(block.first, table.take(np.argsort(np.concatenate(rows))), pictures)
