import hashlib
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from bank import shards
from bank.errors import BankError
from bank.files import file_digest
from bank.shards import PatchStore, map_size, write_patches

SIDE = 4


def pixels(patch_id: int) -> np.ndarray:
    return np.random.default_rng(patch_id).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def digests(*patches: bytes) -> np.ndarray:
    return np.stack([np.frombuffer(hashlib.sha256(p).digest(), np.uint8) for p in patches])


def write(folder, ids):
    write_patches(folder, [(i, pixels(i).tobytes()) for i in ids], map_size(len(ids), SIDE))


@pytest.fixture
def store(tmp_path):
    write(tmp_path / "a", [1, 5, 1 << 40])
    write(tmp_path / "b", [3, 7])
    ids = np.array([1, 3, 5, 7, 1 << 40])
    known = digests(*(pixels(int(i)).tobytes() for i in ids))
    return PatchStore(tmp_path, ids, np.array([0, 1, 0, 1, 0], np.int32), ["a", "b"], SIDE, known)


def test_patches_come_back_in_the_order_and_shape_of_their_ids(store):
    ids = np.array([[7, 1, 1], [1 << 40, 3, 5]])
    found = store.read(ids)
    assert found.shape == (2, 3, SIDE, SIDE, 3)
    for place in np.ndindex(ids.shape):
        assert np.array_equal(found[place], pixels(int(ids[place])))


def test_padding_gives_zeros_and_reads_nothing(store):
    found = store.read(np.array([-1, 3]))
    assert not found[0].any()
    assert np.array_equal(found[1], pixels(3))


def test_no_ids_give_no_patches(store):
    assert store.read(np.zeros((2, 0), np.int64)).shape == (2, 0, SIDE, SIDE, 3)


@pytest.mark.parametrize("unknown", [0, 4, (1 << 40) + 1])
def test_a_patch_that_is_not_there_is_named(store, unknown):
    with pytest.raises(BankError, match=f"no patch {unknown} "):
        store.read(np.array([1, unknown]))


def test_the_same_patches_make_the_same_bytes_and_leave_no_lock(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, list(range(100)))
    assert file_digest(tmp_path / "a/data.mdb") == file_digest(tmp_path / "b/data.mdb")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["data.mdb"]


@pytest.mark.parametrize("ids", [[2, 1], [1, 1]])
def test_patches_out_of_order_are_refused(tmp_path, ids):
    with pytest.raises(ValueError, match="out of order or twice"):
        write(tmp_path / "a", ids)


@pytest.mark.parametrize(("num", "side"), [(0, 64), (1, 1), (40, 256)])
def test_what_was_planned_fits_into_the_map(tmp_path, num, side):
    patch = bytes(side * side * 3)
    write_patches(tmp_path / "a", [(i, patch) for i in range(num)], map_size(num, side))


def test_reading_leaves_no_lock_file(store):
    store.read(np.array([1]))
    assert [p.name for p in (store.folder / "a").iterdir()] == ["data.mdb"]


def test_a_store_can_be_sent_to_another_process(store):
    store.read(np.array([1]))
    assert np.array_equal(pickle.loads(pickle.dumps(store)).read(np.array([7]))[0], pixels(7))


FEW = 64  # open files that a process is allowed
READ_MANY = """
    import resource, sys
    from pathlib import Path
    import numpy as np
    from bank.shards import PatchStore, close_shards
    folder, side, few = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    names = sorted(path.name for path in folder.iterdir())
    ids = np.arange(len(names))
    digests = np.zeros((len(names), 32), np.uint8)
    store = PatchStore(folder, ids, ids.astype(np.int32), names, side, digests)
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))
    for _ in range(2):
        print(store.read(ids, check=False).sum(), store.read(ids[::-1], check=False).sum())
    if len(sys.argv) > 4:
        close_shards()
        held = []
        try:
            while True:
                held.append(open(folder / names[0] / "data.mdb"))
        except OSError:
            store.read(ids, check=False)
"""


def read_many(folder, *more):
    script = [sys.executable, "-c", textwrap.dedent(READ_MANY), folder, SIDE, FEW, *more]
    return subprocess.run([*map(str, script)], capture_output=True, text=True, check=False)


def test_more_shards_than_files_may_be_open_are_read_all_the_same(tmp_path):
    for shard in range(3 * FEW):
        write(tmp_path / f"{shard:03d}", [shard])
    total = sum(int(pixels(shard).sum()) for shard in range(3 * FEW))
    done = read_many(tmp_path)
    assert done.stdout.split() == [str(total)] * 4, done.stderr
    refused = read_many(tmp_path, "with all of them held by others")
    assert "too many open files; allow more open files, `ulimit -n 4096`" in refused.stderr
    assert "--shard-photos" in refused.stderr


def _child(store, answers):
    # A handle from before the fork happens to read right, and LMDB forbids its use all the same.
    inherited = shards._environment.cache_info().currsize
    answers.put((inherited, store.read(np.array([5, 7]))))


def test_a_forked_child_opens_its_own_handle(store):
    store.read(np.array([5]))  # the parent's handle, which the child must not use
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_child, args=(store, answers))
    child.start()
    inherited, found = answers.get()
    child.join()
    assert child.exitcode == 0
    assert inherited == 0
    assert np.array_equal(found, np.stack([pixels(5), pixels(7)]))


def test_a_shard_that_replaced_another_at_the_same_path_is_read_anew(store):
    store.read(np.array([3]))
    shutil.rmtree(store.folder / "b")
    write_patches(store.folder / "b", [(3, bytes(SIDE**2 * 3)), (7, bytes(SIDE**2 * 3))], 1 << 24)
    assert not store.read(np.array([3])).any()
    with pytest.raises(BankError, match=r"patch 7 is not what was cut.*b/data\.mdb"):
        store.read(np.array([7]))


def test_a_missing_or_damaged_shard_is_named(store):
    (store.folder / "a/data.mdb").unlink()
    (store.folder / "b/data.mdb").write_bytes(b"not an LMDB file" * 1000)
    with pytest.raises(BankError, match=r"a/data\.mdb is missing"):
        store.read(np.array([1]))
    with pytest.raises(BankError, match=r"b/data\.mdb cannot be opened"):
        store.read(np.array([3]))


def test_a_patch_of_another_size_is_damage(tmp_path):
    write_patches(tmp_path / "a", [(1, b"short")], 1 << 24)
    known = digests(b"short")
    store = PatchStore(tmp_path, np.array([1]), np.zeros(1, np.int32), ["a"], SIDE, known)
    with pytest.raises(BankError, match=r"patch 1 has 5 bytes, in .*a/data\.mdb"):
        store.read(np.array([1]))


def test_a_patch_that_is_not_what_was_cut_is_named_on_its_first_reading_unless_unasked(store):
    store.digests[3, 0] ^= 1  # of patch 7
    ids = np.array([1, 7, 3])
    assert store.read(ids, check=False).shape[0] == 3
    for _ in range(2):  # a refusal is no check that was passed
        with pytest.raises(BankError, match=r"patch 7 is not what was cut.*b/data\.mdb"):
            store.read(ids)


def test_a_patch_is_checked_once_in_a_process(store, monkeypatch):
    store.read(np.array([1, 7]))
    monkeypatch.setattr(shards.hashlib, "sha256", lambda _: pytest.fail("checked again"))
    store.read(np.array([7, 1, 7]))
