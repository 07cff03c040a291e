import errno
import json
import os
import pickle
import shutil

import numpy as np
import pytest

from bank import index as module
from bank.candidates import find_candidates
from bank.errors import BankError
from bank.exact_search import Pool
from bank.index import Indexes, build_indexes, join_index, plan_index, write_index_block
from bank.pools import pools_by_category
from bank.rounding import rounded
from pipeline.scene import image_of, patch_id

D, K = 6, 5
DIGEST = "ab" * 32


@pytest.fixture(params=["faiss", "torch"])
def engine(request, monkeypatch):
    """With FAISS, and as where it is not installed."""
    if request.param == "torch":
        monkeypatch.setattr(module, "faiss", None)
    else:
        pytest.importorskip("faiss")
    return request.param


def a_bank(num_photos=240, seed=0, ties=False):
    random = np.random.default_rng(seed)
    ids = np.array([patch_id(3 * i, o) for i in range(num_photos) for o in (0, 2)])
    features = random.normal(size=(len(ids), D)) * 4 + 50
    names = random.choice(["bird", "sea", "rock"], p=[0.6, 0.39, 0.01], size=len(ids))
    return rounded(features.round() if ties else features), ids, names


def indexes(folder, bank, digest=DIGEST):
    build_indexes(folder / "index", *bank, digest)
    return Indexes.open(folder / "index", digest)


@pytest.mark.parametrize("ties", [False, True])
def test_the_index_finds_what_the_exact_search_finds(tmp_path, engine, ties):
    features, ids, names = bank = a_bank(ties=ties)
    expected = find_candidates(features, ids, image_of(ids), names, np.ones(len(ids), bool), K)
    opened = indexes(tmp_path, bank)
    assert expected.fallback.any()
    for row in [*range(0, len(ids), 23), int(np.flatnonzero(names == "rock")[0])]:
        one = slice(row, row + 1)
        found = opened.search(features[one], names[one], K, exclude_images=[ids[row] >> 16])
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine[0], theirs[row])


@pytest.mark.parametrize("ties", [False, True])
def test_with_scope_all_it_finds_what_the_exact_search_finds(tmp_path, engine, ties):
    features, ids, names = bank = a_bank(ties=ties)
    expected = find_candidates(
        features, ids, image_of(ids), names, np.ones(len(ids), bool), K, "all"
    )
    opened = indexes(tmp_path, bank)
    assert 0 < expected.fallback.mean() < 1
    for row in range(0, len(ids), 23):
        one, own = slice(row, row + 1), [ids[row] >> 16]
        found = opened.search(features[one], names[one], K, own, scope="all")
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine[0], theirs[row])


def test_faiss_is_what_proposes_where_it_is_installed(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    opened = indexes(tmp_path, bank := a_bank())
    monkeypatch.setattr(module, "exact_search", None)  # exact search would be a call of None
    found = opened.search(bank[0][:4] + 0.25, ["bird"] * 4, K)
    assert found.valid.all()


def test_many_queries_at_once_find_what_each_finds_alone(tmp_path, engine):
    features, _, names = bank = a_bank()
    opened = indexes(tmp_path, bank)
    together = opened.search(features[:40], names[:40], K)
    for row in range(40):
        alone = opened.search(features[row : row + 1], names[row : row + 1], K)
        assert together.ids[row].tolist() == alone.ids[0].tolist()


def test_excluded_photos_are_not_offered_however_well_they_match(tmp_path, engine):
    features, ids, names = bank = a_bank()
    opened = indexes(tmp_path, bank)
    wanted = opened.search(features[:1], names[:1], K)
    photos = [int(i) >> 16 for i in wanted.ids[0, :3]]
    found = opened.search(features[:1], names[:1], K, exclude_images=photos)
    assert wanted.ids[0, 0] == ids[0]
    assert not {int(i) >> 16 for i in found.ids[0]} & set(photos)
    assert found.ids[0, :2].tolist() == wanted.ids[0, 3:].tolist()


def test_a_category_the_bank_does_not_have_falls_back_to_the_nearest_of_all(tmp_path, engine):
    features, ids, _ = bank = a_bank()
    found = indexes(tmp_path, bank).search(features[7:8], ["unicorn"], K)
    assert found.ids[0, 0] == ids[7]
    assert found.fallback.all()
    assert found.valid.all()


def test_equal_distances_of_different_categories_end_in_the_order_of_their_ids(tmp_path, engine):
    features, ids, names = a_bank()
    opened = indexes(tmp_path, (np.zeros_like(features), ids, names))
    found = opened.search(np.zeros((1, D), np.float32), ["unicorn"], K)
    assert found.ids[0].tolist() == sorted(ids.tolist())[:K]


def test_what_float32_cannot_tell_apart_is_ranked_exactly(tmp_path, engine):
    random = np.random.default_rng(0)
    ids = np.array([patch_id(i, 0) for i in range(400)])
    place = np.zeros((400, D))
    place[:, 0] = 4000.0  # whose square in float32 swallows what the second place adds
    place[:, 1] = random.permutation(400) * 2.0**-12
    found = indexes(tmp_path, (rounded(place), ids, ["bird"] * 400)).search(
        np.zeros((1, D), np.float32), ["bird"], K
    )
    assert found.ids[0].tolist() == ids[np.argsort(place[:, 1])[:K]].tolist()


def test_more_candidates_than_patches_are_padded(tmp_path, engine):
    bank = a_bank(num_photos=3)
    found = indexes(tmp_path, bank).search(bank[0][:2], bank[2][:2], k=8)
    assert found.valid.sum(1).tolist() == [6, 6]
    assert (found.ids[:, 6:] == -1).all()


def test_an_index_opens_only_with_its_own_bank(tmp_path, engine):
    indexes(tmp_path, a_bank())
    with pytest.raises(BankError, match="built for the bank with content digest abab"):
        Indexes.open(tmp_path / "index", "cd" * 32)


def test_a_missing_or_damaged_index_is_a_bank_error(tmp_path):
    with pytest.raises(BankError, match="no index at"):
        Indexes.open(tmp_path / "index", DIGEST)
    indexes(tmp_path, a_bank(num_photos=3))
    ids = tmp_path / "index" / "ids.npy"
    start = ids.read_bytes()[:10]
    headers = (
        b"{",
        b"  1\n 2 (",  # a line too far to the left, as Python has it
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (%d,)}" % 10**30,
    )
    for damaged in (b"", b"\x80nothing", *(start + header.ljust(118) for header in headers)):
        ids.write_bytes(damaged)
        with pytest.raises(BankError, match="is damaged"):
            Indexes.open(tmp_path / "index", DIGEST)


