"""F_occur: patches -> unit-length vectors, near for patches of one photo (section 2)."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bank.rounding import rounded
from model.frozen import (
    SavedTraining,
    SizedNetwork,
    repeatable,
    rng_of_step,
    training_steps,
)
from pipeline.errors import UserError

PATCH_PX = 32  # side to which a patch is averaged: enough for light, colour and texture
PHOTOS_PER_STEP = 48
MARGIN = 0.3  # between distances, which lie in [0, 2]
LEARNING_RATE = 2e-3
PATCHES_AT_ONCE = 64  # while embedding: 512 take twice as long, outside the cache


class CooccurrenceNetwork(SizedNetwork):
    """A small CNN; its l2 distance is the d of the paper's co-occurrence loss."""

    KIND = "co-occurrence network, format 1"

    def __init__(self, width: int = 32, features: int = 64) -> None:
        super().__init__(width=width, features=features)
        self.trunk = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
        )
        # Mean and standard deviation of pixels and maps: how a patch looks, without where.
        self.head = nn.Linear(2 * (3 + 2 * width), features)

    def forward(self, patches: Tensor) -> Tensor:
        """
        patches  (B, P, P, 3)  uint8 RGB

        Returns unit-length vectors (B, F).
        """
        like = self.head.weight
        pixels = patches.permute(0, 3, 1, 2).to(like) / 127.5 - 1
        pixels = F.adaptive_avg_pool2d(pixels, PATCH_PX)  # (B, 3, PATCH_PX, PATCH_PX)
        maps = self.trunk(pixels)  # (B, 2 * width, PATCH_PX / 4, PATCH_PX / 4)
        statistics = [*_mean_and_std(pixels), *_mean_and_std(maps)]
        return F.normalize(self.head(torch.cat(statistics, dim=1)), dim=1)


def _mean_and_std(maps: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> 2 x (B, C)"""
    mean = maps.mean((2, 3))
    variance = ((maps - mean[:, :, None, None]) ** 2).mean((2, 3))
    return mean, (variance + 1e-4).sqrt()  # the root's slope at 0 is infinite


def default_steps(num_photos: int) -> int:
    """Trainer steps where the user names none."""
    return int(np.clip(num_photos // 8, 300, 4000))


def triplet_loss(features: Tensor, photo: Tensor, margin: float = MARGIN) -> Tensor:
    """Mean over the triplets that still violate the margin; 0 where none does.

    features  (B, F)  unit-length
    photo     (B,)    which photo each is of; every pair of one photo is an anchor and a positive,
                      everything of the other photos a negative
    """
    # Not a matrix product: its cancellation would blur exactly the small distances.
    distances = torch.cdist(
        features, features, compute_mode="donot_use_mm_for_euclid_dist"
    )  # (B, B)
    same = photo[:, None] == photo[None, :]
    anchor, positive = torch.nonzero(same & ~torch.eye(len(photo), dtype=torch.bool)).unbind(1)
    violation = F.relu(distances[anchor, positive][:, None] - distances[anchor] + margin)
    violation = violation * ~same[anchor]  # (pairs, B)
    active = (violation > 0).sum().clamp(min=1)
    return violation.sum() / active


def train_cooccurrence(
    patches_of: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
    image_to_patches: Sequence[NDArray[np.int64]],
    *,
    steps: int,
    seed: int,
    saved: SavedTraining | None = None,
) -> CooccurrenceNetwork:
    """Learn from photos alone which patches go together: two patches of each photo of a step.

    patches_of        patch ids (B,) -> their pixels (B, P, P, 3)
    image_to_patches  patch ids of each training photo; those with fewer than two are passed over
    saved             where training is saved as it goes, and from where it goes on
    """
    photos = [patches for patches in image_to_patches if len(patches) > 1]
    if len(photos) < 2:
        raise UserError(
            "the co-occurrence network needs two training photos with two patches each, but there "
            f"are {len(photos)}: build from more photos, or give a trained one with --cooccurrence"
        )
    with repeatable(seed):
        network = CooccurrenceNetwork()
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        for step in training_steps("co-occurrence", steps, network, optimizer, saved):
            patches, photo = _batch(patches_of, photos, rng_of_step(seed, step))
            loss = triplet_loss(network(patches), photo)
            if not loss.isfinite():
                raise RuntimeError(f"co-occurrence: the loss is {loss.item()} at step {step}")
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.eval().requires_grad_(False)


def _batch(
    patches_of: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
    photos: Sequence[NDArray[np.int64]],
    random: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Two patches of each drawn photo (B, P, P, 3), and the photo (B,) each is of."""
    chosen = random.choice(len(photos), size=min(PHOTOS_PER_STEP, len(photos)), replace=False)
    ids = [random.choice(photos[i], size=2, replace=False) for i in chosen]
    patches = patches_of(np.concatenate(ids).astype(np.int64))
    return torch.from_numpy(patches), torch.arange(len(chosen)).repeat_interleave(2)


def embed_patches(network: CooccurrenceNetwork, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(B, P, P, 3) uint8 -> (B, F) float32, rounded as `bank/rounding.py` does."""
    double = copy.deepcopy(network).cpu().eval().double()
    features = [np.zeros((0, network.sizes["features"]), dtype=np.float32)]
    with torch.no_grad():
        for start in range(0, len(patches), PATCHES_AT_ONCE):
            some = torch.from_numpy(patches[start : start + PATCHES_AT_ONCE])
            features.append(rounded(double(some).numpy()))
    return np.concatenate(features)
