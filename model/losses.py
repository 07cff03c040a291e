"""Each term of eq. 5, and of sg2im's sum, as a function of named tensors."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class ObjectLogits(NamedTuple):
    """What a D_obj gives for object crops."""

    real: Tensor  # (O,) above 0 for real
    category: Tensor  # (O, categories)


def weighted(weights: object, terms: Mapping[str, Tensor]) -> Tensor:
    """Eq. 5: the sum of the terms, each times the weight of its name."""
    return torch.stack(
        [getattr(weights, name) * term.float() for name, term in terms.items()]
    ).sum()


def mean(values: Tensor, count: Tensor, rows: Tensor | None = None) -> Tensor:
    """The sum of values (n, ...) divided by how many there are in `count` rows, those of all
    processes: added up over the processes, it is the mean over the whole batch.

    rows  (n,)  False for rows that count for nothing; None: all count
    """
    if rows is not None:
        values = values.masked_fill(~rows.reshape(-1, *[1] * (values.dim() - 1)), 0)
    return values.sum() / (count * values[0].numel())


def generator_loss(logits: Tensor, count: Tensor, rows: Tensor | None = None) -> Tensor:
    """The generator's side of eq. 4, non-saturating. logits (n, ...) of `count` rows."""
    return mean(F.softplus(-logits.float()), count, rows)


def discriminator_loss(
    real: Tensor, fake: Tensor, count: Tensor, rows: Tensor | None = None
) -> Tensor:
    """The discriminators' side of eq. 4, as a loss to minimise.

    real  (n, ...)         of `count` rows
    fake  (sets * n, ...)  of so many sets of generated rows
    rows  (n,)             as in `mean`
    """
    sets = len(fake) // len(real)
    of_fake = None if rows is None else rows.repeat(sets)
    return generator_loss(real, count, rows) + mean(F.softplus(fake.float()), count * sets, of_fake)


def classification(
    logits: Tensor, categories: Tensor, count: Tensor, rows: Tensor | None = None
) -> Tensor:
    """Cross-entropy of logits (n, categories) against categories (n,), of `count` rows."""
    return mean(F.cross_entropy(logits, categories, reduction="none"), count, rows)


def reconstruction(image: Tensor, truth: Tensor, count: Tensor) -> Tensor:
    """l1 between the image made from the true patches and the true image, of `count` images."""
    return mean((image - truth).abs(), count)


def box_l1(predicted: Tensor, truth: Tensor, count: Tensor, rows: Tensor | None = None) -> Tensor:
    """l1 over boxes (O, 4), as the paper says; sg2im's and PasteGAN's code use squared errors.
    count: objects."""
    return mean((predicted - truth).abs(), count, rows)


def box_mse(sides: Tensor, truth: Tensor, count: Tensor, rows: Tensor | None = None) -> Tensor:
    """sg2im's box loss: mean squared error of its boxes, which end in a ReLU, to the true ones.

    sides  (V, 4)  boxes before that ReLU
    truth  (V, 4)
    count  nodes

    The value is sg2im's. The gradient passes the ReLU, or a side below zero would never learn.
    """
    boxes = sides + (sides.clamp_min(0) - sides).detach()
    return mean((boxes - truth) ** 2, count, rows)


def mask_bce(logits: Tensor, truth: Tensor, count: Tensor, rows: Tensor | None = None) -> Tensor:
    """Binary cross-entropy over the cells of masks (V, 16, 16) in {0, 1}. count: nodes."""
    cells = F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")
    return mean(cells, count, rows)


def gt_selection(per_object: Tensor, images: Tensor, objects: Tensor) -> Tensor:
    """Mean of the terms (O,) over all objects but the first query's of each image, whose term is 0.

    images, objects  how many there are in all processes
    """
    return per_object.sum() / (objects - images).clamp_min(1)


def cooccurrence(vectors: Tensor, present: Tensor, count: Tensor) -> Tensor:
    """Eq. 3: l2 distance summed over the pairs of an image's patches, averaged over `count` images.

    vectors  (N, M, F)  weighted means of stored F_occur vectors
    present  (N, M)     True where an object stands, False where the padding is
    """
    differences = vectors[:, :, None] - vectors[:, None]
    pairs = present[:, :, None] & present[:, None]
    upper = torch.triu(torch.ones_like(pairs[0]), diagonal=1)
    distance: Tensor = torch.linalg.vector_norm(differences, dim=-1)
    return (distance * (pairs & upper)).sum() / count
