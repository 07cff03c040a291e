"""The tightest set, beside every set that there is."""

import itertools

import pytest
import torch

from model.padding import padding_of
from model.retrieval.choice import draw_start
from model.retrieval.crops import Crops
from model.retrieval.distance import between
from model.retrieval.greedy import retrieve, start_feature
from model.retrieval.search import (
    Sets,
    every_slot,
    grown_sets,
    no_reach,
    refined,
    retrieve_tightest,
    search_space,
    spread,
)
from tests.model.retrieval.scenes import seeded

COUNTS = (2, 4, 1, 3)  # objects of each image
K, E = 3, 4
OBJECT_IMAGE = torch.arange(4).repeat_interleave(torch.tensor(COUNTS))
O = len(OBJECT_IMAGE)


def made_up(seed, *, crops=False):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(O, K, E, generator=generator)
    valid = torch.rand(O, K, generator=generator) > 0.3
    valid[:, 1] = True
    noise = torch.randn(O, K, generator=generator) / 2
    photo = torch.randint(0, 6, (O, K), generator=generator)
    whole = torch.tensor([0.0, 0, 1, 1]).expand(O, K, 4)
    padding = padding_of(OBJECT_IMAGE, len(COUNTS))
    return features, valid, padding, noise, Crops(photo, whole) if crops else None


def every_spread(features, valid, noise, crops):
    """Of one image's sets by their candidates: mean distances to one another, less the noise.
    A crop serves two objects only where one of them has no other candidate left."""
    n = len(features)
    found = {}
    for choice in itertools.product(*(torch.nonzero(v)[:, 0].tolist() for v in valid)):
        chosen = features[torch.arange(n), torch.tensor(choice)]
        pairs = torch.cdist(chosen, chosen).sum() / 2
        bonus = sum(noise[o, c] for o, c in enumerate(choice))
        photos = [] if crops is None else [crops.photo[o, c].item() for o, c in enumerate(choice)]
        if len(set(photos)) == len(photos):
            found[choice] = (pairs / max(1, n - 1) - bonus).item()
    return found


@pytest.mark.parametrize("crops", [False, True])
def test_it_is_the_tightest_of_all_sets_almost_always_and_never_far_from_it(crops):
    best, tried = 0, 0
    for seed in range(25):
        features, valid, padding, noise, shown = made_up(seed, crops=crops)
        selected = retrieve_tightest(
            features, valid, padding, noise=noise, temperature=1.0, crops=shown
        ).selected
        for image in range(len(COUNTS)):
            own = image == OBJECT_IMAGE
            of_image = None if shown is None else Crops(*(part[own] for part in shown))
            spreads = every_spread(features[own], valid[own], noise[own], of_image)
            if not spreads:  # no set without a crop twice
                continue
            choice = tuple(selected[own].tolist())
            assert choice in spreads
            best += spreads[choice] <= min(spreads.values()) + 1e-5
            tried += 1
            assert sorted(spreads.values()).index(spreads[choice]) <= 3
    assert best > 0.95 * tried


def tightness(selection, features, padding):
    """Of each image's patches: (N,) summed distance over pairs."""
    padded = padding.pad(torch.einsum("ok,oke->oe", selection.weights, features))
    pairs = padding.present[:, None] & padding.present[..., None]
    return (between(padded, padded) * pairs).sum((1, 2)) / 2


def test_it_is_at_least_as_tight_as_what_any_start_gives_greedily():
    for seed in range(10):
        features, valid, padding, _, _ = made_up(seed)

        best = tightness(
            retrieve_tightest(features, valid, padding, noise=None, temperature=1.0),
            features,
            padding,
        )
        for start in range(5):
            slot = draw_start(valid, padding, seeded(start))
            query = start_feature(features, padding, slot)
            other = retrieve(features, valid, padding, query, noise=None, temperature=1.0)
            assert (best <= tightness(other, features, padding) + 1e-5).all()


def test_a_pass_never_loosens_a_set_and_tightens_some():
    features, valid, padding, noise, _ = made_up(0)
    padded = padding.pad(features).flatten(1, 2)
    space = search_space(between(padded, padded), noise, valid, padding, None)
    grown, reach = grown_sets(space, every_slot(space))
    starts = padding.pad(valid).flatten(1)
    before, after = spread(space, grown.slots), spread(space, refined(space, grown, reach)[0].slots)
    assert (after <= before + 1e-5)[starts].all()
    assert (after < before - 1e-3)[starts].any()


