import numpy as np
import pytest

from bank import exact_search as exact
from bank import query_plan
from bank.candidates import (
    Candidates,
    find_candidates,
    join_candidates,
    read_candidates,
    search_block,
    write_candidates,
)
from bank.errors import BankError
from bank.exact_search import PADDING, Pool, exact_search
from bank.pools import pools_by_category
from bank.query_plan import QueryPlan, plan_queries
from bank.rounding import STEP, in_steps, rounded
from pipeline.scene import image_of, patch_id

D = 5


def a_bank(num_photos=40, per_photo=4, categories=("cat", "dog", "sky"), seed=0):
    """Coarse features, so that many distances tie, and each photo's patches nearly alike."""
    random = np.random.default_rng(seed)
    ids = np.array([patch_id(7 * i, o) for i in range(num_photos) for o in range(per_photo)])
    photos = random.normal(size=(num_photos, D)).round().repeat(per_photo, axis=0)
    features = rounded(photos + random.integers(-1, 2, size=photos.shape) / 8)
    names = random.choice(categories, size=len(ids))
    train = ids >> 16 < 7 * num_photos * 3 // 4
    return features, ids, image_of(ids), names, train


def by_hand(features, ids, photos, names, train, k, scope="category"):
    """The rule spelled out, one patch at a time."""
    rows = []
    name_of = dict(zip(ids.tolist(), names, strict=True))
    for f, own, name in zip(features, photos, names, strict=True):
        ranked = sorted(
            (scope == "category" and str(n) != str(name), float(((g - f) ** 2).sum()), int(i))
            for g, i, p, n, t in zip(features.astype(float), ids, photos, names, train, strict=True)
            if t and p != own
        )
        rows.append([(str(name_of[i]) != str(name), d, i) for _, d, i in ranked[:k]])
    return rows


@pytest.mark.parametrize("scope", ["category", "all"])
def test_candidates_follow_the_rule_in_every_place(scope):
    bank = a_bank()
    found = find_candidates(*bank, k=9, scope=scope)
    for row, expected in enumerate(by_hand(*bank, k=9, scope=scope)):
        assert found.ids[row].tolist() == [i for _, _, i in expected]
        assert found.fallback[row].tolist() == [other for other, _, _ in expected]
        squared = [d for _, d, _ in expected]
        np.testing.assert_allclose(found.distances[row], np.sqrt(squared), rtol=1e-6)
    assert found.valid.all()


