"""A bank's scenes -> tensors: what a training step is given."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from bank.bank import Bank
from bank.candidates import Candidates
from model.graph.network import GraphBatch, graph_tensors
from pipeline.pack import SceneSample
from pipeline.scene import MASK_SIZE
from pipeline.stream import BatchOrder

Batch = TypeVar("Batch")
ImageIds = NDArray[np.int64]
Collect = Callable[[Bank, ImageIds], Batch]  # the scenes that make a batch


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


class PictureBatch(NamedTuple):
    """Scenes without patches: what sg2im is given. Image nodes are objects like any other."""

    images: Tensor  # (N, H, W, 3) uint8
    graph: GraphBatch
    boxes: Tensor  # (V, 4); an image node's is the whole picture
    masks: Tensor | None  # (V, 16, 16) uint8, an image node's is full; None: there are none

    def to(self, device: torch.device) -> "PictureBatch":
        return PictureBatch(*(_move(part, device) for part in self))


def _move(part: Any, device: torch.device) -> Any:
    if isinstance(part, tuple):
        return type(part)(*(_move(p, device) for p in part))
    return None if part is None else part.to(device, non_blocking=True)


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
        torch.from_numpy(bank.cooccurrence(found.ids)),
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


def picture_batch(bank: Bank, image_ids: Iterable[int]) -> PictureBatch:
    """The given scenes with pictures, boxes and masks."""
    samples = [bank.scene(int(image_id)) for image_id in image_ids]
    whole = np.tile(np.array([[0, 0, 1, 1]], np.float32), (len(samples), 1))
    masks = None
    if any(s.masks is not None for s in samples):
        full = np.ones((len(samples), MASK_SIZE, MASK_SIZE), np.uint8)
        masks = torch.from_numpy(np.concatenate([*(_masks(s) for s in samples), full]))
    return PictureBatch(
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


class _Scenes(Dataset[Batch], Generic[Batch]):
    """A batch of positions -> its scenes; opens the bank's files in whichever process asks."""

    def __init__(self, bank: Bank, collect: Collect[Batch]) -> None:
        self.bank, self.collect = bank, collect
        self.image_ids = bank.scene_ids("train")

    def __getitem__(self, positions: list[int]) -> Batch:
        return self.collect(self.bank, self.image_ids[positions])


def mean_box(bank: Bank) -> Tensor:
    """(4,) the average box of the bank's training patches."""
    table = bank.table
    train = table.filter(pc.equal(table["split"], "train"))
    return torch.tensor([pc.mean(train[side]).as_py() for side in ("x0", "y0", "x1", "y1")])


def training_batches(
    bank: Bank, collect: Collect[Batch], *, batch: int, seed: int, first_step: int, workers: int
) -> Iterator[Batch]:
    """Training batches without end, the one of step `first_step` first."""
    scenes = _Scenes(bank, collect)
    order = BatchOrder(len(scenes.image_ids), batch, seed, first_step)
    loader = DataLoader(
        scenes,
        sampler=order,  # yields whole batches
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)
