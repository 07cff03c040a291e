"""Retrieval scores: what earns credit, what does not count, how wide the intervals are."""

import numpy as np
import pytest
import torch

from model.draws import OneStream
from model.padding import padding_of
from model.retrieval.choice import draw_start
from model.retrieval.embedding import PatchEmbedding
from model.retrieval.greedy import start_feature
from model.scores.metrics import (
    PatchStyles,
    SceneSums,
    bootstrap_interval,
    compatibility,
    expected_compatibility,
    ground_truth_pairs,
    oracle_choice,
    overlapping,
    sum_by_scene,
)

O, K, E = 5, 4, 3
OBJECT_IMAGE = torch.tensor([0, 0, 0, 1, 1])
# Side by side, so that no crops of one image overlap.
APART = torch.tensor([[i / O, 0.0, (i + 1) / O, 1.0] for i in range(O)])
VALID = torch.tensor(
    [[True] * 4, [True] * 2 + [False] * 2, [True] * 3 + [False]] + [[True] * 4] * 2
)


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def patch(image_id, object_index=0):
    return image_id << 16 | object_index


def patches(ids, styles, boxes=None):
    ids = torch.tensor(ids)
    if boxes is None:
        boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(*ids.shape, 4)
    return PatchStyles(ids, torch.tensor(styles), torch.as_tensor(boxes))


def test_a_constant_embedding_earns_exactly_the_chance():
    constant = torch.full((O, E), 0.3)
    pairs = ground_truth_pairs(
        constant, constant[:, None].expand(O, K, E), VALID, OBJECT_IMAGE, APART, generator()
    )
    assert torch.equal(pairs.credit, pairs.chance)
    assert sorted((1 / pairs.chance).round().int().tolist()) == [3, 3, 4, 4, 5, 5, 5, 5]


def test_a_network_whose_head_is_zeroed_earns_exactly_the_chance():
    torch.manual_seed(0)
    network = PatchEmbedding((8, 16), E)
    patches = drawn(1, O * (K + 1), 3, 16, 16)

    def scores():
        with torch.no_grad():
            embedded = network(patches).reshape(O, K + 1, E)
        return ground_truth_pairs(
            embedded[:, K], embedded[:, :K], VALID, OBJECT_IMAGE, APART, generator()
        )

    assert not torch.equal(scores().credit, scores().chance)
    torch.nn.init.zeros_(network.head.weight)
    assert network.head.bias.abs().sum() > 0  # every patch lies at the bias, not at 0
    assert torch.equal(scores().credit, scores().chance)


def test_an_embedding_by_which_a_scene_is_one_point_earns_everything():
    place = torch.tensor([[0.0, 0, 0], [9.0, 0, 0]])[OBJECT_IMAGE]
    candidates = place[:, None] + 1 + drawn(2, O, K, E).abs()
    pairs = ground_truth_pairs(place, candidates, VALID, OBJECT_IMAGE, APART, generator())
    assert pairs.credit.tolist() == [1.0] * 8
    assert pairs.image.tolist() == [0] * 6 + [1] * 2


def test_a_candidate_as_near_as_the_truth_halves_the_credit_and_a_nearer_one_takes_it():
    truth = torch.zeros(2, E)
    candidates = torch.ones(2, K, E)
    candidates[0, 1] = 0.0  # ties with the truth of object 0
    candidates[1, :] = 3.0
    truth[1, 0] = 2.0
    image = torch.zeros(2, dtype=torch.long)
    candidates[0, 2, :] = torch.tensor([2.0, 0, 0])  # where the query of object 1 stands
    valid = torch.ones(2, K, dtype=torch.bool)

    def credit():
        pairs = ground_truth_pairs(truth, candidates, valid, image, APART[:2], generator())
        return pairs.credit.tolist()

    # Query 0 for target 1: its truth is nearest. Query 1 for target 0: slot 2 is nearer.
    assert credit() == [1.0, 0.0]
    valid[0, 2] = False
    candidates[0, 3] = truth[1] + 50
    candidates[0, 0] = truth[1] + 50
    assert credit() == [1.0, 0.5]


