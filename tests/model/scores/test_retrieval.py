"""Retrieval scores of a few hand-made scenes."""

import numpy as np
import pytest
import torch

from model.config import RetrievalConfig
from model.padding import padding_of
from model.retrieval.crops import Crops
from model.scores.choices import choose_all, selection_methods
from model.scores.intervals import Score
from model.scores.metrics import PatchStyles
from model.scores.retrieval import (
    COMPATIBILITY,
    GROUND_TRUTH,
    OWN_CATEGORY,
    REPEATED_CROP,
    STYLES_SHOWN,
    UNLIKE_CHOICES,
    compatibility_scores,
    ground_truth_scores,
    offered,
    repeated_crop_scores,
    retrieval_scores,
    styles_shown_scores,
    unlike_choice_scores,
)
from model.scores.scenes import Features, Scenes, constant, distinct_patches, scene_batches
from pipeline.errors import UserError

K = 3
WHOLE = [0.0, 0.0, 1.0, 1.0]


def scenes(candidates, counts, *, boxes=None, valid=None, own=None):
    """candidates (O, K) photos, each of which is a patch; counts of objects per scene."""
    photos = torch.tensor(candidates)
    objects = len(photos)
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    valid = torch.tensor(valid) if valid else photos >= 0
    if boxes is None:  # side by side
        boxes = [[i / objects, 0.0, (i + 1) / objects, 1.0] for i in range(objects)]
    return Scenes(
        tuple(range(100, 100 + len(counts))),
        tuple((("thing",) * n, ()) for n in counts),
        torch.tensor(boxes),
        padding_of(image, len(counts)),
        torch.arange(900, 900 + objects) << 16,
        torch.where(photos >= 0, photos << 16, -1),
        valid,
        valid if own is None else valid & torch.tensor(own),
        Crops(photos, torch.tensor(WHOLE).expand(objects, K, 4)),
        torch.zeros(objects, dtype=torch.bool),
    )


def two_batches():
    return [
        scenes([[1, 2, 3], [1, 2, -1], [4, 5, 6]], [3]),
        scenes([[1, 2, 3], [4, 5, 6], [1, 1, 1], [1, 1, 1]], [2, 2]),
    ]


def chosen(*draws):
    """draws of batches of selected candidates"""
    return [[torch.tensor(selected) for selected in draw] for draw in draws]


FIRST = ([0, 0, 0], [0, 0, 0, 0])
OTHER = ([1, 0, 0], [0, 0, 0, 0])
THIRD = ([0, 0, 0], [0, 1, 0, 0])


def values(scores):
    return {(s.metric, s.choice): s.value for s in scores}


def patches_of(batches, style_of):
    return [
        PatchStyles(batch.candidates, style_of(batch.crops.photo), batch.crops.box)
        for batch in batches
    ]


def test_what_was_offered_is_counted_over_objects_and_pairs():
    overlap = [[0.0, 0, 0.5, 1], [0.4, 0, 0.8, 1], [0.8, 0, 1, 1]]
    own = [[True] * 3, [False] * 3, [True, False, False]]
    some = scenes([[1, 2, 3], [1, 2, -1], [4, -1, -1]], [3], boxes=overlap, own=own)
    found = offered([some, scenes([[1, 2, 3], [4, 5, 6]], [2])])
    assert found.objects == 5
    assert found.mean_candidates == (3 + 2 + 1 + 3 + 3) / 5
    assert found.median_candidates == 3
    assert found.without_own_category == 1
    assert (found.pairs, found.overlapping_pairs) == (4, 1)
    # Targets 2 for 0 and 1, 0 and 1 for 2, both of the other scene.
    assert found.chance == pytest.approx((1 / 2 + 1 / 2 + 1 / 4 + 1 / 3 + 1 / 4 + 1 / 4) / 6)