@pytest.mark.parametrize(
    "about",
    [
        [],
        {"format": 2},
        {"format": 2, "bank": DIGEST},
        {"format": 2, "bank": DIGEST, "categories": 3},
        {"format": 2, "bank": DIGEST, "categories": {"bird": {"start": 0}}},
        {"format": 2, "bank": DIGEST, "categories": {"bird": 3}},
    ],
)
def test_an_index_json_of_another_form_is_a_bank_error(tmp_path, about):
    indexes(tmp_path, a_bank(num_photos=3))
    (tmp_path / "index" / "index.json").write_text(json.dumps(about))
    with pytest.raises(BankError, match="build the bank again"):
        Indexes.open(tmp_path / "index", DIGEST)


def test_an_empty_bank_has_an_index_that_refuses_to_search(tmp_path, engine):
    empty = (np.zeros((0, D), np.float32), np.zeros(0, np.int64), [])
    with pytest.raises(BankError, match="empty"):
        indexes(tmp_path, empty).search(np.zeros((1, D), np.float32), ["bird"], K)


def test_an_index_travels_to_another_process_as_its_path(tmp_path, engine):
    opened = indexes(tmp_path, bank := a_bank())
    sent = pickle.dumps(opened)
    assert len(sent) < 1000
    mine, theirs = (i.search(bank[0][:3], bank[2][:3], K) for i in (opened, pickle.loads(sent)))
    np.testing.assert_array_equal(mine.ids, theirs.ids)


def test_building_again_replaces_the_index_and_gives_the_same_bytes(tmp_path, engine):
    def contents():
        return {p.name: p.read_bytes() for p in (tmp_path / "index").iterdir()}

    indexes(tmp_path, a_bank(seed=1), "cd" * 32)
    indexes(tmp_path, a_bank())
    first = contents()
    order = np.random.default_rng(5).permutation(480)
    indexes(tmp_path, tuple(part[order] for part in a_bank()))
    assert contents() == first
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def a_large_category(num_photos=1500, seed=0):
    """3,000 birds in few directions and 30 rocks."""
    random = np.random.default_rng(seed)
    ids = np.array([patch_id(3 * i, o) for i in range(num_photos) for o in (0, 2)])
    features = random.normal(size=(len(ids), 3)) @ random.normal(size=(3, D)) + 50
    names = np.where(np.arange(len(ids)) % 100 == 7, "rock", "bird")
    return rounded(features), ids, names


def ivf_indexes(folder, bank):
    pytest.importorskip("faiss")
    build_indexes(folder / "index", *bank, DIGEST, ivf_above=1000)
    return Indexes.open(folder / "index", DIGEST)


