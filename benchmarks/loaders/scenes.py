"""A bank's training scenes as plain arrays in a folder, and scenes -> a batch.

Every peer reads a copy of these scenes in its own format, looks patches up in the same memory maps
and collates by the same function. Needs numpy and torch alone, so that it runs in the peers'
environments.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IMAGE_NODE = -1  # the end of a scene's `__in_image__` edges, until its place in the batch is known

Batch: TypeAlias = dict[str, Tensor]


class Scene(NamedTuple):
    """As it is stored: n objects, t relations."""

    image_id: int
    image: NDArray[np.uint8]  # (H, W, 3)
    objects: NDArray[np.int64]  # (n,) categories
    boxes: NDArray[np.float32]  # (n, 4)
    triples: NDArray[np.int64]  # (t + n, 3), every object's `__in_image__` edge among them
    patches: NDArray[np.int64]  # (n,) rows of the memory maps


@dataclass(frozen=True)
class Tables:
    """What is looked up by a patch's row. The last row, of zeros, is that of padding: row -1."""

    patches: NDArray[np.uint8]  # (B + 1, P, P, 3)
    cooccurrence: NDArray[np.float32]  # (B + 1, F)
    candidates: NDArray[np.int64]  # (B, K) rows, -1 where the padding is
    valid: NDArray[np.bool_]  # (B, K) which of them may be selected


@dataclass(frozen=True)
class Collate:
    """Scenes -> the batch that a training step takes."""

    tables: Tables
    candidates: int  # K
    image_category: int

    def __call__(self, scenes: Sequence[Scene]) -> Batch:
        tables = self.tables
        counts = np.array([len(scene.objects) for scene in scenes])
        first = counts.cumsum() - counts
        total = int(counts.sum())
        rows = np.concatenate([scene.patches for scene in scenes])
        chosen = np.take(tables.candidates, rows, 0)[:, : self.candidates]
        image_nodes = np.full(len(scenes), self.image_category)
        arrays = {
            "image_ids": np.array([scene.image_id for scene in scenes]),
            "images": np.stack([scene.image for scene in scenes]),
            "nodes": np.concatenate([*(scene.objects for scene in scenes), image_nodes]),
            "triples": _triples(scenes, first, total),
            "object_image": np.arange(len(scenes)).repeat(counts),
            "boxes": np.concatenate([scene.boxes for scene in scenes]),
            "true_patches": np.take(tables.patches, rows, 0),
            "true_cooccurrence": np.take(tables.cooccurrence, rows, 0),
            "valid": np.take(tables.valid, rows, 0)[:, : self.candidates],
            "patches": np.take(tables.patches, chosen, 0),
            "cooccurrence": np.take(tables.cooccurrence, chosen, 0),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _triples(scenes: Sequence[Scene], first: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    lengths = [len(scene.triples) for scene in scenes]
    triples = np.concatenate([scene.triples for scene in scenes])
    image = np.arange(len(scenes)).repeat(lengths)
    triples[:, 0] += first[image]
    ends = triples[:, 2]
    triples[:, 2] = np.where(ends == IMAGE_NODE, total + image, ends + first[image])
    return triples


class SceneCopy:
    """The folder that `write_copy` of ours.py fills."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = json.loads((folder / "about.json").read_text("utf-8"))

    def __len__(self) -> int:
        return len(self.array("image_ids"))

    def array(self, name: str) -> NDArray[np.generic]:
        """Mapped. A plain array: indexing a np.memmap is slower."""
        return np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="r"))

    def collate(self, candidates: int) -> Collate:
        tables = Tables(*(self.array(field.name) for field in fields(Tables)))
        return Collate(tables, candidates, self.about["image_category"])

    def scenes(self) -> "MappedScenes":
        return MappedScenes(self)


class MappedScenes:
    """Scenes out of memory maps."""

    def __init__(self, copy: SceneCopy) -> None:
        self.image_ids, self.images = copy.array("image_ids"), copy.array("images")
        self.objects, self.boxes = copy.array("objects"), copy.array("boxes")
        self.rows, self.triples = copy.array("rows"), copy.array("triples")
        self.object_bounds = copy.array("object_bounds").tolist()
        self.triple_bounds = copy.array("triple_bounds").tolist()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Scene:
        own = slice(self.object_bounds[index], self.object_bounds[index + 1])
        edges = slice(self.triple_bounds[index], self.triple_bounds[index + 1])
        return Scene(
            int(self.image_ids[index]),
            self.images[index],
            self.objects[own],
            self.boxes[own],
            self.triples[edges],
            self.rows[own],
        )

    def __iter__(self) -> Iterator[Scene]:
        return (self[index] for index in range(len(self)))


def digest(batches: Iterable[Batch], scenes: int) -> tuple[int, int]:
    """Of `scenes` scenes in whatever order and batches: how many different ones, and what all their
    tensors hold."""
    held: dict[int, int] = {}
    seen = 0
    for batch in batches:
        for n, image_id in enumerate(batch["image_ids"].tolist()[: scenes - seen]):
            held[image_id] = _scene_digest(batch, n)
        seen += len(batch["image_ids"])
        if seen >= scenes:
            break
    return len(held), sum(held.values())


def _scene_digest(batch: Batch, n: int) -> int:
    own = torch.nonzero(batch["object_image"] == n)[:, 0]
    of_objects = ("boxes", "true_patches", "true_cooccurrence", "valid", "patches", "cooccurrence")
    first, total = int(own[0]), len(batch["object_image"])
    triples = batch["triples"][torch.isin(batch["triples"][:, 0], own)] - torch.tensor(
        [first, 0, 0]
    )
    ends = triples[:, 2]
    triples[:, 2] = torch.where(ends == total + n, IMAGE_NODE, ends - first)
    ordered = torch.tensor(sorted(triples.tolist()))
    value = 0
    for part in (batch["images"][n], batch["nodes"][own], ordered):
        value = zlib.crc32(part.contiguous().numpy(), value)
    for name in of_objects:
        value = zlib.crc32(batch[name][own].contiguous().numpy(), value)
    return value
