"""In which order scenes come: a function of (seed, epoch, shard, image id), and of nothing else.

No buffer, no hidden state and no library's shuffle, so that a run which goes on from step n meets
exactly the scenes it would have met without the interruption, on any machine and with any version.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count, islice
from typing import NamedTuple, TypeVar

Item = TypeVar("Item", int, str)


def draw(seed: int, epoch: int, item: int | str) -> bytes:
    """H: the first 8 bytes of the SHA-256 of the three, written in ASCII and joined by `/`."""
    return hashlib.sha256(f"{seed}/{epoch}/{item}".encode("ascii")).digest()[:8]


def shuffled(items: Sequence[Item], seed: int, epoch: int) -> list[Item]:
    """Sorted by H; where two draw the same, by name or number."""
    return sorted(items, key=lambda item: (draw(seed, epoch, item), item))


class Block(NamedTuple):
    """The scenes of a few shards, mixed with one another."""

    first: int  # position of its first scene in the sequence
    shards: tuple[str, ...]  # whose scenes these are
    image_ids: tuple[int, ...]  # in the order in which they come


class SceneOrder:
    """The endless sequence of training scenes, by position.

    In each epoch the shards are shuffled and cut into blocks of `block_shards`, and the scenes of
    a block are shuffled. Epochs are laid end to end: every scene comes once an epoch.
    """

    def __init__(
        self, scenes: Mapping[str, Sequence[int]], *, block_shards: int, seed: int
    ) -> None:
        """scenes: shard -> image ids"""
        self.scenes = {shard: ids for shard, ids in scenes.items() if ids}
        self.size = sum(map(len, self.scenes.values()))  # scenes of an epoch
        if not self.size:
            raise ValueError("there is no scene to draw from")
        self.block_shards, self.seed = block_shards, seed

    def blocks(self, position: int = 0) -> Iterator[Block]:
        """Blocks without end, that which holds the position first. Those before it are counted,
        not shuffled."""
        for epoch in count(position // self.size):
            shards = shuffled([*self.scenes], self.seed, epoch)
            first = epoch * self.size
            for start in range(0, len(shards), self.block_shards):
                of_block = tuple(shards[start : start + self.block_shards])
                image_ids = [image_id for shard in of_block for image_id in self.scenes[shard]]
                if position < first + len(image_ids):
                    yield Block(first, of_block, tuple(shuffled(image_ids, self.seed, epoch)))
                first += len(image_ids)

    def batches(self, size: int, first_step: int = 0) -> Iterator[list[int]]:
        """The image ids of batch after batch, without end; that of step t holds the positions from
        t * size on. A batch may span blocks and epochs; none is short."""
        position = first_step * size
        blocks = self.blocks(position)
        begun = next(blocks)
        image_ids = chain(
            begun.image_ids[position - begun.first :],
            chain.from_iterable(block.image_ids for block in blocks),
        )
        while True:
            yield [*islice(image_ids, size)]
