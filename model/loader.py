"""Batches of a bank's training scenes, loaded in worker processes, in an order that can resume."""

import os
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from bank.bank import Bank
from pipeline.stream import BatchSampler

Batch = TypeVar("Batch")
ImageIds = NDArray[np.int64]
LoadBatch = Callable[[Bank, ImageIds], Batch]  # image ids -> the batch of their scenes


def _leave_group(_: int) -> None:
    """A terminal's Ctrl-C reaches the trainer alone, which waits for its batch."""
    os.setpgrp()


class _Scenes(Dataset[Batch], Generic[Batch]):
    """The image ids of a batch -> the batch. Each process opens the bank's files for itself."""

    def __init__(self, bank: Bank, load_batch: LoadBatch[Batch]) -> None:
        self.bank, self.load_batch = bank, load_batch

    def __getitem__(self, image_ids: list[int]) -> Batch:
        return self.load_batch(self.bank, np.array(image_ids, np.int64))


def training_scenes(bank: Bank) -> dict[str, list[int]]:
    """Shard -> image ids of the bank's training scenes."""
    ids = bank.scene_ids("train")
    shards = bank.contents.shards_of_images(ids)
    return {str(name): ids[shards == name].tolist() for name in np.unique(shards)}


def training_batches(
    bank: Bank,
    load_batch: LoadBatch[Batch],
    *,
    block_shards: int,
    batch_size: int,
    seed: int,
    first_step: int,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Training batches without end, that of step `first_step` first."""
    order = BatchSampler(
        training_scenes(bank),
        block_shards=block_shards,
        batch_size=batch_size,
        seed=seed,
        first_step=first_step,
    )
    loader = DataLoader(
        _Scenes(bank, load_batch),
        sampler=order,  # yields the image ids of whole batches
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_leave_group,
    )
    return iter(loader)
