"""Blocks of scenes read ahead: what they hold, who reads them, and shards that are not whole."""

import io
import os
import pickle
import shutil
import tarfile
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from bank.bank import Bank
from bank.errors import BankError
from model import streamed
from model.loader import Parts, training_scenes
from model.streamed import KEPT, SharedBlocks, StreamedSource, read_block
from pipeline.cache import VARIABLE
from pipeline.pack import iterate_samples
from pipeline.stream import SceneOrder


@pytest.fixture
def order(bank):
    return SceneOrder(training_scenes(bank), block_shards=1, seed=3)


def equal(ours, theirs):
    assert ours.first == theirs.first
    assert np.array_equal(ours.pictures, theirs.pictures)
    assert all(np.array_equal(a, b) for a, b in zip(ours.table, theirs.table, strict=True))


def test_a_block_holds_its_scenes_by_rising_id(bank, order):
    for block in islice(order.blocks(), 3):
        loaded = read_block(bank, block)
        assert loaded.table.image_ids.tolist() == sorted(block.image_ids)
        assert loaded.end == block.first + len(block.image_ids)
        for image_id, picture in zip(loaded.table.image_ids, loaded.pictures, strict=True):
            assert np.array_equal(picture, bank.scene(int(image_id)).image)


@pytest.mark.parametrize("every", [2, 3, 4, 5, 6, 7, 13])
def test_a_process_that_takes_few_batches_skips_the_blocks_between(bank, order, every):
    parts = list(islice(Parts(bank, order, 5), 0, 40, every))
    source = StreamedSource(bank, order, None)
    for part in parts:
        assert source.scenes(part).table.image_ids.tolist() == part.image_ids.tolist()
    source.close()


def test_a_source_that_was_closed_reads_again_from_another_position(bank, order):
    source = StreamedSource(bank, order, None)
    for skipped in (9, 2):
        part = next(islice(Parts(bank, order, 5), skipped, None))
        assert source.scenes(part).table.image_ids.tolist() == part.image_ids.tolist()
        source.close()


