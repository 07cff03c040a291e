"""Candidates -> one patch per object, each choice steering the next, differentiably (section 2.1).

All images of a batch go together: what lies end to end (O) is laid out as (N, M), and the n steps
of the longest scene are taken by all. Everything here is float32.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.retrieval.relaxation import log_exclusion, one_hot_of_largest, straight_through

Relaxation = Literal["straight-through", "soft"]
Start = Literal["random", "medoid", "best"]

CLOSED = -1e30  # the logit of what may not be chosen; finite, so that no row gives NaN


class Grid(NamedTuple):
    """Where each object of the flat layout stands in the (image, place) layout."""

    image: Tensor  # (O,) image of each object
    place: Tensor  # (O,) its place among its image's objects
    present: Tensor  # (N, M) True where an object stands

    def spread(self, flat: Tensor) -> Tensor:
        """(O, ...) -> (N, M, ...), zeros where no object stands."""
        out = flat.new_zeros((*self.present.shape, *flat.shape[1:]))
        return out.index_put((self.image, self.place), flat)

    def collect(self, grid: Tensor) -> Tensor:
        """(N, M, ...) -> (O, ...)."""
        return grid[self.image, self.place]


def grid_of(object_image: Tensor, num_images: int) -> Grid:
    """object_image (O,), ascending -> the grid of that batch."""
    counts = torch.bincount(object_image, minlength=num_images)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(object_image), device=object_image.device) - first[object_image]
    longest = int(counts.max()) if len(object_image) else 0
    present = torch.arange(longest, device=counts.device)[None] < counts[:, None]
    return Grid(object_image, place, present)


def distances(query: Tensor, features: Tensor) -> Tensor:
    """l2 distance of query (N, E) to features (N, ..., E) -> (N, ...); its gradient at 0 is 0."""
    shape = (query.shape[0],) + (1,) * (features.dim() - 2) + (query.shape[-1],)
    apart: Tensor = torch.linalg.vector_norm(query.reshape(shape) - features, dim=-1)
    return apart


class Retrieved(NamedTuple):
    """One patch for every object of a batch."""

    weights: Tensor  # (O, K) sums to 1 over an object's own candidates
    chosen: Tensor  # (O,) the candidate that won
    step: Tensor  # (O,) when its object was assigned, from 0


def retrieve(
    features: Tensor,
    valid: Tensor,
    grid: Grid,
    query: Tensor,
    *,
    noise: Tensor | None,
    temperature: float,
    relaxation: Relaxation = "straight-through",
) -> Retrieved:
    """Assign one candidate to every object, the most compatible first (eqs. 1 and 2, Fig. 2b).

    features  (O, K, E)  patch embeddings of the candidates, not normalised
    valid     (O, K)     False where the padding is; True at least once per object
    query     (N, E)     where each image starts
    noise     (O, K)     Gumbel noise, one value per candidate kept over the steps; None for none
    """
    spread = grid.spread(features.float())  # (N, M, K, E)
    allowed = grid.spread(valid)  # (N, M, K)
    images, places, k = allowed.shape
    bias = grid.spread(noise) if noise is not None else torch.zeros_like(spread[..., 0])
    open_objects = grid.present.clone()  # (N, M) the hard mask
    weights = torch.zeros_like(bias)
    chosen = torch.zeros_like(open_objects, dtype=torch.long)
    steps = torch.full_like(chosen, -1)
    everyone = torch.arange(images, device=features.device)
    query = query.float()
    gathered = torch.zeros_like(query)
    for step in range(places):
        active = open_objects.any(1)
        logits = bias - distances(query, spread)
        logits = logits.masked_fill(~(allowed & open_objects[:, :, None]), CLOSED)
        flat = logits.flatten(1)
        share = torch.softmax(flat / temperature, dim=-1).view_as(logits)
        winner = flat.argmax(-1) // k  # (N,) the object won at this step
        own = logits[everyone, winner]  # (N, K)
        picked = torch.softmax(own / temperature, dim=-1)
        if relaxation == "straight-through":
            picked = straight_through(picked, one_hot_of_largest(own))
        mine = F.one_hot(winner, places).bool() & active[:, None]  # (N, M)
        weights = weights + mine[:, :, None] * picked[:, None]
        chosen = torch.where(mine, own.argmax(-1)[:, None], chosen)
        steps = torch.where(mine, step, steps)
        feature = torch.einsum("nk,nke->ne", picked, spread[everyone, winner])
        gathered = gathered + active[:, None] * feature
        query = gathered / (step + 1)
        bias = bias + log_exclusion(share)
        open_objects = open_objects & ~mine
    return Retrieved(grid.collect(weights), grid.collect(chosen), grid.collect(steps))


def random_start(
    features: Tensor, valid: Tensor, grid: Grid, generator: torch.Generator | None
) -> Tensor:
    """The feature of one candidate of each image, drawn evenly: (N, E)."""
    allowed = grid.spread(valid).flatten(1).float()  # (N, M * K)
    drawn = torch.multinomial(allowed.cpu(), 1, generator=generator).to(features.device)[:, 0]
    spread = grid.spread(features.float()).flatten(1, 2)
    return spread[torch.arange(len(drawn), device=features.device), drawn]


def medoid_start(features: Tensor, valid: Tensor, grid: Grid) -> Tensor:
    """The candidate of each image with the smallest summed distance to all others: (N, E)."""
    spread = grid.spread(features.float()).flatten(1, 2)  # (N, M * K, E)
    allowed = grid.spread(valid).flatten(1)
    apart = torch.cdist(spread, spread) * allowed[:, None]
    total = apart.sum(-1).masked_fill(~allowed, torch.inf)
    return spread[torch.arange(len(spread), device=features.device), total.argmin(-1)]


def spread_of(chosen_features: Tensor, grid: Grid) -> Tensor:
    """Summed distance over the pairs of each image's patches, (O, E) -> (N,): small is tight."""
    spread = grid.spread(chosen_features.float())
    pairs = grid.present[:, :, None] & grid.present[:, None]
    return (torch.cdist(spread, spread) * pairs).sum((1, 2)) / 2


