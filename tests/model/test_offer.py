"""Which candidates an object is offered: by category, by what is known of their quality."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bank.bank import Bank
from bank.candidates import Candidates
from bank.errors import BankError
from bank.manifest import read_manifest, write_manifest
from bank.quality import Quality
from model.batch import scene_batch
from model.config import MinQuality, RetrievalConfig
from model.offer import left_out, offer, selectable, share_reached, stored_offer
from model.scores.scenes import scene_batches
from model.sources import BankSource, part_of

UNKNOWN = np.nan
PADDED = -1


def bank_of(coverage, side=None, scope="category"):
    """A bank that knows the quality of patches 0, 1, ..."""
    coverage = np.array(coverage, np.float32)
    side = np.full(len(coverage), 100) if side is None else np.array(side)

    def quality(ids):
        """The height is the shorter side."""
        there = ids >= 0
        return Quality(
            np.where(there, coverage[ids], UNKNOWN).astype(np.float32),
            np.where(there, side[ids] + 7, 0).astype(np.float32),
            np.where(there, side[ids], 0).astype(np.float32),
        )

    manifest = SimpleNamespace(recipe={"candidate_scope": scope})
    return SimpleNamespace(manifest=manifest, quality=quality)


def found(*ids, others=()):
    """One object's candidates, nearest first; `others` are of another category."""
    row = np.array([ids], np.int64)
    distances = np.arange(len(ids), dtype=np.float32)[None]
    valid = row >= 0
    distances[~valid] = np.inf
    return Candidates(row, distances, valid, valid & np.isin(row, others))


def offered(candidates, k, minimum, bank):
    """Ids that an object may be given, and whether they fall short."""
    made = offer(bank, candidates, k, minimum)
    (ids,), (valid,) = made.candidates.ids, made.candidates.valid
    assert valid.tolist() == (ids >= 0).tolist() == selectable(bank, made.candidates)[0].tolist()
    assert made.candidates.distances[0, ~valid].tolist() == [np.inf] * int((~valid).sum())
    return ids.tolist(), bool(made.below[0])


def test_another_category_may_be_selected_only_where_the_own_has_none():
    bank = bank_of([1.0] * 3)
    assert selectable(bank, found(0, 1, 2, others=(1, 2))).tolist() == [[True, False, False]]
    assert selectable(bank, found(0, 1, -1, others=(0, 1))).tolist() == [[True, True, False]]


def test_in_a_bank_built_over_all_categories_all_may_be_selected():
    bank = bank_of([1.0] * 3, scope="all")
    assert selectable(bank, found(0, 1, -1, others=(1,))).tolist() == [[True, True, False]]


def test_further_ones_take_the_places_of_those_that_are_left_out():
    bank = bank_of([0.9, 0.3, 0.5, 0.6, 0.9])
    assert offered(found(0, 1, 2, 3, 4), 3, MinQuality(0.5), bank) == ([0, 2, 3], False)


def test_where_fewer_remain_padding_follows_them():
    bank = bank_of([0.4, 0.9, 0.3, 0.2])
    assert offered(found(0, 1, 2, 3), 3, MinQuality(0.5), bank) == ([1, -1, -1], False)


def test_where_none_remains_the_best_covered_is_offered_and_marked():
    bank = bank_of([0.1, 0.3, 0.2, 0.3])
    assert offered(found(0, 1, 2, 3), 2, MinQuality(0.5), bank) == ([1, -1], True)


def test_what_may_not_be_selected_is_never_the_best():
    """The nearest is banned, and the others' masks are empty."""
    candidates = found(0, 1, 2)
    candidates.valid[0, 0] = False
    assert offered(candidates, 2, MinQuality(0.5), bank_of([0.4, 0, 0])) == ([1, -1], True)


def test_an_object_that_has_no_candidate_is_not_said_to_fall_short():
    assert offered(found(-1, -1), 2, MinQuality(0.5), bank_of([1.0])) == ([-1, -1], False)


