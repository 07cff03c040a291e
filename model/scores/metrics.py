"""Patch embeddings and choices in, retrieval scores with their intervals out."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from model.retrieval.greedy import (
    Grid,
    Retrieved,
    Start,
    add_truth,
    distances,
    medoid_start,
    random_start,
    retrieve,
    retrieve_best,
)
from pipeline.scene import image_of

RESAMPLES = 1000
LEVEL = 0.95
# Apart by so much, unlike styles outweigh both the tie-breaking noise below and every soft
# exclusion (at least log of the smallest float32, -87): the oracle's greedy is exact.
STYLE_DISTANCE = 1e4


class GroundTruthPairs(NamedTuple):
    """What E_p says about ordered pairs (query object, target object) of one image."""

    credit: Tensor  # (Q,) float64, 1 / number tied where the target's true patch is nearest
    chance: Tensor  # (Q,) float64, what an E_p that sees nothing would earn
    image: Tensor  # (Q,) int64


class CompatiblePairs(NamedTuple):
    """Whether the patches chosen for two objects of one image go together."""

    agree: Tensor  # (Q,) float64, share of draws that agree and count
    counted: Tensor  # (Q,) float64, share of draws that count: 0 where two crops overlap
    image: Tensor  # (Q,) int64


class Offered(NamedTuple):
    """Patches as the compatibility of a choice needs them; (O,) where one is chosen per object."""

    ids: Tensor  # (O, K) patch ids
    styles: Tensor  # (O, K) hidden style of the photo each was cut from
    boxes: Tensor  # (O, K, 4) where in that photo

    def take(self, chosen: Tensor) -> "Offered":
        """chosen (O,) -> the patch that each object got, (O,)."""
        rows = torch.arange(len(chosen), device=chosen.device)
        return Offered(*(part[rows, chosen] for part in self))


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
    """True where two boxes (..., 4) share some area; edges that touch share none."""
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    shared: Tensor = (high > low).all(-1)
    return shared


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
    joined, allowed, slot = add_truth(candidates, valid, truth, generator)
    query, target = pairs_of(object_image)
    apart = ~overlapping(boxes[query], boxes[target])
    query, target = query[apart], target[apart]
    away = distances(truth[query].double(), joined[target].double())  # (Q, K + 1)
    away = away.masked_fill(~allowed[target], torch.inf)
    nearest = away == away.amin(-1, keepdim=True)
    hit = nearest.gather(1, slot[target, None])[:, 0]
    return GroundTruthPairs(
        hit.double() / nearest.sum(-1),
        1 / allowed[target].sum(-1).double(),
        object_image[query],
    )


def compatibility(chosen: Offered, object_image: Tensor) -> CompatiblePairs:
    """Do the styles of the chosen patches (O,) agree, for each pair i < j of an image's objects?

    Two crops of one photo that overlap show the same pixels and agree for that reason alone: they
    do not count.
    """
    first, second = _once(object_image)
    counted = ~_same_pixels(chosen, first, chosen, second)
    agree = (chosen.styles[first] == chosen.styles[second]) & counted
    return CompatiblePairs(agree.double(), counted.double(), object_image[first])


def expected_compatibility(
    offered: Offered, valid: Tensor, object_image: Tensor
) -> CompatiblePairs:
    """`compatibility` of an even draw from each object's candidates, all draws weighed at once.

    offered (O, K), valid (O, K), object_image (O,)
    """
    first, second = _once(object_image)
    left = Offered(*(part[:, :, None] for part in offered))  # (O, K, 1)
    right = Offered(*(part[:, None] for part in offered))  # (O, 1, K)
    counted = ~_same_pixels(left, first, right, second)  # (Q, K, K)
    counted &= valid[first][:, :, None] & valid[second][:, None]
    agree = counted & (left.styles[first] == right.styles[second])
    draws = valid.sum(-1).double()
    all_draws = draws[first] * draws[second]
    return CompatiblePairs(
        agree.sum((1, 2)) / all_draws, counted.sum((1, 2)) / all_draws, object_image[first]
    )


def _once(object_image: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs i < j of one image."""
    first, second = pairs_of(object_image)
    return first[first < second], second[first < second]


