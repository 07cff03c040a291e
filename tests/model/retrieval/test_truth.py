"""The ground-truth losses by hand, and what they teach."""

import math

import pytest
import torch
from torch.nn import functional as F

from model.draws import OneStream
from model.padding import padding_of
from model.retrieval.choice import draw_order
from model.retrieval.embedding import PatchEmbedding
from model.retrieval.truth import add_truth, all_pairs, ground_truth_selection
from tests.model.retrieval.scenes import OBJECT_IMAGE, E, K, N, O, seeded, three_images

QUERIES = ("updated", "fixed")
# Category 5 is in every image, and twice in the second; 7 in the second alone.
CATEGORIES = torch.tensor([5, 6, 5, 5, 7, 6, 8, 5, 6])


@pytest.fixture
def scene():
    return three_images()


def test_a_single_candidate_and_the_true_patch_are_two():
    order = torch.tensor([[1, 0], [0, 1]])
    features, truth = torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([[8.0], [9.0]])
    joined, allowed, slot = add_truth(features, torch.ones(2, 1, dtype=torch.bool), truth, order)
    assert joined[..., 0].tolist() == [[8, 1], [2, 9]]
    assert allowed.tolist() == [[True, True], [True, True]]
    assert slot.tolist() == [0, 1]


def test_the_true_patch_comes_to_every_slot_and_stays_itself(scene):
    features, valid, _ = scene
    truth = torch.randn(O, E)
    seen = set()
    for seed in range(20):
        joined, allowed, slot = add_truth(features, valid, truth, draw_order(valid, seeded(seed)))
        assert torch.equal(joined[torch.arange(O), slot], truth)
        assert allowed[torch.arange(O), slot].all()
        assert allowed.sum(-1).tolist() == (valid.sum(-1) + 1).tolist()
        seen |= set(slot.tolist())
    assert seen == set(range(K + 1))


def test_ground_truth_selection_of_a_constant_embedding_is_the_log_of_what_is_offered(scene):
    _, valid, padding = scene
    joined, allowed, slot = add_truth(
        torch.ones(O, K, E), valid, torch.ones(O, E), draw_order(valid, OneStream())
    )
    start = torch.zeros(N, dtype=torch.long)
    loss = ground_truth_selection(joined, allowed, torch.ones(O, E), slot, padding, start, 1.0)
    expected = torch.log(allowed.sum(-1).float())
    expected[padding.place == 0] = 0
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("query_rule", QUERIES)
def test_ground_truth_selection_is_teacher_forced_to_the_mean_of_true_features(query_rule):
    """The second object's loss is a softmax over distances to the first's true feature, which a
    fixed query stays."""
    padding = padding_of(torch.zeros(3, dtype=torch.long), 1)
    features, truth = torch.randn(3, K, E), torch.randn(3, E)
    valid = torch.ones(3, K, dtype=torch.bool)
    order = draw_order(valid, seeded(0))
    joined, allowed, slot = add_truth(features, valid, truth, order)
    loss = ground_truth_selection(
        joined, allowed, truth, slot, padding, torch.tensor([1]), 0.7, query_rule
    )

    def term(query, o):
        share = torch.log_softmax(-torch.linalg.vector_norm(query - joined[o], dim=-1) / 0.7, -1)
        return -share[slot[o]]

    reach = [torch.linalg.vector_norm(truth[1] - joined[o], dim=-1).min() for o in (0, 2)]
    second, third = (0, 2) if reach[0] < reach[1] else (2, 0)
    torch.testing.assert_close(loss[second], term(truth[1], second))
    query = truth[1] if query_rule == "fixed" else (truth[1] + truth[second]) / 2
    torch.testing.assert_close(loss[third], term(query, third))
    assert loss[1] == 0