def test_an_unknown_coverage_passes_and_an_unknown_side_there_is_not():
    bank = bank_of([UNKNOWN, 0.2, UNKNOWN], side=[20, 90, 64])
    assert offered(found(0, 1, 2), 3, MinQuality(0.5), bank) == ([0, 2, -1], False)
    assert offered(found(0, 1, 2), 3, MinQuality(0.5, 64), bank) == ([2, -1, -1], False)


def test_the_shorter_side_counts():
    bank = bank_of([1.0] * 3, side=[31, 32, 25])  # 38, 39 and 32 px wide
    assert offered(found(0, 1, 2), 3, MinQuality(side=32), bank) == ([1, -1, -1], False)


def test_of_two_qualities_the_one_that_is_lacked_most_counts():
    """A speck that fills its box is no better than a large patch that nearly covers its own."""
    bank = bank_of([1.0, 0.4, 0.45], side=[4, 100, 40])
    assert offered(found(0, 1, 2), 1, MinQuality(0.5, 64), bank) == ([1], True)
    quality = bank.quality(np.array([0, 1, 2, -1]))
    assert share_reached(MinQuality(0.5, 64), quality)[:3] == pytest.approx([4 / 64, 0.8, 40 / 64])
    assert share_reached(MinQuality(), quality).tolist() == [1] * 4


def test_the_own_category_is_not_given_up_for_a_better_patch_of_another():
    bank = bank_of([0.1, 0.3, 0.9, 0.8])
    assert offered(found(0, 1, 2, 3, others=(2, 3)), 4, MinQuality(0.5), bank) == (
        [1, -1, -1, -1],
        True,
    )
    bank = bank_of([0.1, 0.6, 0.9, 0.8])
    assert offered(found(0, 1, 2, 3, others=(2, 3)), 4, MinQuality(0.5), bank) == (
        [1, -1, -1, -1],
        False,
    )


def test_where_the_own_category_has_none_others_are_held_to_the_same():
    bank = bank_of([0.1, 0.9, 0.8])
    made = offer(bank, found(0, 1, 2, others=(0, 1, 2)), 3, MinQuality(0.5))
    assert made.candidates.ids.tolist() == [[1, 2, -1]]
    assert made.candidates.fallback.tolist() == [[True, True, False]]
    assert not made.below.any()


def test_over_all_categories_only_quality_counts():
    bank = bank_of([0.1, 0.9, 0.8], scope="all")
    candidates = found(0, 1, 2, others=(1,))
    assert offered(candidates, 2, MinQuality(0.5), bank) == ([1, 2], False)


def test_where_no_quality_is_asked_for_none_is_looked_up_and_all_stay():
    bank = bank_of([])
    bank.quality = None
    candidates = found(4, 2, 7, -1, others=(7,))
    made = offer(bank, candidates, 4, MinQuality())
    for field, before in zip(made.candidates, candidates, strict=True):
        assert np.array_equal(field, before)
        assert field.dtype == before.dtype
    assert made.below.tolist() == [False]
    assert offer(bank, candidates, 2, MinQuality()).candidates.ids.tolist() == [[4, 2]]


def by_hand(bank, patch, k, minimum):
    """Of one patch of a real bank, ids in order and whether they fall short."""
    stored = bank.candidates(np.array([patch]))
    ids = stored.ids[0][stored.valid[0] & ~stored.fallback[0]]
    ids = ids if len(ids) else stored.ids[0][stored.valid[0]]
    share = bank.quality(ids).mask_share
    if (share >= minimum.coverage).any():
        return ids[share >= minimum.coverage][:k].tolist(), False
    return [int(ids[np.argmax(share)])], True


@pytest.mark.parametrize("minimum", [MinQuality(0.6), MinQuality(0.8)])
def test_what_a_bank_stores_is_offered_from_its_nearest_on(bank, minimum):
    k, ids = 4, bank.patch_ids
    made = stored_offer(bank, ids, k, minimum)
    assert made.candidates.ids.shape == (len(ids), k)
    expected = [by_hand(bank, patch, k, minimum) for patch in ids.tolist()]
    assert 0 < made.below.sum() < len(ids)
    assert expected == [
        (row[row >= 0].tolist(), bool(below))
        for row, below in zip(made.candidates.ids, made.below, strict=True)
    ]