@pytest.fixture
def shared(bank, order, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    blocks = SharedBlocks.of(bank, order)
    yield blocks
    blocks.close()


@pytest.fixture
def reads(monkeypatch):
    """Which blocks were read from the bank, by position."""
    positions = []

    def read(bank, block):
        positions.append(block.first)
        return read_block(bank, block)

    monkeypatch.setattr(streamed, "read_block", read)
    return positions


def test_a_shared_block_is_read_once(bank, order, shared, reads):
    block = next(order.blocks())
    again = pickle.loads(pickle.dumps(shared))  # as another process has it
    first, second = (each.read(bank, block) for each in (shared, again))
    assert reads == [0]
    equal(first, read_block(bank, block))
    equal(second, first)
    again.close()


def test_few_blocks_are_kept_and_one_that_was_removed_is_written_again(bank, order, shared):
    blocks = list(islice(order.blocks(), KEPT + 2))
    for block in blocks:
        shared.read(bank, block)
    kept = sorted(int(path.name) for path in shared.folder.iterdir() if path.is_dir())
    assert kept == [block.first for block in blocks[-KEPT:]]
    equal(shared.read(bank, blocks[0]), read_block(bank, blocks[0]))


@pytest.mark.parametrize("change", ["seed", "block_shards", "bank"])
def test_another_order_has_another_folder(bank, order, shared, change, monkeypatch):
    settings = {"block_shards": 1, "seed": 3} | ({} if change == "bank" else {change: 2})
    other = SceneOrder(training_scenes(bank), **settings)
    if change == "bank":
        manifest = replace(bank.manifest, content_digest="f" * 64)
        monkeypatch.setattr(bank, "manifest", manifest)
    assert SharedBlocks.of(bank, other).folder != shared.folder


def test_a_block_of_other_scenes_is_written_again(bank, order, shared, reads):
    """Whatever put it there: only the scenes that belong there are used."""
    first, second = islice(order.blocks(), 2)
    shared.read(bank, second)
    (shared.folder / f"{second.first:012d}").rename(shared.folder / f"{first.first:012d}")
    equal(shared.read(bank, first), read_block(bank, first))
    assert reads == [second.first, first.first]
    equal(shared.read(bank, first), read_block(bank, first))
    assert len(reads) == 2


@pytest.mark.parametrize("file", ["pictures.npy", "nodes.npy"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_block_that_is_not_whole_is_written_again(bank, order, shared, reads, file, damage):
    block = next(order.blocks())
    shared.read(bank, block)
    path = shared.folder / f"{block.first:012d}" / file
    if damage == "cut":
        with path.open("rb+") as opened:
            opened.truncate(path.stat().st_size - 1)
    else:
        path.unlink()
    equal(shared.read(bank, block), read_block(bank, block))
    assert reads == [0, 0]


def test_a_folder_that_cannot_be_written_costs_the_sharing_alone(bank, order, tmp_path):
    block = next(order.blocks())
    (tmp_path / "file").write_text("in the way")
    blocks = SharedBlocks(tmp_path / "file")
    equal(blocks.read(bank, block), read_block(bank, block))
    blocks.close()


def test_a_folder_is_removed_by_the_last_that_used_it(bank, order, shared):
    block = next(order.blocks())
    other = pickle.loads(pickle.dumps(shared))
    for each in (shared, other):
        each.read(bank, block)
    shared.close()
    assert shared.folder.is_dir()
    equal(other.read(bank, block), read_block(bank, block))
    other.close()
    assert not shared.folder.exists()
    equal(shared.read(bank, block), read_block(bank, block))  # and made again


def test_folders_of_trainings_that_have_ended_are_removed_by_the_next(bank, order, shared):
    """A killed one holds no lock."""
    block = next(order.blocks())
    shared.read(bank, block)
    ended = SharedBlocks(shared.folder.with_name("ended"))
    ended.read(bank, block)
    assert ended._users is not None
    ended._users.close()
    in_use = SharedBlocks(shared.folder.with_name("in use"))
    in_use.read(bank, block)
    SharedBlocks.of(bank, order)
    assert shared.folder.is_dir()
    assert in_use.folder.is_dir()
    assert not ended.folder.exists()
    in_use.close()


def test_processes_that_need_a_block_at_once_all_get_it(bank, order, shared):
    """Whoever is first writes; each compares what it was given with the bank."""
    blocks = list(islice(order.blocks(), 5))

    def take():
        try:
            for block in blocks:
                equal(shared.read(bank, block), read_block(bank, block))
        except BaseException:
            os._exit(1)
        os._exit(0)

    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            take()
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


def test_a_shard_may_hold_scenes_that_are_not_of_the_block(bank, order):
    block = next(order.blocks())
    fewer = block._replace(image_ids=block.image_ids[2:])
    loaded = read_block(bank, fewer)
    assert loaded.table.image_ids.tolist() == sorted(fewer.image_ids)
    for image_id, picture in zip(loaded.table.image_ids, loaded.pictures, strict=True):
        assert np.array_equal(picture, bank.scene(int(image_id)).image)


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "other"])
def test_a_shard_that_is_not_whole_is_named(bank, tmp_path, damage):
    copy = Bank.open(shutil.copytree(bank.path, tmp_path / "bank"))
    order = SceneOrder(training_scenes(copy), block_shards=1, seed=3)
    first, second = list(islice(order.blocks(), 2))
    paths = [copy.path / "scenes" / f"{block.shards[0]}.tar" for block in (first, second)]
    data = paths[0].read_bytes()
    middle = len(data) // 2
    changed = {
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "short": data[:middle],
        "other": paths[1].read_bytes(),
    }  # fmt: skip
    if damage == "gone":
        paths[0].unlink()
    else:
        paths[0].write_bytes(changed[damage])
    source = StreamedSource(copy, order, None)
    with pytest.raises(BankError, match=rf"{paths[0]} cannot be read \(.*verify_bank"):
        source.scenes(next(iter(Parts(copy, order, 2))))
    source.close()


def tar_of(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_a_pickle_in_a_shard_is_never_opened(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    graph = b'{"image_id": 1, "objects": [], "boxes": [], "triples": [], "patch_ids": []}'
    array = io.BytesIO()
    np.save(array, np.array([Hostile()], object), allow_pickle=True)
    path = tmp_path / "shard.tar"
    tar_of(path, {"1.json": graph, "1.npy": array.getvalue()})
    with pytest.raises(ValueError, match="an array of objects"):
        list(iterate_samples(path))
    pickled = pickle.dumps(Hostile())
    names = ("1.pkl", "1.pickle", "1.pyd", "1.pth", "1.cls")
    tar_of(path, {"1.json": graph, **dict.fromkeys(names, pickled)})
    (sample,) = iterate_samples(path)
    assert sample.image_id == 1
    assert not (tmp_path / "executed").exists()


def test_a_name_that_webdataset_would_run_is_only_a_name(bank, tmp_path, monkeypatch):
    """`pipe:` is a shell's command there, `{0..9}` many files, `http:` an address."""
    monkeypatch.chdir(tmp_path)
    shard = next(iter(training_scenes(bank)))
    tar = bank.path / "scenes" / f"{shard}.tar"
    for name in ("pipe:touch executed; cat x.tar", "{0..3}.tar", "http:x.tar"):
        shutil.copy(tar, name)
        (tmp_path / "names").mkdir(exist_ok=True)
        ids = [sample.image_id for sample in iterate_samples(type(tar)(name))]
        assert sorted(ids) == sorted(training_scenes(bank)[shard])
    assert not (tmp_path / "executed").exists()
