"""One patch per object by the run's rule, and the random draws that it needs."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import RetrievalConfig, Start
from model.draws import Uniforms
from model.padding import Padding
from model.retrieval.crops import Crops, open_slots, same_crop
from model.retrieval.greedy import (
    Selection,
    medoid_start,
    retrieve,
    start_feature,
)
from model.retrieval.relaxation import gumbel
from model.retrieval.search import retrieve_tightest
from pipeline.errors import UserError

NEAREST = 3  # in training `predefined` draws one of this many nearest, as PasteGAN does


class ChoiceDraws(NamedTuple):
    """What is random in the choice of a batch's patches."""

    noise: Tensor | None = None  # (O, K) Gumbel noise; None: off, or nothing is learned
    start: Tensor | None = None  # (N,) the slot drawn among an image's M * K candidates
    rank: Tensor | None = None  # (O,) in [0, 1), which open candidate, where nothing is learned


class TruthDraws(NamedTuple):
    """What is random in the ground-truth pass."""

    order: Tensor  # (O, K + 1) a permutation of 0 to K; K stands for the true patch
    first: Tensor  # (N,) place of the object whose true patch is the first query


class Draws(NamedTuple):
    """All that is random in one pass, drawn on the CPU before it."""

    truth: TruthDraws | None  # None unless retrieval is learned
    choice: ChoiceDraws


def numbers_per_object(k: int) -> int:
    """How many `draw_passes` asks for at most, for each object with K candidates."""
    return 2 * (k + 1)


def draw_passes(
    rule: RetrievalConfig, valid: Tensor, padding: Padding, uniforms: Uniforms, *, noise: bool
) -> Draws:
    """Draw for both passes of section 2.2: valid (O, K), all on the CPU.

    noise  off: no Gumbel noise, and `predefined` takes the nearest
    """
    truth = draw_truth(valid, padding, uniforms) if rule.mode == "learned" else None
    if truth is not None and rule.gt_in_candidates:
        valid = F.pad(valid, (0, 1), value=True)
    return Draws(truth, draw_choice(rule, valid, padding, uniforms, noise=noise))


def draw_choice(
    rule: RetrievalConfig, valid: Tensor, padding: Padding, uniforms: Uniforms, *, noise: bool
) -> ChoiceDraws:
    """Draw for `choose`: valid (O, K), on the CPU."""
    if rule.mode != "learned":
        draws = rule.mode == "random" or noise
        return ChoiceDraws(rank=uniforms.objects(valid.shape[:1]) if draws else None)
    drawn = gumbel(uniforms.objects(valid.shape)) if noise else None
    start = draw_start(valid, padding, uniforms) if is_drawn(rule.start) else None
    return ChoiceDraws(noise=drawn, start=start)


def draw_truth(valid: Tensor, padding: Padding, uniforms: Uniforms) -> TruthDraws:
    """Draw for the ground-truth pass, evenly: valid (O, K), on the CPU."""
    return TruthDraws(draw_order(valid, uniforms), _nth(padding.present.sum(1), uniforms))


def draw_order(valid: Tensor, uniforms: Uniforms) -> Tensor:
    """(O, K + 1) a permutation per object, for `add_truth`: valid (O, K)."""
    objects, k = valid.shape
    return uniforms.objects((objects, k + 1)).argsort(stable=True)


def draw_start(valid: Tensor, padding: Padding, uniforms: Uniforms) -> Tensor:
    """(N,) one slot of each image's M * K candidates, evenly among the valid ones."""
    slots = padding.pad(valid).flatten(1)
    nth = _nth(slots.sum(1), uniforms)
    return (slots & (slots.cumsum(1) == nth[:, None] + 1)).int().argmax(1)


def _nth(counts: Tensor, uniforms: Uniforms) -> Tensor:
    """(N,) one of 0 to count - 1 for each image, evenly."""
    drawn = uniforms.images(len(counts)).to(counts.device)
    return (drawn.double() * counts).long()