def _same_pixels(left: Offered, first: Tensor, right: Offered, second: Tensor) -> Tensor:
    """True where two patches were cut from one photo with boxes that overlap."""
    same_photo = image_of(left.ids[first]) == image_of(right.ids[second])
    return same_photo & overlapping(left.boxes[first], right.boxes[second])


def oracle_choice(
    styles: Tensor,
    valid: Tensor,
    grid: Grid,
    generator: torch.Generator | None,
    *,
    num_styles: int,
    start: Start = "random",
    features: Tensor | None = None,
) -> Retrieved:
    """The greedy retrieval with the true styles as features: what a perfect E_p would choose.

    styles (O, K), valid (O, K). A random start is the one that a run's own choice draws from a
    generator in the same state; the medoid is that of the run's `features` (O, K, E). Ties between
    candidates are broken evenly.
    """
    known = F.one_hot(styles.clamp_min(0), num_styles).float() * STYLE_DISTANCE
    if start == "best":
        return retrieve_best(known, valid, grid, noise=None, temperature=1.0)
    if start == "random":
        query = random_start(known, valid, grid, generator)
    else:
        assert features is not None
        query = _medoid_style(known, features, valid, grid)
    evenly = torch.rand(valid.shape, generator=generator).to(valid.device)
    return retrieve(known, valid, grid, query, noise=evenly, temperature=1.0)


def _medoid_style(known: Tensor, features: Tensor, valid: Tensor, grid: Grid) -> Tensor:
    """The style feature of the candidate that is each image's medoid in `features`: (N, S)."""
    everything = grid.spread(features.float()).flatten(1, 2)  # (N, M * K, E)
    away = distances(medoid_start(features, valid, grid), everything)
    place = away.masked_fill(~grid.spread(valid).flatten(1), torch.inf).argmin(-1)
    rows = torch.arange(len(place), device=place.device)
    return grid.spread(known).flatten(1, 2)[rows, place]


def predefined_choice(valid: Tensor) -> Tensor:
    """The nearest in the bank's own features: valid (O, K) -> (O,)."""
    return valid.int().argmax(-1)


def random_choice(valid: Tensor, generator: torch.Generator | None) -> Tensor:
    """Any candidate, evenly: valid (O, K) -> (O,)."""
    drawn = torch.multinomial(valid.float().cpu(), 1, generator=generator)[:, 0]
    return drawn.to(valid.device)


def sum_by_scene(scores: Tensor, weights: Tensor, image: Tensor, num_images: int) -> SceneSums:
    """scores, weights, image (Q,) -> sums over each image's pairs, (N,)."""
    where = image.cpu().numpy()

    def added(values: Tensor) -> NDArray[np.float64]:
        sums: NDArray[Any] = np.bincount(where, values.double().cpu().numpy(), num_images)
        return sums.astype(np.float64)  # without a single pair, numpy counts in integers

    return SceneSums(added(scores), added(weights))


def bootstrap_interval(sums: SceneSums, seed: int) -> Interval:
    """The mean over pairs and its 95 % interval: scenes, not pairs, are drawn anew.

    Pairs of one scene are not independent, so the scene is the unit (Efron's percentile bootstrap).
    """
    some = sums.weights > 0
    totals, weights = sums.totals[some], sums.weights[some]
    if not len(totals):
        raise ValueError("no scene has a pair to score")
    scenes = len(totals)
    times = np.random.default_rng(seed).multinomial(
        scenes, np.full(scenes, 1 / scenes), size=RESAMPLES
    )
    means = (times @ totals) / (times @ weights)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(totals.sum() / weights.sum()), float(low), float(high))
