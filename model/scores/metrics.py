"""What retrieval scores count, as plain functions of embeddings and choices."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.draws import OneStream, Uniforms
from model.padding import Padding
from model.retrieval.choice import draw_order
from model.retrieval.crops import Crops, same_crop
from model.retrieval.distance import distances
from model.retrieval.truth import add_truth
from pipeline.scene import image_of


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
    uniforms: Uniforms | None = None,
) -> GroundTruthPairs:
    """Is the true patch of one object the nearest of its candidates to another's true patch?

    truth         (O, E)     E_p of the true patches
    candidates    (O, K, E)  E_p of the candidates
    valid         (O, K)     a target that has none is left out
    object_image  (O,)
    boxes         (O, 4)     pairs whose true crops share pixels are left out

    The ground-truth selection of section 2.2 as a score. Ties earn 1 / (number tied), so that a
    constant E_p earns exactly the chance.
    """
    order = draw_order(valid, uniforms or OneStream()).to(valid.device)
    joined, allowed, slot = add_truth(candidates, valid, truth, order)
    query, target = pairs_of(object_image)
    counted = valid.any(1)[target] & ~overlapping(boxes[query], boxes[target])
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


def same_choice(selected: Sequence[Tensor], padding: Padding) -> Tensor:
    """Whether two draws give every object of an image the same candidate: (N, D, D).

    selected  (O,) of each of D draws
    """
    padded = padding.pad(torch.stack([*selected], 1))  # (N, M, D)
    same: Tensor = (padded[:, :, :, None] == padded[:, :, None]).all(1)
    return same


def distinct_choices(selected: Sequence[Tensor], padding: Padding) -> Tensor:
    """How many of D draws, each (O,), are unlike all before them: (N,) int64."""
    repeated = same_choice(selected, padding).tril(-1).any(2)
    return (~repeated).sum(1)


def styles_shown(styles: Sequence[Tensor], num_styles: int, padding: Padding) -> Tensor:
    """In how many styles the draws show an image: (N,) int64.

    styles  (O,) of the patches selected by each of D draws

    A draw shows the style that more than half of the image's patches have, if there is one.
    """
    one_hot = F.one_hot(torch.stack([*styles], 1), num_styles)  # (O, D, number of styles)
    patches = padding.pad(one_hot).sum(1)
    shown = 2 * patches > padding.present.sum(1)[:, None, None]
    return shown.any(1).sum(1)


def repeats_a_crop(crops: Crops, padding: Padding) -> Tensor:
    """(N,) True for images in which two of the selected crops (O,) are the same."""
    photo, box = (padding.pad(part) for part in crops)
    same = same_crop(Crops(photo[:, :, None], box[:, :, None]), Crops(photo[:, None], box[:, None]))
    repeated: Tensor = same.tril(-1).any((1, 2))
    return repeated


def crop_labels(crops: Crops) -> Tensor:
    """Of one scene: (n, K) equal where crops are the same, or joined by others that are the same
    as the next, each."""
    photo, box = crops.photo.flatten(), crops.box.flatten(0, 1)
    same = same_crop(Crops(photo[:, None], box[:, None]), Crops(photo, box))
    labels = torch.arange(len(photo), device=photo.device)
    while True:
        lowest = torch.where(same, labels, len(photo)).amin(1).minimum(labels)
        if torch.equal(lowest, labels):
            return labels.view_as(crops.photo)
        labels = lowest


def can_be_distinct(crops: Crops, valid: Tensor) -> bool:
    """Whether each object of a scene can be given a crop that none of its others has.

    crops, valid  (n, K)
    """
    labels = crop_labels(crops)
    offers = [own[ok].tolist() for own, ok in zip(labels, valid, strict=True)]
    return len(distinct_items(offers)) == len(offers)


def distinct_items(offers: Sequence[Collection[int]]) -> dict[int, int]:
    """One item each, none twice, for as many as possible: place -> item (a maximum matching, by
    augmenting paths)."""
    holder: dict[int, int] = {}

    def assign(place: int, tried: set[int]) -> bool:
        for item in offers[place]:
            if item not in tried:
                tried.add(item)
                if item not in holder or assign(holder[item], tried):
                    holder[item] = place
                    return True
        return False

    for place in range(len(offers)):
        assign(place, set())
    return {place: item for item, place in holder.items()}
