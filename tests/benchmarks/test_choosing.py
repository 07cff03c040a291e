"""The ways of choosing that the benchmark has of its own, beside those of the model."""

from functools import partial

import pytest
import torch

from bank.bank import Bank
from benchmarks.choosing import beam, by_config, mean_distance, of_starts, one_by_one, ways
from model.config import RetrievalConfig
from model.scores.scenes import distinct_patches, scene_batches

K = 3


@pytest.fixture(scope="module")
def scenes(toy_bank):
    bank = Bank.open(toy_bank)
    return scene_batches(bank, bank.scene_ids("val")[:12], K, torch.device("cpu"))[0]


@pytest.fixture(params=[0, 1])
def features(scenes, request):
    """Equal for equal patches."""
    ids = torch.from_numpy(distinct_patches([scenes]))
    vectors = torch.randn(len(ids), 4, generator=torch.Generator().manual_seed(request.param))
    return vectors[torch.searchsorted(ids, scenes.candidates.clamp_min(ids[0]))]


@pytest.fixture
def best():
    rule = RetrievalConfig(start="best", passes=1, same_patch_allowed=False)
    return partial(by_config, rule)


def test_one_scene_and_start_at_a_time_finds_what_all_together_do(scenes, features, best):
    """Or two objects that are offered the same patches have theirs exchanged."""
    found, own = one_by_one(scenes, features), best(scenes, features)
    spreads = (mean_distance(scenes, features, each) for each in (found, own))
    torch.testing.assert_close(*spreads)
    assert (found == own).double().mean() > 0.9


def test_a_beam_that_leaves_nothing_out_finds_the_tightest_set(scenes, features, best):
    widest = K ** scenes.padding.present.shape[1]
    found = mean_distance(scenes, features, beam(widest, scenes, features))
    others = [way(scenes, features) for _, way in ways(RetrievalConfig())]
    assert len(others) > 8
    for other in others:
        assert (found <= mean_distance(scenes, features, other) + 1e-5).all()
    narrow = mean_distance(scenes, features, beam(1, scenes, features))
    first = mean_distance(scenes, features, torch.zeros(len(features), dtype=torch.long))
    assert found.mean() < narrow.mean() < first.mean() - 0.1


def test_a_beam_never_chooses_padding_however_well_it_matches(scenes, features):
    one_each = scenes._replace(valid=torch.arange(K).expand_as(scenes.valid) == 0)
    padding_alike = features * one_each.valid[..., None]
    widest = K ** scenes.padding.present.shape[1]
    assert not beam(widest, one_each, padding_alike).any()


def test_more_starts_give_tighter_sets_until_all_are_tried(scenes, features, best):
    few, some, many = (
        mean_distance(scenes, features, of_starts(number, scenes, features))
        for number in (1, 5, 300)
    )
    assert few.mean() > some.mean() > many.mean() - 1e-6
    torch.testing.assert_close(many, mean_distance(scenes, features, best(scenes, features)))


def test_the_mean_distance_is_that_of_a_scenes_own_pairs(scenes, features):
    selected = beam(2, scenes, features)
    chosen = features[torch.arange(len(selected)), selected]
    for image, distance in enumerate(mean_distance(scenes, features, selected).tolist()):
        own = chosen[scenes.padding.image == image]
        assert distance == pytest.approx(float(torch.pdist(own).mean()), abs=1e-5)