def retrieve_best(
    features: Tensor,
    valid: Tensor,
    grid: Grid,
    *,
    noise: Tensor | None,
    temperature: float,
    relaxation: Relaxation = "straight-through",
) -> Retrieved:
    """From every candidate as the start, keep each image's tightest set."""
    kept: list[Retrieved] = []
    for image in range(grid.present.shape[0]):
        mine = grid.image == image
        own, allowed = features[mine].float(), valid[mine]
        starts = own[allowed]  # (S, E)
        runs, objects = len(starts), len(own)
        lanes = torch.arange(runs, device=own.device).repeat_interleave(objects)
        all_starts = grid_of(lanes, runs)
        found = retrieve(
            own.repeat(runs, 1, 1), allowed.repeat(runs, 1), all_starts, starts,
            noise=None if noise is None else noise[mine].repeat(runs, 1),
            temperature=temperature, relaxation=relaxation,
        )  # fmt: skip
        picked = torch.einsum("ok,oke->oe", found.weights, own.repeat(runs, 1, 1))
        tightest = lanes == spread_of(picked, all_starts).argmin()
        kept.append(Retrieved(*(field[tightest] for field in found)))
    return Retrieved(*(torch.cat(fields) for fields in zip(*kept, strict=True)))


def add_truth(
    features: Tensor, valid: Tensor, truth: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Put each object's true patch among its candidates at a shuffled slot.

    features (O, K, E), valid (O, K), truth (O, E) -> features (O, K + 1, E), valid (O, K + 1),
    slot (O,) of the truth. Shuffled, so that no tie rule can favour it.
    """
    slots = valid.shape[1] + 1
    order = torch.rand((len(valid), slots), generator=generator).argsort(-1).to(valid.device)
    joined = torch.cat([features, truth[:, None]], 1)
    allowed = torch.cat([valid, torch.ones_like(valid[:, :1])], 1)
    joined = joined.gather(1, order[..., None].expand(-1, -1, features.shape[-1]))
    return joined, allowed.gather(1, order), (order == slots - 1).int().argmax(-1)


def ground_truth_selection(
    features: Tensor,
    valid: Tensor,
    truth: Tensor,
    slot: Tensor,
    grid: Grid,
    start: Tensor,
    temperature: float,
) -> Tensor:
    """-log of the share of the true patch for every object but the first, teacher-forced.

    features  (O, K + 1, E)  candidates with the truth among them
    truth     (O, E)         the true patches' embeddings
    slot      (O,)           where the truth stands
    start     (N,)           place of the object whose true patch is the first query

    Returns (O,), zero at the objects that were the start. Later queries are the means of the true
    features of the objects assigned so far; the object assigned next is the one that has the
    candidate nearest to the query.
    """
    spread, allowed = grid.spread(features.float()), grid.spread(valid)
    true, slots = grid.spread(truth.float()), grid.spread(slot)
    images, places = grid.present.shape
    everyone = torch.arange(images, device=features.device)
    query = gathered = true[everyone, start]
    first = F.one_hot(start, places).bool()
    open_objects = grid.present & ~first
    losses = torch.zeros_like(true[..., 0])
    for step in range(places - 1):
        active = open_objects.any(1)
        logits = (-distances(query, spread) / temperature).masked_fill(~allowed, CLOSED)
        reach = logits.detach().amax(-1).masked_fill(~open_objects, CLOSED)
        winner = reach.argmax(-1)
        share = torch.log_softmax(logits[everyone, winner], dim=-1)
        loss = -share[everyone, slots[everyone, winner]]
        mine = F.one_hot(winner, places).bool() & active[:, None]
        losses = losses + mine * loss[:, None]
        gathered = gathered + active[:, None] * true[everyone, winner]
        query = gathered / (step + 2)
        open_objects = open_objects & ~mine
    return grid.collect(losses)
