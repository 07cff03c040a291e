"""Retrieval scores of embeddings and of what was chosen, on a bank's held-out scenes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.bank import Bank
from model.batch import moved
from model.padding import Padding
from model.retrieval.crops import Crops
from model.scores import metrics
from model.scores.choices import Choices, patch_styles
from model.scores.intervals import SceneSums, Score, mean_of_draws, score_of, sum_by_scene
from model.scores.metrics import PatchStyles
from model.scores.scenes import Features, Scenes, constant, distinct_patches
from pipeline.progress import Bar

GROUND_TRUTH = "ground-truth selection"
OWN_CATEGORY = "ground-truth selection, own category"
COMPATIBILITY = "compatibility"
UNLIKE_CHOICES = "unlike choices over draws"
STYLES_SHOWN = "styles over draws"
REPEATED_CROP = "repeated crop"

CPU = torch.device("cpu")


class Offered(NamedTuple):
    """What there was to choose from, and of which pairs of objects the scores are."""

    objects: int
    mean_candidates: float  # that may be selected, over objects
    median_candidates: float
    without_own_category: int  # objects that have no candidate of their own category
    pairs: int  # of objects of a scene, each once; those that `compatibility` leaves out, since
    # the chosen crops overlap, are this number less its `Score.pairs`
    overlapping_pairs: (
        int  # whose true crops overlap: left out of ground-truth selection, both ways
    )
    chance: float  # of ground-truth selection
    below: int  # objects for which no candidate has the quality asked for


def offered(batches: Sequence[Scenes]) -> Offered:
    """Of all scenes."""
    candidates = torch.cat([batch.valid.sum(1) for batch in batches]).double()
    own = torch.cat([batch.own_category.any(1) for batch in batches])
    pairs, overlapping, chances = 0, 0, []
    for batch in batches:
        query, target = metrics.pairs_of(batch.padding.image)
        left_out = metrics.overlapping(batch.boxes[query], batch.boxes[target])
        counted = batch.valid.any(1)[target] & ~left_out
        pairs += len(query) // 2
        overlapping += int(left_out.sum()) // 2
        chances.append(1 / (batch.valid.sum(1).double() + 1)[target[counted]])
    return Offered(
        objects=len(candidates),
        mean_candidates=float(candidates.mean()),
        median_candidates=float(candidates.quantile(0.5)),
        without_own_category=int((~own).sum()),
        pairs=pairs,
        overlapping_pairs=overlapping,
        chance=float(torch.cat(chances).mean()),
        below=int(sum(batch.below.sum() for batch in batches)),
    )


def retrieval_scores(
    bank: Bank,
    batches: Sequence[Scenes],
    embeddings: Mapping[str, Features],
    choices: Choices,
    styles: NDArray[np.int64] | None,
    seed: int,
) -> list[Score]:
    """Every retrieval score, metric by metric.

    choices  of `choose_all`
    styles   of the photos of the bank's patches, in the order of `bank.patch_ids`; None where they
             are not known
    """
    scores = ground_truth_scores(batches, embeddings, seed)
    if styles is not None:
        patches = [patch_styles(bank, batch.candidates, styles) for batch in batches]
        scores += compatibility_scores(batches, choices, patches)
        scores += styles_shown_scores(batches, choices, patches, int(styles.max()) + 1)
    return [
        *scores,
        *unlike_choice_scores(batches, choices),
        *repeated_crop_scores(batches, choices),
    ]


def ground_truth_scores(
    batches: Sequence[Scenes], embeddings: Mapping[str, Features], seed: int
) -> list[Score]:
    """How often the true patch of an object is the nearest to that of another, by embedding; and
    the same against candidates of its own category alone, where there are any.

    Those of a constant E_p and the chance, which must be equal, come last.
    """
    embeddings = {**embeddings, "constant E_p": constant(distinct_patches(batches))}
    metrics_of = {GROUND_TRUTH: False, OWN_CATEGORY: True}
    scenes = sum(batch.num_images for batch in batches)
    scores: list[Score] = []
    with Bar(GROUND_TRUTH, len(metrics_of) * len(embeddings) * scenes, "scene") as bar:
        for metric, own_category in metrics_of.items():
            chance: list[SceneSums] = []
            for name, features in embeddings.items():
                credits, chance = [], []
                for batch in batches:
                    pairs = ground_truth(batch, features, seed, own_category=own_category)
                    credits.append(_sums(pairs.credit, pairs.image, batch))
                    chance.append(_sums(pairs.chance, pairs.image, batch))
                    bar.advance(batch.num_images)
                if own_category and not any(part.weights.any() for part in credits):
                    return scores
                scores.append(score_of(metric, name, credits))
            scores.append(score_of(metric, "chance", chance))
    return scores


def ground_truth(
    scenes: Scenes, features: Features, seed: int, *, own_category: bool = False
) -> metrics.GroundTruthPairs:
    """E_p's answers for all ordered pairs of objects.

    own_category  only against candidates of the target's own category, where it has any
    """
    device = scenes.valid.device
    return metrics.ground_truth_pairs(
        features(scenes.patch_ids).to(device),
        features(scenes.candidates).to(device),
        scenes.own_category if own_category else scenes.valid,
        scenes.padding.image,
        scenes.boxes,
        scenes.uniforms(seed),
    )


def compatibility_scores(
    batches: Sequence[Scenes], choices: Choices, patches: Sequence[PatchStyles]
) -> list[Score]:
    """How often two selected patches of a scene agree in style, for each method of selection.

    patches  (O, K) of each batch

    The chance, where each candidate is equally likely, comes last.
    """
    scores = []
    for name, draws in choices.items():
        sums = [
            mean_of_draws([_agreement(batch, candidates.take(selected)) for selected in of_batch])
            for batch, candidates, *of_batch in zip(batches, patches, *draws, strict=True)
        ]
        scores.append(score_of(COMPATIBILITY, name, sums))
    chance = []
    for batch, candidates in zip(batches, patches, strict=True):
        pairs = metrics.expected_compatibility(
            candidates, batch.valid.cpu(), batch.padding.image.cpu()
        )
        chance.append(sum_by_scene(pairs.agree, pairs.counted, pairs.image, batch.num_images))
    return [*scores, score_of(COMPATIBILITY, "chance", chance)]


def _agreement(scenes: Scenes, selected: PatchStyles) -> SceneSums:
    """Sums over a scene's pairs; selected (O,)."""
    pairs = metrics.compatibility(selected, scenes.padding.image.cpu())
    return sum_by_scene(pairs.agree, pairs.counted, pairs.image, scenes.num_images)


