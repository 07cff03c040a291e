"""Candidates -> one patch per object, each choice steering the next, differentiably (section 2.1).

All images of a batch go together: objects (O) are padded to (N, M), and all take the M steps of the
longest scene. Everything here is float32.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import Query, Relaxation
from model.padding import Padding
from model.retrieval.crops import Crops, open_slots, same_crop
from model.retrieval.distance import between, distances
from model.retrieval.relaxation import log_exclusion, one_hot_of_largest, straight_through

MASKED = -1e30  # the logit of what may not be chosen; finite, so that no row gives NaN


class Selection(NamedTuple):
    """One patch for every object of a batch."""

    weights: Tensor  # (O, K) sums to 1 over an object's own candidates
    selected: Tensor  # (O,) the selected candidate
    step: Tensor  # (O,) when its object was assigned, from 0
    entropy: Tensor  # (O,) nats, of the soft weights; no gradient


def retrieve(
    features: Tensor,
    valid: Tensor,
    padding: Padding,
    query: Tensor,
    *,
    noise: Tensor | None,
    temperature: float,
    relaxation: Relaxation = "straight-through",
    query_rule: Query = "updated",
    crops: Crops | None = None,
) -> Selection:
    """Assign one candidate to every object, the most compatible first (eqs. 1 and 2, Fig. 2b).

    features  (O, K, E)  patch embeddings of the candidates, not normalised
    valid     (O, K)     True for what may be selected, at least once per object
    query     (N, E)     where each image starts, and with query_rule "fixed" stays
    noise     (O, K)     Gumbel noise, one value per candidate kept over the steps; None for none
    relaxation           which gradient the weights have; with "marginal" that of their softmax
                         without noise, in the exclusions neither, at temperature 1 (SIMPLE, Ahmed
                         et al. 2023, at k = 1). None has the gradient of which object wins a step
    crops     (O, K)     of the candidates: once one is selected, all slots of its image that show
                         the same crop are closed, unless an object has no other. None: eq. 2 as it
                         is, by which a scene can be given the same patch twice
    """
    padded = padding.pad(features.float())  # (N, M, K, E)
    allowed = padding.pad(valid)  # (N, M, K)
    taken = torch.zeros_like(allowed)
    padded_crops = None if crops is None else Crops(*(padding.pad(part) for part in crops))
    images, places, k = allowed.shape
    bias = padding.pad(noise) if noise is not None else torch.zeros_like(padded[..., 0])
    noiseless_bias = torch.zeros_like(bias)
    unassigned = padding.present  # (N, M) the hard mask
    weights = torch.zeros_like(bias)
    selected = torch.zeros_like(unassigned, dtype=torch.long)
    steps = torch.full_like(selected, -1)
    entropy = torch.zeros_like(bias[..., 0])
    every_image = torch.arange(images, device=features.device)
    query = query.float()
    feature_sum = torch.zeros_like(query)
    for step in range(places):
        active = unassigned.any(1)
        reach = distances(query, padded)
        closed = ~(open_slots(allowed, taken) & unassigned[:, :, None])
        logits = (bias - reach).masked_fill(closed, MASKED)
        bias = bias + log_exclusion(_probabilities(logits, temperature))
        winner = logits.flatten(1).argmax(-1) // k  # (N,) the object assigned at this step
        winning = F.one_hot(winner, places)
        own = of_winner(logits, winning)  # (N, K)
        if relaxation == "marginal":
            noiseless = (noiseless_bias - reach).masked_fill(closed, MASKED)
            noiseless_bias = noiseless_bias + log_exclusion(_probabilities(noiseless, 1.0))
            own_weights = torch.softmax(of_winner(noiseless, winning), dim=-1)
        else:
            own_weights = torch.softmax(own / temperature, dim=-1)
        own_entropy = torch.special.entr(own_weights.detach()).sum(-1)
        if relaxation != "soft":
            own_weights = straight_through(own_weights, one_hot_of_largest(own))
        assigned = winning.bool() & active[:, None]  # (N, M)
        weights = weights + assigned[:, :, None] * own_weights[:, None]
        selected = torch.where(assigned, own.argmax(-1)[:, None], selected)
        steps = torch.where(assigned, step, steps)
        entropy = torch.where(assigned, own_entropy[:, None], entropy)
        feature = torch.einsum("nk,nke->ne", own_weights, of_winner(padded, winning))
        feature_sum = feature_sum + active[:, None] * feature
        if query_rule == "updated":
            query = feature_sum / (step + 1)
        if padded_crops is not None:
            winner_slot = (every_image, winner, own.argmax(-1))
            crop = Crops(*(part[winner_slot][:, None, None] for part in padded_crops))
            taken = taken | same_crop(crop, padded_crops)
        unassigned = unassigned & ~assigned
    return Selection(*map(padding.unpad, (weights, selected, steps, entropy)))


def _probabilities(logits: Tensor, temperature: float) -> Tensor:
    """logits (N, M, K) -> their softmax over all candidates of an image, (N, M, K)."""
    return torch.softmax(logits.flatten(1) / temperature, dim=-1).view_as(logits)


def of_winner(values: Tensor, one_hot: Tensor) -> Tensor:
    """values (N, M, ...) -> (N, ...) of the object that one_hot (N, M) names. A sum, since the
    gradient of an index is slow on a GPU."""
    return (values * one_hot.reshape(*one_hot.shape, *[1] * (values.dim() - 2))).sum(1)


def start_feature(features: Tensor, padding: Padding, start: Tensor) -> Tensor:
    """features (O, K, E), start (N,) a slot in each image's M * K candidates -> (N, E)."""
    padded = padding.pad(features.float()).flatten(1, 2)
    return of_winner(padded, F.one_hot(start, padded.shape[1]))


def medoid_start(features: Tensor, valid: Tensor, padding: Padding) -> Tensor:
    """The slot of the candidate with the smallest summed distance to its image's others: (N,)."""
    padded = padding.pad(features.float()).flatten(1, 2)  # (N, M * K, E)
    allowed = padding.pad(valid).flatten(1)
    total = (between(padded, padded) * allowed[:, None]).sum(-1)
    return total.masked_fill(~allowed, torch.inf).argmin(-1)
