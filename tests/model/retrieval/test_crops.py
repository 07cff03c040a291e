"""No crop twice in a scene: by enumeration on small scenes, for every way of choosing."""

from itertools import product

import pytest
import torch

from model.config import RetrievalConfig
from model.draws import OneStream
from model.padding import padding_of
from model.retrieval.choice import ChoiceDraws, choose, draw_choice
from model.retrieval.crops import Crops, open_slots, same_crop

K, E = 3, 2
WHOLE = [0.0, 0.0, 1.0, 1.0]
MODES = ["learned", "predefined", "random"]
WAYS = [*((mode, "random") for mode in MODES), ("learned", "medoid"), ("learned", "best")]


def crops_at(photos, boxes=None):
    """photos (n, K); the boxes are whole unless given."""
    photo = torch.tensor(photos)
    box = torch.tensor(WHOLE).expand(*photo.shape, 4) if boxes is None else torch.tensor(boxes)
    return Crops(photo, box)


def select(
    crops, *, mode="learned", seed=0, valid=None, noise=True, allowed=False, image=None,
    start="random",
):  # fmt: skip
    objects = len(crops.photo)
    valid = torch.ones(objects, K, dtype=torch.bool) if valid is None else valid
    image = torch.zeros(objects, dtype=torch.long) if image is None else image
    padding = padding_of(image, int(image.max()) + 1)
    rule = RetrievalConfig(candidates=K, mode=mode, same_patch_allowed=allowed, start=start)
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(objects, K, E, generator=generator)
    draws = draw_choice(rule, valid, padding, OneStream(generator), noise=noise)
    selection = choose(rule, features, valid, padding, draws, crops)
    assert valid[torch.arange(objects), selection.selected].all()
    return selection


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ([0.1, 0.5, 0.5, 0.7], True),
        ([0.1, 0.5, 0.5, 0.75], True),  # IoU 0.8, below
        ([0.2, 0.5, 0.6, 0.7], True),  # 0.6, to the right
        ([0.1, 0.45, 0.5, 0.65], True),  # 0.6, above
        ([0.25, 0.5, 0.65, 0.7], False),  # 0.45
        ([0.1, 0.57, 0.5, 0.77], False),  # 0.48
        ([0.0, 0.0, 1.0, 1.0], False),  # around it
        ([0.55, 0.8, 0.56, 0.81], False),  # apart in both directions
    ],
)
def test_a_crop_is_the_same_where_most_of_both_boxes_is_shared(other, same):
    one = Crops(torch.tensor([7]), torch.tensor([[0.1, 0.5, 0.5, 0.7]]))
    there = Crops(torch.tensor([7]), torch.tensor([other]))
    elsewhere = Crops(torch.tensor([8]), torch.tensor([other]))
    for left, right in ((one, there), (there, one)):
        assert same_crop(left, right).item() == same
    assert not same_crop(one, elsewhere).item()


def test_a_half_of_a_crop_is_not_the_same():
    whole, half = (
        Crops(torch.tensor([7]), torch.tensor([box])) for box in (WHOLE, [0.0, 0.0, 1.0, 0.5])
    )
    assert not same_crop(whole, half).item()


def test_two_small_crops_far_apart_are_not_the_same():
    corners = [[0.0, 0.0, 0.01, 0.01], [0.9, 0.9, 0.91, 0.91]]
    left, right = (Crops(torch.tensor([7]), torch.tensor([box])) for box in corners)
    assert not same_crop(left, right).item()


def test_a_box_without_area_is_no_crop_of_any_other():
    point = Crops(torch.tensor([7]), torch.tensor([[0.3, 0.3, 0.3, 0.3]]))
    assert not same_crop(point, Crops(torch.tensor([7]), torch.tensor([WHOLE]))).item()


def test_open_are_the_valid_slots_that_are_not_taken_or_all_valid_ones():
    valid = torch.tensor([[True, True, False], [True, True, False]])
    taken = torch.tensor([[True, False, False], [True, True, False]])
    assert open_slots(valid, taken).tolist() == [[False, True, False], [True, True, False]]


@pytest.mark.parametrize(("mode", "start"), WAYS)
@pytest.mark.parametrize("noise", [False, True])
def test_no_crop_is_selected_twice_where_every_object_has_another(mode, start, noise):
    """All scenes of three objects that draw their candidates from four photos."""
    for photos in product([(0, 1, 2), (0, 1, 3), (2, 0, 1), (3, 2, 1)], repeat=3):
        crops = crops_at(photos)
        for seed in range(2):
            selected = select(crops, mode=mode, seed=seed, noise=noise, start=start).selected
            chosen = crops.photo[torch.arange(3), selected].tolist()
            assert len(set(chosen)) == 3, (photos, chosen)