def test_the_chance_that_was_offered_is_the_score_of_a_constant_embedding():
    batches = two_batches()
    found = values(ground_truth_scores(batches, {}, 0))
    for choice in ("chance", "constant E_p"):
        assert found[GROUND_TRUTH, choice] == pytest.approx(offered(batches).chance)


def test_against_its_own_category_a_target_has_fewer_candidates_or_none():
    """Candidates 1 and 4 to 6 lie nearer than the truth, but only 1 is of the own category."""
    own = [[True, False, False], [False, False, False], [True, False, False]]
    batch = scenes([[2, 5, 6], [2, 5, 6], [1, 4, 5]], [3], own=own)
    ids = distinct_patches([batch])
    far = np.isin(ids >> 16, [2]) * 9.0 + np.isin(ids >> 16, [900, 901, 902]) * 1.0
    scores = ground_truth_scores([batch], {"some": Features(ids, torch.tensor(far)[:, None])}, 0)
    found = values(scores)
    # Queries lie at 1, as truths do: every truth is nearest.
    assert found[GROUND_TRUTH, "some"] == found[OWN_CATEGORY, "some"] == 1
    assert found[GROUND_TRUTH, "chance"] == pytest.approx(1 / 4)
    assert found[OWN_CATEGORY, "chance"] == pytest.approx(1 / 2)
    pairs = {s.metric: s.pairs for s in scores}
    assert pairs == {GROUND_TRUTH: 6, OWN_CATEGORY: 4}  # object 1 is no target


def test_what_another_category_takes_is_given_back_against_the_own():
    own = [[True, False, False]] * 2
    batch = scenes([[2, 5, 6], [2, 5, 6]], [2], own=own)
    ids = distinct_patches([batch])
    at = {2: 9.0, 5: 0.0, 6: 9.0, 900: 0.0, 901: 0.0}
    place = torch.tensor([at[int(i) >> 16] for i in ids])[:, None]
    found = values(ground_truth_scores([batch], {"some": Features(ids, place)}, 0))
    assert found[GROUND_TRUTH, "some"] == 0.5  # ties with candidate 5
    assert found[OWN_CATEGORY, "some"] == 1


def test_where_no_object_has_candidates_of_its_own_category_there_are_no_such_rows():
    batch = scenes([[2, 5, 6], [2, 5, 6]], [2], own=[[False] * 3] * 2)
    assert {s.metric for s in ground_truth_scores([batch], {}, 0)} == {GROUND_TRUTH}


def test_compatibility_is_the_mean_over_draws_of_the_agreeing_pairs():
    batches = two_batches()
    patches = patches_of(batches, lambda photo: photo % 3)
    scores = compatibility_scores(batches, {"some": chosen(FIRST, OTHER)}, patches)
    assert [s.choice for s in scores] == ["some", "chance"]
    # Styles 1 1 1, but both 1s are one crop: two pairs agree and count; 1 and 4 agree; the last
    # two are one crop. In the second draw 2 1 1: one of three agrees.
    assert scores[0].value == pytest.approx((2 + 1 + 1 + 1) / (2 + 1 + 3 + 1))
    assert scores[0].pairs == (2 + 1 + 3 + 1) / 2
    assert scores[0].scenes == 2


def test_unlike_choices_are_counted_by_scene_and_alike_ones_once():
    batches = two_batches()
    choices = {"same": chosen(FIRST, FIRST, FIRST), "other": chosen(FIRST, OTHER, THIRD)}
    found = values(unlike_choice_scores(batches, choices))
    assert found[UNLIKE_CHOICES, "same"] == pytest.approx(1 / 3)
    assert found[UNLIKE_CHOICES, "other"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)


