"""All training scenes and patches held at once: on the device, or in one mapped folder.

The folder lies in the cache, outside the bank (which may be read-only), under the bank's content
digest. All processes that map it share its pages; deleting it costs the time to write it again.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.bank import Bank
from bank.files import save_array, save_pieces
from bank.mirror import check_content
from model.config import Loader
from model.scene_table import SceneTable
from model.sources import Part, Scenes
from pipeline.address import Address
from pipeline.cache import cache_folder
from pipeline.errors import UserError
from pipeline.files import remove_partial, written_folder
from pipeline.lock import locked
from pipeline.output import log
from pipeline.progress import progress
from pipeline.scene import image_of

Pixels = NDArray[np.uint8]
Kept = TypeVar("Kept")
PATCHES_AT_ONCE = 4096
DEVICE_SHARE = 0.5  # of a GPU's free memory that scenes and patches may take
DISK_SHARE = 0.9  # ... of a disk's
FORMAT = 1  # of the folder
PICTURES, PATCHES, PATCH_IDS = "pictures.npy", "patches.npy", "patches_by_id.npy"


class Placement(NamedTuple):
    """Where a loader keeps scenes and patches, and why there."""

    where: Literal["device", "folder", "stream"]
    why: str


class _Rows:
    """Ids in any order -> the rows where they stand."""

    def __init__(self, ids: NDArray[np.int64]) -> None:
        self.order = np.argsort(ids)
        self.sorted = ids[self.order]

    def __call__(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = self.order[np.searchsorted(self.sorted, ids)]
        return rows


class ResidentSource:
    """Takes scenes and patches out of two large tensors."""

    def __init__(
        self, table: SceneTable, pictures: Tensor, patch_ids: NDArray[np.int64], patches: Tensor
    ) -> None:
        """
        table                            S scenes
        pictures   (S, H, W, 3)          uint8, in the order of the table
        patch_ids  (B,)
        patches    (B + 1, P, P, 3)      uint8, in that order; the last, of zeros, is for padding
        """
        self.table, self.pictures, self.all_patches = table, pictures, patches
        self.rows_of_scenes, self.rows_of_patches = _Rows(table.image_ids), _Rows(patch_ids)

    def scenes(self, part: Part) -> Scenes:
        rows = self.rows_of_scenes(part.image_ids)
        return Scenes(self.table.take(rows), _taken(self.pictures, rows))

    def patches(self, ids: NDArray[np.int64]) -> Tensor:
        padding = ids < 0
        rows = self.rows_of_patches(np.where(padding, self.rows_of_patches.sorted[0], ids))
        return _taken(self.all_patches, np.where(padding, len(self.all_patches) - 1, rows))

    def close(self) -> None:
        pass


def _taken(values: Tensor, rows: NDArray[np.int64]) -> Tensor:
    """Rows (...) of values (R, ...) -> (..., ...), on the device of the values."""
    if values.device.type == "cpu":
        # Copies row by row; index_select's threads wait for each other on busy cores.
        return torch.from_numpy(values.numpy()[rows])
    flat = torch.from_numpy(rows.reshape(-1)).to(values.device, non_blocking=True)
    return values.index_select(0, flat).reshape(*rows.shape, *values.shape[1:])


def place(bank: Bank, kind: Loader, device: torch.device) -> Placement:
    """Where scenes and patches go; UserError where `resident` is asked for and there is no room."""
    pictures, patches = sizes(bank)
    needed = pictures + patches
    what = f"pictures {_size(pictures)} and patches {_size(patches)}"
    folder = mapped_folder(bank)
    if kind == "stream":
        return Placement("stream", f"{what} are read block by block, as asked for")
    if kind == "auto" and isinstance(bank.path, Address) and not folder.is_dir():
        return Placement("stream", f"{what} are fetched block by block from {bank.path}")
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if needed <= DEVICE_SHARE * free:
            return Placement("device", f"{what} fit into the {_size(free)} free on {device}")
        what += f", too much for the {_size(free)} free on {device}"
    if folder.is_dir():
        return Placement("folder", f"{what}, mapped from {folder}")
    above = _existing(folder)
    free = shutil.disk_usage(above).free
    why = f"{what}; {above} has {_size(free)} free"
    if not os.access(above, os.W_OK):
        why = f"{above} may not be written"
    elif needed <= DISK_SHARE * free:
        return Placement("folder", f"{what}, written to {folder} (it may be deleted later)")
    if kind == "resident":
        raise UserError(
            f"--loader resident: {why}; make room, name another folder in $RETRIEVEGAN_CACHE, or "
            f"use --loader stream"
        )
    return Placement("stream", why)


def sizes(bank: Bank) -> tuple[int, int]:
    """Bytes of the training scenes' pictures and of their patches."""
    ids = bank.scene_ids("train")
    patches = int(bank.contents.num_patches_of_images(ids).sum()) + 1
    return len(ids) * bank.image_size**2 * 3, patches * bank.patch_size**2 * 3