def test_more_than_a_bank_stores_are_refused_with_a_quality_too(bank):
    for minimum in (MinQuality(), MinQuality(0.5)):
        with pytest.raises(BankError, match="asked for are 99; build it with --candidates 99"):
            stored_offer(bank, bank.patch_ids[:2], 99, minimum)


def test_training_and_scores_offer_the_same(bank):
    """The true patch is what it is."""
    ids = bank.scene_ids("train")[:8]
    rule = RetrievalConfig(candidates=3, min_coverage=0.8)
    plain = replace(rule, min_coverage=0.0)
    source, part = BankSource(bank), part_of(bank, ids)
    batch, before = (scene_batch(bank, source, part, each, seed=0) for each in (rule, plain))
    (scenes,) = scene_batches(bank, ids, 3, torch.device("cpu"), rule.min_quality)
    made = stored_offer(bank, batch.patch_ids.numpy(), 3, rule.min_quality)
    assert torch.equal(batch.candidates.ids, torch.from_numpy(made.candidates.ids))
    assert torch.equal(batch.candidates.ids, scenes.candidates)
    assert torch.equal(batch.candidates.valid, scenes.valid)
    assert scenes.below.tolist() == made.below.tolist()
    assert scenes.below.any()
    assert not torch.equal(batch.candidates.ids, before.candidates.ids)
    assert torch.equal(batch.patch_ids, before.patch_ids)
    assert torch.equal(batch.true_patches, before.true_patches)
    assert not batch.candidates.patches[~batch.candidates.valid].any()  # padding has no pixels


def test_how_many_are_left_out_is_counted_over_training_objects(bank, monkeypatch):
    quality = MinQuality(0.8)
    train = bank.patch_ids[np.isin(bank.patch_ids >> 16, bank.scene_ids("train"))]
    every = [by_hand(bank, patch, bank.num_candidates, quality) for patch in train]
    stored = int(selectable(bank, bank.candidates(train)).sum())
    left = [len(ids) for ids, _ in every]
    k = sorted(left)[len(left) // 2]  # some have exactly so many
    expected = (
        f"--min-coverage 0.8 leaves out {stored - sum(left):,} of {stored:,} candidates; of "
        f"{len(train)} training objects {sum(n < k for n in left):,} are offered fewer than {k}, "
        f"and {sum(short for _, short in every):,} none but one that falls short"
    )
    rule = RetrievalConfig(candidates=k, min_coverage=0.8)
    assert left_out(bank, rule) == expected
    monkeypatch.setattr("model.offer.OBJECTS_AT_ONCE", 7)
    assert left_out(bank, rule) == expected


def test_a_bank_that_does_not_say_how_good_its_patches_are_is_one_clear_line(toy_bank, tmp_path):
    folder = shutil.copytree(toy_bank, tmp_path / "bank")
    (folder / "quality.arrow").unlink()
    manifest = read_manifest(folder)
    files = {path: d for path, d in manifest.files.items() if path != "quality.arrow"}
    write_manifest(folder, replace(manifest, files=files))
    older = Bank.open(folder)
    stored_offer(older, older.patch_ids[:2], 3, MinQuality())
    for ask in (
        lambda: stored_offer(older, older.patch_ids[:2], 3, MinQuality(0.5)),
        lambda: left_out(older, RetrievalConfig(min_side=32)),
    ):
        with pytest.raises(BankError, match=r"has no quality\.arrow: .* --mode overwrite makes"):
            ask()


@pytest.mark.parametrize("coverage", [0.1, 0.3, 0.7])
def test_a_share_that_is_exactly_what_is_asked_for_is_enough(coverage):
    """Though float32 keeps 0.7 as a little less."""
    assert offered(found(0), 1, MinQuality(coverage), bank_of([coverage])) == ([0], False)