def unlike_choice_scores(batches: Sequence[Scenes], choices: Choices) -> list[Score]:
    """The share of a scene's D draws that differ from those before them in some object's patch:
    1 / D where all are alike. Nothing where there is but one draw."""
    scores = []
    for name, draws in choices.items():
        if len(draws) > 1:
            shares = [
                metrics.distinct_choices(of_batch, _padding(batch)) / len(draws)
                for batch, *of_batch in zip(batches, *draws, strict=True)
            ]
            scores.append(score_of(UNLIKE_CHOICES, name, [_of_scenes(share) for share in shares]))
    return scores


def styles_shown_scores(
    batches: Sequence[Scenes], choices: Choices, patches: Sequence[PatchStyles], num_styles: int
) -> list[Score]:
    """In how many styles a scene's draws show it, where a draw shows the style of more than half of
    its patches, if there is one. Nothing where there is but one draw.

    patches  (O, K) of each batch
    """
    scores = []
    for name, draws in choices.items():
        if len(draws) > 1:
            shown = [
                metrics.styles_shown(
                    [candidates.take(selected).styles for selected in of_batch],
                    num_styles,
                    _padding(batch),
                )
                for batch, candidates, *of_batch in zip(batches, patches, *draws, strict=True)
            ]
            sums = [_of_scenes(number) for number in shown]
            scores.append(score_of(STYLES_SHOWN, name, sums, share=False))
    return scores


def repeated_crop_scores(batches: Sequence[Scenes], choices: Choices) -> list[Score]:
    """The share of scenes in which one crop serves two objects though each could have been given
    its own: 0 is best."""
    avoidable = [_can_be_distinct(batch) for batch in batches]
    scores = []
    for name, draws in choices.items():
        sums = [
            mean_of_draws([_of_scenes(_repeats(batch, selected) & can) for selected in of_batch])
            for batch, can, *of_batch in zip(batches, avoidable, *draws, strict=True)
        ]
        scores.append(score_of(REPEATED_CROP, name, sums))
    return scores


def _can_be_distinct(scenes: Scenes) -> Tensor:
    """(N,) whether every object of a scene can be given a crop of its own."""
    parts = scenes.apart(*(part.cpu() for part in (scenes.valid, *scenes.crops)))
    return torch.tensor([metrics.can_be_distinct(Crops(*crops), valid) for valid, *crops in parts])


def _repeats(scenes: Scenes, selected: Tensor) -> Tensor:
    """(N,) whether two of the selected crops are the same; selected (O,)."""
    every = torch.arange(len(selected))
    crops = Crops(*(part.cpu()[every, selected] for part in scenes.crops))
    return metrics.repeats_a_crop(crops, _padding(scenes))


def _padding(scenes: Scenes) -> Padding:
    """On the CPU, where the choices are."""
    return moved(scenes.padding, CPU)


def _sums(scores: Tensor, image: Tensor, scenes: Scenes) -> SceneSums:
    """Of pairs that all count, (Q,)."""
    return sum_by_scene(scores, torch.ones_like(scores), image, scenes.num_images)


def _of_scenes(values: Tensor) -> SceneSums:
    """One value per scene, (N,)."""
    return SceneSums(values.double().numpy(), np.ones(len(values)))