def mapped_folder(bank: Bank) -> Path:
    return cache_folder() / "resident" / f"{FORMAT}-{bank.content_digest[:32]}"


def on_device(bank: Bank, device: torch.device) -> ResidentSource:
    """Read all into the device's memory."""

    def filled(_: str, shape: tuple[int, ...], pieces: Iterator[Pixels]) -> Tensor:
        held = torch.empty(shape, dtype=torch.uint8, device=device)
        first = 0
        for piece in pieces:
            held[first : first + len(piece)] = torch.from_numpy(piece)
            first += len(piece)
        return held

    table, patch_ids, pictures, patches = _read(bank, filled)
    return ResidentSource(table, pictures, patch_ids, patches)


class MappedSource(ResidentSource):
    """A folder that `write_mapped` has written; every process maps it for itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            SceneTable.open(folder),
            _mapped(folder / PICTURES),
            np.load(folder / PATCH_IDS),
            _mapped(folder / PATCHES),
        )

    def __reduce__(self) -> tuple[type["MappedSource"], tuple[Path]]:
        return MappedSource, (self.folder,)


def mapped(bank: Bank) -> MappedSource:
    """The bank's folder in the cache, written first where it is not there or not whole."""
    folder = mapped_folder(bank)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock")) as alone:
        if alone:
            remove_partial(folder)
        if folder.is_dir():
            try:
                return MappedSource(folder)
            except (OSError, ValueError):  # cut short
                log.warning(f"{folder} is not whole; it is written again")
        # Other banks will use the folder by its name: this one may not only claim its digest.
        check_content(bank.manifest, bank.files.folder, bank.path)
        with written_folder(folder) as partial:
            write_mapped(bank, partial)
        return MappedSource(folder)


def write_mapped(bank: Bank, folder: Path) -> None:
    def write(name: str, shape: tuple[int, ...], pieces: Iterator[Pixels]) -> None:
        save_pieces(folder / name, shape, np.uint8, pieces)

    table, patch_ids, *_ = _read(bank, write)
    table.save(folder)
    save_array(folder / PATCH_IDS, patch_ids)


def _mapped(path: Path) -> Tensor:
    # Copy on write: torch wants a writable array, and nothing writes.
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _read(
    bank: Bank, keep: Callable[[str, tuple[int, ...], Iterator[Pixels]], Kept]
) -> tuple[SceneTable, NDArray[np.int64], Kept, Kept]:
    """Table, patch ids, and what `keep` makes of the pictures' and the patches' pixels, in the
    order in which they lie in the bank: name, shape and pieces, end to end."""
    contents, scene_ids = bank.contents, bank.scene_ids("train")
    shards = np.unique(contents.shards_of_images(scene_ids)).tolist()
    tables: list[SceneTable] = []
    wanted = set(scene_ids.tolist())

    def pictures() -> Iterator[Pixels]:
        for shard in progress(shards, "reading scenes", len(shards), "shard"):
            of_shard = contents.scenes_of_shard(shard)
            samples = [sample for sample in of_shard if sample.image_id in wanted]
            tables.append(SceneTable.of_samples(samples, bank.vocabulary, masks=bank.has_masks))
            yield np.stack([sample.image for sample in samples])

    of_training = np.flatnonzero(np.isin(image_of(bank.patch_ids), scene_ids))
    order = np.argsort(contents.patches.shard_of[of_training], kind="stable")
    patch_ids = bank.patch_ids[of_training[order]]
    starts = range(0, len(patch_ids), PATCHES_AT_ONCE)
    side = (bank.patch_size, bank.patch_size, 3)

    def patches() -> Iterator[Pixels]:
        for start in progress(starts, "reading patches", len(starts), "block"):
            yield bank.patches(patch_ids[start : start + PATCHES_AT_ONCE])
        yield np.zeros((1, *side), np.uint8)

    shape = (len(scene_ids), bank.image_size, bank.image_size, 3)
    kept = keep(PICTURES, shape, pictures())
    all_patches = keep(PATCHES, (len(patch_ids) + 1, *side), patches())
    return SceneTable.joined(tables), patch_ids, kept, all_patches


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
