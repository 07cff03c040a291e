"""One sequence of batches, whatever the kind of loader, the ranks, the workers and the restarts."""

import multiprocessing
import os
import shutil
import signal
import threading
from contextlib import closing
from itertools import chain, islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jobs.build_bank import BuildBank
from jobs.build_bank import main as build
from model import loader
from model.batch import image_batch, moved, scene_batch
from model.loader import Parts, training_batches, training_scenes
from model.recipes import demo
from model.resident import mapped_folder
from model.sources import BankSource, part_of
from model.streamed import SharedBlocks
from pipeline.errors import UserError
from pipeline.stream import SceneOrder

KINDS = ("resident", "stream")
BATCH = 4


def ids_and_counts(bank, source, part):
    """A batch without pixels."""
    return part.first, part.image_ids.tolist(), [count.item() for count in part.counts]


def whole(bank, source, part):
    return scene_batch(bank, source, part, demo().retrieval, seed=0)


def batches_of(bank, count, *, collate=whole, **settings):
    settings = {"block_shards": 2, "batch_size": BATCH, "seed": 7} | settings
    batches = training_batches(bank, collate, **settings)
    try:
        return list(islice(batches, count))
    finally:
        batches.close()


def flat(part):
    return [t for p in part for t in flat(p)] if isinstance(part, tuple) else [part]


def equal(ours, theirs):
    pairs = zip(flat(ours), flat(theirs), strict=True)
    return all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in pairs)