def test_padding_takes_no_credit_however_near_it_is():
    truth = torch.zeros(2, E)
    candidates = torch.ones(2, K, E)
    candidates[:, 3] = 0.0
    valid = torch.tensor([[True, True, True, False]] * 2)
    image = torch.zeros(2, dtype=torch.long)
    pairs = ground_truth_pairs(truth, candidates, valid, image, APART[:2], generator())
    assert pairs.credit.tolist() == [1.0, 1.0]
    assert pairs.chance.tolist() == [0.25, 0.25]


def test_pairs_whose_crops_share_pixels_are_left_out_and_touching_ones_are_not():
    boxes = torch.tensor([[0.0, 0, 0.5, 1], [0.5, 0, 1, 1], [0.4, 0.4, 0.6, 0.6]])
    image = torch.zeros(3, dtype=torch.long)
    pairs = ground_truth_pairs(
        drawn(0, 3, E), drawn(1, 3, K, E), torch.ones(3, K, dtype=torch.bool), image, boxes
    )
    assert len(pairs.credit) == 2
    assert overlapping(boxes[0], boxes[2])
    assert not overlapping(boxes[0], boxes[1])


def test_the_slot_of_the_truth_changes_no_score():
    truth, candidates = drawn(3, O, E), drawn(4, O, K, E)
    one, other = (
        ground_truth_pairs(truth, candidates, VALID, OBJECT_IMAGE, APART, generator(seed)).credit
        for seed in (1, 2)
    )
    assert torch.equal(one, other)


def test_compatibility_is_the_share_of_a_scene_s_pairs_with_equal_styles():
    chosen = patches([patch(i) for i in range(5)], [7, 7, 2, 4, 5])
    pairs = compatibility(chosen, OBJECT_IMAGE)
    sums = sum_by_scene(pairs.agree, pairs.counted, pairs.image, 2)
    assert sums.totals.tolist() == [1.0, 0.0]
    assert sums.weights.tolist() == [3.0, 1.0]


def test_overlapping_crops_of_one_photo_do_not_count_and_others_do():
    halves = [[0.0, 0, 0.6, 1], [0.4, 0, 1.0, 1]]
    image = torch.zeros(2, dtype=torch.long)
    same_photo = patches([patch(1, 0), patch(1, 1)], [3, 3], halves)
    two_photos = patches([patch(1, 0), patch(2, 1)], [3, 3], halves)
    clear = patches([patch(1, 0), patch(1, 1)], [3, 3], [[0.0, 0, 0.4, 1], [0.4, 0, 1.0, 1]])
    twice_the_same = patches([patch(1, 0), patch(1, 0)], [3, 3])
    counted = [
        (compatibility(c, image).agree.item(), compatibility(c, image).counted.item())
        for c in (same_photo, two_photos, clear, twice_the_same)
    ]
    assert counted == [(0.0, 0.0), (1.0, 1.0), (1.0, 1.0), (0.0, 0.0)]


def evenly(generator):
    return torch.multinomial(VALID.float(), 1, generator=generator)[:, 0]


def test_the_expected_compatibility_is_what_many_even_draws_come_to():
    random = np.random.default_rng(0)
    ids = (random.integers(0, 6, (O, K)) << 16).tolist()  # often twice the same patch
    candidates = patches(ids, random.integers(0, 3, (O, K)).tolist())
    expected = expected_compatibility(candidates, VALID, OBJECT_IMAGE)
    draws = [
        compatibility(candidates.take(evenly(generator(seed))), OBJECT_IMAGE)
        for seed in range(1000)
    ]
    for name in ("agree", "counted"):
        mean = torch.stack([getattr(d, name) for d in draws]).mean(0)
        torch.testing.assert_close(getattr(expected, name), mean, atol=0.06, rtol=0)
    assert expected.counted.min() < 0.99


def test_expected_compatibility_sees_no_padding():
    valid = torch.tensor([[True, False], [True, False]])
    candidates = patches([[patch(1), patch(2)], [patch(3), patch(4)]], [[0, 1], [1, 1]])
    pairs = expected_compatibility(candidates, valid, torch.zeros(2, dtype=torch.long))
    assert (pairs.agree.item(), pairs.counted.item()) == (0.0, 1.0)


