"""Each term of eq. 5 as a function of named tensors."""

import torch
from torch import Tensor
from torch.nn import functional as F


def looks_real(logits: Tensor) -> Tensor:
    """The generator's side of eq. 4, non-saturating."""
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def tells_apart(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminators' side of eq. 4, as a loss to minimise."""
    return looks_real(real) + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))


def reconstruction(image: Tensor, truth: Tensor) -> Tensor:
    """l1 between the image made from the true patches and the true image."""
    return F.l1_loss(image, truth)


def box_regression(predicted: Tensor, truth: Tensor) -> Tensor:
    """l1 over boxes (O, 4); both reference codes use squares, the paper says l1."""
    return F.l1_loss(predicted, truth)


def gt_selection(per_object: Tensor, counted: Tensor) -> Tensor:
    """Mean of the (O,) terms where `counted` (O,): every object but the first query's."""
    return per_object.sum() / counted.sum().clamp_min(1)


def co_occurrence(vectors: Tensor, same_image: Tensor) -> Tensor:
    """Eq. 3: l2 distance summed over the pairs of an image's patches, averaged over images.

    vectors     (N, M, F)  weighted means of stored F_occur vectors
    same_image  (N, M)     True where an object stands
    """
    apart = vectors[:, :, None] - vectors[:, None]
    pairs = same_image[:, :, None] & same_image[:, None]
    upper = torch.triu(torch.ones_like(pairs[0]), diagonal=1)
    distance: Tensor = torch.linalg.vector_norm(apart, dim=-1)
    return (distance * (pairs & upper)).sum() / len(vectors)
