"""The bank's two frozen networks, trained on its training photos or read from files.

A training is one task: its threads and its seed are fixed, and it is saved as it goes, so that one
that was killed goes on, on any worker, and ends in the same bytes.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from bank.contents import Contents
from bank.files import json_digest
from bank.recipe import SEED, TRAIN
from bank.shards import close_shards
from bank.table import column
from jobs.stages.blocks import Block, Stage, software
from jobs.stages.derivation import training_rows
from jobs.stages.receipts import WORK
from model.frozen import SavedTraining
from model.graph.frozen_encoder import train_graph_encoder
from model.graph.vocabularies import compare_vocabularies, listed
from model.retrieval.cooccurrence import CooccurrenceNetwork, train_cooccurrence
from model.sg2im.published import ignored_note, is_published, load_published_graph
from model.sg2im.run import load_graph_encoder
from pipeline import codec
from pipeline.errors import UserError
from pipeline.files import write_bytes
from pipeline.output import log
from pipeline.pack import SceneSample
from pipeline.scene import Vocabulary
from pipeline.wording import counted

OPEN_PATCHES = 1 << 9  # that a training reads before it closes their shards: 200 MB of maps


class NetworkStage(Stage):
    """A network's file: one block where it is trained, none where it is given."""

    title = ""

    @property
    @abstractmethod
    def source(self) -> str:
        """A path, or "train"."""

    @property
    def software(self) -> Mapping[str, str]:
        return software("torch", "instructions") if self.source == TRAIN else software("torch")

    def ranges(self) -> Sequence[tuple[int, int]]:
        return [(0, 1)] if self.source == TRAIN else []

    def join(self, parts: Sequence[Path]) -> None:
        (name,) = self.outputs
        for part in parts:
            write_bytes(self.bank / name, (part / name).read_bytes())
        if not parts:
            self.save_given(self.bank / name)

    @abstractmethod
    def save_given(self, path: Path) -> None:
        """Write the network of the file that is given as the bank's own."""


class GraphEncoderStage(NetworkStage):
    """graph_encoder.safetensors: learns from the training graphs."""

    name, outputs = "graph-encoder", ("graph_encoder.safetensors",)

    @property
    def source(self) -> str:
        return self.derivation.options.graph_encoder

    @property
    def settings(self) -> Mapping[str, Any]:
        digest = self.derivation.options.graph_encoder_digest
        return {"file": digest, "steps": self.derivation.encoder_steps, "seed": SEED}

    @staticmethod
    def make(block: Block, folder: Path) -> None:
        contents = block.contents
        network = train_graph_encoder(
            TrainingScenes(contents),
            contents.vocabulary,
            mean_box=_mean_training_box(contents),
            masks=_has_training_masks(contents),
            steps=block.settings["steps"],
            seed=block.settings["seed"],
            saved=_saved_training(block),
        )
        network.save(folder / "graph_encoder.safetensors")

    def save_given(self, path: Path) -> None:
        load_graph_encoder(Path(self.source)).save(path)


class CooccurrenceStage(NetworkStage):
    """cooccurrence.safetensors: learns from the training photos' patches."""

    name, outputs = "cooccurrence", ("cooccurrence.safetensors",)

    @property
    def source(self) -> str:
        return self.derivation.options.cooccurrence

    @property
    def settings(self) -> Mapping[str, Any]:
        digest = self.derivation.options.cooccurrence_digest
        return {"file": digest, "steps": self.derivation.cooccurrence_steps, "seed": SEED}

    @staticmethod
    def make(block: Block, folder: Path) -> None:
        contents = block.contents
        network = train_cooccurrence(
            PatchReader(contents),
            contents.patches_of_images(contents.scene_ids("train")),
            steps=block.settings["steps"],
            seed=block.settings["seed"],
            saved=_saved_training(block),
        )
        network.save(folder / "cooccurrence.safetensors")

    def save_given(self, path: Path) -> None:
        CooccurrenceNetwork.load(Path(self.source)).save(path)


class TrainingScenes(Sequence[SceneSample]):
    """The bank's training scenes without their pictures, each read when it is asked for."""

    def __init__(self, contents: Contents) -> None:
        self.contents, self.image_ids = contents, contents.scene_ids("train")

    def __len__(self) -> int:
        return len(self.image_ids)

    @overload
    def __getitem__(self, at: int) -> SceneSample: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[SceneSample]: ...
    def __getitem__(self, at: int | slice) -> SceneSample | Sequence[SceneSample]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        return self.contents.scene(int(self.image_ids[at]), image=False)


class PatchReader:
    """Reads patches from all over the bank, and keeps few of them mapped."""

    def __init__(self, contents: Contents) -> None:
        self.contents, self.open = contents, 0

    def __call__(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        if self.open > OPEN_PATCHES:
            close_shards()
            self.open = 0
        self.open += len(ids)
        return self.contents.patches.read(ids)


def _mean_training_box(contents: Contents) -> NDArray[np.float32]:
    """(4,)"""
    train = training_rows(contents)
    boxes = np.stack([column(contents.table, name)[train] for name in ("x0", "y0", "x1", "y1")], 1)
    mean: NDArray[np.float32] = torch.from_numpy(boxes).mean(0).numpy()
    return mean


def _has_training_masks(contents: Contents) -> bool:
    sizes = column(contents.scenes, "masks_size")
    return bool((sizes[contents.splits == "train"] >= 0).any())


def _saved_training(block: Block) -> SavedTraining:
    """Where the training is saved as it goes: a file of its own for all that decides it."""
    key = json_digest([block.key, codec.machine()])
    return SavedTraining(block.bank / WORK / f"{block.stage}-{key[:16]}.safetensors", key)


def check_networks(encoder: str, f_occur: str, vocabulary: Vocabulary) -> None:
    """UserError for a network file that cannot be used: before the hours of cutting."""
    if encoder != TRAIN:
        _check_names(Path(encoder), vocabulary)
    if f_occur != TRAIN:
        CooccurrenceNetwork.load(Path(f_occur))


def _check_names(path: Path, vocabulary: Vocabulary) -> None:
    """UserError for a name of the dataset that the network lacks; prints names it has besides."""
    if is_published(path) and (ignored := load_published_graph(path).ignored):
        log.info(ignored_note(path, ignored))
    difference = compare_vocabularies(load_graph_encoder(path).vocabulary, vocabulary)
    if unknown := [*difference.unknown_objects, *difference.unknown_predicates]:
        raise UserError(
            f"--graph-encoder {path} does not know {len(unknown)} of the dataset's names: "
            f"{', '.join(unknown)}; give one that was trained on them, or 'train'"
        )
    if unused := [*difference.unused_objects, *difference.unused_predicates]:
        names = counted(len(unused), "name")
        log.info(f"{path} also knows {names} that this dataset lacks: {listed(unused)}")
