"""Random numbers of a batch: one stream for all of it, or one for each scene by its position.

In training all that is random about the scene at position p of the endless sequence is a function
of (seed, p): not of the batch it comes in, its padding, the rank, the worker or the restart.
"""

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
    """Each scene's numbers from a Philox generator with the key (seed, position)."""

    def __init__(self, seed: int, positions: Sequence[int], num_objects: NDArray[np.int64]) -> None:
        """num_objects (N,) of each scene"""
        keys = (np.array([seed, position], np.uint64) for position in positions)
        self.scenes = [np.random.Generator(np.random.Philox(key=key)) for key in keys]
        self.num_objects = num_objects.tolist()

    def objects(self, shape: Sequence[int]) -> Tensor:
        columns = shape[1:]
        drawn = [
            scene.random((n, *columns), np.float32)
            for scene, n in zip(self.scenes, self.num_objects, strict=True)
        ]
        return torch.from_numpy(np.concatenate(drawn))

    def images(self, n: int) -> Tensor:
        drawn = [scene.random(dtype=np.float32) for scene in self.scenes]
        return torch.from_numpy(np.array(drawn, np.float32))


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
