"""The tightest set of patches: one candidate per object, all close to one another.

Every candidate of an image is the start of a set, which grows greedily by whatever lies closest to
all that is in it; then each of its patches is chosen once more, given the others. The tightest set
is kept. All sets of all images grow together.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import Relaxation
from model.padding import Padding
from model.retrieval.crops import Crops, open_slots, same_crop
from model.retrieval.distance import between
from model.retrieval.greedy import MASKED, Selection
from model.retrieval.relaxation import straight_through


class SearchSpace(NamedTuple):
    """What sets are chosen from, for N images: S = M * K slots, K for each of M places."""

    apart: Tensor  # (N, S, S) distances between slots
    bonus: Tensor  # (N, S) Gumbel noise
    allowed: Tensor  # (N, M, K)
    same: Tensor | None  # (N, S, S) True where two slots show the same crop; None: both may serve
    present: Tensor  # (N, M)


class Sets(NamedTuple):
    """G sets of patches for each of N images."""

    slots: Tensor  # (N, G, M)
    steps: Tensor  # (N, G, M) when each was assigned, from 0


class Reach(NamedTuple):
    """How slots lie to the patches of sets that are being chosen."""

    summed: Tensor  # (N, G, S) distance to a set's patches
    shown: Tensor  # (N, G, S) how many of them show the slot's crop
    number: Tensor  # (N, G, 1) of the set's patches

    def changed(self, space: SearchSpace, slots: Tensor, by: Tensor) -> "Reach":
        """With another patch in the sets, or without it.

        slots  (N, G)
        by     (N, G, 1)  1: it comes in; -1: it goes; 0: neither
        """
        shown = self.shown
        if space.same is not None:
            shown = shown + by * rows(space.same, slots)
        return Reach(self.summed + by * rows(space.apart, slots), shown, self.number + by)

    def cost(self, space: SearchSpace) -> Tensor:
        """Mean distance to a set's patches, less the noise: (N, G, S), infinite where a slot may
        not be chosen."""
        taken = (self.shown > 0).reshape(*self.shown.shape[:2], *space.allowed.shape[1:])
        shut = ~open_slots(space.allowed[:, None], taken).flatten(2)
        mean = self.summed / self.number.clamp_min(1)
        return (mean - space.bonus[:, None]).masked_fill(shut, torch.inf)


def no_reach(space: SearchSpace, sets: int) -> Reach:
    """Of sets that have no patches yet."""
    images, slots = space.bonus.shape
    none = space.apart.new_zeros(images, sets, slots)
    return Reach(none, none, none[..., :1])


def rows(values: Tensor, index: Tensor) -> Tensor:
    """values (N, S, T), index (N, G) -> (N, G, T)."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))


def every_slot(space: SearchSpace) -> Tensor:
    """As starts: (N, S)."""
    images, slots = space.bonus.shape
    return torch.arange(slots, device=space.apart.device).expand(images, -1)


