"""Where a batch's scenes and patches are read from."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.bank import Bank
from model.scene_table import SceneTable


class Counts(NamedTuple):
    """What the losses of a step are means over: of the global batch, all ranks' parts together."""

    images: Tensor  # () float32
    objects: Tensor  # () float32

    @property
    def nodes(self) -> Tensor:
        """Of the scene graphs: the objects and the images."""
        return self.objects + self.images

    @classmethod
    def of(cls, num_objects: NDArray[np.int64]) -> Self:
        """num_objects (B,) of each scene of the global batch"""
        return cls(*(torch.tensor(float(n)) for n in (len(num_objects), num_objects.sum())))


class Part(NamedTuple):
    """Scenes of a global batch that are taken together, a rank's or a part of those: contiguous
    positions of the endless sequence."""

    first: int  # position of the first
    image_ids: NDArray[np.int64]  # (N,)
    counts: Counts

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(range(self.first, self.first + len(self.image_ids)))


class Scenes(NamedTuple):
    """Some scenes with their pictures."""

    table: SceneTable
    pictures: Tensor  # (N, H, W, 3) uint8


class Source(Protocol):
    """What a loader reads. Tensors may be on the device where a step is taken."""

    def scenes(self, part: Part) -> Scenes:
        """The scenes of a part, in its order."""

    def patches(self, ids: NDArray[np.int64]) -> Tensor:
        """(...) -> (..., P, P, 3) uint8; zeros where an id is negative."""

    def close(self) -> None:
        """End what reads ahead."""


class BankSource:
    """Reads a bank as it lies, scene by scene: for a few scenes of any split."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank

    def scenes(self, part: Part) -> Scenes:
        bank = self.bank
        samples = [bank.scene(int(image_id)) for image_id in part.image_ids]
        return Scenes(
            SceneTable.of_samples(samples, bank.vocabulary, masks=bank.has_masks),
            torch.from_numpy(np.stack([sample.image for sample in samples])),
        )

    def patches(self, ids: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.bank.patches(ids))

    def close(self) -> None:
        pass


def part_of(bank: Bank, image_ids: Sequence[int] | NDArray[np.int64], first: int = 0) -> Part:
    """Any scenes of a bank, as the only part of a batch."""
    ids = np.array(image_ids, np.int64)
    return Part(first, ids, Counts.of(bank.contents.num_patches_of_images(ids)))