def negatives_of(o, valid, categories, image):
    """What else the true patch of an object could be taken for: (candidates, other objects)."""
    others = [
        p for p in range(len(image)) if image[p] != image[o] and categories[p] == categories[o]
    ]
    return torch.nonzero(valid[o])[:, 0].tolist(), others


def pairs_by_hand(features, valid, truth, categories, image, temperature):
    """Object by object, query by query."""
    losses = []
    for o in range(len(truth)):
        candidates, others = negatives_of(o, valid, categories, image)
        offered = torch.stack(
            [truth[o], *(features[o, k] for k in candidates), *(truth[p] for p in others)]
        )
        own = [q for q in range(len(image)) if image[q] == image[o]]
        terms = [
            F.cross_entropy(-(truth[q] - offered).norm(dim=1) / temperature, torch.tensor(0))
            for q in own
            if q != o
        ]
        losses.append(sum(terms, torch.zeros(())) / len(own))
    return torch.stack(losses)


@pytest.mark.parametrize("temperature", [0.4, 1.7])
def test_every_pair_of_true_patches_counts_as_by_hand_and_so_does_its_gradient(scene, temperature):
    """In equal measure for query, true patch and negatives."""
    features, valid, padding = scene
    given, weights, results = (features, torch.randn(O, E)), torch.rand(O), []
    for ours in (True, False):
        own, truth = (part.clone().requires_grad_() for part in given)
        if ours:
            losses = all_pairs(own, valid, truth, CATEGORIES, padding.image, padding, temperature)
        else:
            losses = pairs_by_hand(own, valid, truth, CATEGORIES, OBJECT_IMAGE, temperature)
        (losses * weights).sum().backward()
        results.append((losses.detach(), own.grad, truth.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        assert (ours.flatten(1) if ours.dim() > 1 else ours[:, None]).any(1).all()


def test_negatives_are_own_candidates_and_the_same_category_in_other_images(scene):
    """No other category, and nothing of the own image but what is the query."""
    features, valid, padding = scene
    features.requires_grad_()
    for o in range(O):
        truth = torch.randn(O, E, requires_grad=True)
        loss = all_pairs(features, valid, truth, CATEGORIES, padding.image, padding, 1.0)[o]
        of_candidates, of_truth = torch.autograd.grad(loss, (features, truth))
        candidates, others = negatives_of(o, valid, CATEGORIES, OBJECT_IMAGE)
        assert torch.nonzero(of_candidates.any(2)).tolist() == [[o, k] for k in candidates]
        own = torch.nonzero(OBJECT_IMAGE[o] == OBJECT_IMAGE)[:, 0].tolist()
        assert torch.nonzero(of_truth.any(1))[:, 0].tolist() == sorted([*own, *others])


def test_the_loss_of_all_pairs_of_a_constant_embedding_is_the_log_of_what_is_offered(scene):
    """For each of an image's n objects n - 1 times, divided by n."""
    _, valid, padding = scene
    losses = all_pairs(
        torch.ones(O, K, E), valid, torch.ones(O, E), CATEGORIES, padding.image, padding, 0.3
    )
    for o, loss in enumerate(losses):
        candidates, others = negatives_of(o, valid, CATEGORIES, OBJECT_IMAGE)
        offered = torch.tensor(1.0 + len(candidates) + len(others))
        n = (OBJECT_IMAGE[o] == OBJECT_IMAGE).sum()
        torch.testing.assert_close(loss, offered.log() * (n - 1) / n)


def test_a_lone_object_has_no_pair_and_is_a_negative_elsewhere_all_the_same():
    image, categories = torch.tensor([0, 1, 1]), torch.tensor([5, 5, 6])
    features, valid = torch.randn(3, K, E), torch.ones(3, K, dtype=torch.bool)
    truth = torch.randn(3, E, requires_grad=True)
    losses = all_pairs(features, valid, truth, categories, image, padding_of(image, 2), 1.0)
    assert losses[0] == 0
    torch.testing.assert_close(
        losses, pairs_by_hand(features, valid, truth, categories, image, 1.0)
    )
    losses.sum().backward()
    assert truth.grad[0].any()


def test_fillers_are_no_negatives_and_have_no_loss(scene):
    """They name an image and a category, of which they are not."""
    features, valid, padding = scene
    truth = torch.randn(O, E)
    expected = all_pairs(features, valid, truth, CATEGORIES, padding.image, padding, 0.7)
    more = 2

    def longer(part, value=0):
        return torch.cat([part, part.new_full((more, *part.shape[1:]), value)])

    filled = padding._replace(
        image=longer(padding.image),
        place=longer(padding.place),
        real=longer(torch.ones(O, dtype=torch.bool)),
    )
    truth = longer(truth).requires_grad_()
    losses = all_pairs(
        longer(features),
        longer(valid, True),
        truth,
        longer(CATEGORIES, 5),
        longer(padding.image, 99),
        filled,
        0.7,
    )
    torch.testing.assert_close(losses[:O], expected)
    assert not losses[O:].any()
    losses.sum().backward()
    assert not truth.grad[O:].any()


def test_the_same_photo_in_another_image_is_no_negative():
    """A scene twice in a batch, or a file under two ids: its patches are no others."""
    padding = padding_of(torch.tensor([0, 0, 1, 1]), 2)
    features, valid = torch.full((4, 1, 1), 50.0), torch.ones(4, 1, dtype=torch.bool)
    truth = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    categories, twice = torch.tensor([0, 1, 0, 1]), torch.tensor([7, 7, 7, 7])
    losses = all_pairs(features, valid, truth, categories, twice, padding, 1.0)
    torch.testing.assert_close(losses, torch.zeros(4))
    apart = all_pairs(features, valid, truth, categories, padding.image, padding, 1.0)
    torch.testing.assert_close(apart, torch.full((4,), math.log(2) / 2))


@pytest.mark.parametrize("objective", ["path", "pairs"])
def test_training_on_either_objective_brings_true_patches_together(objective):
    torch.manual_seed(0)
    embedding = PatchEmbedding((8, 16), 8, pooling="last")
    padding = padding_of(torch.arange(8).repeat_interleave(3), 8)
    light = torch.rand(8, 3, 1, 1).repeat_interleave(3, 0) * 2 - 1  # what a photo's patches share
    others = (torch.rand(24, 4, 3, 1, 1) * 2 - 1) + 0.1 * torch.randn(24, 4, 3, 8, 8)
    true = light + 0.1 * torch.randn(24, 3, 8, 8)
    valid = torch.ones(24, 4, dtype=torch.bool)
    optimiser = torch.optim.Adam(embedding.parameters(), 1e-2)
    history = []
    for step in range(60):
        features = embedding(others.flatten(0, 1)).view(24, 4, -1)
        truth = embedding(true)
        if objective == "pairs":
            losses = all_pairs(
                features, valid, truth, torch.arange(24) % 3, padding.image, padding, 1.0
            )
        else:
            joined, allowed, slot = add_truth(
                features, valid, truth, draw_order(valid, seeded(step))
            )
            start = torch.full((8,), step % 3)
            losses = ground_truth_selection(joined, allowed, truth, slot, padding, start, 1.0)
        loss = losses.sum() / 16
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_everything_is_computed_in_float32_whatever_the_features_are(scene, dtype):
    features, valid, padding = scene
    low, order = features.to(dtype), draw_order(valid, seeded(0))
    results = []
    for given in (low, low.float()):
        truth = given[:, 1]
        joined, allowed, slot = add_truth(given, valid, truth, order)
        first = torch.zeros(N, dtype=torch.long)
        results.append((
            ground_truth_selection(joined, allowed, truth, slot, padding, first, 0.5),
            all_pairs(given, valid, truth, CATEGORIES, padding.image, padding, 0.5),
        ))  # fmt: skip
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)
