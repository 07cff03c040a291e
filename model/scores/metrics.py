"""Retrieval scores of embeddings and choices as plain functions, and their intervals."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from model.config import Start
from model.draws import OneStream
from model.padding import Padding
from model.retrieval.choice import ChoiceDraws, draw_order, draw_start, is_drawn, start_slot
from model.retrieval.crops import Crops
from model.retrieval.greedy import (
    Selection,
    add_truth,
    distances,
    retrieve,
    retrieve_best,
    start_feature,
)
from pipeline.scene import image_of

RESAMPLES = 1000
LEVEL = 0.95
# Between unlike styles. It outweighs both the tie-breaking noise below and every soft exclusion
# (at least log of the smallest float32, -87), so the oracle's greedy choice is exact.
STYLE_DISTANCE = 1e4


class GroundTruthPairs(NamedTuple):
    """E_p's answers for ordered pairs (query object, target object) of one image."""

    credit: Tensor  # (Q,) float64, 1 / number tied where the target's true patch is nearest
    chance: Tensor  # (Q,) float64, the credit of a constant E_p
    image: Tensor  # (Q,) int64


class CompatiblePairs(NamedTuple):
    """Whether the patches chosen for two objects of one image go together."""

    agree: Tensor  # (Q,) float64, fraction of draws that agree and count
    counted: Tensor  # (Q,) float64, fraction of draws that count: 0 where two crops overlap
    image: Tensor  # (Q,) int64


class PatchStyles(NamedTuple):
    """Ids, styles and boxes of patches; (O,) in place of (O, K) for one patch per object."""

    ids: Tensor  # (O, K) patch ids
    styles: Tensor  # (O, K) hidden style of the photo each was cut from
    boxes: Tensor  # (O, K, 4) where in that photo

    def take(self, index: Tensor) -> "PatchStyles":
        """index (O,) of a candidate per object -> those patches, (O,)."""
        rows = torch.arange(len(index), device=index.device)
        return PatchStyles(*(part[rows, index] for part in self))


class SceneSums(NamedTuple):
    """A score before division: the sum over a scene's pairs, and how many there were."""

    totals: NDArray[np.float64]  # (S,)
    weights: NDArray[np.float64]  # (S,)


class Interval(NamedTuple):
    """A score and its 95 % interval over scenes."""

    value: float
    low: float
    high: float


def pairs_of(object_image: Tensor) -> tuple[Tensor, Tensor]:
    """Ordered pairs (Q,), (Q,) of unlike objects of the same image; object_image (O,)."""
    same = object_image[:, None] == object_image[None]
    first, second = torch.nonzero(same, as_tuple=True)
    return first[first != second], second[first != second]


def overlapping(boxes: Tensor, others: Tensor) -> Tensor:
    """True where two boxes (..., 4) overlap; boxes that only touch do not."""
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    overlap: Tensor = (high > low).all(-1)
    return overlap


def ground_truth_pairs(
    truth: Tensor,
    candidates: Tensor,
    valid: Tensor,
    object_image: Tensor,
    boxes: Tensor,
    generator: torch.Generator | None = None,
) -> GroundTruthPairs:
    """Is the true patch of one object the nearest of its candidates to another's true patch?

    truth         (O, E)     E_p of the true patches
    candidates    (O, K, E)  E_p of the candidates
    valid         (O, K)
    object_image  (O,)
    boxes         (O, 4)     pairs whose true crops share pixels are left out

    The ground-truth selection of section 2.2 as a score. Ties earn 1 / (number tied), so that a
    constant E_p earns exactly the chance.
    """
    order = draw_order(valid, OneStream(generator)).to(valid.device)
    joined, allowed, slot = add_truth(candidates, valid, truth, order)
    query, target = pairs_of(object_image)
    counted = ~overlapping(boxes[query], boxes[target])
    query, target = query[counted], target[counted]
    distance = distances(truth[query].double(), joined[target].double())  # (Q, K + 1)
    distance = distance.masked_fill(~allowed[target], torch.inf)
    nearest = distance == distance.amin(-1, keepdim=True)
    hit = nearest.gather(1, slot[target, None])[:, 0]
    return GroundTruthPairs(
        hit.double() / nearest.sum(-1),
        1 / allowed[target].sum(-1).double(),
        object_image[query],
    )


