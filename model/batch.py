"""A bank's scenes -> tensors: all that a training step needs."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bank.bank import Bank
from bank.candidates import Candidates
from model.config import RetrievalConfig
from model.draws import ByPosition
from model.graph.network import GraphBatch
from model.offer import selectable, stored_offer
from model.padding import Padding, padding_of
from model.retrieval.choice import Draws, draw_passes, numbers_per_object
from model.retrieval.crops import Crops
from model.sources import Counts, Part, Source

T = TypeVar("T")


class CandidateBatch(NamedTuple):
    """Each object's candidate patches, nearest in the bank's features first."""

    ids: Tensor  # (O, K) int64, -1 where the padding is
    patches: Tensor  # (O, K, P, P, 3) uint8
    valid: Tensor  # (O, K) True where the candidate may be selected
    cooccurrence: Tensor  # (O, K, F) stored F_occur vectors
    crops: Crops  # (O, K)

    def to(self, device: torch.device) -> "CandidateBatch":
        return moved(self, device)


class SceneBatch(NamedTuple):
    """Scenes with their true patches and their candidates."""

    image_ids: Tensor  # (N,)
    images: Tensor  # (N, H, W, 3) uint8
    graph: GraphBatch
    boxes: Tensor  # (O, 4)
    patch_ids: Tensor  # (O,)
    true_patches: Tensor  # (O, P, P, 3) uint8
    true_cooccurrence: Tensor  # (O, F)
    true_crops: Crops  # (O,)
    candidates: CandidateBatch
    padding: Padding
    draws: Draws
    counts: Counts

    def to(self, device: torch.device) -> "SceneBatch":
        return moved(self, device)


class ImageBatch(NamedTuple):
    """Scenes without patches, as sg2im uses them: with a box and a mask for every node."""

    images: Tensor  # (N, H, W, 3) uint8
    graph: GraphBatch
    boxes: Tensor  # (V, 4); an image node's is the whole image
    masks: Tensor | None  # (V, 16, 16) uint8, an image node's is full; None: there are none
    padding: Padding  # of the objects
    positions: tuple[int, ...]  # N places in the endless sequence of scenes
    counts: Counts
    noise: Tensor | None = None  # (N, noise, H, W), made on the device

    @property
    def real(self) -> Tensor | None:
        """(V,) False for nodes that are fillers; None: there are none."""
        real = self.padding.real
        return None if real is None else F.pad(real, (0, self.graph.num_images), value=True)

    def to(self, device: torch.device) -> "ImageBatch":
        return moved(self, device)


def moved(part: T, device: torch.device) -> T:
    """A named tuple of tensors and further such tuples on the device; whatever else stays."""
    return changed(part, lambda tensor: tensor.to(device, non_blocking=True))


def pinned(part: T) -> T:
    """Its tensors of the CPU in memory from which a GPU copies while the CPU goes on."""
    return changed(part, lambda t: t if t.is_cuda else t.pin_memory())


def changed(part: T, change: Callable[[Tensor], Tensor]) -> T:
    """A named tuple with each of its tensors changed, and those of further such tuples in it."""
    there: Any = part
    if isinstance(part, Tensor):
        there = change(part)
    elif isinstance(part, tuple) and hasattr(part, "_fields"):
        there = type(part)(*(changed(p, change) for p in part))
    result: T = there
    return result


def tensors_of(part: Any) -> list[Tensor]:
    """All tensors of a named tuple, of those in it, or of a list of such, in their order."""
    if isinstance(part, Tensor):
        return [part]
    return [t for p in part for t in tensors_of(p)] if isinstance(part, tuple | list) else []


def candidate_batch(
    bank: Bank, candidates: Candidates, patches: Callable[[NDArray[np.int64]], Tensor]
) -> CandidateBatch:
    """Look up the pixels and co-occurrence vectors of candidates."""
    rows = bank.padded_rows(candidates.ids)
    return CandidateBatch(
        torch.from_numpy(candidates.ids),
        patches(candidates.ids),
        torch.from_numpy(selectable(bank, candidates)),
        torch.from_numpy(bank.cooccurrence_at(rows)),
        crops_of(bank, rows),
    )


def crops_of(bank: Bank, rows: NDArray[np.int64]) -> Crops:
    """Where the patches in some rows (...) were cut from; photo -1 for padding."""
    return Crops(*(torch.from_numpy(part) for part in bank.crops_at(rows)))


def with_truth(batch: SceneBatch) -> CandidateBatch:
    """The candidates with each object's true patch behind them: (O, K + 1)."""
    candidates = batch.candidates
    return CandidateBatch(
        torch.cat([candidates.ids, batch.patch_ids[:, None]], 1),
        torch.cat([candidates.patches, batch.true_patches[:, None]], 1),
        torch.cat([candidates.valid, torch.ones_like(candidates.valid[:, :1])], 1),
        torch.cat([candidates.cooccurrence, batch.true_cooccurrence[:, None]], 1),
        Crops(
            *(
                torch.cat([of_candidates, of_truth[:, None]], 1)
                for of_candidates, of_truth in zip(candidates.crops, batch.true_crops, strict=True)
            )
        ),
    )


def scene_batch(
    bank: Bank, source: Source, part: Part, rule: RetrievalConfig, seed: int, *, noise: bool = True
) -> SceneBatch:
    """Scenes with the rule's K candidates for each object, and the draws of their positions."""
    table, pictures = source.scenes(part)
    graph = table.graph(bank.vocabulary)
    padding = padding_of(graph.object_image, len(table))
    ids = table.patch_ids
    offered = stored_offer(bank, ids, rule.candidates, rule.min_quality)
    candidates = candidate_batch(bank, offered.candidates, source.patches)
    rows = bank.rows(ids)
    uniforms = ByPosition(
        seed, part.positions, table.num_objects, numbers_per_object(rule.candidates)
    )
    return SceneBatch(
        torch.from_numpy(table.image_ids),
        pictures,
        graph,
        torch.from_numpy(table.boxes),
        torch.from_numpy(ids),
        source.patches(ids),
        torch.from_numpy(bank.cooccurrence_at(rows)),
        crops_of(bank, rows),
        candidates,
        padding,
        draw_passes(rule, candidates.valid, padding, uniforms, noise=noise),
        part.counts,
    )


def image_batch(bank: Bank, source: Source, part: Part) -> ImageBatch:
    """Scenes with images, boxes and masks."""
    table, pictures = source.scenes(part)
    whole = np.tile(np.array([[0, 0, 1, 1]], np.float32), (len(table), 1))
    masks = None
    if bank.has_masks:
        full = np.ones((len(table), *table.masks.shape[1:]), np.uint8)
        masks = torch.from_numpy(np.concatenate([table.masks, full]))
    graph = table.graph(bank.vocabulary)
    return ImageBatch(
        pictures,
        graph,
        torch.from_numpy(np.concatenate([table.boxes, whole])),
        masks,
        padding_of(graph.object_image, len(table)),
        part.positions,
        part.counts,
    )


def mean_box(bank: Bank) -> Tensor:
    """(4,) the average box of the bank's training patches."""
    table = bank.table
    train = table.filter(pc.equal(table["split"], "train"))
    return torch.tensor([pc.mean(train[side]).as_py() for side in ("x0", "y0", "x1", "y1")])
