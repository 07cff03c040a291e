"""The scores of a set of pictures: against reference photos, within a scene, of their objects."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from model.boxes import overlaps
from model.scores.costs import Costs
from model.scores.distributions import distribution_scores, names_of
from model.scores.extractors import Extractor, PictureFeatures, pair_distances
from model.scores.intervals import SceneSums, Score, score_of, sum_by_scene
from model.scores.perceptual import Lpips
from model.scores.pictures import Block, PictureSet
from model.scores.references import all_features
from model.scores.scenes import Scenes
from pipeline.progress import progress

LAYOUT, STYLE = "layout IoU", "style agreement"

# Pictures of some scenes, and where they show the objects (O, 4) -> agreeing pairs of each scene.
StyleAgreement = Callable[[Block, Scenes, Tensor], SceneSums]


@dataclass(frozen=True)
class Judges:
    """What looks at pictures."""

    extractors: Sequence[Extractor]
    references: Mapping[str, PictureFeatures]  # of the reference photos, by the extractor's name
    lpips: Sequence[Lpips] = ()  # none, or one
    style: StyleAgreement | None = None  # None: the photos' styles are not known


@dataclass
class Seen:
    """What was gathered from a set's pictures, batch by batch."""

    features: dict[str, list[PictureFeatures]] = field(default_factory=dict)
    distances: dict[str, list[Tensor]] = field(default_factory=dict)  # (n, pairs)
    pictures: int = 0
    unlike: list[Tensor] = field(default_factory=list)  # (n, pairs) True: not the same picture
    per_scene: int = 1  # M
    layout: list[SceneSums] = field(default_factory=list)
    style: list[SceneSums] = field(default_factory=list)


def score_pictures(pictures: PictureSet, judges: Judges, seed: int, costs: Costs) -> list[Score]:
    """Every score that the set can have, in the order of a table's columns."""
    seen = look_at(pictures, judges, costs)
    scores = []
    for extractor in judges.extractors:
        features = all_features(seen.features[extractor.name])
        with costs.of(f"distribution scores, {extractor.name}"):
            values = distribution_scores(
                extractor, judges.references[extractor.name], features, seed, seen.per_scene
            )
        scores += [
            Score(
                metric=value.name,
                choice=pictures.name,
                value=value.value,
                spread=value.spread,
                boxes=pictures.boxes,
                scenes=pictures.num_scenes,
                note=value.unreliable or "",
            )
            for value in values
        ]
    for name, distances in seen.distances.items():
        if score := diversity(name, pictures, distances, seen.unlike):
            scores.append(score)
    for metric, sums in ((STYLE, seen.style), (LAYOUT, seen.layout)):
        if any(part.weights.any() for part in sums):  # boxes may be predicted one on the other
            scores.append(score_of(metric, pictures.name, sums, pictures.boxes))
    return [replace(score, pictures=seen.pictures) for score in scores]


def look_at(pictures: PictureSet, judges: Judges, costs: Costs) -> Seen:
    """Go through the pictures once."""
    seen = Seen()
    places = progress(
        range(len(pictures.batches)),
        f"pictures of {pictures.name}" + (f", {pictures.boxes} boxes" if pictures.boxes else ""),
        pictures.num_scenes,
        "scene",
        size=lambda place: pictures.batches[place].num_images,
    )
    for place in places:
        scenes = pictures.batches[place]
        with costs.of("making pictures"):
            block = pictures.block(place)
        scene_count, per_scene = block.shape[:2]
        seen.pictures += scene_count * per_scene
        seen.per_scene = per_scene
        pairs = per_scene * (per_scene - 1) // 2
        for extractor in judges.extractors:
            with costs.of(f"features, {extractor.name}"):
                features = extractor.features(block.reshape(-1, *block.shape[2:]))
            seen.features.setdefault(extractor.name, []).append(features)
            if pairs and not extractor.published:
                vectors = features.vectors.reshape(scene_count, per_scene, -1)
                name = names_of(extractor).diversity
                seen.distances.setdefault(name, []).append(pair_distances(vectors))
        if pairs:
            seen.unlike.append(unlike_pairs(block))
            for lpips in judges.lpips:
                with costs.of("LPIPS"):
                    seen.distances.setdefault(lpips.name, []).append(lpips.pair_distances(block))
        if pictures.object_boxes is not None:
            boxes = pictures.object_boxes(scenes)
            if pictures.boxes == "predicted":
                seen.layout.append(layout_iou(boxes, scenes))
            if judges.style is not None:
                with costs.of("style agreement"):
                    seen.style.append(judges.style(block, scenes, boxes))
    return seen


def unlike_pairs(block: Block) -> Tensor:
    """Pictures (n, M, H, W, 3) -> (n, M(M-1)/2) True for pairs that differ somewhere: a network
    makes the same picture of the same patches."""
    first, second = np.triu_indices(block.shape[1], 1)
    return torch.from_numpy((block[:, first] != block[:, second]).any((2, 3, 4)))


def diversity(
    name: str,
    pictures: PictureSet,
    distances: Sequence[Tensor],
    unlike: Sequence[Tensor],
) -> Score | None:
    """The mean distance of a scene's pictures that are not the same, and its standard deviation
    over pairs, as the papers give it; None where there is no such pair."""
    values, counted = torch.cat([*distances]).double(), torch.cat([*unlike]).double()
    if not counted.any():
        return None
    sums = SceneSums((values * counted).sum(1).numpy(), counted.sum(1).numpy())
    score = score_of(name, pictures.name, [sums], pictures.boxes, share=False)
    return replace(score, spread=float(values[counted.bool()].std(correction=0)))


def layout_iou(boxes: Tensor, scenes: Scenes) -> SceneSums:
    """IoU of predicted boxes (O, 4) with the true ones, summed over each scene's objects."""
    intersection, union = overlaps(boxes, scenes.boxes)
    iou = intersection / union
    return sum_by_scene(iou, torch.ones_like(iou), scenes.padding.image, scenes.num_images)
