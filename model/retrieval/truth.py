"""How probable the true patches are: the ground-truth losses (section 2.2)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import Query
from model.padding import Padding
from model.retrieval.distance import between, distances
from model.retrieval.greedy import MASKED, of_winner
from model.rows import Places, move


def add_truth(
    features: Tensor, valid: Tensor, truth: Tensor, order: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Put each object's true patch among its candidates, in the given order.

    features  (O, K, E)
    valid     (O, K)
    truth     (O, E)
    order     (O, K + 1)  a permutation of 0 to K per object; K stands for the true patch

    Returns features (O, K + 1, E), valid (O, K + 1), slot (O,) of the true patch. The order is
    drawn at random, so that no tie rule can favour the true patch.
    """
    joined = torch.cat([features, truth[:, None]], 1)
    allowed = torch.cat([valid, torch.ones_like(valid[:, :1])], 1)
    first = torch.arange(len(order), device=order.device)[:, None] * order.shape[1]
    there, back = ((first + to).flatten() for to in (order, order.argsort()))
    joined = move(joined.flatten(0, 1), Places(there), Places(back)).view_as(joined)
    return joined, allowed.gather(1, order), (order == valid.shape[1]).int().argmax(-1)


def ground_truth_selection(
    features: Tensor,
    valid: Tensor,
    truth: Tensor,
    slot: Tensor,
    padding: Padding,
    first: Tensor,
    temperature: float,
    query_rule: Query = "updated",
) -> Tensor:
    """-log probability of the true patch for every object but the first (section 2.2).

    features  (O, K + 1, E)  candidates with the true patch among them
    truth     (O, E)         the true patches' embeddings
    slot      (O,)           where the true patch stands
    first     (N,)           place of the object whose true patch is the first query

    Returns (O,), zero at the first objects. Teacher-forced: later queries are the means of the
    true features of the objects assigned so far, or with query_rule "fixed" the first one; the
    object assigned next is the one that has the candidate nearest to the query.
    """
    padded, allowed = padding.pad(features.float()), padding.pad(valid)
    true = padding.pad(truth.float())
    true_slot = F.one_hot(padding.pad(slot), allowed.shape[-1])  # (N, M, K + 1)
    places = padding.present.shape[1]
    started = F.one_hot(first, places)
    query = feature_sum = of_winner(true, started)
    unassigned = padding.present & ~started.bool()
    losses = torch.zeros_like(true[..., 0])
    for step in range(places - 1):
        active = unassigned.any(1)
        logits = (-distances(query, padded) / temperature).masked_fill(~allowed, MASKED)
        highest = logits.detach().amax(-1).masked_fill(~unassigned, MASKED)
        winner = highest.argmax(-1)
        winning = F.one_hot(winner, places)
        log_probabilities = torch.log_softmax(of_winner(logits, winning), dim=-1)
        loss = -(log_probabilities * of_winner(true_slot, winning)).sum(-1)
        assigned = winning.bool() & active[:, None]
        losses = losses + assigned * loss[:, None]
        feature_sum = feature_sum + active[:, None] * of_winner(true, winning)
        if query_rule == "updated":
            query = feature_sum / (step + 2)
        unassigned = unassigned & ~assigned
    return padding.unpad(losses)


def all_pairs(
    features: Tensor,
    valid: Tensor,
    truth: Tensor,
    categories: Tensor,
    photos: Tensor,
    padding: Padding,
    temperature: float,
) -> Tensor:
    """-log probability of each object's true patch, given each other true patch of its image as the
    query (InfoNCE; van den Oord et al. 2018), in place of one path through the image.

    features    (O, K, E)  candidates
    valid       (O, K)
    truth       (O, E)     the true patches' embeddings
    categories  (O,)       by which true patches of other photos are negatives too: those of the
                           target's category. Of several processes or parts of a batch, each has
                           those of its own images
    photos      (O,)       of the true patches, the same for one file under several ids

    Returns (O,), the sum over its queries divided by the number of its image's objects n: their
    sum is that of n - 1 means, as many as `ground_truth_selection` has terms.
    """
    padded, allowed = padding.pad(features.float()), padding.pad(valid)
    true = padding.pad(truth.float())  # (N, M, E)
    images, places, k = allowed.shape
    present = padding.present
    to_true = -between(true, true)  # (N, M query, M target)
    to_candidates = -between(true, padded.flatten(1, 2)).view(images, places, places, k)
    to_others = -between(true.flatten(0, 1), truth.float()).view(images, places, 1, -1)
    alike = padding.pad(categories)[:, :, None] == categories  # (N, M target, O)
    apart = padding.pad(photos)[:, :, None] != photos
    if padding.real is not None:
        apart = apart & padding.real
    other = (alike & apart)[:, None]  # (N, 1, M target, O)
    logits = torch.cat(
        [
            to_true[..., None],
            to_candidates.masked_fill(~allowed[:, None], MASKED),
            torch.where(other, to_others, MASKED),
        ],
        dim=-1,
    )
    losses = -torch.log_softmax(logits / temperature, dim=-1)[..., 0]
    itself = torch.eye(places, dtype=torch.bool, device=valid.device)
    counted = present[:, :, None] & present[:, None] & ~itself
    per_target = (losses * counted).sum(1) / present.sum(1, keepdim=True)
    return padding.unpad(per_target)
