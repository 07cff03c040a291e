"""Batches of a bank's training scenes, in an order that can resume.

Every kind of loader, number of ranks and number of worker processes gives the same scenes, draws
and pixels at the same positions of one endless sequence (pipeline/stream.py).
"""

import os
import pickle
import shutil
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from bank.bank import Bank
from model import resident
from model.batch import moved, pinned
from model.config import Loader
from model.sources import Counts, Part, Source
from model.streamed import SharedBlocks, StreamedSource
from pipeline.errors import MORE_HANDLES, UserError
from pipeline.output import log
from pipeline.stream import SceneOrder

Batch = TypeVar("Batch")
Collate = Callable[[Bank, Source, Part], Batch]  # what a step takes of some scenes

CPU = torch.device("cpu")
SHARED_MEMORY = "/dev/shm"  # through which worker processes hand over their batches
CAUGHT = "Caught "  # torch's word for an error in a worker, whose traceback follows
ALONE = "use --loader-workers 0"
PREFETCHED = 2  # batches of each worker, or of the thread, that wait


@dataclass(frozen=True)
class Parts:
    """This rank's part of each global batch, or the parts of it, without end."""

    bank: Bank
    order: SceneOrder
    batch_size: int  # B, of the global batch
    first_step: int = 0
    rank: int = 0
    ranks: int = 1
    each: int = 1  # parts of a rank's batch, one after the other; ranks * each divides the batch

    def __iter__(self) -> Iterator[Part]:
        size = self.batch_size // (self.ranks * self.each)
        batches = self.order.batches(self.batch_size, self.first_step)
        for step, batch in zip(count(self.first_step), batches, strict=False):
            ids = np.array(batch, np.int64)
            counts = Counts.of(self.bank.contents.num_patches_of_images(ids))
            for part in range(self.rank * self.each, (self.rank + 1) * self.each):
                first = part * size
                yield Part(step * self.batch_size + first, ids[first : first + size], counts)


class _Batches(IterableDataset[Batch | UserError], Generic[Batch]):
    """Batches of this process: all of them, or a worker's own, and why there are no more."""

    def __init__(self, parts: Parts, collate: Collate[Batch], source: Source) -> None:
        self.parts, self.collate, self.source = parts, collate, source

    def __iter__(self) -> Generator[Batch | UserError, None, None]:
        """As a worker process: torch would put its own words around an error."""
        info = get_worker_info()
        assert info is not None
        try:
            yield from self.take(info.id, info.num_workers)
        except UserError as error:
            yield error

    def take(self, worker: int = 0, workers: int = 1) -> Generator[Batch, None, None]:
        """Every `workers`-th."""
        try:
            for part in islice(self.parts, worker, None, workers):
                yield self.collate(self.parts.bank, self.source, part)
        finally:
            self.source.close()


def training_scenes(bank: Bank) -> dict[str, list[int]]:
    """Shard -> image ids of the bank's training scenes."""
    ids = bank.scene_ids("train")
    names, shard = np.unique(bank.contents.shards_of_images(ids), return_inverse=True)
    by_shard = ids[np.argsort(shard, kind="stable")]
    parts = np.split(by_shard, np.bincount(shard).cumsum()[:-1])
    return {str(name): part.tolist() for name, part in zip(names, parts, strict=True)}


def training_batches(
    bank: Bank,
    collate: Collate[Batch],
    *,
    block_shards: int,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    rank: int = 0,
    ranks: int = 1,
    kind: Loader = "auto",
    workers: int = 0,
    device: torch.device = CPU,
    parts: int = 1,
) -> Generator[Batch, None, None]:
    """This rank's batches on the device, without end, that of step `first_step` first; each in so
    many parts, one after the other.

    UserError where `resident` is asked for and nothing has room for it, where shared memory is too
    small for what `workers` processes load, and where one of them dies.
    """
    order = SceneOrder(training_scenes(bank), block_shards=block_shards, seed=seed)
    all_parts = Parts(bank, order, batch_size, first_step, rank, ranks, parts)
    placement = resident.place(bank, kind, device)
    if rank == 0:
        name = "stream" if placement.where == "stream" else "resident"
        log.info(f"loader: {name}; {placement.why}")
    source: Source
    shared: SharedBlocks | None = None
    if placement.where == "device":
        source, workers = resident.on_device(bank, device), 0
    elif placement.where == "folder":
        source = resident.mapped(bank)
    else:
        several = workers > 1 or int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1
        shared = SharedBlocks.of(bank, order) if several else None
        source = StreamedSource(bank, order, shared)
    batches = _Batches(all_parts, collate, source)
    made = _by_workers(batches, workers, device) if workers else _by_this_process(batches, device)
    return _and_then(made, shared.close if shared else None)


