"""Random numbers of a batch: one stream for all of it, or one for each scene by its position.

In training all that is random about the scene at position p of the endless sequence is a function
of (seed, p): not of the batch it comes in, its padding, the rank, the worker or the restart.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.stream import draw


class Uniforms(Protocol):
    """Float32 numbers from [0, 1) on the CPU, others at each call."""

    def objects(self, shape: Sequence[int]) -> Tensor:
        """For each object of the batch: shape (O, ...)."""

    def images(self, n: int) -> Tensor:
        """One for each image of the batch: (N,)."""


class OneStream:
    """All numbers of a batch from one generator; by default the global one."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def objects(self, shape: Sequence[int]) -> Tensor:
        return torch.rand([*shape], generator=self.generator)

    def images(self, n: int) -> Tensor:
        return torch.rand(n, generator=self.generator)


class ByPosition:
    """Each scene's numbers are the first of a Philox generator with the key (seed, position)."""

    def __init__(
        self,
        seed: int,
        positions: Sequence[int],
        num_objects: NDArray[np.int64],
        per_object: int,
        per_image: int = 2,
    ) -> None:
        """
        num_objects  (N,)  of each scene
        per_object   how many numbers may be asked for, for each object
        per_image    ... for each image
        """
        philox = np.random.Philox(key=0)
        generator, state = np.random.Generator(philox), philox.state
        of_images, of_objects = [], []
        for position, n in zip(positions, num_objects.tolist(), strict=True):
            # A new generator's state with another key: to make one takes four times as long.
            state["state"]["key"] = np.array([seed, position], np.uint64)
            philox.state = state
            drawn = generator.random(per_image + n * per_object, np.float32)
            of_images.append(drawn[:per_image])
            of_objects.append(drawn[per_image:].reshape(n, per_object))
        self._images = torch.from_numpy(np.stack(of_images))  # those not yet asked for
        self._objects = torch.from_numpy(np.concatenate(of_objects))

    def objects(self, shape: Sequence[int]) -> Tensor:
        count = math.prod(shape[1:])
        drawn, self._objects = self._objects[:, :count], self._objects[:, count:]
        return drawn.reshape([*shape])

    def images(self, n: int) -> Tensor:
        drawn, self._images = self._images[:, 0], self._images[:, 1:]
        return drawn


def normal_maps(
    seed: int, positions: Sequence[int], shape: Sequence[int], device: torch.device
) -> Tensor:
    """(N, *shape) normal noise, each image's drawn on the device by a generator seeded with H of
    (seed, position). On a GPU that generator is counter-based (Philox)."""
    generator = torch.Generator(device)
    maps = torch.empty((len(positions), *shape), device=device)
    for drawn, position in zip(maps, positions, strict=True):
        # A generator on the CPU takes the low 32 bits of its seed, one on the GPU all of them.
        word = int.from_bytes(draw(seed, position, "noise"), "big")
        drawn.normal_(generator=generator.manual_seed(word))
    return maps
