"""Retrieval: who is assigned, with which weights, and which way the gradient goes."""

import math

import pytest
import torch

from model.draws import OneStream
from model.padding import padding_of
from model.retrieval.choice import draw_start
from model.retrieval.greedy import medoid_start, retrieve, start_feature
from model.retrieval.relaxation import gumbel
from tests.model.retrieval.scenes import OBJECT_IMAGE, E, K, N, O, seeded, three_images

RELAXATIONS = ("soft", "straight-through", "marginal")
QUERIES = ("updated", "fixed")


@pytest.fixture
def scene():
    return three_images()


def select(scene, seed=0, temperature=0.5, relaxation="straight-through"):
    features, valid, padding = scene
    generator = torch.Generator().manual_seed(seed)
    query = start_feature(features, padding, draw_start(valid, padding, OneStream(generator)))
    return retrieve(
        features, valid, padding, query,
        noise=gumbel(torch.rand(O, K, generator=generator)), temperature=temperature,
        relaxation=relaxation,
    )  # fmt: skip


@pytest.mark.parametrize("temperature", [0.05, 0.5, 5.0])
def test_every_object_is_assigned_exactly_once_at_any_temperature(scene, temperature):
    for seed in range(30):
        selection = select(scene, seed, temperature)
        for image in range(N):
            steps = selection.step[image == OBJECT_IMAGE]
            assert sorted(steps.tolist()) == list(range(len(steps)))


def test_padding_is_never_chosen_however_well_it_matches():
    padding = padding_of(torch.zeros(2, dtype=torch.long), 1)
    features = torch.stack([torch.full((2, E), 5.0), torch.zeros(2, E)], 1)  # the second matches
    valid = torch.tensor([[True, False]] * 2)
    selection = retrieve(features, valid, padding, torch.zeros(1, E), noise=None, temperature=0.01)
    assert selection.selected.tolist() == [0, 0]
    assert selection.weights.tolist() == [[1, 0], [1, 0]]


def test_weights_sum_to_one_over_an_objects_own_candidates(scene):
    for relaxation in RELAXATIONS:
        selection = select(scene, relaxation=relaxation)
        torch.testing.assert_close(selection.weights.sum(-1), torch.ones(O))
        assert (selection.weights[~scene[1]] == 0).all()


def test_straight_through_shows_one_patch_and_soft_a_mixture(scene):
    hard, soft = select(scene), select(scene, relaxation="soft")
    assert torch.allclose(hard.weights.amax(-1), torch.ones(O))
    assert hard.weights.argmax(-1).tolist() == hard.selected.tolist()
    assert (soft.weights.amax(-1) < 0.999).any()


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_the_gradient_reaches_the_features_of_patches_that_were_not_chosen(scene, relaxation):
    features, valid, padding = scene
    features = features.clone().requires_grad_()
    selection = retrieve(
        features,
        valid,
        padding,
        torch.zeros(N, E),
        noise=None,
        temperature=1.0,
        relaxation=relaxation,
    )
    (selection.weights * torch.randn(O, K)).sum().backward()
    assert torch.isfinite(features.grad).all()
    several = valid.sum(-1) > 1
    losers = valid & ~torch.nn.functional.one_hot(selection.selected, K).bool() & several[:, None]
    assert (features.grad[losers].abs().sum(-1) > 0).all()


def test_a_choice_steers_the_next_one():
    """The second object's best patch for the start differs from the best for the first's pick."""
    padding = padding_of(torch.zeros(2, dtype=torch.long), 1)
    start, pick = torch.zeros(1, 1), 1.0
    features = torch.tensor([[[pick], [9.0]], [[-1.2], [1.4]]])  # to 0: -1.2 wins; to 1.0: 1.4
    valid = torch.ones(2, 2, dtype=torch.bool)
    selection = retrieve(features, valid, padding, start, noise=None, temperature=0.1)
    assert selection.step.tolist() == [0, 1]
    assert selection.selected.tolist() == [0, 1]


