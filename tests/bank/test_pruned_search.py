"""The bulk search against the rule in whole numbers, where rounding can do most harm."""

import numpy as np
import pytest
import torch

from bank import pruned_search
from bank.candidates import find_candidates
from bank.pruned_search import Searcher, lowest, make_lower_bounds
from bank.rounding import STEP, in_steps, rounded
from pipeline.scene import patch_id

D, K = 16, 7
RANDOM = np.random.default_rng(0)


def gaussian(n):
    return RANDOM.normal(size=(n, D))


def in_few_directions(n):
    """Nearly flat: a coarse bound holds all but a little."""
    return (RANDOM.normal(size=(n, 4)) * [1, 1, 1, 0.01]) @ RANDOM.normal(size=(4, D))


def tied(n):
    return RANDOM.integers(0, 2, (n, D)).astype(float)


def duplicated(n):
    return gaussian(4).repeat(n // 4, axis=0)


def all_equal(n):
    return np.full((n, D), 3.25)


def a_step_apart(n):
    """Far from the origin and next to one another."""
    return 1000 + RANDOM.integers(-3, 4, (n, D)) * STEP


def a_step_apart_beside_a_far_one(n):
    """Centring does not help: float32 holds their coordinates, not their squares."""
    values = RANDOM.integers(-3, 4, (n, D)) * STEP
    values[: n // 2, 0] += 8000
    return values


def of_all_lengths(n):
    values = gaussian(n) * 10.0 ** RANDOM.uniform(-4, 3, (n, 1))
    return values * np.minimum(1, 8000 / np.linalg.norm(values, axis=1, keepdims=True))


KINDS = [
    gaussian,
    in_few_directions,
    tied,
    duplicated,
    all_equal,
    a_step_apart,
    a_step_apart_beside_a_far_one,
    of_all_lengths,
]


def a_bank(kind, num_photos=60, per_photo=10):
    """Patches in no order; a photo's are of all categories; 'rare' has fewer than K."""
    ids = np.array([patch_id(5 * i, 3 * o) for i in range(num_photos) for o in range(per_photo)])
    names = RANDOM.choice(["cat", "sky"], p=[0.3, 0.7], size=len(ids))
    names[::150] = "rare"
    train = RANDOM.random(len(ids)) < 0.8
    order = RANDOM.permutation(len(ids))
    return rounded(kind(len(ids))), ids[order], names[order], train[order]


def by_the_rule(features, ids, names, train, k, scope):
    """Sort all that may be candidates by (other category, distance, id), in whole numbers."""
    steps = np.rint(features.astype(float) / STEP).astype(np.int64)
    rows = []
    for own, own_id, name in zip(steps, ids, names, strict=True):
        may = train & (ids >> 16 != own_id >> 16)
        other = (names != name) & (scope == "category")
        squared = ((steps - own) ** 2).sum(1)
        order = np.lexsort((ids, squared, other, ~may))[: min(k, may.sum())]
        distances = (np.sqrt(squared[order].astype(float)) * STEP).astype(np.float32)
        rows.append((ids[order].tolist(), distances.tolist(), (names[order] != name).tolist()))
    return rows


@pytest.fixture
def blocks(monkeypatch):
    """Sizes that let a small bank go through every branch."""
    for name, size in {"SMALL": 20, "CELLS": 3000, "COLUMNS": 150, "ROWS": 7}.items():
        monkeypatch.setattr(pruned_search, name, size)
    monkeypatch.setattr(pruned_search, "PREPARED", 50)
    monkeypatch.setattr(pruned_search, "MARGIN", 2)


@pytest.mark.parametrize("scope", ["category", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_found_is_the_rule_bit_for_bit(kind, scope, blocks):
    bank = a_bank(kind)
    found = find_candidates(*bank, k=K, scope=scope)
    assert found.valid.all()
    mine = zip(found.ids.tolist(), found.distances.tolist(), found.fallback.tolist(), strict=True)
    assert list(mine) == by_the_rule(*bank, K, scope)


def test_a_bank_of_few_photos_of_many_patches_offers_what_other_photos_have(blocks):
    bank = a_bank(gaussian, num_photos=2, per_photo=80)
    found = find_candidates(*bank, k=100)
    for row, (ids, distances, _) in enumerate(by_the_rule(*bank, 100, "category")):
        assert found.ids[row, : len(ids)].tolist() == ids
        assert found.distances[row, : len(ids)].tolist() == distances
        assert not found.valid[row, len(ids) :].any()


def test_the_default_sizes_find_what_the_exact_search_finds(monkeypatch):
    ids = np.array([patch_id(i, o) for i in range(1500) for o in range(4)])
    bank = (rounded(in_few_directions(6000)), ids, ["cat"] * 6000, np.ones(6000, bool))
    asked = []
    search_by_bound = Searcher._search_by_bound
    monkeypatch.setattr(
        Searcher,
        "_search_by_bound",
        lambda self, number, rows, *rest: (
            asked.append((number, len(rows))) or search_by_bound(self, number, rows, *rest)
        ),
    )
    found = find_candidates(*bank, k=K)
    assert sum(rows for number, rows in asked if number == 0) == 6000  # by the coarse bound
    assert sum(rows for number, rows in asked if number) < 60
    monkeypatch.setattr(pruned_search, "SMALL", 6000)
    asked.clear()
    for mine, exact in zip(found, find_candidates(*bank, k=K), strict=True):
        np.testing.assert_array_equal(mine, exact)
    assert not asked


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_are_never_above_the_distance_and_close_to_it(kind):
    steps = in_steps(rounded(kind(400)))
    squared = ((steps[:, None] - steps) ** 2).sum(2)
    for bound in make_lower_bounds(steps):
        bounds = bound.of_queries(steps) @ bound.of_patches(steps).T
        assert (bounds.double().numpy() <= squared).all()
        if bound.dims == D:
            longest = ((steps - bound.centre.numpy()) ** 2).sum(1).max()
            assert (squared - bounds.double().numpy()).max() <= 1e-4 * longest


def test_only_features_of_few_directions_get_a_coarse_bound():
    def dims(kind):
        return [s.dims for s in make_lower_bounds(in_steps(rounded(kind(500))))]

    assert dims(in_few_directions) == [3, D]
    assert dims(gaussian) == [D]
    assert dims(all_equal) == [0, D]


@pytest.mark.parametrize("num_columns", [3, 50, 1300, 1311, 0])
def test_the_lowest_are_those_of_a_sort(num_columns):
    values = torch.from_numpy(RANDOM.integers(0, 300, (20, num_columns)).astype(np.float32))
    found, columns = lowest(values, 9)
    assert torch.equal(found.sort(1).values, values.sort(1).values[:, :9])
    assert torch.equal(values.gather(1, columns), found)
    assert all(len(set(row)) == len(row) for row in columns.tolist())