def test_the_oracle_gives_every_object_the_style_of_the_start_where_there_is_one():
    """Candidates in styles 0..3 for every object, in another order for each: any start will do."""
    styles = torch.stack([torch.arange(4).roll(o) for o in range(O)])
    padding = padding_of(OBJECT_IMAGE, 2)
    valid = torch.ones(O, 4, dtype=torch.bool)
    for seed in range(8):
        one_hot = torch.nn.functional.one_hot(styles).float()
        slot = draw_start(valid, padding, OneStream(generator(seed)))
        start = start_feature(one_hot, padding, slot).argmax(-1)
        selection = oracle_choice(
            styles, valid, padding, generator(seed), num_styles=4, start="random", features=one_hot
        )
        assert styles[torch.arange(O), selection.selected].tolist() == start[OBJECT_IMAGE].tolist()


def test_the_oracle_joins_the_majority_when_the_start_s_style_runs_out():
    """Objects 0 to 2 have the start's style; object 3 offers two others, object 4 one of these."""
    styles = torch.tensor([[0, 0], [0, 0], [0, 0], [1, 2], [2, 2]])
    padding = padding_of(torch.zeros(5, dtype=torch.long), 1)
    valid = torch.ones(5, 2, dtype=torch.bool)
    second = []
    for seed in range(200):
        selection = oracle_choice(
            styles, valid, padding, generator(seed), num_styles=3, start="medoid",
            features=torch.zeros(5, 2, 1),
        )  # fmt: skip
        assert set(selection.step[:3].tolist()) == {0, 1, 2}
        second.append(int(selection.selected[3]) if selection.step[3] < selection.step[4] else -1)
        if selection.step[4] < selection.step[3]:
            assert selection.selected[3] == 1  # style 2 is there already
    # Four candidates tie for the fourth step, two of each object: none is favoured.
    taken = [second.count(place) for place in (0, 1)]
    assert sum(taken) == pytest.approx(100, abs=25)
    assert taken[0] == pytest.approx(taken[1], abs=25)


def test_the_oracle_starts_at_the_medoid_of_the_run_s_features():
    styles = torch.tensor([[0, 1], [1, 0]])
    features = torch.tensor([[[9.0], [0.0]], [[1.0], [-9.0]]])  # the middle: object 0's second
    padding = padding_of(torch.zeros(2, dtype=torch.long), 1)
    selection = oracle_choice(
        styles, torch.ones(2, 2, dtype=torch.bool), padding, generator(), num_styles=2,
        start="medoid", features=features,
    )  # fmt: skip
    assert selection.selected.tolist() == [1, 0]


def test_the_oracle_with_the_best_start_finds_the_one_style_that_all_can_have():
    styles = torch.tensor([[0, 3, 1], [2, 3, 0], [1, 2, 3]])
    padding = padding_of(torch.zeros(3, dtype=torch.long), 1)
    selection = oracle_choice(
        styles, torch.ones(3, 3, dtype=torch.bool), padding, None, num_styles=4, start="best",
        features=torch.zeros(3, 3, 1),
    )  # fmt: skip
    assert selection.selected.tolist() == [1, 1, 2]


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        weights = random.integers(1, 8, 120).astype(float)
        rate = random.beta(2, 3, 120)  # pairs of one scene go together: mean 0.4
        totals = random.binomial(weights.astype(int), rate).astype(float)
        found = bootstrap_interval(SceneSums(totals, weights), trial)
        assert found.low < found.value < found.high
        covered += found.low <= 0.4 <= found.high
    assert 88 <= covered <= 100


def test_a_scene_counts_by_its_pairs_and_one_without_any_not_at_all():
    sums = SceneSums(np.array([3.0, 0.0, 0.0]), np.array([3.0, 1.0, 0.0]))
    assert bootstrap_interval(sums, 0).value == 0.75
    assert bootstrap_interval(sums, 0) == bootstrap_interval(sums, 0)
    with pytest.raises(ValueError, match="no scene"):
        bootstrap_interval(SceneSums(np.zeros(2), np.zeros(2)), 0)