def test_the_query_that_is_a_candidate_gives_no_nan_gradient(scene):
    features, valid, padding = scene
    features = features.clone().requires_grad_()
    slot = draw_start(valid, padding, seeded(0))
    query = start_feature(features, padding, slot)
    selection = retrieve(features, valid, padding, query, noise=None, temperature=1.0)
    (selection.weights * torch.randn(O, K)).sum().backward()
    assert torch.isfinite(features.grad).all()


def by_hand(features, valid, query, noise, tau, relaxation, query_rule):
    """One image, step by step as the paper writes it: lists and numbers, no masks, no batches."""
    objects, k = len(features), len(features[0])
    taken, gathered, weights = [], [], {}
    penalty = {(o, i): 0.0 for o in range(objects) for i in range(k)}
    for _ in range(objects):
        open_ones = [(o, i) for o in range(objects) if o not in taken for i in range(k)]
        open_ones = [(o, i) for o, i in open_ones if valid[o][i]]
        logit = {
            (o, i): -math.dist(query, features[o][i]) + noise[o][i] + penalty[o, i]
            for o, i in open_ones
        }
        best = max(logit, key=logit.get)[0]
        total = sum(math.exp(v / tau) for v in logit.values())
        own = {i: math.exp(v / tau) for (o, i), v in logit.items() if o == best}
        soft = [own.get(i, 0.0) / sum(own.values()) for i in range(k)]
        hard = [float(s == max(soft)) for s in soft]
        mix = soft if relaxation == "soft" else hard
        gathered.append(
            [
                sum(w * f for w, f in zip(mix, dim, strict=True))
                for dim in zip(*features[best], strict=True)
            ]
        )
        if query_rule == "updated":
            query = [sum(column) / len(gathered) for column in zip(*gathered, strict=True)]
        for key, value in logit.items():
            penalty[key] += math.log(max(1 - math.exp(value / tau) / total, 1.2e-38))
        weights[best] = mix
        taken.append(best)
    return [weights[o] for o in range(objects)], [taken.index(o) for o in range(objects)]


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("temperature", [0.4, 1.7])
@pytest.mark.parametrize("query_rule", QUERIES)
def test_every_weight_is_what_the_equations_give_by_hand(relaxation, temperature, query_rule):
    """Four objects, so that sum, mean and last feature differ and so do their exclusions."""
    for seed in range(8):
        torch.manual_seed(seed)
        features, noise = torch.randn(4, 3, 2), torch.randn(4, 3)
        valid = torch.tensor([[True] * 3, [True, False, True], [True] * 3, [True] * 3])
        query = torch.randn(2)
        selection = retrieve(
            features, valid, padding_of(torch.zeros(4, dtype=torch.long), 1), query[None],
            noise=noise, temperature=temperature, relaxation=relaxation, query_rule=query_rule,
        )  # fmt: skip
        weights, steps = by_hand(
            features.tolist(), valid.tolist(), query.tolist(), noise.tolist(),
            temperature, relaxation, query_rule,
        )  # fmt: skip
        assert selection.step.tolist() == steps
        torch.testing.assert_close(selection.weights, torch.tensor(weights), atol=1e-4, rtol=1e-4)


