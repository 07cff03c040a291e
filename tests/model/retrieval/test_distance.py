"""Distances by hand, at 0 as well."""

import torch

from model.retrieval.distance import between, distances


def test_distances_to_a_query_and_between_two_sets_are_those_of_l2():
    """Of two images, each with its own."""
    query = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    features = torch.tensor(
        [[[[3.0, 4.0], [0.0, 2.0]]], [[[1.0, 1.0], [4.0, 5.0]]]]
    )  # (2, 1, 2, 2)
    assert distances(query, features).tolist() == [[[5, 2]], [[0, 5]]]
    left = torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]]])
    assert between(left, features[:, 0]).tolist() == [[[5, 2]], [[0, 5]]]


def test_a_distance_of_0_has_a_gradient_of_0():
    """At which l2 distance has none: a query that is one of the features."""
    feature = torch.randn(1, 4, requires_grad=True)
    for nearby in (distances(feature, feature[:, None]), between(feature[None], feature[None])):
        (gradient,) = torch.autograd.grad(nearby.sum(), feature)
        assert not gradient.any()
        assert not nearby.any()


def test_equal_features_lie_at_distance_0_however_large_and_many_they_are():
    """By matrix products, which cdist takes from 26 on, they lie 0.09 apart at 10."""
    equal = (10 + torch.randn(20, 1, 64)).expand(20, 30, 64)
    assert not between(equal, equal).any()
    assert not distances(equal[:, 0], equal).any()