@pytest.mark.parametrize("passes", [0, 1])
def test_padding_is_never_chosen_however_well_it_matches(passes):
    padding = padding_of(torch.zeros(2, dtype=torch.long), 1)
    features = torch.tensor([[[0.0], [5.0]], [[9.0], [5.0]]])  # the second ones match
    valid = torch.tensor([[True, False], [True, False]])
    selection = retrieve_tightest(
        features, valid, padding, noise=None, temperature=1.0, passes=passes
    )
    assert selection.selected.tolist() == [0, 0]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_pass_chooses_every_object_s_patch_once_more(place):
    """On a line: two patches at 0, and one at 9 that has another at 1."""
    features = torch.tensor([[0.0], [50.0]]).repeat(3, 1, 1)
    features[place] = torch.tensor([[9.0], [1.0]])
    padding, valid = padding_of(torch.zeros(3, dtype=torch.long), 1), torch.ones(3, 2).bool()
    padded = padding.pad(features).flatten(1, 2)
    space = search_space(between(padded, padded), None, valid, padding, None)
    first = torch.tensor([[[0, 2, 4]]])
    reach = no_reach(space, 1)
    for slots in first.unbind(2):
        reach = reach.changed(space, slots, torch.ones(1, 1, 1))
    again, _ = refined(space, Sets(first, torch.zeros_like(first)), reach)
    assert (again.slots - first).tolist() == [[[int(o == place) for o in range(3)]]]


def test_every_object_is_assigned_once_by_what_lies_closest_to_all_before_it():
    """On a line: from 0 the nearest is 1, then 3 is nearer to both than -3. Starts at 3 and at 1
    find the same set, and the first one's is kept."""
    padding = padding_of(torch.zeros(3, dtype=torch.long), 1)
    features = torch.tensor([[[0.0], [50.0]], [[3.0], [-3.0]], [[1.0], [90.0]]])
    valid = torch.ones(3, 2, dtype=torch.bool)
    selection = retrieve_tightest(features, valid, padding, noise=None, temperature=1.0)
    assert selection.selected.tolist() == [0, 0, 0]
    assert selection.step.tolist() == [0, 2, 1]


def test_passes_go_on_until_no_patch_alone_can_tighten_its_set():
    loosened = 0
    for seed in range(30):
        features, valid, padding, noise, _ = made_up(seed)
        padded = padding.pad(features).flatten(1, 2)
        space = search_space(between(padded, padded), noise, valid, padding, None)
        sets, reach = grown_sets(space, torch.zeros(len(COUNTS), 1, dtype=torch.long) + 1)
        spreads = [spread(space, sets.slots)]
        for _ in range(4):
            sets, reach = refined(space, sets, reach)
            spreads.append(spread(space, sets.slots))
        for before, after in itertools.pairwise(spreads):
            assert (after <= before + 1e-5).all()
        loosened += bool((spreads[2] < spreads[1] - 1e-4).any())
        settings = {"noise": noise, "temperature": 1.0}
        one, four = (
            retrieve_tightest(features, valid, padding, passes=passes, **settings).selected
            for passes in (1, 4)
        )
        spread_of = [
            spread(space, (padding.pad(each) + K * torch.arange(4))[:, None])
            for each in (one, four)
        ]
        assert (spread_of[1] <= spread_of[0] + 1e-5).all()
    assert loosened  # a second pass still tightens some


@pytest.mark.parametrize("passes", [1, 3])
def test_an_image_is_given_the_same_patches_alone_as_in_a_batch(passes):
    features, valid, padding, noise, crops = made_up(3, crops=True)
    together = retrieve_tightest(
        features, valid, padding, noise=noise, temperature=0.7, relaxation="soft", crops=crops,
        passes=passes,
    )  # fmt: skip
    for image in range(len(COUNTS)):
        own = image == OBJECT_IMAGE
        alone = retrieve_tightest(
            features[own], valid[own], padding_of(torch.zeros(COUNTS[image], dtype=torch.long), 1),
            noise=noise[own], temperature=0.7, relaxation="soft", passes=passes,
            crops=Crops(*(part[own] for part in crops)),
        )  # fmt: skip
        for ours, theirs in zip(together, alone, strict=True):
            torch.testing.assert_close(ours[own], theirs)


def test_one_crop_serves_two_objects_only_where_there_is_no_other():
    padding = padding_of(torch.zeros(2, dtype=torch.long), 1)
    features = torch.tensor([[[0.0], [1.0]], [[0.0], [5.0]]])
    crops = Crops(torch.tensor([[7, 8], [7, 9]]), torch.tensor([0.0, 0, 1, 1]).expand(2, 2, 4))
    settings = {"noise": None, "temperature": 1.0}

    def selected(valid, crops):
        given = torch.tensor(valid)
        return retrieve_tightest(
            features, given, padding, crops=crops, **settings
        ).selected.tolist()

    assert selected([[True, True], [True, True]], None) == [0, 0]
    assert selected([[True, True], [True, True]], crops) == [1, 0]
    assert selected([[True, False], [True, False]], crops) == [0, 0]


