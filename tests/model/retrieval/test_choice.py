"""What is drawn for a choice, and that the run's rule is followed."""

import itertools

import pytest
import torch

from model.config import RetrievalConfig
from model.draws import OneStream
from model.padding import padding_of
from model.retrieval.choice import (
    choose,
    draw_choice,
    draw_order,
    draw_start,
    draw_truth,
    draws_differ,
    noise_by_default,
    started,
)
from model.retrieval.crops import Crops
from model.retrieval.greedy import medoid_start, retrieve, start_feature
from model.retrieval.search import retrieve_tightest
from pipeline.errors import UserError

N, O, K, E = 2, 5, 4, 3
PADDING = padding_of(torch.tensor([0, 0, 0, 1, 1]), N)
VALID = torch.ones(O, K, dtype=torch.bool)
VALID[1, 3] = VALID[4, 0] = VALID[4, 3] = False
CROPS = Crops(torch.arange(O * K).reshape(O, K), torch.tensor([0.0, 0, 1, 1]).expand(O, K, 4))


def generator(seed):
    return OneStream(torch.Generator().manual_seed(seed))


def rule(**changes):
    return RetrievalConfig(candidates=K, **changes)


def draws_of(rule, seed, *, noise=True):
    return draw_choice(rule, VALID, PADDING, generator(seed), noise=noise)


def test_learned_retrieval_draws_gumbel_noise_per_candidate_and_a_start():
    noises = torch.stack([draws_of(rule(), seed).noise for seed in range(500)])
    assert noises.shape == (500, O, K)
    assert noises.mean() == pytest.approx(0.5772, abs=0.05)  # Euler's constant
    assert noises.var() == pytest.approx(torch.pi**2 / 6, abs=0.1)
    assert draws_of(rule(), 0).rank is None
    assert draws_of(rule(), 0, noise=False).noise is None
    assert draws_of(rule(), 0, noise=False).start is not None


@pytest.mark.parametrize("start", ["medoid", "best"])
def test_no_start_is_drawn_where_the_rule_fixes_it(start):
    draws = draws_of(rule(start=start), 0)
    assert draws.start is None
    assert draws.noise is not None


def test_a_start_is_any_valid_candidate_of_its_image_evenly():
    starts = torch.stack([draw_start(VALID, PADDING, generator(seed)) for seed in range(2000)])
    for image, objects in enumerate(([0, 1, 2], [3, 4])):
        allowed = [
            place * K + i for place, o in enumerate(objects) for i in range(K) if VALID[o, i]
        ]
        counts = torch.bincount(starts[:, image], minlength=3 * K)
        assert [slot for slot in range(3 * K) if counts[slot]] == allowed
        even = 2000 / len(allowed)
        assert counts[allowed].float() == pytest.approx(even, abs=5 * even**0.5)


def test_the_true_patch_comes_to_every_slot_and_every_object_is_the_first_query():
    orders, firsts = zip(
        *(draw_truth(VALID, PADDING, generator(seed)) for seed in range(200)), strict=True
    )
    for order in orders:
        assert order.sort(-1).values.tolist() == [list(range(K + 1))] * O
    slots = torch.stack([(order == K).int().argmax(-1) for order in orders])
    assert {tuple(sorted(set(column.tolist()))) for column in slots.T} == {tuple(range(K + 1))}
    first = torch.stack(firsts)
    assert [sorted(set(column.tolist())) for column in first.T] == [[0, 1, 2], [0, 1]]
    assert torch.equal(draw_order(VALID, generator(3)), draw_order(VALID, generator(3)))


def chosen(mode, seed, *, noise, valid=VALID):
    draws = draw_choice(rule(mode=mode), valid, PADDING, generator(seed), noise=noise)
    return choose(rule(mode=mode), None, valid, PADDING, draws, CROPS)


@pytest.mark.parametrize(("noise", "expected"), [(False, {0}), (True, {0, 1, 2})])
def test_predefined_takes_the_nearest_and_with_noise_one_of_three(noise, expected):
    valid = torch.ones(O, K, dtype=torch.bool)
    selected = torch.stack(
        [chosen("predefined", s, noise=noise, valid=valid).selected for s in range(60)]
    )
    assert [set(column.tolist()) for column in selected.T] == [expected] * O


@pytest.mark.parametrize("noise", [False, True])
def test_random_takes_any_valid_candidate(noise):
    selected = torch.stack([chosen("random", s, noise=noise).selected for s in range(200)])
    for o, column in enumerate(selected.T):
        assert sorted(set(column.tolist())) == torch.nonzero(VALID[o])[:, 0].tolist()


def test_where_nothing_is_learned_weights_are_one_hot_and_all_steps_0():
    selection = chosen("random", 3, noise=True)
    assert selection.weights.tolist() == torch.eye(K)[selection.selected].tolist()
    assert selection.step.tolist() == [0] * O


def test_what_is_drawn_without_learning_is_a_function_of_the_generator():
    assert draws_of(rule(mode="predefined"), 7, noise=False).rank is None
    for mode in ("predefined", "random"):
        one, other = (draws_of(rule(mode=mode), 7).rank for _ in range(2))
        assert torch.equal(one, other)


