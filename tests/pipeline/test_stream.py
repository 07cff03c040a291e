from hashlib import sha256
from itertools import chain, islice

import pytest

from pipeline.stream import SceneOrder, shuffled

SHARDS = {
    "train-00000": [3, 5, 8],
    "train-00001": [11],
    "train-00002": [],
    "train-00003": [4, 9, 7],
}
IDS = sorted(chain.from_iterable(SHARDS.values()))


def order(count, *, block=2, batch=1, seed=6, first_step=0):
    batches = SceneOrder(SHARDS, block_shards=block, seed=seed).batches(batch, first_step)
    return list(islice(batches, count))


def test_scenes_are_sorted_by_the_sha_256_of_seed_epoch_and_id():
    """By hand, from `printf 6/2/3 | sha256sum` and so on."""
    drawn = {
        3: "d81e7fd326f014cc", 4: "e587c0a0e1bfae3c", 5: "52ea9bfa8385138a",
    }  # fmt: skip
    for image_id, digest in drawn.items():
        assert sha256(f"6/2/{image_id}".encode()).hexdigest().startswith(digest)
    assert shuffled([3, 4, 5], seed=6, epoch=2) == sorted(drawn, key=drawn.__getitem__)


def test_shards_are_shuffled_then_the_scenes_of_each_block_of_them():
    def key(epoch):
        return lambda item: sha256(f"6/{epoch}/{item}".encode()).digest()[:8]

    expected = []
    for epoch in range(3):
        shards = sorted((shard for shard in SHARDS if SHARDS[shard]), key=key(epoch))
        for block in (shards[:2], shards[2:]):
            expected += sorted(chain.from_iterable(SHARDS[s] for s in block), key=key(epoch))
    assert list(chain.from_iterable(order(21, block=2))) == expected


def test_items_that_draw_the_same_come_by_name_or_number(monkeypatch):
    monkeypatch.setattr("pipeline.stream.draw", lambda *_: b"same")
    assert shuffled([9, 10, 1], 0, 0) == [1, 9, 10]
    assert shuffled(["b", "a"], 0, 0) == ["a", "b"]


def test_every_scene_comes_once_an_epoch():
    for block in (1, 2, 4, 100):
        drawn = list(chain.from_iterable(order(14, block=block)))
        assert sorted(drawn[:7]) == sorted(drawn[7:]) == IDS
        assert drawn[:7] != drawn[7:]


def test_epochs_are_laid_end_to_end_whatever_the_batch():
    one_by_one = list(chain.from_iterable(order(24)))
    for batch in (2, 3, 8, 12):
        batches = order(24 // batch, batch=batch)
        assert {len(each) for each in batches} == {batch}
        assert list(chain.from_iterable(batches)) == one_by_one


def test_order_from_step_n_is_what_an_uninterrupted_run_would_have_met():
    whole = order(12, batch=4)
    for first in range(12):
        assert order(12 - first, batch=4, first_step=first) == whole[first:]


def test_seeds_give_other_orders():
    assert order(7, seed=0) != order(7, seed=1)


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="no scene"):
        SceneOrder({"train-00000": []}, block_shards=1, seed=0)


def test_blocks_say_where_they_begin_and_which_shards_they_hold():
    sequence = list(chain.from_iterable(order(28, block=2)))
    blocks = SceneOrder(SHARDS, block_shards=2, seed=6)
    expected = list(islice(blocks.blocks(), 8))
    for block in expected:
        assert list(block.image_ids) == sequence[block.first : block.first + len(block.image_ids)]
        assert sorted(block.image_ids) == sorted(chain.from_iterable(map(SHARDS.get, block.shards)))
    assert [b.first for b in expected][::2] == [0, 7, 14, 21]
    for position in range(21):
        first, *_ = later = list(islice(blocks.blocks(position), 2))
        assert first.first <= position < first.first + len(first.image_ids)
        assert later == expected[expected.index(first) :][:2]
