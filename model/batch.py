"""A bank's scenes -> tensors: what a training step is given."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from bank.bank import Bank
from bank.candidates import Candidates
from model.graph import GraphBatch, graph_tensors
from pipeline.scene import Split
from pipeline.stream import BatchOrder


class CandidateBatch(NamedTuple):
    """The patches offered to each object, nearest in the bank's features first."""

    ids: Tensor  # (O, K) int64, -1 where the padding is
    patches: Tensor  # (O, K, P, P, 3) uint8
    valid: Tensor  # (O, K)
    occurrence: Tensor  # (O, K, F) stored F_occur vectors


class SceneBatch(NamedTuple):
    """Scenes with their true patches and their candidates."""

    image_ids: Tensor  # (N,)
    images: Tensor  # (N, H, W, 3) uint8
    graph: GraphBatch
    boxes: Tensor  # (O, 4)
    patch_ids: Tensor  # (O,)
    truth: Tensor  # (O, P, P, 3) uint8
    candidates: CandidateBatch

    def to(self, device: torch.device) -> "SceneBatch":
        return SceneBatch(*(_move(part, device) for part in self))


def _move(part: Any, device: torch.device) -> Any:
    if isinstance(part, tuple):
        return type(part)(*(_move(p, device) for p in part))
    return part.to(device, non_blocking=True)


def pixels(images: Tensor, side: int) -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, side, side) float32 in [-1, 1], averaged down to size."""
    flat = images.reshape(-1, *images.shape[-3:]).permute(0, 3, 1, 2)
    small = flat.float()
    if small.shape[-1] != side:
        small = F.interpolate(small, size=(side, side), mode="bilinear", antialias=True)
    return (small / 127.5 - 1).reshape(*images.shape[:-3], 3, side, side)


def to_uint8(images: Tensor) -> Tensor:
    """(..., 3, H, W) about [-1, 1] -> (..., H, W, 3) uint8, clamped."""
    scaled = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).movedim(-3, -1).cpu()


def offered(bank: Bank, found: Candidates) -> NDArray[np.bool_]:
    """(O, K) the candidates that may be chosen: another category's only where an object's own
    has none, so that a zebra is made of a zebra wherever the bank has one."""
    if bank.manifest.recipe["candidate_scope"] == "all":
        return found.valid
    own = found.valid & ~found.fallback
    return np.where(own.any(1, keepdims=True), own, found.valid)


def candidate_batch(bank: Bank, found: Candidates) -> CandidateBatch:
    """Look up the pixels and co-occurrence vectors of candidates."""
    return CandidateBatch(
        torch.from_numpy(found.ids),
        torch.from_numpy(bank.patches(found.ids)),
        torch.from_numpy(offered(bank, found)),
        torch.from_numpy(bank.co_occurrence(found.ids)),
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
        candidate_batch(bank, bank.candidates(patch_ids, k)),
    )


class _Scenes(Dataset[SceneBatch]):
    """A batch of positions -> a SceneBatch; opens the bank's files in whichever process asks."""

    def __init__(self, bank: Bank, split: Split, k: int) -> None:
        self.bank, self.k = bank, k
        self.image_ids = bank.scene_ids(split)

    def __getitem__(self, positions: list[int]) -> SceneBatch:
        return scene_batch(self.bank, self.image_ids[positions], self.k)


def mean_box(bank: Bank) -> Tensor:
    """(4,) the average box of the bank's training patches."""
    table = bank.table
    train = table.filter(pc.equal(table["split"], "train"))
    return torch.tensor([pc.mean(train[side]).as_py() for side in ("x0", "y0", "x1", "y1")])


def training_batches(
    bank: Bank, *, batch: int, k: int, seed: int, first_step: int, workers: int
) -> Iterator[SceneBatch]:
    """Training batches without end, the one of step `first_step` first."""
    scenes = _Scenes(bank, "train", k)
    order = BatchOrder(len(scenes.image_ids), batch, seed, first_step)
    loader = DataLoader(
        scenes,
        sampler=order,  # yields whole batches
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)