def differentiable_by_hand(features, query, noise, tau, relaxation, query_rule):
    """`by_hand` for valid candidates in tensors, so that its gradient can be taken."""
    marginal = relaxation == "marginal"
    objects, k = features.shape[:2]
    taken, selected_features, weights = [], [], [None] * objects
    bias, without_noise = noise, torch.zeros_like(noise)

    def excluded(logits, rest, tau):
        terms = torch.zeros_like(logits)
        terms[rest] = torch.log(1 - torch.softmax(logits[rest].flatten() / tau, 0)).view(-1, k)
        return terms

    for _ in range(objects):
        distance = (query - features).norm(dim=-1)  # (n, K)
        logits = bias - distance
        learned = without_noise - distance if marginal else logits / tau
        rest = [o for o in range(objects) if o not in taken]
        best = max(rest, key=lambda o: logits[o].max().item())
        soft = torch.softmax(learned[best], 0)
        hard = torch.eye(k)[logits[best].argmax()]
        weights[best] = soft if relaxation == "soft" else hard + soft - soft.detach()
        selected_features.append(weights[best] @ features[best])
        bias = bias + excluded(logits, rest, tau)
        without_noise = without_noise + excluded(without_noise - distance, rest, 1.0)
        if query_rule == "updated":
            query = torch.stack(selected_features).mean(0)
        taken.append(best)
    return torch.stack(weights)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("query_rule", QUERIES)
def test_every_gradient_is_that_of_the_equations_by_hand(relaxation, query_rule):
    """To features, noise and the first query, through the choices before and their exclusions.
    None reaches the noise of `marginal`."""
    torch.manual_seed(3)
    given = [torch.randn(4, 3, 2), torch.randn(2), torch.randn(4, 3)]
    loss_weights = torch.randn(4, 3)
    gradients = []
    for ours in (True, False):
        features, query, noise = (t.clone().requires_grad_() for t in given)
        if ours:
            weights = retrieve(
                features, torch.ones(4, 3, dtype=torch.bool),
                padding_of(torch.zeros(4, dtype=torch.long), 1), query[None],
                noise=noise, temperature=0.9, relaxation=relaxation, query_rule=query_rule,
            ).weights  # fmt: skip
        else:
            weights = differentiable_by_hand(features, query, noise, 0.9, relaxation, query_rule)
        (weights * loss_weights).sum().backward()
        assert (noise.grad is None) == (relaxation == "marginal")
        gradients.append([t.grad for t in (features, query, noise) if t.grad is not None])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)
        assert ours.abs().sum() > 0


def test_marginal_chooses_bit_for_bit_as_straight_through(scene):
    """At every temperature: its own exclusions, without noise, play no part in the choice."""
    for seed in range(30):
        for temperature in (0.3, 1.0, 3.0):
            one, other = (
                select(scene, seed, temperature, relaxation)
                for relaxation in ("marginal", "straight-through")
            )
            assert torch.equal(one.weights, other.weights)
            assert torch.equal(one.selected, other.selected)
            assert torch.equal(one.step, other.step)


def test_for_one_object_and_a_linear_loss_the_marginal_gradient_is_exact_at_every_draw():
    """Of the expected loss, by enumeration: Gumbel noise draws from the softmax at temperature 1.
    The straight-through gradient is another at every draw."""
    torch.manual_seed(0)
    features, query, cost = torch.randn(1, 3, 2).requires_grad_(), torch.randn(1, 2), torch.randn(3)
    probabilities = torch.softmax(-(query - features[0]).norm(dim=-1), 0)
    (exact,) = torch.autograd.grad((probabilities * cost).sum(), features)
    for _ in range(20):
        noise = gumbel(torch.rand(1, 3))
        for relaxation in ("marginal", "straight-through"):
            weights = retrieve(
                features, torch.ones(1, 3, dtype=torch.bool), padding_of(torch.tensor([0]), 1),
                query, noise=noise, temperature=0.6, relaxation=relaxation,
            ).weights  # fmt: skip
            (ours,) = torch.autograd.grad((weights * cost).sum(), features)
            assert torch.allclose(ours, exact, atol=1e-6) == (relaxation == "marginal")