def test_styles_are_counted_over_the_draws_of_a_scene_and_are_no_share():
    batches = two_batches()
    patches = patches_of(batches, lambda photo: photo.clamp_min(0))
    (score,) = styles_shown_scores(batches, {"some": chosen(FIRST, OTHER, THIRD)}, patches, 7)
    # Scene 0: 1 1 4, 2 1 4, 1 1 4 show one style; scene 1: 1 4, 1 4, 1 5 none; scene 2: 1.
    assert (score.metric, score.value) == (STYLES_SHOWN, pytest.approx(2 / 3))
    assert score.low < 0 < 1 < score.high  # of three scenes


def test_one_draw_has_no_diversity():
    batches = two_batches()
    choices = {"some": chosen(FIRST)}
    assert unlike_choice_scores(batches, choices) == []
    patches = patches_of(batches, lambda photo: photo.clamp_min(0))
    assert styles_shown_scores(batches, choices, patches, 7) == []


def test_a_crop_is_repeated_only_where_each_object_could_have_had_its_own():
    """Scene 2 has but one crop for its two objects."""
    scores = repeated_crop_scores(two_batches(), {"some": chosen(FIRST, OTHER)})
    assert values(scores)[REPEATED_CROP, "some"] == pytest.approx((1 + 0) / 2 / 3)
    assert scores[0].scenes == 3


def test_all_scores_come_metric_by_metric_and_those_of_styles_where_these_are_known():
    batches = two_batches()
    choices = {"some": chosen(FIRST, OTHER)}
    embeddings = {"untrained": constant(distinct_patches(batches))}
    scores = retrieval_scores(None, batches, embeddings, choices, None, 0)
    assert all(isinstance(score, Score) for score in scores)
    assert list(dict.fromkeys(s.metric for s in scores)) == [
        GROUND_TRUTH,
        OWN_CATEGORY,
        UNLIKE_CHOICES,
        REPEATED_CROP,
    ]


def test_scores_of_a_bank_with_known_styles_have_those_of_styles_too(bank):
    batches = scene_batches(bank, bank.scene_ids("val")[:5], K, torch.device("cpu"))
    embeddings = {"untrained": constant(distinct_patches(batches))}
    methods = selection_methods(RetrievalConfig(candidates=K), embeddings)
    choices = choose_all(batches, methods, 2, 0)
    styles = (bank.patch_ids >> 16) % 4
    scores = retrieval_scores(bank, batches, embeddings, choices, styles, 0)
    rows = [(s.metric, s.choice) for s in scores]
    assert len(set(rows)) == len(rows)
    for metric in (COMPATIBILITY, STYLES_SHOWN, UNLIKE_CHOICES, REPEATED_CROP):
        own = [choice for m, choice in rows if m == metric]
        assert own == [*methods, *(["chance"] if metric == COMPATIBILITY else [])]


def test_without_a_pair_there_is_nothing_to_score():
    alone = scenes([[1, 2, 3]], [1])
    with pytest.raises(UserError, match="no scene has two objects"):
        ground_truth_scores([alone], {}, 0)


def test_candidates_of_another_category_are_told_from_those_of_the_own(bank, monkeypatch):
    stored = bank.candidates

    def with_fallback(ids, k):
        found = stored(ids, k)
        fallback = found.fallback.copy()
        fallback[0] = True  # the first object has none of its own category
        return found._replace(fallback=fallback)

    monkeypatch.setattr(bank, "candidates", with_fallback)
    (batch,) = scene_batches(bank, bank.scene_ids("val")[:3], 4, torch.device("cpu"))
    assert batch.valid[0].any()
    assert not batch.own_category[0].any()
    assert torch.equal(batch.own_category[1:], batch.valid[1:])


def test_the_chance_told_beforehand_is_that_of_the_scores():
    """An object without a candidate is no target."""
    batch = scenes([[1, 2, 3], [4, 5, -1], [-1, -1, -1]], [3])
    chance = next(s for s in ground_truth_scores([batch], {}, 0) if s.choice == "chance")
    assert offered([batch]).chance == pytest.approx(chance.value)
    assert chance.value == pytest.approx((2 / 4 + 2 / 3) / 4)
