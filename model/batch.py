"""A bank's scenes -> tensors: all that a training step needs."""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.bank import Bank
from bank.candidates import Candidates
from model.graph.network import GraphBatch, graph_tensors
from model.retrieval.crops import Crops
from pipeline.pack import SceneSample
from pipeline.scene import MASK_SIZE

Part = TypeVar("Part")


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

    def to(self, device: torch.device) -> "SceneBatch":
        return moved(self, device)


class ImageBatch(NamedTuple):
    """Scenes without patches, as sg2im uses them: with a box and a mask for every node."""

    images: Tensor  # (N, H, W, 3) uint8
    graph: GraphBatch
    boxes: Tensor  # (V, 4); an image node's is the whole image
    masks: Tensor | None  # (V, 16, 16) uint8, an image node's is full; None: there are none

    def to(self, device: torch.device) -> "ImageBatch":
        return moved(self, device)


def moved(part: Part, device: torch.device) -> Part:
    """A named tuple of tensors, None and further such tuples, on the device."""
    if isinstance(part, tuple):
        return type(part)(*(moved(p, device) for p in part))
    return part if part is None else part.to(device, non_blocking=True)  # type: ignore[attr-defined]


def selectable(bank: Bank, candidates: Candidates) -> NDArray[np.bool_]:
    """(O, K) the candidates that may be selected: those of another category (fallback) only where
    there is none of the object's own, or where the bank was built over all categories."""
    if bank.manifest.recipe["candidate_scope"] == "all":
        return candidates.valid
    own = candidates.valid & ~candidates.fallback
    return np.where(own.any(1, keepdims=True), own, candidates.valid)


def candidate_batch(bank: Bank, candidates: Candidates) -> CandidateBatch:
    """Look up the pixels and co-occurrence vectors of candidates."""
    return CandidateBatch(
        torch.from_numpy(candidates.ids),
        torch.from_numpy(bank.patches(candidates.ids)),
        torch.from_numpy(selectable(bank, candidates)),
        torch.from_numpy(bank.cooccurrence(candidates.ids)),
        crops_of(bank, candidates.ids),
    )


def crops_of(bank: Bank, ids: NDArray[np.int64]) -> Crops:
    """Where patches (...) were cut from; photo -1 for padding."""
    return Crops(*(torch.from_numpy(part) for part in bank.crops(ids)))


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


def scene_batch(bank: Bank, image_ids: Iterable[int], k: int) -> SceneBatch:
    """The given scenes with K candidates for each object."""
    samples = [bank.scene(int(image_id)) for image_id in image_ids]
    patch_ids = np.concatenate([s.patch_ids for s in samples])
    return SceneBatch(
        torch.tensor([s.image_id for s in samples]),
        torch.from_numpy(np.stack([s.image for s in samples])),
        graph_tensors([(s.objects, s.triples) for s in samples], bank.vocabulary),
        torch.from_numpy(np.concatenate([s.boxes for s in samples])),
        torch.from_numpy(patch_ids),
        torch.from_numpy(bank.patches(patch_ids)),
        torch.from_numpy(bank.cooccurrence(patch_ids)),
        crops_of(bank, patch_ids),
        candidate_batch(bank, bank.candidates(patch_ids, k)),
    )


def image_batch(bank: Bank, image_ids: Iterable[int]) -> ImageBatch:
    """The given scenes with images, boxes and masks."""
    samples = [bank.scene(int(image_id)) for image_id in image_ids]
    whole = np.tile(np.array([[0, 0, 1, 1]], np.float32), (len(samples), 1))
    masks = None
    if any(s.masks is not None for s in samples):
        full = np.ones((len(samples), MASK_SIZE, MASK_SIZE), np.uint8)
        masks = torch.from_numpy(np.concatenate([*(_masks(s) for s in samples), full]))
    return ImageBatch(
        torch.from_numpy(np.stack([s.image for s in samples])),
        graph_tensors([(s.objects, s.triples) for s in samples], bank.vocabulary),
        torch.from_numpy(np.concatenate([*(s.boxes for s in samples), whole])),
        masks,
    )


def _masks(sample: SceneSample) -> NDArray[np.uint8]:
    """(n, 16, 16); a scene without masks beside others that have some fills its boxes."""
    if sample.masks is None:
        return np.ones((len(sample.objects), MASK_SIZE, MASK_SIZE), np.uint8)
    return sample.masks


def mean_box(bank: Bank) -> Tensor:
    """(4,) the average box of the bank's training patches."""
    table = bank.table
    train = table.filter(pc.equal(table["split"], "train"))
    return torch.tensor([pc.mean(train[side]).as_py() for side in ("x0", "y0", "x1", "y1")])