def compatibility(selected: PatchStyles, object_image: Tensor) -> CompatiblePairs:
    """Whether the styles of the selected patches (O,) agree, for each pair i < j of an image.

    Two overlapping crops of one photo share pixels and therefore agree: they do not count.
    """
    first, second = _unordered_pairs(object_image)
    counted = ~_same_pixels(selected, first, selected, second)
    agree = (selected.styles[first] == selected.styles[second]) & counted
    return CompatiblePairs(agree.double(), counted.double(), object_image[first])


def expected_compatibility(
    candidates: PatchStyles, valid: Tensor, object_image: Tensor
) -> CompatiblePairs:
    """The expectation of `compatibility` where each candidate is equally likely.

    candidates (O, K), valid (O, K), object_image (O,)
    """
    first, second = _unordered_pairs(object_image)
    left = PatchStyles(*(part[:, :, None] for part in candidates))  # (O, K, 1)
    right = PatchStyles(*(part[:, None] for part in candidates))  # (O, 1, K)
    counted = ~_same_pixels(left, first, right, second)  # (Q, K, K)
    counted &= valid[first][:, :, None] & valid[second][:, None]
    agree = counted & (left.styles[first] == right.styles[second])
    draws = valid.sum(-1).double()
    all_draws = draws[first] * draws[second]
    return CompatiblePairs(
        agree.sum((1, 2)) / all_draws, counted.sum((1, 2)) / all_draws, object_image[first]
    )


def _unordered_pairs(object_image: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs i < j of one image."""
    first, second = pairs_of(object_image)
    return first[first < second], second[first < second]


def _same_pixels(left: PatchStyles, first: Tensor, right: PatchStyles, second: Tensor) -> Tensor:
    """True where two patches were cut from one photo with boxes that overlap."""
    same_photo = image_of(left.ids[first]) == image_of(right.ids[second])
    return same_photo & overlapping(left.boxes[first], right.boxes[second])


def oracle_choice(
    styles: Tensor,
    valid: Tensor,
    padding: Padding,
    generator: torch.Generator | None,
    *,
    num_styles: int,
    start: Start,
    features: Tensor,
    crops: Crops | None = None,
) -> Selection:
    """The greedy retrieval with the true styles as features: the choice of a perfect E_p.

    styles    (O, K)
    valid     (O, K)
    features  (O, K, E)  the run's E_p: a start that follows from features is found by these

    crops     (O, K)     as for `retrieve`; None: the same patch twice is allowed

    A random start is the one that a run's own choice without noise draws from a generator in the
    same state. Ties between candidates are broken evenly.
    """
    one_hot = F.one_hot(styles.clamp_min(0), num_styles).float() * STYLE_DISTANCE
    if start == "best":
        return retrieve_best(one_hot, valid, padding, noise=None, temperature=1.0, crops=crops)
    drawn = (
        draw_start(valid, padding, OneStream(generator)).to(valid.device)
        if is_drawn(start)
        else None
    )
    slot = start_slot(start, features, valid, padding, ChoiceDraws(start=drawn))
    query = start_feature(one_hot, padding, slot)
    tie_breaks = torch.rand(valid.shape, generator=generator).to(valid.device)
    return retrieve(one_hot, valid, padding, query, noise=tie_breaks, temperature=1.0, crops=crops)


def sum_by_scene(scores: Tensor, weights: Tensor, image: Tensor, num_images: int) -> SceneSums:
    """scores, weights, image (Q,) -> sums over each image's pairs, (N,)."""
    images = image.cpu().numpy()

    def summed(values: Tensor) -> NDArray[np.float64]:
        sums: NDArray[Any] = np.bincount(images, values.double().cpu().numpy(), num_images)
        return sums.astype(np.float64)  # without a single pair, numpy counts in integers

    return SceneSums(summed(scores), summed(weights))


def bootstrap_interval(sums: SceneSums, seed: int) -> Interval:
    """The mean over pairs and its 95 % interval by resampling scenes, not pairs.

    Pairs of one scene are not independent, so the scene is the unit (Efron's percentile bootstrap).
    """
    has_pairs = sums.weights > 0
    totals, weights = sums.totals[has_pairs], sums.weights[has_pairs]
    if not len(totals):
        raise ValueError("no scene has a pair to score")
    scenes = len(totals)
    times = np.random.default_rng(seed).multinomial(
        scenes, np.full(scenes, 1 / scenes), size=RESAMPLES
    )
    means = (times @ totals) / (times @ weights)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(totals.sum() / weights.sum()), float(low), float(high))