def grown_sets(space: SearchSpace, starts: Tensor) -> tuple[Sets, Reach]:
    """A set from each start (N, G), a slot; one from a slot that may not be chosen is to be left
    out."""
    places, k = space.allowed.shape[1:]
    winner = starts
    slots = starts.new_zeros(*starts.shape, places)
    steps = torch.zeros_like(slots)
    waiting = space.present[:, None].expand_as(slots)  # for a patch
    reach = no_reach(space, starts.shape[1])
    for step in range(places):
        if step:
            closed = ~waiting.repeat_interleave(k, 2)
            winner = reach.cost(space).masked_fill(closed, torch.inf).argmin(2)
        wins = F.one_hot(winner // k, places).bool() & waiting
        slots = torch.where(wins, winner[..., None], slots)
        steps = torch.where(wins, step, steps)
        waiting = waiting & ~wins
        reach = reach.changed(space, winner, wins.any(2, keepdim=True).float())
    return Sets(slots, steps), reach


def refined(space: SearchSpace, sets: Sets, reach: Reach) -> tuple[Sets, Reach]:
    """Each patch chosen once more, given the others of its set: one place after the other."""
    k = space.allowed.shape[2]
    slots = sets.slots
    places = torch.arange(slots.shape[2], device=slots.device)
    for place in range(len(places)):
        there = space.present[:, place, None, None].expand_as(reach.number).float()
        reach = reach.changed(space, slots[..., place], -there)
        own = reach.cost(space)[..., place * k : (place + 1) * k]
        again = own.argmin(2) + place * k
        reach = reach.changed(space, again, there)
        slots = torch.where(places == place, again[..., None], slots)
    return sets._replace(slots=slots), reach


def spread(space: SearchSpace, slots: Tensor) -> Tensor:
    """Summed distance over the pairs of a set, divided by the number of an object's pairs, less the
    noise: (N, G).

    slots  (N, G, M)
    """
    present = space.present[:, None].expand_as(slots)
    total = (_pairs(present) * _of_pairs(space.apart, slots)).sum((2, 3))
    partners = (space.present.sum(1, keepdim=True) - 1).clamp_min(1)
    noise = space.bonus[:, None].expand(-1, slots.shape[1], -1).gather(2, slots)
    return total / partners - (noise * present).sum(2)


def repeats(space: SearchSpace, slots: Tensor) -> Tensor:
    """Pairs of a set that show the same crop: (N, G); slots (N, G, M)."""
    if space.same is None:
        return torch.zeros_like(slots[..., 0])
    pairs = _pairs(space.present[:, None].expand_as(slots))
    return (pairs & _of_pairs(space.same, slots)).sum((2, 3))


def _pairs(present: Tensor) -> Tensor:
    """present (N, G, M) -> (N, G, M, M), each pair once."""
    return (present[..., None] & present[..., None, :]).triu(1)


def _of_pairs(values: Tensor, slots: Tensor) -> Tensor:
    """values (N, S, S), slots (N, G, M) -> (N, G, M, M)."""
    return torch.stack([rows(values, one).gather(2, slots) for one in slots.unbind(2)], 2)


def tightest(space: SearchSpace, passes: int) -> Sets:
    """The best set of each image, (N, M)."""
    sets, reach = grown_sets(space, every_slot(space))
    for _ in range(passes):
        sets, reach = refined(space, sets, reach)
    best = best_of(space, sets.slots, space.allowed.flatten(1))
    return Sets(*(rows(part, best)[:, 0] for part in sets))


def best_of(space: SearchSpace, slots: Tensor, valid: Tensor) -> Tensor:
    """(N, 1) which set has the smallest spread, of those that repeat the fewest crops.

    slots  (N, G, M)
    valid  (N, G)     False for sets that are left out
    """
    repeated = repeats(space, slots).float().masked_fill(~valid, torch.inf)
    worse = repeated > repeated.amin(1, keepdim=True)
    return spread(space, slots).masked_fill(worse, torch.inf).argmin(1, keepdim=True)


def retrieve_tightest(
    features: Tensor,
    valid: Tensor,
    padding: Padding,
    *,
    noise: Tensor | None,
    temperature: float,
    relaxation: Relaxation = "straight-through",
    passes: int = 1,
    crops: Crops | None = None,
) -> Selection:
    """The candidates that lie closest to one another, of all sets that are tried.

    features, valid, noise, relaxation, crops  as for `retrieve`
    passes  how often the patches of a set are chosen once more

    Sets grow without looking ahead, so that a crop may be repeated needlessly: without a pass in 10
    of 2,000 random scenes of 2 to 4 objects with up to 3 crops of 5 photos each; with one in 1.

    The noise counts as much as the mean distance to the other patches of the set (perturb and MAP;
    Papandreou and Yuille 2011). An object's weights, and their gradient, are those of its choice
    given the other patches.
    """
    padded = padding.pad(features.float()).flatten(1, 2)
    apart = between(padded, padded)
    space = search_space(apart.detach(), noise, valid, padding, crops)
    with torch.no_grad():
        slots, steps = tightest(space, passes)
        # (N, M, M): the others of each patch
        others = space.present[:, None] & ~torch.eye(slots.shape[1], device=slots.device).bool()
        reach = no_reach(space, slots.shape[1])
        for place in range(slots.shape[1]):
            at = slots[:, place, None].expand_as(slots)
            reach = reach.changed(space, at, others[..., place, None].float())
        k = space.allowed.shape[2]
        chosen = F.one_hot(slots % k, k).to(apart.dtype)  # (N, M, K)
        # What is chosen is open, even where a set repeats a crop needlessly: it has weight.
        shut = own_slots(reach.cost(space).isinf(), space) & ~chosen.bool()
    from_chosen = F.one_hot(slots, apart.shape[1]).to(apart.dtype) @ apart  # (N, M, S)
    mean = others.to(apart.dtype) @ from_chosen / others.sum(2, keepdim=True).clamp_min(1)
    noiseless = (-own_slots(mean, space)).masked_fill(shut, MASKED)  # (N, M, K)
    logits = noiseless + space.bonus.view_as(noiseless)
    if relaxation == "marginal":
        soft = torch.softmax(noiseless, dim=-1)
    else:
        soft = torch.softmax(logits / temperature, dim=-1)
    entropy = torch.special.entr(soft.detach()).sum(-1)
    weights = soft if relaxation == "soft" else straight_through(soft, chosen)
    parts = (weights, slots % k, steps, entropy)
    return Selection(*map(padding.unpad, parts))


def search_space(
    apart: Tensor, noise: Tensor | None, valid: Tensor, padding: Padding, crops: Crops | None
) -> SearchSpace:
    """apart (N, S, S), noise (O, K), valid (O, K), crops (O, K)"""
    bonus = torch.zeros_like(apart[:, 0]) if noise is None else padding.pad(noise).flatten(1)
    same = None
    if crops is not None:
        photo, box = padding.pad(crops.photo).flatten(1), padding.pad(crops.box).flatten(1, 2)
        each, other = ((photo[:, :, None], box[:, :, None]), (photo[:, None], box[:, None]))
        same = same_crop(Crops(*each), Crops(*other))
    return SearchSpace(apart, bonus, padding.pad(valid), same, padding.present)


def own_slots(values: Tensor, space: SearchSpace) -> Tensor:
    """Of a row for each place (N, M, S), what is there for the place's own slots: (N, M, K)."""
    by_place = values.reshape(*values.shape[:2], *space.allowed.shape[1:])  # (N, M, M, K)
    own: Tensor = by_place.diagonal(dim1=1, dim2=2).movedim(-1, 1)
    return own