def test_a_batch_gives_each_image_what_it_would_get_alone(scene):
    features, valid, padding = scene
    noise = gumbel(torch.rand(O, K, generator=torch.Generator().manual_seed(3)))
    query = torch.randn(N, E)
    together = retrieve(features, valid, padding, query, noise=noise, temperature=0.5)
    for image in range(N):
        mine = image == OBJECT_IMAGE
        alone = retrieve(
            features[mine], valid[mine],
            padding_of(torch.zeros(int(mine.sum()), dtype=torch.long), 1),
            query[image : image + 1], noise=noise[mine], temperature=0.5,
        )  # fmt: skip
        assert alone.selected.tolist() == together.selected[mine].tolist()
        torch.testing.assert_close(alone.weights, together.weights[mine])


def test_noise_is_one_value_per_candidate_kept_over_the_steps():
    """A candidate favoured by noise is taken though its object is assigned last."""
    padding = padding_of(torch.zeros(2, dtype=torch.long), 1)
    features = torch.tensor([[[0.0], [0.1]], [[3.0], [3.1]]])
    valid = torch.ones(2, 2, dtype=torch.bool)
    noise = torch.tensor([[8.0, 0.0], [0.0, 2.0]])
    selection = retrieve(features, valid, padding, torch.zeros(1, 1), noise=noise, temperature=0.1)
    assert selection.step.tolist() == [0, 1]
    assert selection.selected.tolist() == [0, 1]


def test_the_medoid_is_a_valid_candidate_of_its_own_image(scene):
    features, valid, padding = scene
    slots = medoid_start(features, valid, padding)
    for image, start in enumerate(start_feature(features, padding, slots)):
        own = features[image == OBJECT_IMAGE][valid[image == OBJECT_IMAGE]]
        total = torch.cdist(own, own).sum(-1)
        assert torch.equal(own[total.argmin()], start)


def test_the_medoid_by_hand():
    padding = padding_of(torch.tensor([0, 0, 1]), 2)
    features = torch.tensor([[[0.0], [1.0]], [[4.0], [50.0]], [[7.0], [9.0]]])
    valid = torch.tensor([[True, True], [True, False], [True, True]])
    # Image 0 has 0, 1 and 4: 1 is in the middle. Image 1 has two: the first wins the tie.
    assert medoid_start(features, valid, padding).tolist() == [1, 0]


def test_of_equal_candidates_however_large_and_many_the_first_is_the_medoid():
    image = torch.arange(20).repeat_interleave(30)
    equal = 10 + torch.randn(20, 64)[image]
    valid = torch.ones(600, 1, dtype=torch.bool)
    assert not medoid_start(equal[:, None], valid, padding_of(image, 20)).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_everything_is_computed_in_float32_whatever_the_features_are(scene, dtype):
    features, valid, padding = scene
    low = features.to(dtype)
    results = []
    for given in (low, low.float()):
        query = start_feature(given, padding, medoid_start(given, valid, padding))
        chosen = retrieve(given, valid, padding, query.to(given), noise=None, temperature=0.5)
        results.append((query, chosen.weights))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)


def test_the_entropy_of_a_choice_is_that_of_its_soft_weights(scene):
    """Also where one patch is shown: up to the first choice, both relaxations are one. Without
    candidates to choose among it is 0."""
    features, valid, padding = scene
    valid[4] = torch.tensor([False, True, False, False])
    features.requires_grad_()
    soft, hard, marginal = (select((features, valid, padding), relaxation=r) for r in RELAXATIONS)
    expected = -(soft.weights * soft.weights.clamp_min(1e-30).log()).sum(-1).detach()
    torch.testing.assert_close(soft.entropy, expected)
    first = hard.step == 0
    torch.testing.assert_close(hard.entropy[first], expected[first])
    assert soft.entropy[4] == hard.entropy[4] == marginal.entropy[4] == 0
    for selection in (soft, hard, marginal):
        assert not selection.entropy.requires_grad
    query = torch.zeros(N, E)
    soft, hard, marginal = (
        retrieve(
            features, valid, padding, query, noise=None, temperature=1.0, relaxation=relaxation
        )
        for relaxation in RELAXATIONS
    )
    torch.testing.assert_close(marginal.entropy, hard.entropy)