@pytest.mark.parametrize("passes", [0, 1])
def test_a_set_grows_without_the_crops_that_it_shows(passes):
    """From any start the other two would take photo 7, were it open to both."""
    padding = padding_of(torch.zeros(3, dtype=torch.long), 1)
    features = torch.tensor([[[0.0], [5.0]], [[0.0], [-6.0]], [[0.0], [20.0]]])
    crops = Crops(
        torch.tensor([[7, 1], [7, 2], [7, 3]]), torch.tensor([0.0, 0, 1, 1]).expand(3, 2, 4)
    )
    selection = retrieve_tightest(
        features, torch.ones(3, 2).bool(), padding, noise=None, temperature=1.0, passes=passes,
        crops=crops,
    )  # fmt: skip
    assert selection.selected.tolist() == [1, 1, 0]


def test_a_set_that_repeats_one_crop_is_kept_before_a_tighter_one_that_repeats_two():
    """Two objects have photo 7 alone, the last has photo 8 alone."""
    padding = padding_of(torch.zeros(4, dtype=torch.long), 1)
    features = torch.tensor([[[0.0], [0.0]]] * 4)
    features[2, 1] = 5
    valid = torch.tensor([[True, False], [True, False], [True, True], [True, False]])
    crops = Crops(
        torch.tensor([[7, 0], [7, 0], [8, 9], [8, 0]]), torch.tensor([0.0, 0, 1, 1]).expand(4, 2, 4)
    )
    selection = retrieve_tightest(
        features, valid, padding, noise=None, temperature=1.0, passes=0, crops=crops
    )
    assert selection.selected.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(("passes", "selected"), [(0, [1, 0, 0, 0]), (1, [1, 0, 1, 0])])
def test_what_is_selected_has_weight_even_where_its_crop_need_not_be_shown_twice(passes, selected):
    """Two pairs, of photo 7 and of photo 5: without a pass every start lets the first of a pair
    take what is all that the second has."""
    padding = padding_of(torch.zeros(4, dtype=torch.long), 1)
    features = torch.tensor([[[0.0], [1.0]], [[0.0], [0.0]], [[0.0], [-1.0]], [[0.0], [0.0]]])
    valid = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
    crops = Crops(
        torch.tensor([[7, 8], [7, 0], [5, 6], [5, 0]]), torch.tensor([0.0, 0, 1, 1]).expand(4, 2, 4)
    )
    selection = retrieve_tightest(
        features, valid, padding, noise=None, temperature=1.0, relaxation="soft", passes=passes,
        crops=crops,
    )  # fmt: skip
    assert selection.selected.tolist() == selected
    if passes:  # photo 5 is the last one's
        expected = torch.tensor([0.0, 1.0])
    else:  # from the others at 1, 0 and 0
        expected = torch.softmax(-torch.tensor([1.0, 4.0]) / 3, -1)
    torch.testing.assert_close(selection.weights[2], expected)


def test_a_crop_that_another_object_shows_has_no_weight_and_no_gradient():
    padding = padding_of(torch.zeros(2, dtype=torch.long), 1)
    features = torch.tensor([[[0.0], [1.0]], [[0.0], [5.0]]], requires_grad=True)
    crops = Crops(torch.tensor([[7, 8], [7, 9]]), torch.tensor([0.0, 0, 1, 1]).expand(2, 2, 4))
    selection = retrieve_tightest(
        features, torch.ones(2, 2).bool(), padding, noise=None, temperature=1.0, crops=crops,
        relaxation="soft",
    )  # fmt: skip
    assert selection.selected.tolist() == [1, 0]
    assert selection.weights[0].tolist() == [0, 1]  # the other object shows photo 7
    assert (selection.weights[1] > 0).all()


def test_where_a_crop_must_be_shown_twice_the_tightest_of_such_sets_is_kept():
    """Two objects have photo 7 alone; the third is as close as it can be, to the last digit."""
    padding = padding_of(torch.zeros(3, dtype=torch.long), 1)
    features = torch.tensor([[[0.0], [9.0]], [[0.0], [9.0]], [[0.011], [0.01]]])
    valid = torch.tensor([[True, False], [True, False], [True, True]])
    crops = Crops(
        torch.tensor([[7, 1], [7, 2], [3, 4]]), torch.tensor([0.0, 0, 1, 1]).expand(3, 2, 4)
    )
    selection = retrieve_tightest(
        features, valid, padding, noise=None, temperature=1.0, passes=0, crops=crops
    )
    assert selection.selected.tolist() == [0, 0, 1]


