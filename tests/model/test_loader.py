"""Batches in an order that can resume, whatever the number of loader processes."""

import os
import shutil
from functools import partial
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model.batch import scene_batch
from model.loader import training_batches, training_scenes
from pipeline.errors import UserError
from pipeline.stream import BatchSampler


def batches_of(bank, *, workers, first_step=0, count=3):
    batches = training_batches(
        bank,
        partial(scene_batch, k=3),
        block_shards=2,
        batch_size=4,
        seed=7,
        first_step=first_step,
        workers=workers,
    )
    return [next(batches) for _ in range(count)]


def flat(part):
    return [t for p in part for t in flat(p)] if isinstance(part, tuple) else [part]


def test_two_workers_give_the_batches_of_none_every_tensor_of_them(bank):
    for ours, theirs in zip(batches_of(bank, workers=2), batches_of(bank, workers=0), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(flat(ours), flat(theirs), strict=True))


def test_batches_are_training_scenes_in_the_order_of_the_sampler(bank):
    scenes = training_scenes(bank)
    assert sorted(chain.from_iterable(scenes.values())) == bank.scene_ids("train").tolist()
    assert len(scenes) > 1
    for shard, ids in scenes.items():
        assert set(bank.contents.shards_of_images(np.array(ids))) == {shard}
    order = iter(BatchSampler(scenes, block_shards=2, batch_size=4, seed=7))
    for batch in batches_of(bank, workers=0):
        assert batch.image_ids.tolist() == next(order)


def test_a_run_that_goes_on_is_given_the_batches_that_it_missed(bank):
    whole = batches_of(bank, workers=0, count=5)
    rest = batches_of(bank, workers=2, first_step=3, count=2)
    assert [b.image_ids.tolist() for b in rest] == [b.image_ids.tolist() for b in whole[3:]]


def test_ctrl_c_in_a_terminal_does_not_reach_a_loaders_process(bank):
    def group(*_):
        return os.getpgrp()

    for workers, alone in ((0, False), (1, True)):
        loaded = training_batches(
            bank,
            group,
            block_shards=2,
            batch_size=4,
            seed=7,
            first_step=0,
            workers=workers,
        )
        assert (next(loaded) != os.getpgrp()) == alone


def test_too_little_shared_memory_for_the_workers_batches_is_one_line(bank, monkeypatch):
    full = SimpleNamespace(free=4_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full if path == "/dev/shm" else None)
    assert len(batches_of(bank, workers=0)) == 3
    with pytest.raises(UserError, match=r"/dev/shm has 0 MB, .* --loader-workers 0, or docker run"):
        batches_of(bank, workers=1)
