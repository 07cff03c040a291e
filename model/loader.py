"""Batches of a bank's training scenes, in an order that can resume; worker processes may load them.

Worker processes load fewer scenes a second than this one: 491 to 609 against 1,589 to 2,114 on two
cores (batches of recipes paper and demo, toy bank), as each batch goes through shared memory.
"""

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from bank.bank import Bank
from pipeline.errors import UserError
from pipeline.stream import BatchSampler

Batch = TypeVar("Batch")
ImageIds = NDArray[np.int64]
LoadBatch = Callable[[Bank, ImageIds], Batch]  # image ids -> the batch of their scenes

SHARED_MEMORY = "/dev/shm"  # through which worker processes hand over their batches
PREFETCHED = 2  # batches of each worker that wait there, torch's default


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
    """Training batches without end, that of step `first_step` first.

    UserError where shared memory is too small for what `workers` processes load.
    """
    scenes = _Scenes(bank, load_batch)
    order = BatchSampler(
        training_scenes(bank),
        block_shards=block_shards,
        batch_size=batch_size,
        seed=seed,
        first_step=first_step,
    )
    if workers and os.path.isdir(SHARED_MEMORY):
        _check_shared_memory(scenes[next(iter(order))], workers)
    loader = DataLoader(
        scenes,
        sampler=order,  # yields the image ids of whole batches
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_leave_group,
    )
    return iter(loader)


def _check_shared_memory(batch: Batch, workers: int) -> None:
    """Where it is full, a worker's batch never comes, and the trainer would wait for ever."""
    free = shutil.disk_usage(SHARED_MEMORY).free
    needed = len(pickle.dumps(batch)) * (PREFETCHED * workers + 1)  # and the one that is used
    if free < needed:
        raise UserError(
            f"{SHARED_MEMORY} has {free / 1e6:.0f} MB, too little for the loader's batches "
            f"({needed / 1e6:.0f} MB): use --loader-workers 0, or docker run --shm-size=1g (or "
            f"--ipc=host)"
        )
