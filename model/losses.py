"""Each term of eq. 5, and of sg2im's sum, as a function of named tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F


def weighted(weights: object, terms: Mapping[str, Tensor]) -> Tensor:
    """Eq. 5: the sum of the terms, each times the weight of its name."""
    return torch.stack(
        [getattr(weights, name) * term.float() for name, term in terms.items()]
    ).sum()


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


def box_squares(sides: Tensor, truth: Tensor) -> Tensor:
    """sg2im's box loss: squares between its boxes, which end in a ReLU, and the true ones (V, 4).

    sides  (V, 4) boxes before that ReLU. The loss is sg2im's; its gradient passes the ReLU, under
    which a side that has fallen below zero would never learn.
    """
    boxes = sides + (sides.clamp_min(0) - sides).detach()
    return F.mse_loss(boxes, truth)


def masks_by_cell(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy over the cells of masks (V, 16, 16) in {0, 1}."""
    return F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype))


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
