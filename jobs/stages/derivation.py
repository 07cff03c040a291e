"""What every derived file of a bank is made from: its content, and the settings."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bank.contents import TABLES, Contents
from bank.files import file_digest
from bank.recipe import TRAIN, Scope
from bank.table import codes
from bank.tasks import Place
from model.graph import frozen_encoder
from model.retrieval import cooccurrence


@dataclass(frozen=True)
class DeriveOptions:
    """What decides the part of a bank that is derived from its content."""

    graph_encoder: str  # "train" or a path
    graph_encoder_digest: str  # of that file; "train" where there is none
    encoder_steps: int | None  # of training; None: by number of scenes
    cooccurrence: str
    cooccurrence_digest: str
    cooccurrence_steps: int | None
    candidates: int
    candidate_scope: Scope


@dataclass(frozen=True)
class Derivation:
    """A bank that is being built, up to its content.

    earlier    the finished bank whose next version this is: what a network has made of the same
               scene or patch there is taken over
    """

    contents: Contents
    content_digest: str
    options: DeriveOptions
    earlier: Path | None = None

    @property
    def bank(self) -> Path:
        return self.contents.folder

    @cached_property
    def tables(self) -> Place:
        """Where workers find the content, and which it is."""
        digests = tuple(file_digest(self.bank / name) for name in TABLES)
        return Place(self.bank, self.contents.patches.patch_size, digests)

    @cached_property
    def encoder_steps(self) -> int:
        """0 where the network is read from a file."""
        asked, default = self.options.encoder_steps, frozen_encoder.default_steps
        return self._steps(self.options.graph_encoder, asked, default)

    @cached_property
    def cooccurrence_steps(self) -> int:
        """0 where the network is read from a file."""
        asked, default = self.options.cooccurrence_steps, cooccurrence.default_steps
        return self._steps(self.options.cooccurrence, asked, default)

    def _steps(self, source: str, asked: int | None, default: Callable[[int], int]) -> int:
        if source != TRAIN:
            return 0
        return default(len(self.contents.scene_ids("train"))) if asked is None else asked


def training_rows(contents: Contents) -> NDArray[np.bool_]:
    """(B,) True for patches of training photos: only these become candidates."""
    names, split = codes(contents.table, "split")
    training: NDArray[np.bool_] = split == names.index("train") if "train" in names else split < 0
    return training
