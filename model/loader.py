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
    """Positions of a batch -> the batch. Each process opens the bank's files for itself."""

    def __init__(self, bank: Bank, load_batch: LoadBatch[Batch]) -> None:
        self.bank, self.load_batch = bank, load_batch
        self.image_ids = bank.scene_ids("train")

    def __getitem__(self, positions: list[int]) -> Batch:
        return self.load_batch(self.bank, self.image_ids[positions])


def training_batches(
    bank: Bank,
    load_batch: LoadBatch[Batch],
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Training batches without end, that of step `first_step` first."""
    scenes = _Scenes(bank, load_batch)
    order = BatchSampler(len(scenes.image_ids), batch_size, seed, first_step)
    loader = DataLoader(
        scenes,
        sampler=order,  # yields the positions of whole batches
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_leave_group,
    )
    return iter(loader)