@pytest.fixture(scope="module")
def reference(bank):
    """Two epochs and a bit of batches as the bank itself gives them, scene by scene."""
    order = SceneOrder(training_scenes(bank), block_shards=2, seed=7)
    parts = islice(Parts(bank, order, BATCH), 2 * order.size // BATCH + 2)
    return [whole(bank, BankSource(bank), part) for part in parts]


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_a_batch_is_that_of_the_bank_over_two_epochs(bank, reference, kind):
    batches = batches_of(bank, len(reference), kind=kind)
    assert all(equal(*pair) for pair in zip(batches, reference, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_worker_processes_give_the_same_batches(bank, reference, kind, workers):
    batches = batches_of(bank, 20, kind=kind, workers=workers)
    assert all(equal(*pair) for pair in zip(batches, reference[:20], strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_ids_are_one_sequence_for_any_ranks_and_restarts(bank, kind, workers):
    """Stopped and resumed twice with other ranks and workers; the pieces laid end to end are the
    sequence."""
    size = len(bank.scene_ids("train"))
    steps = 2 * size // BATCH + 1  # batches span blocks and epochs
    order = SceneOrder(training_scenes(bank), block_shards=2, seed=7)
    sequence = list(chain.from_iterable(islice(order.batches(BATCH), steps)))
    assert sorted(sequence[:size]) == sorted(sequence[size : 2 * size])
    assert sorted(sequence[:size]) == bank.scene_ids("train").tolist()
    cuts = [0, 5, 2 * size // BATCH - 3, steps]
    settings = {"kind": kind, "collate": ids_and_counts}
    for ranks in ((1, 2, 4), (2, 4, 1), (4, 1, 2)):
        met = []
        for piece, (begin, end, of) in enumerate(zip(cuts[:-1], cuts[1:], ranks, strict=True)):
            settings["workers"] = (workers + piece) % 4
            of_ranks = [
                batches_of(bank, end - begin, first_step=begin, rank=r, ranks=of, **settings)
                for r in range(of)
            ]
            for step, parts in enumerate(zip(*of_ranks, strict=True), begin):
                assert [first for first, _, _ in parts] == [
                    step * BATCH + r * BATCH // of for r in range(of)
                ]
                met += chain.from_iterable(ids for _, ids, _ in parts)
                objects = bank.contents.num_patches_of_images(np.array(met[-BATCH:])).sum()
                assert all(counts == [BATCH, objects] for _, _, counts in parts)
        assert met == sequence


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize(("ranks", "parts"), [(1, 2), (1, 4), (2, 2)])
def test_parts_of_a_batch_are_its_scenes_in_their_order(bank, workers, ranks, parts):
    """For any ranks and workers, also from a later step on; counts are those of the whole batch."""
    settings = {"collate": ids_and_counts, "workers": workers, "first_step": 3}
    wholes = batches_of(bank, 5, **settings)
    of_ranks = [
        batches_of(bank, 5 * parts, rank=rank, ranks=ranks, parts=parts, **settings)
        for rank in range(ranks)
    ]
    size = BATCH // (ranks * parts)
    for step, (first, ids, counts) in enumerate(wholes):
        met = [part for mine in of_ranks for part in mine[step * parts : (step + 1) * parts]]
        assert [part[0] for part in met] == list(range(first, first + BATCH, size))
        assert list(chain.from_iterable(part[1] for part in met)) == ids
        assert all(part[2] == counts for part in met)


def test_a_scene_has_the_same_draws_in_a_part_as_in_the_batch(bank, reference):
    parts = batches_of(bank, 2 * 3, parts=2)
    for step, batch in enumerate(reference[:3]):
        for field in ("boxes", "true_patches"):
            ours = torch.cat([getattr(part, field) for part in parts[2 * step : 2 * step + 2]])
            assert torch.equal(ours, getattr(batch, field))
        for of in (lambda d: d.choice.noise, lambda d: d.truth.order, lambda d: d.truth.first):
            ours = torch.cat([of(part.draws) for part in parts[2 * step : 2 * step + 2]])
            assert torch.equal(ours, of(batch.draws))


def test_blocks_and_batches_may_be_of_any_size(bank):
    """One scene a batch, more scenes than an epoch has; one shard a block, more than there are."""
    order = SceneOrder(training_scenes(bank), block_shards=1, seed=7)
    for blocks in (1, 100):
        order = SceneOrder(training_scenes(bank), block_shards=blocks, seed=7)
        for size in (1, len(bank.scene_ids("train")) + 3):
            expected = list(islice(order.batches(size), 3))
            for kind in KINDS:
                batches = batches_of(bank, 3, kind=kind, block_shards=blocks, batch_size=size)
                assert [batch.image_ids.tolist() for batch in batches] == expected


@pytest.fixture(scope="module")
def uneven(toy_data, tmp_path_factory):
    """Shards of 7, the last of another size, and fewer than there are ranks."""
    out = tmp_path_factory.mktemp("uneven") / "bank"
    options = BuildBank(
        dataset="toy", data=toy_data, out=out, limit=9, shard_photos=7, encoder_steps=1,
        cooccurrence_steps=1, workers=0, candidates=6,
    )  # fmt: skip
    build(options)
    from bank.bank import Bank

    return Bank.open(out)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_shards_than_ranks_and_uneven_ones_lose_and_repeat_nothing(uneven, kind):
    scenes = training_scenes(uneven)
    assert len(scenes) < 4
    assert len({*map(len, scenes.values())}) > 1
    size = len(uneven.scene_ids("train"))
    of_ranks = [
        batches_of(uneven, size, kind=kind, rank=r, ranks=4, collate=ids_and_counts)
        for r in range(4)
    ]
    met = [i for parts in zip(*of_ranks, strict=True) for _, ids, _ in parts for i in ids]
    for epoch in range(4):
        assert sorted(met[epoch * size : (epoch + 1) * size]) == sorted(
            uneven.scene_ids("train").tolist()
        )


def test_sg2ims_batches_are_the_same_by_either_kind(bank):
    batches = [batches_of(bank, 5, kind=kind, collate=image_batch) for kind in KINDS]
    assert all(equal(*pair) for pair in zip(*batches, strict=True))
    part = part_of(bank, bank.scene_ids("val")[:2])
    assert image_batch(bank, BankSource(bank), part).images.shape[0] == 2


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_a_gpu_are_those_of_the_cpu(bank, reference, kind, workers, capsys):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    device = torch.device("cuda:0")
    batches = batches_of(bank, len(reference), kind=kind, workers=workers, device=device)
    assert {t.device for t in flat(batches[0]) if torch.is_tensor(t)} == {device}
    back = [moved(batch, torch.device("cpu")) for batch in batches]
    assert all(equal(*pair) for pair in zip(back, reference, strict=True))
    said = capsys.readouterr()
    where = "fit into the" if kind == "resident" else "as asked for"
    assert where in said.out + said.err


def test_ctrl_c_in_a_terminal_does_not_reach_a_loaders_process(bank):
    def group(*_):
        return os.getpgrp()

    for workers, alone in ((0, False), (1, True)):
        (found,) = batches_of(bank, 1, collate=group, workers=workers)
        assert (found != os.getpgrp()) == alone


def test_too_little_shared_memory_for_the_workers_batches_is_one_line(bank, monkeypatch):
    usage = shutil.disk_usage
    full = SimpleNamespace(free=4_000)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: full if path == "/dev/shm" else usage(path)
    )
    assert len(batches_of(bank, 3)) == 3
    with pytest.raises(UserError, match=r"/dev/shm has 0 MB, .* --loader-workers 0, or docker run"):
        batches_of(bank, 3, workers=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaders_process_that_dies_is_one_line_and_no_hang(bank, kind):
    def dies(bank, source, part):
        if part.first >= 2 * BATCH:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1)

    with pytest.raises(UserError, match=r"^a loader's process ended .*--loader-workers 0"):
        batches_of(bank, 9, collate=dies, workers=2, kind=kind)


def test_the_death_of_a_worker_is_raised_where_the_next_batch_is_asked_for(bank):
    """Not in the middle of a step, which could then not be saved."""
    before = {child.pid for child in multiprocessing.active_children()}
    batches = training_batches(
        bank, ids_and_counts, block_shards=16, batch_size=BATCH, seed=0, workers=1
    )
    with closing(batches):
        next(batches)
        (worker,) = (c for c in multiprocessing.active_children() if c.pid not in before)
        worker.kill()
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # a handler would raise here
        with pytest.raises(UserError, match="a loader's process ended"):
            for _ in batches:
                pass


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset"), EOFError()])
def test_a_loaders_process_that_dies_while_it_hands_over_a_batch_is_one_line_too(
    bank, monkeypatch, error
):
    def batches():
        raise error
        yield

    monkeypatch.setattr(loader, "DataLoader", lambda *_, **__: batches())
    with pytest.raises(
        UserError, match=r"^a loader's process ended \(.+\); use --loader-workers 0"
    ):
        batches_of(bank, 1, collate=ids_and_counts, workers=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_source_cannot_read_is_the_same_line_with_workers_and_without(bank, workers):
    def fails(bank, source, part):
        if part.first >= 2 * BATCH:
            raise UserError("scene 5 cannot be read")
        return torch.zeros(1)

    with pytest.raises(UserError, match=r"^scene 5 cannot be read$"):
        batches_of(bank, 9, collate=fails, workers=workers)


def test_a_fault_in_a_loaders_process_is_not_told_as_its_death(bank):
    def fails(bank, source, part):
        if part.first:
            raise RuntimeError("a fault of the code")
        return torch.zeros(1)

    with pytest.raises(RuntimeError, match="a fault of the code"):
        batches_of(bank, 3, collate=fails, workers=1)


def test_too_few_open_files_for_the_workers_batches_is_one_line(bank, monkeypatch):
    """torch hands over each tensor by an open file."""

    def refused(*_, **__):
        raise RuntimeError("unable to open shared memory object: Too many open files (24)")
        yield

    monkeypatch.setattr(loader.DataLoader, "__iter__", refused)
    with pytest.raises(
        UserError, match=r"need too many open files: .*ulimit -n.*use --loader-workers 0"
    ):
        batches_of(bank, 3, workers=1)


def test_the_command_says_which_kind_and_why(bank, capsys):
    batches_of(bank, 1)
    said = capsys.readouterr()
    assert "loader: resident; pictures 2.9 MB and patches 3.7 MB" in said.out + said.err
    assert str(mapped_folder(bank)) in said.out + said.err
    batches_of(bank, 1, kind="stream")
    said = capsys.readouterr()
    assert "patches 3.7 MB are read block by block, as asked for" in said.out + said.err
    batches_of(bank, 1, rank=1, ranks=2)
    said = capsys.readouterr()
    assert "loader" not in said.out + said.err


def test_closing_leaves_no_process_no_thread_and_no_shared_block(bank):
    for workers in (0, 2):
        batches_of(bank, 6, kind="stream", workers=workers)
        assert not [t.name for t in threading.enumerate() if t.name.startswith("blocks")]
        assert not multiprocessing.active_children()
    order = SceneOrder(training_scenes(bank), block_shards=2, seed=7)
    assert not SharedBlocks.of(bank, order).folder.exists()
