"""Retrieval scores: what earns credit, what does not count."""

from itertools import product

import numpy as np
import torch

from model.draws import OneStream
from model.padding import padding_of
from model.retrieval.crops import Crops, same_crop
from model.retrieval.embedding import PatchEmbedding
from model.scores.intervals import sum_by_scene
from model.scores.metrics import (
    PatchStyles,
    can_be_distinct,
    compatibility,
    crop_labels,
    distinct_choices,
    distinct_items,
    expected_compatibility,
    ground_truth_pairs,
    overlapping,
    repeats_a_crop,
    same_choice,
    styles_shown,
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


def uniforms(seed=0):
    return OneStream(generator(seed))


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
        constant, constant[:, None].expand(O, K, E), VALID, OBJECT_IMAGE, APART, uniforms()
    )
    assert torch.equal(pairs.credit, pairs.chance)
    assert sorted((1 / pairs.chance).round().int().tolist()) == [3, 3, 4, 4, 5, 5, 5, 5]


def test_a_network_whose_head_is_zeroed_earns_exactly_the_chance():
    torch.manual_seed(0)
    network = PatchEmbedding((8, 16), E, pooling="last")
    patches = drawn(1, O * (K + 1), 3, 16, 16)

    def scores():
        with torch.no_grad():
            embedded = network(patches).reshape(O, K + 1, E)
        return ground_truth_pairs(
            embedded[:, K], embedded[:, :K], VALID, OBJECT_IMAGE, APART, uniforms()
        )

    assert not torch.equal(scores().credit, scores().chance)
    torch.nn.init.zeros_(network.head.weight)
    assert network.head.bias.abs().sum() > 0  # every patch lies at the bias, not at 0
    assert torch.equal(scores().credit, scores().chance)


def test_an_embedding_by_which_a_scene_is_one_point_earns_everything():
    place = torch.tensor([[0.0, 0, 0], [9.0, 0, 0]])[OBJECT_IMAGE]
    candidates = place[:, None] + 1 + drawn(2, O, K, E).abs()
    pairs = ground_truth_pairs(place, candidates, VALID, OBJECT_IMAGE, APART, uniforms())
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
        pairs = ground_truth_pairs(truth, candidates, valid, image, APART[:2], uniforms())
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
    pairs = ground_truth_pairs(truth, candidates, valid, image, APART[:2], uniforms())
    assert pairs.credit.tolist() == [1.0, 1.0]
    assert pairs.chance.tolist() == [0.25, 0.25]


def test_a_target_that_is_offered_nothing_is_left_out():
    valid = VALID.clone()
    valid[1] = False
    pairs = ground_truth_pairs(drawn(0, O, E), drawn(1, O, K, E), valid, OBJECT_IMAGE, APART)
    every = ground_truth_pairs(drawn(0, O, E), drawn(1, O, K, E), VALID, OBJECT_IMAGE, APART)
    targets = [1, 2, 0, 2, 0, 1, 4, 3]
    kept = torch.tensor([target != 1 for target in targets])
    for part, of_every in zip(pairs, every, strict=True):
        assert torch.equal(part, of_every[kept])


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
        ground_truth_pairs(truth, candidates, VALID, OBJECT_IMAGE, APART, uniforms(seed)).credit
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


def test_draws_are_alike_where_every_object_of_the_image_has_the_same_candidate():
    draws = [[0, 1, 2, 3, 3], [0, 1, 2, 3, 1], [0, 1, 1, 3, 3], [0, 1, 2, 3, 1]]
    selected = [torch.tensor(draw) for draw in draws]
    padding = padding_of(OBJECT_IMAGE, 2)
    same = same_choice(selected, padding)
    assert same.shape == (2, 4, 4)
    for image, members in ((0, slice(0, 3)), (1, slice(3, 5))):
        expected = [[a[members] == b[members] for b in draws] for a in draws]
        assert same[image].tolist() == expected
    assert distinct_choices(selected, padding).tolist() == [2, 2]
    assert distinct_choices(selected[:1], padding).tolist() == [1, 1]
    assert distinct_choices(selected[1:2] * 4, padding).tolist() == [1, 1]


