"""The bulk search against the rule in whole numbers, where rounding can do most harm."""

import numpy as np
import pytest
import torch

from bank import certified_search, exact_search, query_plan
from bank.candidates import find_candidates
from bank.certified_search import Projection, Searcher, certified
from bank.exact_search import lowest
from bank.rounding import STEP, in_steps, rounded
from pipeline.scene import image_of, patch_id

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
    """A photo's patches are of all categories; 'rare' has fewer than K; some files are equal."""
    ids = np.array([patch_id(5 * i, 3 * o) for i in range(num_photos) for o in range(per_photo)])
    names = RANDOM.choice(["cat", "sky"], p=[0.3, 0.7], size=len(ids))
    names[::150] = "rare"
    train = RANDOM.random(len(ids)) < 0.8
    photos = image_of(ids) // 15 * 15 if kind is tied else image_of(ids)
    return rounded(kind(len(ids))), ids, photos, names, train


def by_the_rule(features, ids, photos, names, train, k, scope):
    """Sort all that may be candidates by (other category, distance, id), in whole numbers."""
    steps = np.rint(features.astype(float) / STEP).astype(np.int64)
    rows = []
    for own, photo, name in zip(steps, photos, names, strict=True):
        may = train & (photos != photo)
        other = (names != name) & (scope == "category")
        squared = ((steps - own) ** 2).sum(1)
        order = np.lexsort((ids, squared, other, ~may))[: min(k, may.sum())]
        distances = (np.sqrt(squared[order].astype(float)) * STEP).astype(np.float32)
        rows.append((ids[order].tolist(), distances.tolist(), (names[order] != name).tolist()))
    return rows


@pytest.fixture
def blocks(monkeypatch):
    """Sizes that let a small bank go through every branch."""
    sizes = {"SMALL": 20, "CELLS": 3000, "COLUMNS": 150, "RANKED": 7, "PREPARED": 50, "MARGIN": 2}
    for name, size in sizes.items():
        monkeypatch.setattr(certified_search, name, size)
    for name, size in {"COST": 20_000, "LEAST": 10, "FOUND": 37 * K}.items():
        monkeypatch.setattr(query_plan, name, size)
    monkeypatch.setattr(exact_search, "BLOCK", 3000)
    monkeypatch.setattr(exact_search, "BLOCK_COLUMNS", 128)


@pytest.fixture
def shares(monkeypatch):
    """Queries that were asked by float32, and those that were not certified."""
    counts = [0, 0]
    search = Searcher._search_certified

    def counted(self, neighbours, rows, pool_rows):
        unsure = search(self, neighbours, rows, pool_rows)
        counts[0] += len(rows)
        counts[1] += len(unsure)
        return unsure

    monkeypatch.setattr(Searcher, "_search_certified", counted)
    return counts


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


@pytest.mark.parametrize("kind", [gaussian, in_few_directions, a_step_apart])
def test_nearly_all_are_certified_and_found_as_by_the_exact_search(kind, shares, monkeypatch):
    ids = np.array([patch_id(i, o) for i in range(625) for o in range(4)])
    bank = (rounded(kind(2500)), ids, image_of(ids), ["cat"] * 2500, np.ones(2500, bool))
    found = find_candidates(*bank, k=K)
    assert shares[0] == 2500
    assert shares[1] < (300 if kind is a_step_apart else 10)
    monkeypatch.setattr(certified_search, "SMALL", 2500)
    for mine, exact in zip(found, find_candidates(*bank, k=K), strict=True):
        np.testing.assert_array_equal(mine, exact)
    assert shares[0] == 2500


def test_ties_beyond_the_margin_and_what_float32_cannot_tell_apart_are_not_certified(
    shares, blocks
):
    for kind in (all_equal, a_step_apart_beside_a_far_one):
        shares[:] = 0, 0
        bank = a_bank(kind)
        find_candidates(*bank, k=K)
        assert shares[1] > shares[0] / 3


@pytest.mark.parametrize("kind", KINDS)
def test_distances_of_projections_are_longer_by_rounding_at_most(kind):
    """What a certificate rests on, at its limit: a patch as far as the k-th is never left out."""
    features = rounded(kind(400))
    steps = in_steps(features)
    squared = ((steps[:, None] - steps) ** 2).sum(2)
    projected = Projection(features)(steps)
    asked = -2 * projected
    asked[:, -1] = 1
    lengths = projected[:, -1].double().numpy()
    found = lengths[:, None] + (asked @ projected.T).double().numpy()
    for row in range(400):
        at = np.full(400, np.sqrt(lengths[row]))
        assert not certified(squared[row], found[row], at, projected.shape[1]).any()


def test_the_certificate_allows_for_all_that_rounding_can_do_and_no_more():
    near, length = np.array([4.0]), np.array([100.0])
    bound = np.array([4 + 136 * 2.0**-24 * 202**2])
    assert not certified(near, bound, length, 128)
    assert certified(near, np.nextafter(bound, 9), length, 128)
    nothing = np.array([np.inf])
    assert not certified(nothing, nothing, length, 128)


def test_only_directions_that_matter_are_kept():
    def kept(kind):
        return D - Projection(rounded(kind(500))).rest

    assert [kept(kind) for kind in (in_few_directions, gaussian, all_equal)] == [3, D, 0]


@pytest.mark.parametrize("num_columns", [3, 50, 144, 1300, 1311, 0])
def test_the_lowest_are_those_of_a_sort(num_columns):
    values = torch.from_numpy(RANDOM.integers(0, 300, (20, num_columns)).astype(np.float32))
    found, columns = lowest(values, 9)
    assert torch.equal(found, values.sort(1).values[:, :9])
    assert torch.equal(values.gather(1, columns), found)
    assert all(len(set(row)) == len(row) for row in columns.tolist())