def test_a_large_category_gets_an_inverted_file_whose_recall_is_measured(tmp_path):
    opened = ivf_indexes(tmp_path, a_large_category())
    about = json.loads((tmp_path / "index" / "index.json").read_text())["categories"]
    bird, rock = about["bird"], about["rock"]
    assert (rock["kind"], rock["size"], rock["nlist"], rock["recall"]) == ("flat", 30, None, 1)
    assert (bird["kind"], bird["size"], bird["nlist"]) == ("ivf", 2970, 108)
    assert module.FIRST_PROBES <= bird["nprobe"] < 108
    assert 0.99 <= bird["recall"] <= 1
    assert opened.parts["bird"].recall == bird["recall"]


def test_what_an_inverted_file_gives_is_nearly_always_the_nearest(tmp_path):
    features, ids, names = bank = a_large_category()
    expected = find_candidates(features, ids, image_of(ids), names, np.ones(len(ids), bool), K)
    opened = ivf_indexes(tmp_path, bank)
    same = []
    for row in range(0, len(ids), 29):
        one = slice(row, row + 1)
        found = opened.search(features[one], names[one], K, exclude_images=[ids[row] >> 16])
        assert found.valid.all()
        same.append(np.isin(expected.ids[row], found.ids[0]).mean())
        known = np.isin(found.ids[0], expected.ids[row])
        assert set(found.distances[0, known]) <= set(expected.distances[row])
        assert (np.diff(found.distances[0]) >= 0).all()
    assert np.mean(same) > 0.98


def test_fewer_than_wanted_in_the_cells_looked_into_means_an_exact_search(tmp_path):
    features, ids, names = bank = a_large_category()
    opened = ivf_indexes(tmp_path, bank)
    found = opened.search(features[:2], names[:2], 2500)
    assert found.valid.all()
    assert not found.fallback.any()
    steps = features[names == "bird"].astype(np.float64)
    squared = ((steps - features[0].astype(np.float64)) ** 2).sum(1)
    order = np.lexsort((ids[names == "bird"], squared))
    assert found.ids[0].tolist() == ids[names == "bird"][order[:2500]].tolist()


def test_an_inverted_file_offers_no_excluded_photo(tmp_path):
    features, _, names = bank = a_large_category()
    opened = ivf_indexes(tmp_path, bank)
    wanted = opened.search(features[:1], names[:1], 40)
    photos = [int(i) >> 16 for i in wanted.ids[0]]
    found = opened.search(features[:1], names[:1], K, exclude_images=photos)
    assert found.valid.all()
    assert not {int(i) >> 16 for i in found.ids[0]} & set(photos)


def test_an_inverted_file_has_the_same_bytes_whatever_the_threads(tmp_path):
    faiss = pytest.importorskip("faiss")
    random = np.random.default_rng(0)
    features = rounded(random.normal(size=(5000, 128)) + 5)  # 2 threads do round otherwise
    bank = (features, np.array([patch_id(i, 0) for i in range(5000)]), ["bird"] * 5000)
    order = random.permutation(5000)
    before = faiss.omp_get_max_threads()
    found = []
    try:
        for threads, rows in ((1, slice(None)), (2, order)):
            faiss.omp_set_num_threads(threads)
            ivf_indexes(tmp_path, (bank[0][rows], bank[1][rows], bank[2]))
            assert faiss.omp_get_max_threads() == threads
            found.append({p.name: p.read_bytes() for p in (tmp_path / "index").iterdir()})
    finally:
        faiss.omp_set_num_threads(before)
    assert found[0] == found[1]


@pytest.mark.parametrize(("wanted", "nprobe"), [(0.0, 1), (1.1, 108)])
def test_cells_are_added_until_the_recall_is_reached(tmp_path, monkeypatch, wanted, nprobe):
    monkeypatch.setattr(module, "RECALL", wanted)
    monkeypatch.setattr(module, "FIRST_PROBES", 1)
    bird = ivf_indexes(tmp_path, a_large_category()).parts["bird"]
    assert bird.nprobe == nprobe
    assert (bird.recall == 1) == (nprobe == 108)


def test_many_equal_features_do_not_spoil_the_recall(tmp_path):
    features, ids, names = a_large_category()
    bird = ivf_indexes(tmp_path, (np.zeros_like(features), ids, names)).parts["bird"]
    assert (bird.nprobe, bird.recall) == (module.FIRST_PROBES, 1.0)


class GpuFaiss:
    """faiss-gpu's part in it: the same index, from which a GPU gives up to 2,048 neighbours."""

    def __init__(self, faiss, devices):
        self.faiss, self.devices, self.moved = faiss, devices, 0

    def __getattr__(self, name):
        return getattr(self.faiss, name)

    def StandardGpuResources(self):  # noqa: N802
        return "resources"

    def get_num_gpus(self):
        return self.devices

    def index_cpu_to_gpu(self, resources, device, index):
        assert (resources, device) == ("resources", 0)
        self.moved += 1
        return OnGpu(index)


