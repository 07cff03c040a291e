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


def generator_loss(logits: Tensor) -> Tensor:
    """The generator's side of eq. 4, non-saturating."""
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminators' side of eq. 4, as a loss to minimise."""
    return generator_loss(real) + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))


def reconstruction(image: Tensor, truth: Tensor) -> Tensor:
    """l1 between the image made from the true patches and the true image."""
    return F.l1_loss(image, truth)


def box_l1(predicted: Tensor, truth: Tensor) -> Tensor:
    """l1 over boxes (O, 4), as the paper says; sg2im's and PasteGAN's code use squared errors."""
    return F.l1_loss(predicted, truth)


def box_mse(sides: Tensor, truth: Tensor) -> Tensor:
    """sg2im's box loss: mean squared error of its boxes, which end in a ReLU, to the true ones.

    sides  (V, 4)  boxes before that ReLU
    truth  (V, 4)

    The value is sg2im's. The gradient passes the ReLU, or a side below zero would never learn.
    """
    boxes = sides + (sides.clamp_min(0) - sides).detach()
    return F.mse_loss(boxes, truth)


def mask_bce(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy over the cells of masks (V, 16, 16) in {0, 1}."""
    return F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype))


def gt_selection(per_object: Tensor, counted: Tensor) -> Tensor:
    """Mean of the terms (O,) over the objects `counted` (O,): all but the first query's."""
    return per_object.sum() / counted.sum().clamp_min(1)


def cooccurrence(vectors: Tensor, present: Tensor) -> Tensor:
    """Eq. 3: l2 distance summed over the pairs of an image's patches, averaged over images.

    vectors  (N, M, F)  weighted means of stored F_occur vectors
    present  (N, M)     True where an object stands, False where the padding is
    """
    differences = vectors[:, :, None] - vectors[:, None]
    pairs = present[:, :, None] & present[:, None]
    upper = torch.triu(torch.ones_like(pairs[0]), diagonal=1)
    distance: Tensor = torch.linalg.vector_norm(differences, dim=-1)
    return (distance * (pairs & upper)).sum() / len(vectors)
