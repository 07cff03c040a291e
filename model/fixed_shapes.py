"""Batches whose tensors have one of a few shapes, so that a step can be captured for each.

Objects and triples are filled up by a graph of fillers, which is in no image: one or more objects,
and triples from the last of them to itself. `Padding.real` says which objects count.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from bank.bank import Bank
from model.batch import ImageBatch, SceneBatch
from model.graph.network import GraphBatch
from model.padding import Padding
from model.sources import Part, Source

Batch = TypeVar("Batch")

OBJECTS_PER_SCENE, TRIPLES_PER_SCENE = 2, 4  # by so many do two shapes differ
LEAST_SCENES = 4


@dataclass(frozen=True)
class FixedShapes:
    """Numbers of objects and triples are multiples of these; the choice takes `longest` steps."""

    objects: int
    triples: int
    longest: int

    @classmethod
    def of(cls, scenes: int, longest: int) -> "FixedShapes":
        """For batches of so many scenes with up to `longest` objects."""
        by = max(scenes, LEAST_SCENES)
        return cls(OBJECTS_PER_SCENE * by, TRIPLES_PER_SCENE * by, longest)

    def scenes(self, batch: SceneBatch) -> SceneBatch:
        """The same scenes, with fillers."""
        more = self._fillers(batch.graph)
        draws = batch.draws
        return batch._replace(
            graph=self._graph(batch.graph),
            boxes=_boxes(batch.boxes, more),
            patch_ids=_longer(batch.patch_ids, more),
            true_patches=_longer(batch.true_patches, more),
            true_cooccurrence=_longer(batch.true_cooccurrence, more),
            true_crops=_each_longer(batch.true_crops, more),
            candidates=_each_longer(batch.candidates, more)._replace(
                valid=_longer(batch.candidates.valid, more, True)
            ),
            padding=self._padding(batch.padding, more),
            draws=draws._replace(
                truth=draws.truth and draws.truth._replace(order=_orders(draws.truth.order, more)),
                choice=draws.choice._replace(
                    noise=_if_any(draws.choice.noise, more), rank=_if_any(draws.choice.rank, more)
                ),
            ),
        )

    def images(self, batch: ImageBatch) -> ImageBatch:
        """The same scenes, with fillers."""
        more, objects = self._fillers(batch.graph), len(batch.graph.object_image)
        return batch._replace(
            graph=self._graph(batch.graph),
            boxes=_boxes(batch.boxes, more),  # image nodes have such boxes too
            masks=None if batch.masks is None else _more_objects(batch.masks, objects, more),
            padding=self._padding(batch.padding, more),
        )

    def _fillers(self, graph: GraphBatch) -> int:
        """How many objects: at least one, the end of the triples that fill up."""
        objects = len(graph.object_image)
        return -(-(objects + 1) // self.objects) * self.objects - objects

    def _graph(self, graph: GraphBatch) -> GraphBatch:
        more, objects = self._fillers(graph), len(graph.object_image)
        triples = graph.triples.clone()
        for end in (0, 2):
            triples[:, end] += more * (triples[:, end] >= objects)  # image nodes move up
        last = objects + more - 1
        missing = -len(triples) % self.triples
        itself = triples.new_tensor([[last, 0, last]]).expand(missing, 3)
        return GraphBatch(
            _more_objects(graph.nodes, objects, more),
            torch.cat([triples, itself]),
            _longer(graph.object_image, more),
            _longer(graph.in_image, more),
        )

    def _padding(self, padding: Padding, more: int) -> Padding:
        wider = (0, self.longest - padding.present.shape[1])
        return Padding(
            _longer(padding.image, more),
            _longer(padding.place, more),
            F.pad(padding.present, wider),
            F.pad(padding.row, wider),
            _longer(torch.ones_like(padding.image, dtype=torch.bool), more),
        )


def longest_scene(bank: Bank) -> int:
    """Objects of the training scene that has most."""
    return int(bank.contents.num_patches_of_images(bank.scene_ids("train")).max())


def filled_batch(
    bank: Bank,
    source: Source,
    part: Part,
    *,
    collate: Callable[[Bank, Source, Part], Batch],
    fill: Callable[[Batch], Batch],
) -> Batch:
    """What `collate` makes, with fillers."""
    return fill(collate(bank, source, part))


def _longer(rows: Tensor, more: int, value: Any = 0) -> Tensor:
    """(n, ...) -> (n + more, ...)"""
    return torch.cat([rows, rows.new_full((more, *rows.shape[1:]), value)])


def _more_objects(nodes: Tensor, objects: int, more: int) -> Tensor:
    """(V, ...) -> (V + more, ...), before the image nodes."""
    return torch.cat([_longer(nodes[:objects], more), nodes[objects:]])


def _if_any(rows: Tensor | None, more: int) -> Tensor | None:
    return None if rows is None else _longer(rows, more)


def _each_longer(rows: Any, more: int) -> Any:
    """A named tuple of tensors and further such tuples."""
    if isinstance(rows, Tensor):
        return _longer(rows, more)
    return type(rows)(*(_each_longer(each, more) for each in rows))


def _boxes(boxes: Tensor, more: int) -> Tensor:
    whole = boxes.new_tensor([[0, 0, 1, 1]]).expand(more, 4)
    return torch.cat([boxes, whole])


def _orders(order: Tensor, more: int) -> Tensor:
    """Fillers keep the order."""
    kept = torch.arange(order.shape[1], dtype=order.dtype, device=order.device)
    return torch.cat([order, kept.expand(more, -1)])
