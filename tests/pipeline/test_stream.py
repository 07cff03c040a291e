from itertools import islice

import pytest

from pipeline.stream import BatchSampler, epoch_order


def test_every_scene_comes_once_an_epoch():
    drawn = [p for batch in islice(BatchSampler(10, 4, seed=3), 5) for p in batch]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]


def test_order_from_step_n_is_what_an_uninterrupted_run_would_have_met():
    whole = list(islice(BatchSampler(10, 4, seed=3), 12))
    for first in (0, 1, 5, 7):
        assert (
            list(islice(BatchSampler(10, 4, seed=3, first_step=first), 12 - first)) == whole[first:]
        )


def test_seeds_give_other_orders():
    assert epoch_order(0, 0, 50).tolist() != epoch_order(1, 0, 50).tolist()


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="no scene"):
        BatchSampler(0, 4, seed=0)
