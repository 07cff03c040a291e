"""The graphs of many scenes as a few arrays: a batch is taken without a loop over scenes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from bank.files import save_array
from model.graph.network import GraphBatch, graph_tensors
from pipeline.pack import SceneSample
from pipeline.scene import IMAGE, MASK_SIZE, Vocabulary


class SceneTable(NamedTuple):
    """S scenes with O objects and T triples in all, laid end to end."""

    image_ids: NDArray[np.int64]  # (S,)
    first_object: NDArray[np.int64]  # (S + 1,) row of each scene's first object; O at the end
    first_triple: NDArray[np.int64]  # (S + 1,)
    nodes: NDArray[np.int64]  # (O,) place in vocabulary.objects
    boxes: NDArray[np.float32]  # (O, 4)
    patch_ids: NDArray[np.int64]  # (O,)
    # (T, 3) as in GraphBatch, objects by their place in the scene; n of n objects: the image node
    triples: NDArray[np.int64]
    masks: NDArray[np.uint8]  # (O, 16, 16) in {0, 1}; (O, 0, 0) where the dataset has none

    @classmethod
    def of_samples(
        cls, samples: Iterable[SceneSample], vocabulary: Vocabulary, *, masks: bool
    ) -> Self:
        """UserError for a name that the vocabulary lacks.

        masks  whether the dataset has some: an object of a scene without then fills its box
        """
        side = MASK_SIZE if masks else 0
        image_ids, objects, triples = [], [0], [0]
        columns: list[list[NDArray[Any]]] = [[], [], [], [], []]
        for sample in samples:
            n = len(sample.objects)
            graph = graph_tensors([(sample.objects, sample.triples)], vocabulary)
            full = np.ones((n, side, side), np.uint8)
            values: tuple[NDArray[Any], ...] = (
                graph.nodes.numpy()[:n],
                sample.boxes,
                sample.patch_ids,
                graph.triples.numpy(),
                full if sample.masks is None else sample.masks,
            )
            for column, value in zip(columns, values, strict=True):
                column.append(value)
            image_ids.append(sample.image_id)
            objects.append(objects[-1] + n)
            triples.append(triples[-1] + len(graph.triples))
        return cls(
            np.array(image_ids, np.int64),
            np.array(objects, np.int64),
            np.array(triples, np.int64),
            *(np.concatenate(column) for column in columns),
        )

    @classmethod
    def joined(cls, tables: Sequence[Self]) -> Self:
        """One table after the other."""
        if len(tables) == 1:
            return tables[0]
        first = [
            np.concatenate([[0], np.concatenate([np.diff(t[place]) for t in tables]).cumsum()])
            for place in (1, 2)
        ]
        image_ids, _, _, *columns = (np.concatenate(parts) for parts in zip(*tables, strict=True))
        return cls(image_ids, *first, *columns)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """What `save` wrote, memory-mapped; OSError or ValueError where a file is not whole."""
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in cls._fields))

    def save(self, folder: Path) -> None:
        """A file for each array."""
        for name, array in self._asdict().items():
            save_array(folder / f"{name}.npy", array)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_objects(self) -> NDArray[np.int64]:
        """(S,) of each scene."""
        return np.diff(self.first_object)

    def take(self, rows: NDArray[np.int64]) -> "SceneTable":
        """The scenes in some rows (N,), in that order."""
        objects, first_object = _rows_of_parts(self.first_object, rows)
        triples, first_triple = _rows_of_parts(self.first_triple, rows)
        return SceneTable(
            self.image_ids[rows],
            first_object,
            first_triple,
            self.nodes[objects],
            self.boxes[objects],
            self.patch_ids[objects],
            self.triples[triples],
            self.masks[objects],
        )

    def graph(self, vocabulary: Vocabulary) -> GraphBatch:
        """As `graph_tensors` makes of the same scenes."""
        counts, total = self.num_objects, len(self.nodes)
        scene = np.repeat(np.arange(len(self)), np.diff(self.first_triple))
        subject, predicate, other = self.triples.T
        first = self.first_object[scene]
        ends = (first + subject, np.where(other == counts[scene], total + scene, first + other))
        member = np.flatnonzero(other == counts[scene])
        in_image = np.empty(total, np.int64)
        in_image[ends[0][member]] = member
        image_nodes = np.full(len(self), vocabulary.object_index(IMAGE), np.int64)
        return GraphBatch(
            torch.from_numpy(np.concatenate([self.nodes, image_nodes])),
            torch.from_numpy(np.stack([ends[0], predicate, ends[1]], 1)),
            torch.from_numpy(np.repeat(np.arange(len(self)), counts)),
            torch.from_numpy(in_image),
        )


def _rows_of_parts(
    first: NDArray[np.int64], parts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of some parts, part by part, and where each part begins among them.

    first  (S + 1,)  row of each part's first
    parts  (N,)
    """
    counts = first[parts + 1] - first[parts]
    begins = np.concatenate([[0], counts.cumsum()])
    return np.arange(begins[-1]) + np.repeat(first[parts] - begins[:-1], counts), begins
