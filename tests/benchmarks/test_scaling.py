"""Scaled distances and the scores of them, against made-up patches and values known by hand."""

import numpy as np
import pytest
import torch

from bank.bank import Bank
from benchmarks.choosing import by_config
from benchmarks.scaling import (
    Embedded,
    Line,
    as_they_are,
    average_precision,
    divided,
    hub_skewness,
    minus,
    pairs_of_scenes,
    table,
    tightest_sets,
    true_sets,
)
from model.config import RetrievalConfig
from model.scores.metrics import overlapping, pairs_of
from model.scores.retrieval import ground_truth
from model.scores.scenes import Features, distinct_patches, scene_batches

K = 3


@pytest.fixture(scope="module")
def scenes(toy_bank):
    bank = Bank.open(toy_bank)
    return scene_batches(bank, bank.scene_ids("val")[:12], K, torch.device("cpu"))[0]


@pytest.fixture(scope="module")
def look(scenes):
    ids = distinct_patches([scenes])
    return Features(ids, torch.randn(len(ids), 4, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def reach(look):
    generator = torch.Generator().manual_seed(1)
    return Features(look.ids, torch.rand(len(look.ids), 1, generator=generator) + 0.5)


def clusters(number, each, spread=0.1):
    """Patches in equal clusters far apart: features by id."""
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(number, 8, generator=generator)
    noise = spread * torch.randn(number * each, 8, generator=generator)
    return Features(np.arange(number * each), centres.repeat(each, 1) + noise)


def test_distances_as_they_are_choose_what_the_model_does(scenes, look, reach):
    rule = RetrievalConfig(start="best", passes=1, same_patch_allowed=False)
    own = by_config(rule, scenes, look(scenes.candidates))
    assert torch.equal(tightest_sets(scenes, look, reach, as_they_are), own)
    for scale in (divided, minus):
        assert not torch.equal(tightest_sets(scenes, look, reach, scale), own)


def test_the_pairs_answer_as_ground_truth_selection_does(scenes, look, reach):
    positive, negative = pairs_of_scenes(scenes, look, reach, as_they_are)
    credit = ground_truth(scenes, look, seed=0).credit
    assert torch.equal((positive < negative.amin(1)).double(), credit)
    assert 0 < credit.mean() < 1


@pytest.mark.parametrize("scale", [divided, minus])
def test_a_scale_knows_both_patches(scenes, look, reach, scale):
    """By hand, for the first pair."""
    positive, negative = pairs_of_scenes(scenes, look, reach, scale)
    plain, plain_negative = pairs_of_scenes(scenes, look, reach, as_they_are)
    query, target = pairs_of(scenes.padding.image)
    apart = ~overlapping(scenes.boxes[query], scenes.boxes[target])
    q, t = query[apart][0], target[apart][0]
    own, their = reach(scenes.patch_ids)[[q, t], 0].tolist()
    others = reach(scenes.candidates)[t, :, 0]
    if scale is divided:
        expected = plain[0] / (own * their) ** 0.5, plain_negative[0] / (own * others) ** 0.5
    else:
        expected = plain[0] - (own + their) / 2, plain_negative[0] - (own + others) / 2
    torch.testing.assert_close((positive[0], negative[0]), expected)


def test_true_patches_are_found_where_they_alone_lie_together(scenes, look, reach):
    near = torch.where(
        torch.from_numpy(np.isin(look.ids, scenes.patch_ids.numpy()))[:, None],
        look.vectors / 100,
        look.vectors + 10 * torch.sign(look.vectors),
    )
    assert true_sets(scenes, Features(look.ids, near), reach, as_they_are).all()
    assert 0 < true_sets(scenes, look, reach, as_they_are).double().mean() < 1


def test_average_precision_is_the_mean_of_the_precision_at_each_hit():
    positive, negative = torch.tensor([1.0, 4.0, 2.5]), torch.tensor([2.0, 3.0, 5.0])
    assert average_precision(positive, negative) == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)


def test_reach_is_a_quantile_of_the_distances_to_the_references():
    look = Features(np.arange(5), torch.tensor([[0.0], [1.0], [2.0], [4.0], [8.0]]))
    of = Embedded(look, np.array([4, 0, 3, 1]))
    reach = of.reach(0.5)(torch.tensor([0, 2, 4]))[:, 0]
    assert reach.tolist() == [4.0, 2.0, 7.0]  # the third of 0 1 4 8, of 1 2 2 6, of 0 4 7 8


def test_the_slope_is_steepest_where_the_reach_leaves_the_own_cluster():
    look = clusters(10, 40)
    of = Embedded(look, look.ids)
    slopes = {q: of.slope(q) for q in (0.02, 0.05, 0.07, 0.1, 0.15, 0.3)}
    assert max(slopes, key=slopes.get) == 0.1


def test_hubs_are_skew_and_scaling_lessens_them():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, 20, generator=generator)
    vectors[:20] *= 0.3  # bland ones
    of = Embedded(Features(np.arange(300), vectors), np.arange(300))
    plain, scaled = (hub_skewness(of.among_scaled(s, 0.1)) for s in (as_they_are, divided))
    assert plain > 2
    assert 0 < scaled < 0.6 * plain


def test_each_rule_picks_its_own_quantile():
    values = {"ground_truth": 0.5, "precision": 0.5, "true_sets": 0.5, "hubs": 1.0, "slope": 0.5}
    best = {"ground_truth": 0.9, "precision": 0.9, "true_sets": 0.9, "hubs": -1.0, "slope": 0.9}
    lines = {("as they are", None): Line(**{**values, "slope": None}, compatibility=0.0)}
    for number, (name, value) in enumerate(best.items()):
        for scale in ("divided", "minus"):
            picked = {**values, name: value}
            lines[scale, number / 10] = Line(**picked, compatibility=number / 100)
    picks = [line.split(" | ") for line in table(lines)][-6:]
    for number, (_, q, compatibility, *minus_too) in enumerate(picks[:-1]):
        assert (q, compatibility) == (str(number / 10), f"0.0{number}0")
        assert minus_too == [q, f"{compatibility} |"]
    assert picks[-1][1:3] == ["0.4", "0.040"]
