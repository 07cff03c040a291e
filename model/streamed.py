"""Scenes streamed block by block: the next block is read while batches are taken from this one.

A block's shards are read once on a machine. Where several processes take batches (ranks, loader
workers), the first that needs a block writes it to a folder that all of them map; a process that
finds none, because it was removed, writes it again, so nobody depends on another.
"""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from bank.bank import Bank
from bank.files import save_array
from model.scene_table import SceneTable
from model.sources import Part, Scenes
from pipeline.cache import cache_folder
from pipeline.files import written_folder
from pipeline.lock import locked
from pipeline.stream import Block, SceneOrder

PICTURES = "pictures.npy"
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


class StreamedSource:
    """Reads scenes in the order of their positions, which may only rise; patches as they lie."""

    def __init__(self, bank: Bank, order: SceneOrder, folder: Path | None) -> None:
        """folder: where processes share their blocks; None: this one is alone"""
        self.bank, self.order, self.folder = bank, order, folder
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
        # Whoever still needs a block writes it again.
        if self.folder is not None and get_worker_info() is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _advance(self) -> None:
        self._block = self._next.result()
        self._next = self._read_next()

    def _read_next(self) -> Future[LoadedBlock]:
        assert self._reader is not None
        block = next(self._blocks)
        if self.folder is None:
            return self._reader.submit(read_block, self.bank, block)
        return self._reader.submit(read_shared_block, self.bank, block, self.folder)


def read_block(bank: Bank, block: Block) -> LoadedBlock:
    """Read a block's shards; BankError, naming it, for one that is not whole."""
    side = bank.image_size
    ids = np.sort(np.array(block.image_ids, np.int64))
    pictures = np.empty((len(ids), side, side, 3), np.uint8)
    tables, rows = [], []
    for shard in block.shards:
        samples = bank.contents.scenes_of_shard(shard)
        tables.append(SceneTable.of_samples(samples, bank.vocabulary, masks=bank.has_masks))
        rows.append(np.searchsorted(ids, tables[-1].image_ids))
        pictures[rows[-1]] = [sample.image for sample in samples]
    table = SceneTable.joined(tables)
    return LoadedBlock(block.first, table.take(np.argsort(np.concatenate(rows))), pictures)


def read_shared_block(bank: Bank, block: Block, folder: Path) -> LoadedBlock:
    """A block out of the folder, where this process reads and writes it unless another has."""
    name = f"{block.first:012d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock"):
            if not (folder / name).is_dir():
                loaded = read_block(bank, block)
                with written_folder(folder / name) as partial:
                    loaded.table.save(partial)
                    save_array(partial / PICTURES, loaded.pictures)
                _remove_before(folder, name)
            pictures = np.load(folder / name / PICTURES, mmap_mode="r")
            return LoadedBlock(block.first, SceneTable.open(folder / name), pictures)
    except OSError:  # a full disk, or one that maps or locks nothing: each reads for itself
        return read_block(bank, block)


def _remove_before(folder: Path, name: str) -> None:
    """Blocks before the last KEPT up to this one."""
    names = sorted(path.name for path in folder.iterdir() if path.name.isdecimal())
    for old in [each for each in names if each <= name][:-KEPT]:
        shutil.rmtree(folder / old, ignore_errors=True)


def shared_folder() -> Path:
    """For the blocks of this machine's ranks and workers of one training; those of trainings that
    have ended are removed."""
    folder = cache_folder() / "blocks"
    # All ranks of a machine have one parent, which started them.
    owner = os.getppid() if "LOCAL_RANK" in os.environ else os.getpid()
    with suppress(OSError):
        for other in folder.iterdir():
            if not _lives(other.name):
                shutil.rmtree(other, ignore_errors=True)
    return folder / str(owner)


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):  # another user's, or no process
        return True
    return True
