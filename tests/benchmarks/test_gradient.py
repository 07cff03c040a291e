"""The study's true gradients are true, and its estimators are those of `retrieve`."""

import itertools

import pytest
import torch

from benchmarks.gradient import (
    AVERAGED,
    Comparison,
    E,
    K,
    by_differences,
    enumerated,
    expected_losses,
    fresh_noise,
    gumbel_rao,
    kept_noise,
    losses,
    of_each_draw,
    random_scene,
)
from model.retrieval.relaxation import gumbel


@pytest.fixture(params=[2, 3])
def scene(request):
    return random_scene(request.param, torch.Generator().manual_seed(request.param))


def uniform_of(scene, draws):
    objects = len(scene.features)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(draws, objects, objects, K, generator=generator)


def test_a_fixed_query_draws_each_objects_patch_from_its_own_softmax(scene):
    """So which object wins plays no part in its gradient."""
    features = scene.features.clone().requires_grad_()
    shares = torch.softmax(-(scene.query - features).norm(dim=-1), -1)
    expected = 0
    for choice in itertools.product(range(K), repeat=len(features)):
        weights = torch.eye(K)[list(choice)]
        expected = expected + (shares * weights).sum(-1).prod() * losses(scene, weights)
    given = scene._replace(features=features)
    torch.testing.assert_close(expected_losses(given, "fixed"), expected)
    gradients = torch.stack(
        [torch.autograd.grad(e, features, retain_graph=True)[0] for e in expected]
    ).flatten(1)
    torch.testing.assert_close(enumerated(scene, "fixed"), gradients)
    torch.testing.assert_close(enumerated(scene, "fixed", winners_held=True), gradients)


@pytest.mark.parametrize("rule", ["fixed", "updated"])
def test_the_expected_losses_are_those_of_many_draws(scene, rule):
    draws = 50_000
    uniform = uniform_of(scene, draws)
    features = scene.features.expand(draws, -1, -1, -1)
    how = {"relaxation": "straight-through", "temperature": 1.0}
    if rule == "fixed":
        weights = kept_noise(scene, gumbel(uniform[:, 0]), "fixed", features, **how)
    else:
        weights = fresh_noise(scene, uniform, torch.zeros(0), features, **how)
    drawn = losses(scene, weights)
    error = drawn.std(-1) / draws**0.5
    assert ((drawn.mean(-1) - expected_losses(scene, rule)).abs() < 4 * error).all()
    held = expected_losses(scene, rule, winners_held=True)
    torch.testing.assert_close(held, expected_losses(scene, rule))


def test_the_pairs_are_linear_in_each_objects_weights_and_the_square_is_not(scene):
    one, other = torch.eye(K)[torch.tensor([[0, 1, 2], [2, 1, 2]])][:, : len(scene.features)]
    ends = (losses(scene, one) + losses(scene, other)) / 2
    pairs, squared = losses(scene, (one + other) / 2) - ends  # the first object's weights differ
    assert abs(pairs) < 1e-4
    assert squared < -0.1


def test_a_comparison_tells_bias_and_deviation_in_lengths_of_the_true_gradient():
    true = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    draws = torch.tensor([[[6.0, 8.0], [6.0, 8.0]], [[0.0, 1.0], [0.0, -1.0]]])
    comparison = Comparison()
    comparison.add(draws.repeat(1, 5000, 1), true)
    assert comparison.cells() == "1.00 | 1.00 | 0.00 | 1.00 | 1.00 | 0.00 | 1.00 | 0.00"
    exact = Comparison()
    exact.add(true[:, None] * 1.5, true)
    assert exact.cells() == "0.50 | 1.00 |  |  | 0.50 | 1.00 |  | "


def test_holding_the_winners_leaves_a_gradient_out(scene):
    true, held = (enumerated(scene, "updated", winners_held=held) for held in (False, True))
    assert ((true - held).norm(dim=-1) > 0.01 * true.norm(dim=-1)).all()


def test_differences_come_near_to_the_gradient_found_by_enumeration(scene):
    true = enumerated(scene, "fixed")
    near = by_differences(scene, "fixed", draws=1 << 15, seed=0)
    assert ((near - true).norm(dim=-1) < 0.15 * true.norm(dim=-1)).all()


@pytest.mark.parametrize("relaxation", ["straight-through", "soft", "marginal"])
def test_where_one_object_chooses_the_estimators_are_those_of_retrieve(relaxation):
    scene = random_scene(1, torch.Generator().manual_seed(0))
    uniform = uniform_of(scene, 50)
    how = {"relaxation": relaxation, "temperature": 0.7}
    fresh, kept = (
        of_each_draw(scene, chosen, 50)
        for chosen in (
            lambda features: fresh_noise(scene, uniform, torch.zeros(0), features, **how),
            lambda features: kept_noise(scene, gumbel(uniform[:, 0]), "updated", features, **how),
        )
    )
    torch.testing.assert_close(fresh, kept)


def test_gumbel_rao_has_the_mean_of_straight_through_and_less_variance(scene):
    draws = 20_000
    uniform = uniform_of(scene, draws)
    averaged = torch.rand(AVERAGED, draws, len(scene.features), K)
    averaged_over, plain = (
        of_each_draw(
            scene,
            lambda features, name=name: fresh_noise(
                scene, uniform, averaged, features, relaxation=name, temperature=1.0
            ),
            draws,
        )
        for name in ("gumbel-rao", "straight-through")
    )
    assert averaged_over.shape == (2, draws, len(scene.features) * K * E)
    error = (averaged_over - plain).std(1) / draws**0.5
    assert ((averaged_over - plain).mean(1).abs() < 5 * error + 1e-6).all()
    assert (averaged_over.var(1).sum(-1) < plain.var(1).sum(-1)).all()


def test_gumbel_rao_averages_over_the_noise_by_which_the_same_candidate_is_chosen():
    """Noise drawn anew until it chooses so, among another object's candidates too, gives the same
    mean and the same gradient."""
    generator = torch.Generator().manual_seed(0)
    own, others = torch.tensor([0.3, 1.0, -0.5], requires_grad=True), torch.tensor([0.8, -1.0])
    cost, chosen = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([1.0, 0.0, 0.0])
    noisy = torch.cat([own, others]) + gumbel(torch.rand(400_000, 5, generator=generator))
    rejected = torch.softmax(noisy[noisy.argmax(-1) == 0][:, :3] / 0.7, -1).mean(0)
    total = torch.logsumexp(torch.cat([own, others]), 0)
    uniform = torch.rand(100_000, 3, generator=generator)
    averaged = gumbel_rao(own, chosen, total, uniform, 0.7)
    torch.testing.assert_close(averaged, rejected, atol=2e-3, rtol=0)
    gradients = [torch.autograd.grad((w * cost).sum(), own)[0] for w in (averaged, rejected)]
    torch.testing.assert_close(*gradients, atol=1e-2, rtol=0)


def test_every_noise_of_gumbel_rao_chooses_the_chosen_candidate():
    generator = torch.Generator().manual_seed(0)
    logits, total = torch.tensor([[0.3, 1.0, -0.5]] * 3), torch.full((3,), 2.0)
    uniform = torch.rand(1000, 3, 3, generator=generator)
    largest = gumbel_rao(logits, torch.eye(3), total, uniform, 1e-4)
    torch.testing.assert_close(largest, torch.eye(3), atol=2e-3, rtol=0)