def _and_then(
    batches: Generator[Batch, None, None], closes: Callable[[], None] | None
) -> Generator[Batch, None, None]:
    """The batches; at their end what they were made with is closed."""
    try:
        with closing(batches):
            yield from batches
    finally:
        if closes is not None:
            closes()


def _by_this_process(
    batches: _Batches[Batch], device: torch.device
) -> Generator[Batch, None, None]:
    """On a GPU a thread is ahead of the step. On a CPU both would compute on the same cores."""
    with closing(batches.take()) as made:
        if device.type == "cpu":
            yield from made
            return

        def take() -> Batch:
            return moved(pinned(next(made)), device)

        def use_device() -> None:  # a thread begins on the first GPU
            if device.index is not None:
                torch.cuda.set_device(device)

        with ThreadPoolExecutor(1, "batches", use_device) as thread:
            ahead = deque(thread.submit(take) for _ in range(PREFETCHED * batches.parts.each))
            while True:
                batch = ahead.popleft().result()
                ahead.append(thread.submit(take))
                yield batch


def _by_workers(
    batches: _Batches[Batch], workers: int, device: torch.device
) -> Generator[Batch, None, None]:
    """Worker processes load. Where shared memory is full a batch would never come."""
    if os.path.isdir(SHARED_MEMORY):
        with closing(batches.take()) as made:
            _check_shared_memory(next(made), workers)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that cores are few
        loader = DataLoader(
            batches,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=PREFETCHED,
            pin_memory=device.type == "cuda",
            worker_init_fn=_leave_group,
        )
        with _no_error_but_in_next():
            loaded = iter(loader)
    try:
        for batch in loaded:
            if isinstance(batch, UserError):
                raise batch
            yield moved(batch, device)
    except torch.OutOfMemoryError:
        raise
    # Of a process that died torch says so, but not where it died while it handed over a batch.
    except (RuntimeError, OSError, EOFError) as error:
        if str(error).startswith(CAUGHT):
            raise
        raise UserError(_why(str(error) or type(error).__name__)) from error
    finally:
        del loaded  # ends the processes
        batches.source.close()


@contextmanager
def _no_error_but_in_next() -> Iterator[None]:
    """torch would raise the death of a worker wherever this process is, in the middle of a step
    too. Without its handler the next batch does, within five seconds."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)


def _leave_group(_: int) -> None:
    """A terminal's Ctrl-C reaches the trainer alone, which waits for its batch."""
    os.setpgrp()


def _check_shared_memory(batch: Any, workers: int) -> None:
    free = shutil.disk_usage(SHARED_MEMORY).free
    needed = len(pickle.dumps(batch)) * (PREFETCHED * workers + 1)  # and the one that is used
    if free < needed:
        raise UserError(
            f"{SHARED_MEMORY} has {free / 1e6:.0f} MB, too little for the loader's batches "
            f"({needed / 1e6:.0f} MB): {ALONE}, or docker run --shm-size=1g (or --ipc=host)"
        )


def _why(error: str) -> str:
    """What to do about a loader that ended."""
    if "Too many open files" in error:
        return f"the loader's processes need too many open files: {MORE_HANDLES}, or {ALONE}"
    first = " ".join(error.split("\n")[0].split())
    return f"a loader's process ended ({first}); {ALONE}, which needs less memory"