def test_small_blocks_find_what_one_block_finds(monkeypatch):
    bank = a_bank(seed=3)
    whole = find_candidates(*bank, k=6)
    monkeypatch.setattr(exact, "BLOCK", 21)
    monkeypatch.setattr(exact, "BLOCK_COLUMNS", 7)
    for one, other in zip(whole, find_candidates(*bank, k=6), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_patch_of_the_own_photo_is_never_offered_however_well_it_matches():
    features = rounded(np.array([[0.0] * D, [0.0] * D, [9.0] * D, [5.0] * D]))
    ids = np.array([patch_id(1, 0), patch_id(1, 1), patch_id(2, 0), patch_id(3, 0)])
    found = find_candidates(features, ids, image_of(ids), ["cat"] * 4, np.ones(4, dtype=bool), k=3)
    assert found.ids[0].tolist() == [ids[3], ids[2], PADDING]


def test_equal_distances_end_in_the_order_of_their_ids():
    ids = np.array([patch_id(i, 0) for i in (10, 30, 50, 70, 90)])
    features = rounded(np.zeros((5, D)))
    found = find_candidates(features, ids, image_of(ids), ["cat"] * 5, np.ones(5, dtype=bool), k=3)
    assert (found.ids[0] >> 16).tolist() == [30, 50, 70]


def test_only_training_patches_are_offered_but_all_ask():
    features, ids, photos, names, train = a_bank()
    found = find_candidates(features, ids, photos, names, train, k=5)
    assert len(found.ids) == len(ids)
    assert set(found.ids[found.valid].tolist()) <= set(ids[train].tolist())


def test_a_category_with_too_few_patches_is_filled_from_the_others_and_says_so():
    ids = np.array([patch_id(i, 0) for i in range(1, 6)])
    features = rounded(np.array([0, 1, 100, 2, 3])[:, None] * np.ones((1, D)))
    names = ["cat", "dog", "cat", "dog", "dog"]
    found = find_candidates(features, ids, image_of(ids), names, np.ones(5, dtype=bool), k=3)
    assert (found.ids[0] >> 16).tolist() == [3, 2, 4]  # the far cat comes before the near dogs
    assert found.fallback[0].tolist() == [False, True, True]


def test_a_bank_of_one_photo_gives_only_padding():
    ids = np.array([patch_id(1, o) for o in range(3)])
    ones, photos = np.ones(3, bool), image_of(ids)
    found = find_candidates(rounded(np.zeros((3, D))), ids, photos, ["cat"] * 3, ones, k=2)
    assert not found.valid.any()
    assert (found.ids == PADDING).all()
    assert np.isinf(found.distances).all()


def test_equal_files_under_several_ids_are_one_photo():
    features = rounded(np.array([[0.0] * D, [0.0] * D, [9.0] * D, [5.0] * D]))
    ids = np.array([patch_id(i, 0) for i in (1, 2, 3, 4)])
    photos = np.array([1, 1, 3, 1])  # 1, 2 and 4 are the same file
    for scope in ("category", "all"):
        for names in (["cat"] * 4, ["cat", "dog", "cat", "dog"]):
            found = find_candidates(features, ids, photos, names, np.ones(4, bool), 3, scope)
            assert (found.ids[[0, 1, 3]] == [ids[2], PADDING, PADDING]).all()
            assert found.valid[2].all()


def test_an_empty_bank_is_refused():
    features, ids, photos, names, _ = a_bank()
    with pytest.raises(BankError, match="bank is empty"):
        find_candidates(features, ids, photos, names, np.zeros(len(ids), dtype=bool), k=2)


def test_distances_are_exact_far_from_the_origin():
    far = rounded(np.array([[3000.0, 0, 0, 0, 0]]))
    pool = rounded(np.array([[3000.0, 2**-11, 0, 0, 0], [3000.0, 2**-12, 0, 0, 0]]))
    found = exact_search(in_steps(far), Pool(np.array([1, 2]), pool), k=2)
    assert found.ids.tolist() == [[2, 1]]
    assert found.squared.tolist() == [[1.0, 4.0]]


def test_distances_are_exact_between_the_longest_vectors_at_opposite_ends():
    values = np.zeros((60, D))
    values[:, 0] = np.repeat([-8191.75, 8191.75], 30)
    values[:, 1] = np.random.default_rng(0).integers(-9, 10, 60) * STEP
    steps = in_steps(rounded(values))
    found = exact_search(steps, Pool(np.arange(60), rounded(values)), k=60)
    for query, ids, squared in zip(steps.astype(int), found.ids, found.squared, strict=True):
        apart = [sum(int(x) ** 2 for x in row - query) for row in steps.astype(int)]
        order = sorted(range(60), key=lambda place: (apart[place], place))
        assert ids.tolist() == order
        assert squared.tolist() == [apart[place] for place in order]


def test_features_too_long_for_exact_distances_are_refused():
    with pytest.raises(BankError, match="damaged"):
        in_steps(np.full((1, D), 1e5, dtype=np.float32))
    with pytest.raises(BankError, match="damaged"):
        in_steps(np.full((1, D), np.nan, dtype=np.float32))


def test_an_exact_search_of_any_length_of_vectors_is_that_of_whole_numbers(monkeypatch):
    monkeypatch.setattr(exact, "BLOCK", 21)
    random = np.random.default_rng(1)
    for longest in (2.0**-10, 1, 2.0**11, 2.0**13):  # the last leaves room for two columns at once
        features = random.integers(-2, 3, (90, D)) * 2.0**-12
        features[:, 0] = random.choice([-1, 1], 90) * (longest - 0.01)
        steps = in_steps(rounded(features))
        found = exact_search(steps, Pool(np.arange(90), rounded(features)), k=40)
        squared = ((steps[:, None] - steps).astype(np.int64) ** 2).sum(2)
        expected = squared.argsort(axis=1, kind="stable")[:, :40]
        assert (found.ids == expected).all()
        assert (found.squared == np.take_along_axis(squared, expected, axis=1)).all()


def test_what_a_query_may_not_be_given_is_left_out_of_an_exact_search(monkeypatch):
    monkeypatch.setattr(exact, "BLOCK_COLUMNS", 4)
    pool = Pool(np.arange(10), rounded(np.arange(10.0)[:, None]))
    queries, barred = in_steps(pool.features[[0, 5]]), (np.array([1] * 8), np.arange(2, 10))
    found = exact_search(queries, pool, 3, barred)
    assert found.ids.tolist() == [[0, 1, 2], [1, 0, PADDING]]
    assert np.isinf(found.squared[1, 2])


def test_candidates_come_back_from_their_file_as_they_were(tmp_path):
    features, ids, photos, names, train = a_bank(num_photos=6)
    found = find_candidates(features, ids, photos, names, train, k=30)
    assert not found.valid.all()
    write_candidates(tmp_path / "candidates.arrow", ids, found)
    read_ids, read = read_candidates(tmp_path / "candidates.arrow")
    assert isinstance(read, Candidates)
    for one, other in zip((ids, *found), (read_ids, *read), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert [p.name for p in tmp_path.iterdir()] == ["candidates.arrow"]


def test_a_candidates_file_that_is_none_is_a_bank_error(tmp_path):
    (tmp_path / "candidates.arrow").write_bytes(b"not arrow")
    with pytest.raises(BankError, match="build the bank again"):
        read_candidates(tmp_path / "candidates.arrow")
    with pytest.raises(BankError, match="unfinished"):
        read_candidates(tmp_path / "nothing.arrow")


def test_scope_all_marks_what_is_of_another_category():
    ids = np.array([patch_id(image, 0) for image in range(5)])
    names = ["cat", "dog", "cat", "dog", "cat"]
    features = rounded(np.arange(5.0)[:, None])
    found = find_candidates(features, ids, image_of(ids), names, np.ones(5, dtype=bool), 6, "all")
    assert (found.ids[0] >> 16).tolist()[:4] == [1, 2, 3, 4]
    assert found.fallback[0].tolist() == [True, False, True, False, False, False]


def test_a_candidates_file_with_a_byte_lost_is_read_whole_or_a_bank_error(tmp_path):
    features, ids, photos, names, train = a_bank(num_photos=2, per_photo=2)
    path = tmp_path / "candidates.arrow"
    write_candidates(path, ids, find_candidates(features, ids, photos, names, train, k=2))
    whole = path.read_bytes()
    refused = 0
    for place in np.flatnonzero(np.frombuffer(whole, np.uint8)):
        path.write_bytes(whole[:place] + b"\0" + whole[place + 1 :])
        try:
            read_ids, read = read_candidates(path)
            assert {rows.shape for rows in read} == {(len(read_ids), read.ids.shape[1])}
        except BankError:
            refused += 1
    assert refused > 50


def a_plan(k=6, scope="category", seed=4, **kwargs):
    """A bank in which many categories have fewer than `k`, and its plan."""
    features, ids, photos, names, train = a_bank(
        categories=["cat", "dog", "sky", *map(str, range(12))], seed=seed, **kwargs
    )
    names = np.where(ids >> 16 > 240, "never trained", names)
    different, codes = np.unique(names, return_inverse=True)
    pools = pools_by_category(ids, different.tolist(), codes, train)
    return plan_queries(pools, photos, k, scope), (features, ids, photos, names, train)


def smaller(monkeypatch, cost=1000, least=5, found=200):
    for name, value in {"COST": cost, "LEAST": least, "FOUND": found}.items():
        monkeypatch.setattr(query_plan, name, value)


@pytest.mark.parametrize("scope", ["category", "all"])
@pytest.mark.parametrize("found", [6, 60, 200])
def test_blocks_of_any_size_find_what_one_block_finds(monkeypatch, tmp_path, scope, found):
    plan, bank = a_plan(scope=scope)
    whole = find_candidates(*bank, k=6, scope=scope)
    assert len(plan.blocks) == (1 if scope == "all" else 2)
    smaller(monkeypatch, found=found)
    plan, _ = a_plan(scope=scope)
    assert len(plan.blocks) >= len(bank[1]) // (found // 6)
    plan.save(tmp_path / "plan")
    plan = QueryPlan.open(tmp_path / "plan")
    for start, stop in plan.blocks:
        some = search_block(plan, Pool(bank[1], bank[0]), start, stop)
        for mine, expected in zip(some, whole, strict=True):
            np.testing.assert_array_equal(mine, expected[plan.queries[start:stop]])


def test_a_plan_comes_back_from_its_files_as_it_was(tmp_path, monkeypatch):
    smaller(monkeypatch)
    plan, _ = a_plan()
    plan.save(tmp_path / "plan")
    read = QueryPlan.open(tmp_path / "plan")
    assert (read.blocks, read.k, read.scope) == (plan.blocks, plan.k, plan.scope)
    assert (read.num_own, read.pools.names) == (plan.num_own, plan.pools.names)
    arrays = [(p.photos, p.training, p.queries, *p.pools[1:]) for p in (plan, read)]
    for mine, theirs in zip(*arrays, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    assert isinstance(read.queries, np.memmap)


def test_every_patch_asks_once_and_no_block_mixes_those_of_any_category(monkeypatch):
    smaller(monkeypatch)
    plan, bank = a_plan()
    assert sorted(plan.queries.tolist()) == list(range(len(bank[1])))
    ends = [0, *(stop for _, stop in plan.blocks)]
    assert [start for start, _ in plan.blocks] == ends[:-1]
    assert ends[-1] == len(bank[1])
    assert 0 < plan.num_own < len(bank[1])
    assert plan.num_own in ends


@pytest.mark.parametrize("seed", range(20))
def test_which_patches_get_some_of_another_category_is_known_beforehand(seed):
    random = np.random.default_rng(seed)
    size = {"num_photos": int(random.integers(40, 60)), "per_photo": int(random.integers(1, 9))}
    plan, bank = a_plan(int(random.integers(1, 40)), seed=seed, **size)
    photos = bank[2] // random.integers(1, 30)  # some are equal files
    plan = plan_queries(plan.pools, photos, plan.k, "category")
    features, ids, _, names, train = bank
    own = [
        int((train & (names == name) & (photos != photo)).sum())
        for name, photo in zip(names, photos, strict=True)
    ]
    short = np.flatnonzero(np.array(own) < plan.k)
    assert sorted(plan.queries[plan.num_own :].tolist()) == short.tolist()
    found = find_candidates(features, ids, photos, names, train, plan.k)
    unfilled = found.fallback.any(1) | ~found.valid.all(1)
    assert np.flatnonzero(unfilled).tolist() == short.tolist()


def test_a_plan_is_the_same_whatever_the_numbers_of_the_categories(monkeypatch):
    smaller(monkeypatch)
    plan, (_, ids, photos, names, train) = a_plan()
    different, codes = np.unique(names, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(different))
    renamed, recoded = different[order].tolist(), np.argsort(order)[codes]
    again = plan_queries(
        pools_by_category(ids, [*renamed, "of no patch"], recoded, train), photos, 6, "category"
    )
    assert again.blocks == plan.blocks
    assert again.pools.names == plan.pools.names == sorted(set(names[train]))
    np.testing.assert_array_equal(again.queries, plan.queries)
    np.testing.assert_array_equal(again.pools.rows, plan.pools.rows)


def test_pools_hold_the_training_patches_of_a_category_by_their_ids():
    plan, (_, _, _, names, train) = a_plan()
    for code, name in enumerate(plan.pools.names):
        expected = np.flatnonzero(train & (names == name))
        assert plan.pools.pool(code).tolist() == expected.tolist()
        assert (plan.pools.codes[expected] == code).all()
    none = len(plan.pools.names)
    assert plan.pools.codes[names == "never trained"].tolist() == [none] * 20
    assert not len(plan.pools.pool(none))


def test_blocks_cost_about_the_same_within_their_bounds(monkeypatch):
    smaller(monkeypatch, cost=1000, least=5)
    costs = np.repeat([0, 1, 20, 50, 10_000], [300, 300, 300, 300, 23])
    blocks = query_plan.cut(costs, 100)
    sizes = [stop - start for start, stop in blocks]
    inside = [costs[start:stop] for start, stop in blocks]
    assert sum(sizes) == len(costs)
    assert max(sizes) == 100
    assert all(some.sum() <= 1000 for some in inside if some.max() < 200)
    assert [len(some) for some in inside if some.min() == 10_000] == [5, 5, 5, 5, 3]
    assert sum(some.sum() >= 900 for some in inside if some.max() == 50) >= 14
    assert query_plan.cut(np.zeros(600, np.int64), 300) == [(0, 250), (250, 500), (500, 600)]
    assert query_plan.cut(np.zeros(0, np.int64), 100) == []


@pytest.mark.parametrize("seed", [0, 1])
def test_parts_in_any_order_become_the_file_that_is_written_at_once(tmp_path, monkeypatch, seed):
    smaller(monkeypatch)
    plan, bank = a_plan()
    ids = bank[1]
    write_candidates(tmp_path / "whole.arrow", ids, find_candidates(*bank, k=6))
    parts = []
    for start, stop in plan.blocks:
        part = tmp_path / f"part-{start}.arrow"
        some = search_block(plan, Pool(ids, bank[0]), start, stop)
        write_candidates(part, ids[plan.queries[start:stop]], some)
        parts.append(part)
    np.random.default_rng(seed).shuffle(parts)
    join_candidates(tmp_path / "joined.arrow", ids, 6, parts)
    assert (tmp_path / "joined.arrow").read_bytes() == (tmp_path / "whole.arrow").read_bytes()
    assert {p.name for p in tmp_path.glob("joined*")} == {"joined.arrow"}
    with pytest.raises(ValueError, match="of 160 patches"):
        join_candidates(tmp_path / "joined.arrow", ids, 6, parts[1:])
