"""In which order scenes come: a function of (seed, epoch, position), and of nothing else.

No buffer and no hidden state, whatever the number of loader processes, so that a run which goes
on from step n meets exactly the scenes it would have met without the interruption.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def epoch_order(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The permutation of `size` scenes that one epoch follows."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch))))
    return generator.permutation(size)


class BatchSampler:
    """Batch after batch of scene positions, without end, from step `first_step` on.

    Epochs are laid end to end and cut into batches: every scene comes once an epoch, and a batch
    may span two epochs.
    """

    def __init__(self, size: int, batch: int, seed: int, first_step: int = 0) -> None:
        if size < 1:
            raise ValueError("there is no scene to draw from")
        self.size, self.batch, self.seed, self.first_step = size, batch, seed, first_step

    def __iter__(self) -> Iterator[list[int]]:
        position = self.first_step * self.batch
        epoch = position // self.size
        order = epoch_order(self.seed, epoch, self.size)
        while True:
            batch: list[int] = []
            for _ in range(self.batch):
                if position // self.size != epoch:
                    epoch = position // self.size
                    order = epoch_order(self.seed, epoch, self.size)
                batch.append(int(order[position % self.size]))
                position += 1
            yield batch
