"""How wide the intervals of means over scenes are."""

import math

import numpy as np
import pytest

from model.scores.intervals import SceneSums, mean_interval, score_of, share_interval
from pipeline.errors import UserError


def shares(random, share, scenes):
    """Of one to seven pairs per scene, which go together."""
    weights = random.integers(1, 8, scenes)
    rate = random.beta(5 * share, 5 * (1 - share), scenes)
    return SceneSums(random.binomial(weights, rate).astype(float), weights.astype(float))


def distances(random, mean, scenes):
    weights = random.integers(1, 8, scenes).astype(float)
    return SceneSums(weights * (mean + random.normal(size=scenes)), weights)


def coverage(interval, simulated, truth, scenes):
    random = np.random.default_rng(1)
    found = [interval(simulated(random, truth, scenes)) for _ in range(1000)]
    assert all(f.low <= f.value <= f.high for f in found)
    return np.mean([f.low <= truth <= f.high for f in found])


@pytest.mark.parametrize("share", [0.02, 0.4, 0.95])
@pytest.mark.parametrize("scenes", [5, 20, 120])
def test_the_interval_of_a_share_covers_the_true_one_as_often_as_it_says(share, scenes):
    assert 0.93 <= coverage(share_interval, shares, share, scenes) <= 0.99


@pytest.mark.parametrize("scenes", [5, 20, 120])
def test_the_interval_of_a_mean_covers_the_true_one_as_often_as_it_says(scenes):
    assert 0.92 <= coverage(mean_interval, distances, 7.0, scenes) <= 0.97


def test_scenes_are_independent_and_pairs_are_not():
    """Twice the pairs that say the same tell nothing more."""
    sums = shares(np.random.default_rng(0), 0.4, 50)
    twice = SceneSums(2 * sums.totals, 2 * sums.weights)
    for interval in (share_interval, mean_interval):
        assert interval(twice) == pytest.approx(interval(sums))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_none_or_all_of_few_scenes_is_uncertain(share):
    def missing(scenes):
        found = share_interval(SceneSums(np.full(scenes, 3 * share), np.full(scenes, 3.0)))
        assert found.value == share
        assert share in (found.low, found.high)
        return found.high - found.low

    assert missing(1000) == pytest.approx(3.84 / 1000, rel=0.02)  # Wilson's: z^2 / n
    assert 0.1 < missing(20) < 0.2


def test_where_every_scene_says_the_same_share_there_is_nothing_to_doubt():
    sums = SceneSums(np.full(20, 0.25), np.ones(20))
    assert share_interval(sums) == mean_interval(sums) == (0.25, 0.25, 0.25)


def test_one_scene_says_nothing_about_others():
    sums = SceneSums(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    assert share_interval(sums) == mean_interval(sums) == (0.5, None, None)


def test_a_scene_counts_by_its_pairs_and_one_without_any_not_at_all():
    sums = SceneSums(np.array([3.0, 0.0, 0.0]), np.array([3.0, 1.0, 0.0]))
    without = SceneSums(sums.totals[:2], sums.weights[:2])
    for interval in (share_interval, mean_interval):
        assert interval(sums).value == 0.75
        assert interval(sums) == interval(without)
        with pytest.raises(ValueError, match="no scene"):
            interval(SceneSums(np.zeros(2), np.zeros(2)))


def test_a_score_says_of_how_many_scenes_and_pairs_it_is():
    parts = [SceneSums(np.array([1.0, 0.0]), np.array([2.0, 0.0]))] * 2
    score = score_of("agreement", "learned", parts, "gt")
    assert (score.value, score.scenes, score.pairs, score.boxes) == (0.5, 2, 4.0, "gt")
    with pytest.raises(UserError, match="no scene has two objects"):
        score_of("agreement", "learned", [SceneSums(np.zeros(2), np.zeros(2))])


def test_only_the_interval_of_a_share_stays_within_0_and_1():
    parts = [SceneSums(np.array([0.0, 0.0, 1.0]), np.ones(3))]
    share = score_of("agreement", "learned", parts)
    mean = score_of("distance", "learned", parts, share=False)
    assert 0 < share.low < share.high < 1
    assert mean.low < 0
    assert math.isclose((mean.low + mean.high) / 2, mean.value)