@pytest.mark.parametrize("mode", ["predefined", "random"])
def test_an_object_with_a_single_candidate_is_given_it(mode):
    valid = torch.tensor([[True, False, False, False]] * O)
    assert chosen(mode, 0, noise=True, valid=valid).selected.tolist() == [0] * O
    one = padding_of(torch.tensor([0]), 1)
    start = draw_start(torch.ones(1, 1, dtype=torch.bool), one, OneStream())
    assert start.tolist() == [0]
    single = padding_of(torch.tensor([0, 1]), 2)
    assert draw_truth(torch.ones(2, 1, dtype=torch.bool), single, OneStream()).first.tolist() == [
        0,
        0,
    ]


@pytest.mark.parametrize("start", ["random", "medoid"])
@pytest.mark.parametrize("relaxation", ["straight-through", "soft", "marginal"])
@pytest.mark.parametrize("query", ["updated", "fixed"])
def test_learned_retrieval_follows_every_setting_of_the_rule(start, relaxation, query):
    torch.manual_seed(0)
    features = torch.randn(O, K, E)
    given = rule(start=start, relaxation=relaxation, query=query, temperature=0.7)
    draws = draws_of(given, 5)
    selection = choose(given, features, VALID, PADDING, draws, CROPS)
    settings = {
        "noise": draws.noise, "temperature": 0.7, "relaxation": relaxation, "query_rule": query,
    }  # fmt: skip
    slot = draws.start if start == "random" else medoid_start(features, VALID, PADDING)
    first = start_feature(features, PADDING, slot)
    expected = retrieve(features, VALID, PADDING, first, **settings)
    for field, value in zip(selection, expected, strict=True):
        assert torch.equal(field, value)
    other = choose(given, features, VALID, PADDING, draws._replace(noise=draws.noise * 0), CROPS)
    assert not torch.equal(other.weights, selection.weights)


@pytest.mark.parametrize("relaxation", ["straight-through", "soft", "marginal"])
def test_from_start_best_the_tightest_set_follows_every_setting_of_the_rule(relaxation):
    """Of eight objects, so that a pass makes a difference."""
    padding, valid = padding_of(torch.zeros(8, dtype=torch.long), 1), torch.ones(8, K).bool()
    crops = Crops(torch.arange(8 * K).view(8, K) % 12, CROPS.box[0].expand(8, K, 4))
    sets = set()
    for passes, repeats in itertools.product((0, 1), (False, True)):
        chosen = []
        for seed in range(10):
            given = rule(
                start="best", relaxation=relaxation, temperature=0.7, passes=passes,
                same_patch_allowed=repeats,
            )  # fmt: skip
            features = 9 * torch.randn(8, K, E, generator=torch.Generator().manual_seed(seed))
            draws = draw_choice(given, valid, padding, generator(seed), noise=True)
            selection = choose(given, features, valid, padding, draws, crops)
            expected = retrieve_tightest(
                features, valid, padding, noise=draws.noise, temperature=0.7,
                relaxation=relaxation, passes=passes, crops=None if repeats else crops,
            )  # fmt: skip
            for field, value in zip(selection, expected, strict=True):
                assert torch.equal(field, value)
            chosen += selection.selected.tolist()
        sets.add(tuple(chosen))
    assert len(sets) == 4


@pytest.mark.parametrize("mode", ["learned", "predefined", "random"])
@pytest.mark.parametrize("start", ["random", "medoid", "best"])
@pytest.mark.parametrize("noise", [True, False])
def test_draws_are_said_to_differ_where_they_do(mode, start, noise):
    torch.manual_seed(0)
    features, given = torch.randn(O, K, E), rule(mode=mode, start=start)
    chosen = {
        tuple(choose(given, features, VALID, PADDING, draws, CROPS).selected.tolist())
        for draws in (draws_of(given, seed, noise=noise) for seed in range(30))
    }
    assert draws_differ(given, noise) == (len(chosen) > 1)


@pytest.mark.parametrize(
    ("mode", "start", "expected"),
    [
        ("learned", "random", False), ("learned", "medoid", True), ("learned", "best", True),
        ("predefined", "random", True), ("random", "medoid", False),
    ],
)  # fmt: skip
def test_several_draws_have_noise_only_where_all_would_be_alike(mode, start, expected):
    assert noise_by_default(rule(mode=mode, start=start), 2) == expected
    assert not noise_by_default(rule(mode=mode, start=start), 1)


def test_a_rule_has_another_start_only_where_it_has_one():
    own = rule(start="medoid", query="fixed")
    assert started(own, None) == own
    assert started(own, "random") == rule(start="random", query="fixed")
    assert started(rule(), "best") == rule(start="best")
    with pytest.raises(
        UserError, match=r"^start best: .* --retrieval\.query fixed.*random or medoid"
    ):
        started(own, "best")
    for mode in ("predefined", "random"):
        given = rule(mode=mode)
        assert started(given, None) == given
        with pytest.raises(UserError, match=f"^start random: {mode} retrieval .* leave the start"):
            started(given, "random")


def test_the_start_is_the_feature_of_its_slot():
    features = torch.randn(O, K, E)
    start = start_feature(features, PADDING, torch.tensor([2 * K + 1, K + 2]))
    assert torch.equal(start, torch.stack([features[2, 1], features[4, 2]]))