@pytest.mark.parametrize(("mode", "start"), WAYS)
def test_other_crops_of_one_photo_stay_open(mode, start):
    parts = [[0.0, 0.0, 0.3, 1.0], [0.3, 0.0, 0.6, 1.0], [0.6, 0.0, 1.0, 1.0]]
    crops = crops_at([[7, 7, 7]] * 3, [parts] * 3)
    for seed in range(5):
        selected = select(crops, mode=mode, seed=seed, start=start).selected
        assert sorted(selected.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("mode", MODES)
def test_with_the_papers_letter_one_crop_can_be_selected_twice(mode):
    crops = crops_at([[0, 1, 2]] * 3)
    sizes = set()
    for seed in range(20):
        selected = select(crops, mode=mode, seed=seed, allowed=True).selected
        sizes.add(len(set(crops.photo[torch.arange(3), selected].tolist())))
    assert min(sizes) < 3


@pytest.mark.parametrize("mode", MODES)
def test_an_object_that_has_nothing_else_is_given_the_crop_again(mode):
    crops = crops_at([[0, 0, 0], [0, 0, 0], [0, 1, 0]])
    for seed in range(5):
        selected = select(crops, mode=mode, seed=seed).selected
        photos = crops.photo[torch.arange(3), selected]
        assert photos[:2].tolist() == [0, 0]
        step = select(crops, mode=mode, seed=seed).step
        others_came_first = mode != "learned" or step[2] > 0
        assert photos[2] == 1 or not others_came_first


@pytest.mark.parametrize("mode", MODES)
def test_padding_is_never_selected_instead(mode):
    valid = torch.tensor([[True, False, False], [True, False, False]])
    crops = crops_at([[0, 5, 6], [0, 5, 6]])
    for seed in range(5):
        assert select(crops, mode=mode, seed=seed, valid=valid).selected.tolist() == [0, 0]


@pytest.mark.parametrize("mode", MODES)
def test_a_crop_may_be_selected_in_two_scenes_of_a_batch(mode):
    crops = crops_at([[4, 4, 4]] * 2)
    image = torch.tensor([0, 1])
    alone = select(crops_at([[4, 1, 2], [4, 1, 2]]), mode="predefined", noise=False, image=image)
    assert alone.selected.tolist() == [0, 0]
    assert select(crops, mode=mode, image=image).selected.shape == (2,)


def test_predefined_takes_the_nearest_that_no_earlier_object_has():
    crops = crops_at([[0, 1, 2], [0, 1, 2], [1, 0, 2]])
    selection = select(crops, mode="predefined", noise=False)
    assert crops.photo[torch.arange(3), selection.selected].tolist() == [0, 1, 2]
    drawn = {
        tuple(select(crops_at([[0, 1, 2], [0, 1, 2]]), mode="predefined", seed=s).selected.tolist())
        for s in range(60)
    }
    assert drawn == {(a, b) for a in range(3) for b in range(3) if a != b}


def test_random_takes_any_open_candidate_evenly():
    crops = crops_at([[0, 1, 2], [0, 1, 2]])
    counts = torch.zeros(K, K)
    for seed in range(1200):
        a, b = select(crops, mode="random", seed=seed).selected.tolist()
        counts[a, b] += 1
    assert not counts.diagonal().any()
    assert counts[~torch.eye(K, dtype=torch.bool)].tolist() == pytest.approx([200] * 6, abs=60)


def test_a_rank_of_almost_one_is_the_last_open_candidate():
    rule = RetrievalConfig(candidates=K, mode="random")
    padding = padding_of(torch.zeros(2, dtype=torch.long), 1)
    draws = ChoiceDraws(rank=torch.full((2,), 1 - 2**-24))
    valid = torch.ones(2, K, dtype=torch.bool)
    crops = crops_at([[0, 1, 2], [0, 1, 2]])
    assert choose(rule, None, valid, padding, draws, crops).selected.tolist() == [2, 1]


def test_what_is_taken_closes_both_softmaxes():
    """Two objects with the same two candidates: the second is given its other one with weight 1,
    and no gradient reaches the closed one."""
    crops = crops_at([[0, 1, 9], [0, 1, 9]])
    valid = torch.tensor([[True, True, False]] * 2)
    features = torch.tensor([[[0.0, 0.1], [1.0, 0.0], [9.0, 9.0]]] * 2).requires_grad_()
    padding = padding_of(torch.zeros(2, dtype=torch.long), 1)
    rule = RetrievalConfig(candidates=K, relaxation="soft")
    draws = ChoiceDraws(start=torch.tensor([0]))
    selection = choose(rule, features, valid, padding, draws, crops)
    second = int(selection.step.argmax())
    assert selection.selected.tolist()[second] == 1
    torch.testing.assert_close(selection.weights[second], torch.tensor([0.0, 1.0, 0.0]))
    (selection.weights[second] * torch.randn(K)).sum().backward()
    assert features.grad is None or not features.grad.any()