def test_weights_are_those_of_a_choice_given_the_others_and_their_gradient_too():
    """Two objects: how far each candidate of one lies from the chosen patch of the other."""
    padding = padding_of(torch.zeros(2, dtype=torch.long), 1)
    features = torch.tensor([[[0.0], [2.0]], [[1.0], [4.0]]], requires_grad=True)
    valid = torch.ones(2, 2, dtype=torch.bool)
    noise = torch.tensor([[0.5, 0.0], [0.0, 0.25]])

    def weights(relaxation):
        return retrieve_tightest(
            features, valid, padding, noise=noise, temperature=0.5, relaxation=relaxation
        )

    assert weights("straight-through").selected.tolist() == [0, 0]
    near = torch.stack([(features[0, :, 0] - 1).abs(), (features[1, :, 0] - 0).abs()])
    noisy, noiseless = torch.softmax((noise - near) / 0.5, -1), torch.softmax(-near, -1)
    torch.testing.assert_close(weights("soft").weights, noisy)
    for relaxation, expected in (("straight-through", noisy), ("marginal", noiseless)):
        selection = weights(relaxation)
        assert selection.weights.tolist() == [[1, 0], [1, 0]]
        entropy = torch.special.entr(expected).sum(-1).detach()
        torch.testing.assert_close(selection.entropy, entropy)
        value = torch.tensor([[1.0, 3.0], [2.0, 7.0]])
        # Both patches move: the chosen one of the other object as well.
        (ours,) = torch.autograd.grad((selection.weights * value).sum(), features)
        (theirs,) = torch.autograd.grad((expected * value).sum(), features, retain_graph=True)
        moved = near.new_zeros(2, 2)
        other = torch.autograd.grad(
            (_from_chosen(features, noise if relaxation != "marginal" else moved,
                          0.5 if relaxation != "marginal" else 1.0) * value).sum(), features
        )[0]  # fmt: skip
        torch.testing.assert_close(ours, other)
        assert not torch.equal(ours, theirs)


def test_weights_are_by_the_mean_distance_to_the_other_patches():
    """Chosen are 0, 1 and 3 on a line."""
    padding = padding_of(torch.zeros(3, dtype=torch.long), 1)
    features = torch.tensor([[[0.0], [6.0]], [[1.0], [7.0]], [[3.0], [-5.0]]])
    selection = retrieve_tightest(
        features, torch.ones(3, 2).bool(), padding, noise=None, temperature=1.0, relaxation="soft"
    )
    assert selection.selected.tolist() == [0, 0, 0]
    means = torch.tensor([[(1 + 3) / 2, (5 + 3) / 2], [(1 + 2) / 2, (7 + 4) / 2],
                          [(3 + 2) / 2, (5 + 6) / 2]])  # fmt: skip
    torch.testing.assert_close(selection.weights, torch.softmax(-means, -1))


def _from_chosen(features, noise, temperature):
    """The soft weights with the chosen patches, the first of each, as variables too."""
    near = torch.stack([
        (features[0, :, 0] - features[1, 0, 0]).abs(), (features[1, :, 0] - features[0, 0, 0]).abs()
    ])  # fmt: skip
    return torch.softmax((noise - near) / temperature, -1)


def test_noise_makes_draws_differ_and_a_lone_object_goes_by_it_alone():
    features, valid, padding, _, _ = made_up(1)
    lone = OBJECT_IMAGE == 2
    draws = set()
    for seed in range(20):
        noise = 2 * torch.randn(O, K, generator=torch.Generator().manual_seed(seed))
        selected = retrieve_tightest(
            features, valid, padding, noise=noise, temperature=1.0
        ).selected
        assert selected[lone] == noise[lone].masked_fill(~valid[lone], -torch.inf).argmax()
        draws.add(tuple(selected.tolist()))
    assert len(draws) > 10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_everything_is_computed_in_float32_whatever_the_features_are(dtype):
    features, valid, padding, _, _ = made_up(0)
    low = features.to(dtype)
    settings = {"noise": None, "temperature": 1.0, "relaxation": "soft"}
    ours = retrieve_tightest(low, valid, padding, **settings)
    theirs = retrieve_tightest(low.float(), valid, padding, **settings)
    assert ours.weights.dtype == torch.float32
    assert torch.equal(ours.weights, theirs.weights)
