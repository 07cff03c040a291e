"""In which order scenes come: a function of (seed, epoch, shard, image id), and of nothing else.

No buffer, no hidden state and no library's shuffle, so that a run which goes on from step n meets
exactly the scenes it would have met without the interruption, on any machine and with any version.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import TypeVar

Item = TypeVar("Item", int, str)


def draw(seed: int, epoch: int, item: int | str) -> bytes:
    """H: the first 8 bytes of the SHA-256 of the three, written in ASCII and joined by `/`."""
    return hashlib.sha256(f"{seed}/{epoch}/{item}".encode("ascii")).digest()[:8]


def shuffled(items: Sequence[Item], seed: int, epoch: int) -> list[Item]:
    """Sorted by H; where two draw the same, by name or number."""
    return sorted(items, key=lambda item: (draw(seed, epoch, item), item))


class BatchSampler:
    """The image ids of batch after batch, without end, from step `first_step` on.

    In each epoch the shards are shuffled and cut into blocks of `block_shards`, and the scenes of
    a block are shuffled. Epochs are laid end to end and cut into batches: every scene comes once
    an epoch, and a batch may span two epochs.
    """

    def __init__(
        self,
        scenes: Mapping[str, Sequence[int]],
        *,
        block_shards: int,
        batch_size: int,
        seed: int,
        first_step: int = 0,
    ) -> None:
        """scenes: shard -> image ids"""
        self.scenes, self.size = scenes, sum(map(len, scenes.values()))
        if not self.size:
            raise ValueError("there is no scene to draw from")
        self.block_shards, self.batch_size = block_shards, batch_size
        self.seed, self.first_step = seed, first_step

    def __iter__(self) -> Iterator[list[int]]:
        image_ids = self._from(self.first_step * self.batch_size)
        while True:
            yield [*islice(image_ids, self.batch_size)]

    def _from(self, position: int) -> Iterator[int]:
        """Image ids from a position on. Blocks before it are counted, not shuffled."""
        first_epoch, skipped = divmod(position, self.size)
        for epoch in count(first_epoch):
            shards = shuffled([*self.scenes], self.seed, epoch)
            for first in range(0, len(shards), self.block_shards):
                of_block = shards[first : first + self.block_shards]
                block = [image_id for shard in of_block for image_id in self.scenes[shard]]
                if skipped < len(block):
                    yield from shuffled(block, self.seed, epoch)[skipped:]
                skipped = max(skipped - len(block), 0)
