"""Scores that are means over scenes, and their 95 % intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import UserError

LEVEL = 0.95
STUDENT = (12.706, 4.303, 3.182, 2.776)  # 97.5 % quantiles of t, 1 to 4 degrees of freedom


@dataclass(frozen=True, kw_only=True)
class Score:
    """A cell of a table, and a line of metrics.jsonl."""

    metric: str
    choice: str  # whose it is: an embedding, a way of choosing patches, what made the pictures
    value: float
    low: float | None = None  # 95 % interval; None where the score is no mean over several scenes
    high: float | None = None
    spread: float | None = None  # standard deviation, over what the score's name says
    boxes: str = ""  # where patches were composed: "predicted" or "gt"; "" where nothing was
    scenes: int  # that it is of
    pairs: float | None = None  # of what it is the mean; itself a mean where choices are drawn
    pictures: int | None = None  # of which sets it compares
    note: str = ""  # why it is not to be relied on; "" where it is


class SceneSums(NamedTuple):
    """A score before division: the sum over a scene's pairs, and how many there were."""

    totals: NDArray[np.float64]  # (S,)
    weights: NDArray[np.float64]  # (S,)


class Interval(NamedTuple):
    """A score and its 95 % interval over scenes."""

    value: float
    low: float | None  # None: of one scene, which says nothing about others
    high: float | None


def sum_by_scene(scores: Tensor, weights: Tensor, image: Tensor, num_images: int) -> SceneSums:
    """scores, weights, image (Q,) -> sums over each image's pairs, (N,)."""
    images = image.cpu().numpy()

    def summed(values: Tensor) -> NDArray[np.float64]:
        sums: NDArray[Any] = np.bincount(images, values.double().cpu().numpy(), num_images)
        return sums.astype(np.float64)  # without a single pair, numpy counts in integers

    return SceneSums(summed(scores), summed(weights))


def joined(sums: Sequence[SceneSums]) -> SceneSums:
    """Of further scenes each."""
    return SceneSums(*(np.concatenate(part) for part in zip(*sums, strict=True)))


def mean_of_draws(sums: Sequence[SceneSums]) -> SceneSums:
    """Of the same scenes each."""
    return SceneSums(*(np.mean(part, axis=0) for part in zip(*sums, strict=True)))


def mean_interval(sums: SceneSums) -> Interval:
    """The mean over pairs, and its 95 % interval.

    Pairs of one scene are not independent, so the scene is the unit: the standard error is that of
    a ratio of sums over scenes (delta method), and it is taken Student's t times. It covered the
    mean of a normal distance 93 % of the time with 5 scenes and 94 % with 20.
    """
    value, error, scenes = _estimate(sums)
    if scenes == 1:
        return Interval(value, None, None)
    half = _student(scenes - 1) * error
    return Interval(value, value - half, value + half)


def share_interval(sums: SceneSums) -> Interval:
    """`mean_interval` for what lies in [0, 1] at every pair, as a share does.

    Wilson's interval, with as many trials as would have the same standard error if they were
    independent; where the share is 0 or 1, with one trial per scene. It holds for few scenes and
    near 0 and 1. How often the true share lay in it, of 2,000 simulated tables with one to seven
    pairs per scene; in brackets, between the percentiles of a bootstrap over scenes:

        share  5 scenes     20 scenes    120 scenes
        0.02   .969 (.257)  .965 (.696)  .936 (.909)
        0.1    .978 (.763)  .935 (.895)  .947 (.935)
        0.4    .954 (.848)  .940 (.913)  .939 (.938)
        0.9    .975 (.762)  .939 (.880)  .945 (.935)
        0.98   .976 (.249)  .959 (.689)  .934 (.906)
    """
    value, error, scenes = _estimate(sums)
    if scenes == 1:
        return Interval(value, None, None)
    share = min(max(value, 0.0), 1.0)
    variance = share * (1 - share)
    if variance and not error:
        return Interval(value, value, value)
    trials = variance / error**2 if variance else scenes
    t = _student(scenes - 1)
    scale = 1 + t**2 / trials
    centre = (share + t**2 / (2 * trials)) / scale
    half = t / scale * math.sqrt(variance / trials + (t / (2 * trials)) ** 2)
    return Interval(value, max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half)))


def _estimate(sums: SceneSums) -> tuple[float, float, int]:
    """The mean over pairs, its standard error, and of how many scenes that have pairs."""
    has_pairs = sums.weights > 0
    totals, weights = sums.totals[has_pairs], sums.weights[has_pairs]
    scenes = len(totals)
    if not scenes:
        raise ValueError("no scene has a pair to score")
    value = totals.sum() / weights.sum()
    squares = ((totals - value * weights) ** 2).sum() * scenes / max(1, scenes - 1)
    return float(value), math.sqrt(squares) / float(weights.sum()), scenes


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: tabulated, from 5 degrees of freedom on by its expansion
    (Abramowitz and Stegun, 26.7.5), there less than 1 % too small."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


def score_of(
    metric: str, choice: str, parts: Sequence[SceneSums], boxes: str = "", *, share: bool = True
) -> Score:
    """The mean over the pairs of all scenes, with its interval; UserError where there is no pair.

    parts  each of further scenes
    share  whether every pair's value lies in [0, 1]
    """
    sums = joined(parts)
    if not sums.weights.any():
        raise UserError(
            f"{metric}: no scene has two objects that do not overlap, so nothing can be scored; "
            f"score more scenes"
        )
    value, low, high = share_interval(sums) if share else mean_interval(sums)
    return Score(
        metric=metric,
        choice=choice,
        value=value,
        low=low,
        high=high,
        boxes=boxes,
        scenes=int((sums.weights > 0).sum()),
        pairs=round(float(sums.weights.sum()), 2),
    )
