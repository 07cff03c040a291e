"""Which of the patches nearest to an object are offered to it: of its own category, and with no
less quality than was asked for."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bank.bank import Bank
from bank.candidates import Candidates
from bank.exact_search import PADDING
from bank.quality import Quality
from model.config import MinQuality, RetrievalConfig
from pipeline.scene import image_of
from pipeline.wording import counted

OBJECTS_AT_ONCE = 16_384  # whose candidates are looked at together


class Offer(NamedTuple):
    """What each of O objects may be given."""

    candidates: Candidates  # (O, K), nearest first, then padding
    # (O,) no candidate has the quality, and the one that comes nearest to it is offered alone
    below: NDArray[np.bool_]


def stored_offer(bank: Bank, patch_ids: NDArray[np.int64], k: int, minimum: MinQuality) -> Offer:
    """To the bank's own patches (O,), of all candidates that it stores for them; BankError where
    these are fewer than K."""
    nearest = bank.candidates(patch_ids, k)
    if not minimum.asks:
        return Offer(nearest, np.zeros(len(patch_ids), bool))
    return offer(bank, bank.candidates(patch_ids), k, minimum)  # further ones may take their places


def offer(bank: Bank, candidates: Candidates, k: int, minimum: MinQuality) -> Offer:
    """The K nearest of any number of candidates (O, ...) that have the quality.

    Where an object's own category has none, it is not given up for another: the candidate that
    comes nearest to the quality is offered alone; of equals the nearest.
    """
    if not minimum.asks:
        return Offer(_first(candidates, candidates.valid, k), np.zeros(len(candidates.ids), bool))
    open_to = selectable(bank, candidates)
    reached = np.where(open_to, share_reached(minimum, bank.quality(candidates.ids)), -1)
    enough = reached == 1
    below = open_to.any(1) & ~enough.any(1)
    best = np.arange(reached.shape[1]) == reached.argmax(1)[:, None]
    return Offer(_first(candidates, np.where(below[:, None], best, enough), k), below)


def share_reached(minimum: MinQuality, quality: Quality) -> NDArray[np.float64]:
    """What patches (...) have of the quality that is asked for, in what they lack most: 1 where
    they have it, down to 0."""
    coverage = np.nan_to_num(quality.mask_share.astype(np.float64), nan=1)
    side = np.minimum(quality.width_px, quality.height_px).astype(np.float64)
    reached = np.ones(coverage.shape)
    # A share is stored as float32: one that is asked for is rounded as it is.
    for found, least in ((coverage, float(np.float32(minimum.coverage))), (side, minimum.side)):
        if least:
            reached = np.minimum(reached, found / least)
    return reached


def selectable(bank: Bank, candidates: Candidates) -> NDArray[np.bool_]:
    """(O, K) the candidates that may be selected: those of another category (fallback) only where
    there is none of the object's own, or where the bank was built over all categories."""
    if bank.manifest.recipe["candidate_scope"] == "all":
        return candidates.valid
    own = candidates.valid & ~candidates.fallback
    return np.where(own.any(1, keepdims=True), own, candidates.valid)


def left_out(bank: Bank, rule: RetrievalConfig) -> str:
    """In words, what the rule's quality leaves of the candidates of training objects; BankError
    where the bank does not say how good its patches are."""
    ids = bank.patch_ids[np.isin(image_of(bank.patch_ids), bank.scene_ids("train"))]
    stored = offered = few = below = 0
    for start in range(0, len(ids), OBJECTS_AT_ONCE):
        candidates = bank.candidates(ids[start : start + OBJECTS_AT_ONCE])
        found = offer(bank, candidates, bank.num_candidates, rule.min_quality)
        left = found.candidates.valid.sum(1)
        stored += int(selectable(bank, candidates).sum())
        offered += int(left.sum())
        few += int((left < rule.candidates).sum())
        below += int(found.below.sum())
    return (
        f"{rule.min_quality.flags} leaves out {stored - offered:,} of "
        f"{counted(stored, 'candidate')}; of {counted(len(ids), 'training object')} {few:,} are "
        f"offered fewer than {rule.candidates}, and {below:,} none but one that falls short"
    )


def _first(candidates: Candidates, keep: NDArray[np.bool_], k: int) -> Candidates:
    """The first k of each row that are kept (O, ...), in their order."""
    order = np.argsort(~keep, axis=1, kind="stable")[:, :k]
    rows = np.arange(len(keep))[:, None]
    valid = keep[rows, order]
    return Candidates(
        np.where(valid, candidates.ids[rows, order], PADDING),
        np.where(valid, candidates.distances[rows, order], np.float32(np.inf)),
        valid,
        candidates.fallback[rows, order] & valid,
    )