class OnGpu:
    def __init__(self, index):
        self.index = index

    def search(self, queries, k):
        assert k <= 2048
        return self.index.search(queries, k)


@pytest.mark.parametrize("devices", [0, 1])
def test_where_faiss_has_a_gpu_it_serves_the_index(tmp_path, monkeypatch, devices):
    gpu = GpuFaiss(pytest.importorskip("faiss"), devices)
    features, _, names = bank = a_large_category()
    opened = ivf_indexes(tmp_path, bank)
    expected = [opened.search(features[:3], names[:3], k) for k in (K, 2100)]
    monkeypatch.setattr(module, "faiss", gpu)
    module._gpu.cache_clear()
    module._open_faiss.cache_clear()
    try:
        found = [opened.search(features[:3], names[:3], k) for k in (K, 2100)]
    finally:
        module._gpu.cache_clear()
        module._open_faiss.cache_clear()
    assert gpu.moved == devices
    np.testing.assert_array_equal(found[0].ids, expected[0].ids)
    np.testing.assert_array_equal(found[1].valid, expected[1].valid)


@pytest.mark.gpu
@pytest.mark.parametrize("ivf_above", [1000, 10**6])
def test_a_gpu_finds_what_the_exact_search_finds(tmp_path, ivf_above):
    faiss = pytest.importorskip("faiss")
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        pytest.skip("needs faiss-gpu and a CUDA device")
    features, ids, names = bank = a_large_category()
    build_indexes(tmp_path / "index", *bank, DIGEST, ivf_above=ivf_above)
    opened = Indexes.open(tmp_path / "index", DIGEST)
    found = opened.search(features[::50] + 0.25, names[::50], K)
    assert module._gpu() is not None
    moved = rounded((features[::50] + 0.25).astype(np.float64))
    for row, (query, name) in enumerate(zip(moved, names[::50], strict=True)):
        own = names == name
        squared = ((features[own].astype(np.float64) - query) ** 2).sum(1)
        order = np.lexsort((ids[own], squared))[:K]
        hits = np.isin(found.ids[row], ids[own][order]).mean()
        assert hits == 1 or ivf_above < len(ids)


def test_small_categories_share_a_block_and_a_large_one_has_its_own(monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", 100)
    sizes = {"a": 60, "b": 40, "c": 1, "d": 201, "e": 50, "f": 50, "g": 120, "h": 3}
    names = np.repeat(list(sizes), list(sizes.values()))
    ids, codes = np.arange(len(names)), np.unique(names, return_inverse=True)[1]
    pools = pools_by_category(ids, list(sizes), codes, np.ones(len(ids), bool))
    assert plan_index(pools, 200) == [(0, 2), (2, 3), (3, 4), (4, 6), (6, 7), (7, 8)]
    assert plan_index(pools, 2) == [(number, number + 1) for number in range(8)]
    monkeypatch.setattr(module, "TOGETHER", 50)
    assert plan_index(pools, 1000)[:3] == [(0, 1), (1, 3), (3, 4)]
    monkeypatch.setattr(module, "TOGETHER", 1000)
    assert plan_index(pools, 1000) == [(0, 8)]
    assert plan_index(pools, 200) == [(0, 3), (3, 4), (4, 8)]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("backwards", [True, False])
def test_blocks_made_in_any_order_become_the_index_that_is_built_at_once(
    tmp_path, engine, monkeypatch, links, backwards
):
    def no_links(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    features, ids, names = a_large_category()
    random = np.random.default_rng(0)
    names[::3] = random.choice(["ant", "crow", "sea", "sky"], len(names[::3]))
    train = random.random(len(ids)) < 0.8
    names[~train & (names == "crow")] = "never trained"
    build_indexes(
        tmp_path / "whole", features[train], ids[train], names[train], DIGEST, ivf_above=300
    )
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(module, "TOGETHER", 600)
    monkeypatch.setattr(module, "READ_AT_ONCE", 70)
    different, codes = np.unique(names, return_inverse=True)
    pools = pools_by_category(ids, different.tolist(), codes, train)
    blocks = plan_index(pools, 300)
    assert blocks == [(0, 1), (1, 2), (2, 5), (5, 6)]
    parts = [tmp_path / "parts" / str(first) for first, _ in blocks]
    made = list(zip(parts, blocks, strict=True))
    for part, block in reversed(made) if backwards else made:
        write_index_block(part, pools, Pool(ids, features), block, 300)
    join_index(tmp_path / "index", parts, DIGEST)
    whole, joined = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("whole", "index")
    )
    assert joined == whole
    assert len(whole) == (9 if engine == "faiss" else 3)
    shutil.rmtree(tmp_path / "parts")
    assert Indexes.open(tmp_path / "index", DIGEST).search(features[:2], names[:2], K).valid.all()
