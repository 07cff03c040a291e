"""F_occur: patches in, unit-length vectors out, near for patches of one photo (paper, section 2)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn


class CoOccurrence(nn.Module):
    def forward(self, patches: Tensor) -> Tensor:
        raise NotImplementedError

    def save(self, path: Path) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, path: Path) -> Self:
        raise NotImplementedError


def default_steps(num_photos: int) -> int:
    """Training steps where the user names none."""
    raise NotImplementedError


def train_co_occurrence(
    patches_of: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
    image_to_patches: Sequence[NDArray[np.int64]],
    *,
    steps: int,
    seed: int,
) -> CoOccurrence:
    raise NotImplementedError


def embed_patches(network: CoOccurrence, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, P, P, 3) uint8 -> (n, 64), on the grid of `bank/grid.py`."""
    raise NotImplementedError
