"""What could be chosen if the true styles were known."""

from collections.abc import Sequence, Set
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import Start
from model.draws import Uniforms
from model.padding import Padding
from model.retrieval.choice import ChoiceDraws, draw_start, is_drawn, start_slot
from model.retrieval.crops import Crops
from model.retrieval.greedy import Selection, retrieve, start_feature
from model.retrieval.search import retrieve_tightest
from model.scores.metrics import distinct_items

# Between unlike styles. It outweighs both the tie-breaking noise below and every soft exclusion
# (at least log of the smallest float32, -87), so the oracle's greedy choice is exact.
STYLE_DISTANCE = 1e4


def oracle_choice(
    styles: Tensor,
    valid: Tensor,
    padding: Padding,
    uniforms: Uniforms,
    *,
    num_styles: int,
    start: Start,
    features: Tensor,
    crops: Crops | None = None,
) -> Selection:
    """The greedy retrieval with the true styles as features: the choice of a perfect E_p.

    styles    (O, K)
    valid     (O, K)
    features  (O, K, E)  the run's E_p: a start that follows from features is found by these

    crops     (O, K)     as for `retrieve`; None: the same patch twice is allowed

    A random start is the one that a run's own choice without noise draws from the same
    numbers. Ties between candidates are broken evenly.
    """
    one_hot = F.one_hot(styles.clamp_min(0), num_styles).float() * STYLE_DISTANCE
    if start == "best":
        return retrieve_tightest(one_hot, valid, padding, noise=None, temperature=1.0, crops=crops)
    drawn = draw_start(valid, padding, uniforms).to(valid.device) if is_drawn(start) else None
    slot = start_slot(start, features, valid, padding, ChoiceDraws(start=drawn))
    query = start_feature(one_hot, padding, slot)
    tie_breaks = uniforms.objects(valid.shape).to(valid.device)
    return retrieve(one_hot, valid, padding, query, noise=tie_breaks, temperature=1.0, crops=crops)


def global_choice(styles: Tensor, valid: Tensor, photo: Tensor) -> Tensor:
    """Of one scene, candidates (n,) with the fewest pairs of unlike styles that there can be.

    styles, valid, photo  (n, K)

    Those of one style are of distinct photos as far as that goes, since crops that overlap do not
    count. On 407 scenes of the toy bank (K = 6) 0.663 of the pairs that count agree so; of the best
    of all choices, found by trying each, 0.665.
    """
    offered = [set(own[ok].tolist()) for own, ok in zip(styles, valid, strict=True)]
    given = torch.tensor(agreeing_styles(offered))
    open_to = valid & (styles == given[:, None])
    # A photo has one style, so a matching of all objects is one for each style.
    photos = [own[ok].tolist() for own, ok in zip(photo, open_to, strict=True)]
    for place, own_photo in distinct_items(photos).items():
        open_to[place] &= photo[place] == own_photo
    return open_to.int().argmax(1)


def agreeing_styles(offered: Sequence[Set[int]]) -> list[int]:
    """One of the styles that each object is offered (n,), such that as many pairs as possible
    agree.

    The largest group of equal style then holds every object that is offered this style, or one more
    could join it; and so does the next among the others. So all orders of styles are tried.
    """
    members = {
        style: frozenset(o for o, own in enumerate(offered) if style in own)
        for style in sorted(set().union(*offered))
    }

    @cache
    def best(rest: frozenset[int]) -> tuple[int, tuple[int, ...]]:
        """How many pairs of the rest agree at most, and the styles in order."""
        if not rest:
            return 0, ()
        tried = []
        for style, group in members.items():
            if n := len(rest & group):
                pairs, order = best(rest - group)
                tried.append((n * (n - 1) // 2 + pairs, (style, *order)))
        return max(tried)

    _, order = best(frozenset(range(len(offered))))
    return [next(style for style in order if style in own) for own in offered]