def choose(
    rule: RetrievalConfig,
    features: Tensor | None,
    valid: Tensor,
    padding: Padding,
    draws: ChoiceDraws,
    crops: Crops,
) -> Selection:
    """One patch per object, by the run's rule.

    features  (O, K, E)  E_p of the candidates; None unless retrieval is learned
    valid     (O, K)
    crops     (O, K)     of the candidates
    """
    if rule.mode != "learned":
        return _in_graph_order(rule, valid, padding, draws, crops)
    assert features is not None
    unlike = None if rule.same_patch_allowed else crops
    if rule.start == "best":
        return retrieve_tightest(
            features, valid, padding, noise=draws.noise, temperature=rule.temperature,
            relaxation=rule.relaxation, passes=rule.passes, crops=unlike,
        )  # fmt: skip
    query = start_feature(
        features, padding, start_slot(rule.start, features, valid, padding, draws)
    )
    return retrieve(
        features, valid, padding, query, noise=draws.noise, temperature=rule.temperature,
        relaxation=rule.relaxation, query_rule=rule.query, crops=unlike,
    )  # fmt: skip


def start_slot(
    start: Start, features: Tensor, valid: Tensor, padding: Padding, draws: ChoiceDraws
) -> Tensor:
    """(N,) where each image starts, for every rule but "best", which tries all starts."""
    if start == "medoid":
        return medoid_start(features, valid, padding)
    assert start == "random"
    assert draws.start is not None
    return draws.start


def is_drawn(start: Start) -> bool:
    """Whether draws start at random. Where not, only noise makes draws differ."""
    return start == "random"


def started(rule: RetrievalConfig, start: Start | None) -> RetrievalConfig:
    """The rule with another start; None: with its own. UserError where it cannot have that one."""
    if start is None:
        return rule
    if rule.mode != "learned":
        raise UserError(
            f"start {start}: {rule.mode} retrieval takes each object by itself and starts nowhere; "
            f"leave the start out"
        )
    if start == "best" and rule.query == "fixed":
        raise UserError(
            "start best: this run was trained with --retrieval.query fixed, and from start best "
            "patches are compared with one another, not with a query; take random or medoid"
        )
    return replace(rule, start=start)


def noise_by_default(rule: RetrievalConfig, draws: int) -> bool:
    """Whether so many draws of a scene are with noise: where all would be alike without it. A
    single one is what the rule itself chooses."""
    return draws > 1 and not draws_differ(rule, noise=False)


def draws_differ(rule: RetrievalConfig, noise: bool) -> bool:
    """Whether anything in a draw is random."""
    return noise or rule.mode == "random" or (rule.mode == "learned" and is_drawn(rule.start))


def _in_graph_order(
    rule: RetrievalConfig, valid: Tensor, padding: Padding, draws: ChoiceDraws, crops: Crops
) -> Selection:
    """Any open candidate for `random`; for `predefined` the nearest, or one of three nearest. Each
    image's objects choose one after the other, in the order of the graph."""
    allowed = padding.pad(valid)  # (N, M, K)
    ranks = torch.zeros(len(valid), device=valid.device) if draws.rank is None else draws.rank
    padded_ranks = padding.pad(ranks)
    photo, box = (padding.pad(part) for part in crops)
    taken = torch.zeros_like(allowed)
    selected = torch.zeros(allowed.shape[:2], dtype=torch.long, device=valid.device)
    every_image = torch.arange(padding.num_images, device=valid.device)
    for place in range(allowed.shape[1]):
        free = open_slots(allowed[:, place], taken[:, place])  # (N, K)
        among = free.sum(-1)
        if rule.mode == "predefined":
            among = among.clamp_max(NEAREST)
        nth = (padded_ranks[:, place] * among).long()  # of the open ones, nearest first
        slot = (free & (free.cumsum(-1) == nth[:, None] + 1)).int().argmax(-1)
        selected[:, place] = slot
        if not rule.same_patch_allowed:
            crop = Crops(photo[every_image, place, slot], box[every_image, place, slot])
            crop = Crops(crop.photo[:, None, None], crop.box[:, None, None])
            taken = taken | same_crop(crop, Crops(photo, box))
    index = padding.unpad(selected)
    weights = F.one_hot(index, valid.shape[1]).float()
    return Selection(weights, index, torch.zeros_like(index), weights.new_zeros(len(index)))
