"""Held-out scenes with their candidates, without pixels; and E_p of many patches."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.bank import Bank
from model.batch import crops_of, moved
from model.config import MinQuality
from model.draws import ByPosition
from model.offer import selectable, stored_offer
from model.padding import Padding, padding_of
from model.retrieval.choice import numbers_per_object
from model.retrieval.crops import Crops
from model.retrievegan.network import RetrieveGAN
from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.scene import Relation

CANDIDATES = 20  # K, where a bank stores as many
ANY_QUALITY = MinQuality()
SCENES_AT_ONCE = 64
PATCHES_AT_ONCE = 512


class Scenes(NamedTuple):
    """Some scenes of a bank: N images, O objects, K candidates for each object."""

    image_ids: tuple[int, ...]  # N
    graphs: tuple[tuple[tuple[str, ...], tuple[Relation, ...]], ...]  # N: objects, relations
    boxes: Tensor  # (O, 4)
    padding: Padding
    patch_ids: Tensor  # (O,) true patches
    candidates: Tensor  # (O, K) ids, -1 where the padding is
    valid: Tensor  # (O, K) True for what may be selected
    own_category: Tensor  # (O, K) True for those of them that are of the object's own category
    crops: Crops  # (O, K)
    below: Tensor  # (O,) True where the only candidate falls short of the quality asked for

    @property
    def num_images(self) -> int:
        return self.padding.num_images

    def chosen(self, selected: Tensor) -> NDArray[np.int64]:
        """Ids of the selected candidates (O,) -> (O,)."""
        ids: NDArray[np.int64] = self.candidates.gather(1, selected.cpu()[:, None])[:, 0].numpy()
        return ids

    def uniforms(self, seed: int) -> ByPosition:
        """Random numbers that follow from the seed and each scene's image id, not from what other
        scenes there are."""
        counts = np.array([len(objects) for objects, _ in self.graphs])
        return ByPosition(seed, self.image_ids, counts, numbers_per_object(self.valid.shape[1]))

    def apart(self, *parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Parts (O, ...) scene by scene: (n, ...) of each."""
        counts = self.padding.present.sum(1).tolist()
        return zip(*(torch.split(part, counts) for part in parts), strict=True)


class Features:
    """E_p of many patches, looked up by id."""

    def __init__(self, ids: NDArray[np.int64], vectors: Tensor) -> None:
        self.ids, self.vectors = ids, vectors  # (B,) rising, (B, E)

    def __call__(self, ids: Tensor) -> Tensor:
        """Patch ids (...) -> (..., E); of padding (-1) some patch's vector, to be masked."""
        rows = np.searchsorted(self.ids, ids.cpu().numpy().clip(self.ids[0]))
        return self.vectors[torch.from_numpy(rows).to(self.vectors.device)]


def scene_batches(
    bank: Bank,
    image_ids: NDArray[np.int64],
    k: int,
    device: torch.device,
    minimum: MinQuality = ANY_QUALITY,
) -> list[Scenes]:
    """The given scenes, a few at a time, with K candidates per object, of the quality asked for."""
    parts = np.array_split(image_ids, -(-len(image_ids) // SCENES_AT_ONCE))
    return [_scenes(bank, part, k, device, minimum) for part in parts]


def _scenes(
    bank: Bank, image_ids: NDArray[np.int64], k: int, device: torch.device, minimum: MinQuality
) -> Scenes:
    samples = list(bank.contents.iterate(image_ids, image=False))
    patch_ids = np.concatenate([s.patch_ids for s in samples])
    counts = torch.tensor([len(s.patch_ids) for s in samples])
    image = torch.arange(len(samples)).repeat_interleave(counts).to(device)
    candidates, below = stored_offer(bank, patch_ids, k, minimum)
    valid = selectable(bank, candidates)
    return Scenes(
        tuple(s.image_id for s in samples),
        tuple((s.objects, s.triples) for s in samples),
        torch.from_numpy(np.concatenate([s.boxes for s in samples])).to(device),
        padding_of(image, len(samples)),
        torch.from_numpy(patch_ids),
        torch.from_numpy(candidates.ids),
        torch.from_numpy(valid).to(device),
        torch.from_numpy(valid & ~candidates.fallback).to(device),
        moved(crops_of(bank, bank.padded_rows(candidates.ids)), device),
        torch.from_numpy(below),
    )


def distinct_patches(batches: Sequence[Scenes]) -> NDArray[np.int64]:
    """Ids of all patches that take part, true ones and candidates, rising: (B,)."""
    parts = [ids.numpy().ravel() for b in batches for ids in (b.patch_ids, b.candidates)]
    ids = np.unique(np.concatenate(parts))
    return ids[ids >= 0]


@torch.no_grad()
def embed(model: RetrieveGAN, bank: Bank, ids: NDArray[np.int64]) -> Features:
    """E_p of patches (B,), each computed once."""
    device = next(model.parameters()).device
    starts = range(0, len(ids), PATCHES_AT_ONCE)
    vectors = torch.cat(
        [
            model.embed(torch.from_numpy(bank.patches(ids[i : i + PATCHES_AT_ONCE])).to(device))
            for i in progress(starts, "embedding patches", len(starts), "block")
        ]
    )
    if not vectors.isfinite().all():
        raise UserError("E_p gives values that are not finite, so nothing can be scored")
    return Features(ids, vectors)


def constant(ids: NDArray[np.int64]) -> Features:
    """Of an E_p that tells no patches apart."""
    return Features(ids, torch.zeros(len(ids), 1))