def test_a_draw_shows_the_style_of_more_than_half_of_the_patches_and_a_style_counts_once():
    draws = [[5, 5, 0, 1, 1], [5, 0, 5, 1, 2], [0, 0, 5, 2, 2], [1, 2, 3, 0, 1]]
    styles = [torch.tensor(draw) for draw in draws]
    padding = padding_of(OBJECT_IMAGE, 2)
    # Image 0: 5, 5, 0, none. Image 1: 1, none (half is not more than half), 2, none.
    assert styles_shown(styles, 6, padding).tolist() == [2, 2]
    assert styles_shown(styles[3:], 6, padding).tolist() == [0, 0]
    assert styles_shown(styles[:2], 6, padding).tolist() == [1, 1]


WHOLE, LOWER, HALF = [0.0, 0.0, 1.0, 1.0], [0.0, 0.3, 1.0, 1.0], [0.0, 0.5, 1.0, 1.0]


def crops_of(photos, boxes=None):
    photo = torch.tensor(photos)
    box = torch.tensor(WHOLE).expand(*photo.shape, 4) if boxes is None else torch.tensor(boxes)
    return Crops(photo, box)


def test_a_crop_is_repeated_within_an_image_and_not_across_images():
    padding = padding_of(OBJECT_IMAGE, 2)

    def repeated(photos, boxes=None):
        return repeats_a_crop(crops_of(photos, boxes), padding).tolist()

    assert repeated([1, 2, 3, 1, 2]) == [False, False]
    assert repeated([1, 2, 1, 1, 2]) == [True, False]
    assert repeated([1, 2, 3, 1, 1]) == [False, True]
    nearly = [WHOLE, LOWER, HALF, WHOLE, HALF]
    assert repeated([0, 0, 1, 1, 1], nearly) == [True, False]  # photo 0 is no padding


def test_crops_have_one_label_where_they_are_the_same_or_joined_by_such():
    crops = crops_of([[4, 7, 4], [4, 5, 4]], [[WHOLE, WHOLE, HALF], [LOWER, WHOLE, WHOLE]])
    labels = crop_labels(crops)
    assert labels.shape == (2, 3)
    assert not same_crop(
        crops_of([4], [WHOLE]), crops_of([4], [HALF])
    )  # both are the same as LOWER
    assert labels[0, 0] == labels[0, 2] == labels[1, 0] == labels[1, 2]
    assert len(labels.unique()) == 3


def test_crops_without_area_and_padding_are_the_same_as_no_other():
    nothing = [0.0, 0.0, 0.0, 0.0]
    assert len(crop_labels(crops_of([[-1, -1, 3, 3]], [[nothing] * 4])).unique()) == 4


def test_as_many_as_possible_are_given_distinct_items():
    """Against every way of giving items, on all that three are offered of three, and at random."""
    random = np.random.default_rng(0)
    some = [random.random((n, m)) < 0.4 for n, m in random.integers(1, 6, (200, 2))]
    every = [np.array(x).reshape(3, 3) for x in product([False, True], repeat=9)]
    for table in [*every, *some]:
        offers = [np.flatnonzero(row).tolist() for row in table]
        given = distinct_items(offers)
        assert all(item in offers[place] for place, item in given.items())
        assert len(set(given.values())) == len(given)
        ways = product(*([*own, None] for own in offers))
        sizes = [len(held) for way in ways if (held := most_distinct(way)) is not None]
        assert len(given) == max(sizes), offers


def most_distinct(way):
    held = [item for item in way if item is not None]
    return held if len(set(held)) == len(held) else None


def test_a_scene_can_be_distinct_where_some_choice_has_no_crop_twice():
    """Against every choice."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(200):
        photos = random.integers(0, 2, (3, 3))
        boxes = [[[WHOLE, HALF][int(i)] for i in row] for row in random.integers(0, 2, (3, 3))]
        crops, valid = crops_of(photos.tolist(), boxes), torch.tensor(random.random((3, 3)) < 0.6)
        valid[:, 0] = True
        choices = [c for c in product(range(3), repeat=3) if valid[range(3), c].all()]
        image = padding_of(torch.zeros(3, dtype=torch.long), 1)
        distinct = [
            not repeats_a_crop(Crops(*(part[range(3), c] for part in crops)), image).item()
            for c in choices
        ]
        assert can_be_distinct(crops, valid) == any(distinct)
        found.append(any(distinct))
    assert 20 < sum(found) < 180  # of either kind
