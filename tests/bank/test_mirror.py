import hashlib
import io
import json
import os
import pickle
import re
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from bank import mirror as mirroring
from bank.bank import Bank
from bank.errors import BankError
from bank.files import file_digest
from bank.manifest import read_manifest
from bank.mirror import Mirror
from bank.shards import close_shards
from bank.table import read_table, write_table
from pipeline import fetch as fetching
from pipeline.address import Address
from tests.web_server import drops, flips, leads, serving, status

CONTENT = ["patches.arrow", "scenes.index.arrow", "vocabulary.json", "photos.arrow"]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(fetching, "WAIT_S", 0.0)
    monkeypatch.setenv("RETRIEVEGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def web(toy_bank):
    with serving(toy_bank) as web:
        yield web


@pytest.fixture
def changed(toy_bank, tmp_path):
    """A server of a copy that may be changed."""
    with serving(shutil.copytree(toy_bank, tmp_path / "changed")) as web:
        yield web


@pytest.fixture(scope="module")
def bank(toy_bank) -> Bank:
    return Bank.open(toy_bank)


def folder_of(bank: Bank) -> Path:
    return bank.files.folder


def edit_manifest(folder: Path, **changes) -> None:
    """With a digest of its own that is right."""
    path = folder / "manifest.json"
    value = {**json.loads(path.read_text()), **changes, "manifest_digest": ""}
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    value["manifest_digest"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def record(folder: Path, *names: str) -> None:
    """The files as they are now."""
    files = json.loads((folder / "manifest.json").read_text())["files"]
    for name in names:
        files[name] = file_digest(folder / name)._asdict()
    edit_manifest(folder, files=files)


def flip(path: Path, start: int = 0, step: int = 1 << 40) -> None:
    """A bit of the byte at `start`, and of every one `step` further."""
    data = np.fromfile(path, np.uint8)
    data[start::step] ^= 1
    data.tofile(path)


def some(bank: Bank, split: str) -> np.ndarray:
    """Patches of the last shard of a split."""
    ids = bank.patch_ids[np.isin(bank.patch_ids >> 16, bank.scene_ids(split))]
    shards = bank.contents.shards_of_images(ids >> 16)
    return ids[shards == shards.max()]


# What comes, and when


def test_a_bank_at_an_address_is_the_bank_in_the_folder(web, bank, cache):
    there = Bank.open(web.address)
    assert isinstance(there.path, Address)
    assert there.path == web.address
    assert repr(there) == repr(bank).replace(str(bank.path), web.address)
    ids, category = bank.patch_ids, [bank.credits(bank.patch_ids[:1])[0]["category"]]
    assert np.array_equal(there.patches(ids), bank.patches(ids))
    assert np.array_equal(there.features(ids), bank.features(ids))
    assert np.array_equal(there.cooccurrence(ids), bank.cooccurrence(ids))
    assert np.array_equal(there.candidates(ids).ids, bank.candidates(ids).ids)
    assert np.array_equal(there.quality(ids).mask_share, bank.quality(ids).mask_share, True)
    assert there.credits(ids.tolist()) == bank.credits(ids.tolist())
    assert np.array_equal(there.crops(ids)[0], bank.crops(ids)[0])
    for split in ("train", "val", "test"):
        for image_id in bank.scene_ids(split)[:3].tolist():
            assert np.array_equal(there.scene(image_id).image, bank.scene(image_id).image)
    query = bank.features(ids[:1])
    assert np.array_equal(there.search(query, category, 5).ids, bank.search(query, category, 5).ids)
    assert cache in folder_of(there).parents
    assert len(set(web.names())) == len(web.asked)  # nothing came twice


def test_files_come_when_they_are_asked_for(web, bank):
    there = Bank.open(web.address)
    assert web.names() == ["manifest.json", *CONTENT]
    web.asked.clear()
    there.patches(bank.patch_ids[:1])
    shard = bank.contents.shards_of_images(bank.patch_ids[:1] >> 16)[0]
    assert web.names() == [f"patches/{shard}/data.mdb"]
    there.patches(bank.patch_ids[:1])
    there.candidates(bank.patch_ids[:1])
    there.features(bank.patch_ids[:1])
    there.cooccurrence(bank.patch_ids[:1])
    there.quality(bank.patch_ids[:1])
    image_id = int(bank.patch_ids[0] >> 16)
    there.scene(image_id)
    there.scene(image_id)
    assert web.names()[1:] == [
        "candidates.arrow",
        "features.arrow",
        "cooccurrence.arrow",
        "quality.arrow",
        f"scenes/{shard}.tar",
    ]
    assert there.file("graph_encoder.safetensors").is_file()
    assert not there.file("nothing.arrow").exists()
    assert web.names()[6:] == ["graph_encoder.safetensors"]


def test_what_is_here_is_neither_fetched_nor_computed_again(web, bank, monkeypatch):
    Bank.open(web.address).patches(bank.patch_ids)
    web.asked.clear()
    monkeypatch.setattr(mirroring, "content_digest", lambda *_, **__: 1 / 0)
    Bank.open(str(web.address) + "/").patches(bank.patch_ids)
    assert web.names() == ["manifest.json"]


def test_patches_of_a_split_come_at_once(web, bank, capsys, monkeypatch):
    monkeypatch.setattr(mirroring, "SHOWN", 0)
    there = Bank.open(web.address)
    web.asked.clear()
    capsys.readouterr()
    there.fetch_patches("train")
    shards = sorted(set(bank.contents.shards_of_images(bank.scene_ids("train")).tolist()))
    names = [f"patches/{shard}/data.mdb" for shard in shards]
    assert web.names() == names
    size = sum(bank.manifest.files[name].bytes for name in names) / 1e6
    shown = capsys.readouterr()
    assert shown.out == (
        f"{web.address}: {len(names)} files, {size:,.0f} MB, to be fetched into "
        f"{folder_of(there)}\n"
    )
    assert f"fetch: {size:,.0f} megabytes in" in shown.err
    there.fetch_patches("train")
    assert len(web.asked) == len(names)
    assert capsys.readouterr() == ("", "")
    there.fetch_patches()
    assert len(web.asked) == len(bank.contents.patches.shards)
    bank.fetch_patches()  # of a folder: all are here


def test_a_bank_goes_to_other_processes_without_the_server(web, bank):
    there = Bank.open(web.address)
    there.patches(bank.patch_ids)
    data = pickle.dumps(there)
    assert len(data) < 1000
    web.asked.clear()
    sent = pickle.loads(data)
    assert sent.path == web.address
    assert sent.files.cache_gb == there.files.cache_gb
    assert np.array_equal(sent.patches(bank.patch_ids), bank.patches(bank.patch_ids))
    assert web.asked == []


def test_the_cache_may_be_deleted_at_any_time(web, bank, cache):
    there = Bank.open(web.address)
    there.patches(bank.patch_ids)
    data = pickle.dumps(there)
    shutil.rmtree(cache)
    assert np.array_equal(there.patches(bank.patch_ids), bank.patches(bank.patch_ids))
    image_id = int(bank.scene_ids("train")[0])
    assert there.scene(image_id).image_id == image_id
    assert len(pickle.loads(data)) == len(bank)


def test_another_version_has_another_folder(changed):
    first = Bank.open(changed.address)
    data = pickle.dumps(first)
    edit_manifest(changed.folder, edits=[{"what": "nothing"}])
    second = Bank.open(changed.address)
    assert folder_of(second) != folder_of(first)
    assert folder_of(pickle.loads(data)) == folder_of(first)
    shutil.rmtree(folder_of(first))
    with pytest.raises(BankError, match="has another manifest now"):
        pickle.loads(data)


# Faults on the way


def test_a_dropped_connection_costs_nothing(web, bank):
    there = Bank.open(web.address)
    shard = bank.contents.patches.shards[0]
    name = f"patches/{shard}/data.mdb"
    web.next[name] = [drops(50_000), drops(70_000)]
    there.patches(bank.patch_ids)
    assert [asked for file, asked in web.asked if file == name] == [
        None,
        "bytes=50000-",
        "bytes=120000-",
    ]


def test_what_always_comes_wrong_is_named(web, bank):
    there = Bank.open(web.address)
    web.always = {name: flips(5000) for name in bank.manifest.files}
    address = re.escape(web.address)
    with pytest.raises(BankError, match=rf"^{address}/patches/.*/data\.mdb is not the file that"):
        there.patches(bank.patch_ids)
    with pytest.raises(BankError, match=rf"^{address}/scenes/.*\.tar is not the file that"):
        there.scene(int(bank.scene_ids("train")[0]))
    with pytest.raises(BankError, match=rf"^{address}/candidates\.arrow is not the file that"):
        there.candidates(bank.patch_ids)


def test_what_is_no_bank_is_said(web, monkeypatch, tmp_path):
    with pytest.raises(BankError, match=rf"^there is no bank at {web.address}/x: .*404 Not Found"):
        Bank.open(f"{web.address}/x")
    for data in (b"<html>", b"{}", b"[" * 100_000):
        web.always["manifest.json"] = lambda handler, _, data=data: (
            handler.head(200, Content_Length=len(data)),
            handler.wfile.write(data),
        )
        with pytest.raises(BankError, match=rf"^{web.address}/manifest\.json is damaged \("):
            Bank.open(web.address)
    web.always["manifest.json"] = leads("file:///etc/passwd")
    with pytest.raises(BankError, match="leads to 'file:///etc/passwd', which is refused"):
        Bank.open(web.address)
    monkeypatch.setattr(mirroring, "MOST_MANIFEST", 1000)
    web.always.clear()
    with pytest.raises(BankError, match=r"manifest\.json has more than 0 MB"):
        Bank.open(web.address)
    web.always["manifest.json"] = status(500)
    with pytest.raises(BankError, match="answers 500 Internal Server Error; try again later"):
        Bank.open(web.address)


def test_a_disk_that_is_too_small_is_said_before_anything_comes(web, monkeypatch, cache):
    there = Bank.open(web.address)
    web.asked.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(BankError, match=r"GB are to be fetched into .*, where 0\.00 GB are free; "):
        there.fetch_patches("train")
    assert web.asked == []


def test_what_has_begun_to_come_needs_no_second_place(web, bank, monkeypatch):
    there = Bank.open(web.address)
    name = "features.arrow"
    size = bank.manifest.files[name].bytes
    web.next[name] = [drops(size - 1000), status(403)]
    with pytest.raises(BankError, match="may not be read"):
        there.file(name)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(size, size - 1000, 1000))
    assert there.file(name).stat().st_size == size
    (folder_of(there) / name).unlink()
    with pytest.raises(BankError, match="GB are free"):
        there.file(name)


# Damage in the mirror


@pytest.mark.parametrize("name", ["vocabulary.json", "patches.arrow", "scenes.index.arrow"])
def test_a_table_that_rots_is_fetched_anew(web, bank, name):
    flip(folder_of(Bank.open(web.address)) / name, 100)
    web.asked.clear()
    assert len(Bank.open(web.address)) == len(bank)
    assert web.names() == ["manifest.json", name]


def test_a_network_that_rots_is_fetched_anew(web, bank):
    path = Bank.open(web.address).file("graph_encoder.safetensors")
    flip(path)
    assert file_digest(Bank.open(web.address).file(path.name)) == bank.manifest.files[path.name]


@pytest.mark.parametrize("how", ["flipped", "short", "gone"])
def test_patches_that_rot_are_fetched_anew_once(web, bank, how, capsys):
    there = Bank.open(web.address)
    there.patches(bank.patch_ids)
    name = f"patches/{bank.contents.patches.shards[-1]}/data.mdb"
    path = folder_of(there) / name
    spoil = {
        "flipped": lambda: flip(path, 9000, 4096),
        "short": lambda: os.truncate(path, 5000),
        "gone": path.unlink,
    }[how]
    close_shards()
    spoil()
    web.asked.clear()
    again = Bank.open(web.address)
    assert np.array_equal(again.patches(bank.patch_ids), bank.patches(bank.patch_ids))
    assert web.names() == ["manifest.json", name]
    close_shards()
    spoil()
    web.always[name] = flips(5000)
    with pytest.raises(BankError, match=rf"^{web.address}/{name} is not the file that"):
        Bank.open(web.address).patches(bank.patch_ids)


@pytest.mark.parametrize("whole_shards", [True, False])
@pytest.mark.parametrize("how", ["flipped", "short", "gone"])
def test_scenes_that_rot_are_fetched_anew_once(web, bank, how, whole_shards):
    there = Bank.open(web.address)
    image_id = int(bank.scene_ids("train")[0])
    shard = str(bank.contents.shards_of_images(np.array([image_id]))[0])
    path = there.file(f"scenes/{shard}.tar")

    def read(opened: Bank) -> np.ndarray:
        if not whole_shards:
            return opened.scene(image_id).image
        samples = opened.contents.scenes_of_shard(shard)
        assert samples[0].image_id == image_id
        return samples[0].image

    assert np.array_equal(read(there), bank.scene(image_id).image)
    spoil = {
        "flipped": lambda: flip(path, 0, 512),
        "short": lambda: os.truncate(path, 5000),
        "gone": path.unlink,
    }[how]
    spoil()
    assert np.array_equal(read(Bank.open(web.address)), bank.scene(image_id).image)
    assert web.names().count(f"scenes/{shard}.tar") == 2
    spoil()
    web.always[f"scenes/{shard}.tar"] = flips(5000)
    with pytest.raises(BankError, match=rf"^{web.address}/scenes/{shard}\.tar is not the file"):
        read(Bank.open(web.address))


def test_a_file_is_fetched_anew_where_there_is_an_address(web, bank):
    there, error = Bank.open(web.address), BankError("the shard is damaged")
    path = there.file("features.arrow")
    web.asked.clear()
    assert there.refetch("features.arrow", error) == path
    assert web.asked == []  # it is as it was written
    flip(path)
    assert there.refetch("features.arrow", error) == path
    assert web.names() == ["features.arrow"]
    assert file_digest(path) == bank.manifest.files["features.arrow"]
    path.unlink()
    assert there.refetch("features.arrow", error) == path
    assert path.is_file()
    for opened, name in ((bank, "features.arrow"), (there, "no such file")):
        with pytest.raises(BankError) as caught:
            opened.refetch(name, error)
        assert caught.value is error


def test_what_says_otherwise_than_the_tables_is_named_though_the_manifest_agrees(changed, bank):
    """A host that forges patches and the manifest too is found by the tables, which the content
    digest stands for."""
    shard = bank.contents.patches.shards[-1]
    name = f"patches/{shard}/data.mdb"
    flip(changed.folder / name, 9000, 4096)
    record(changed.folder, name)
    there = Bank.open(changed.address, bank.content_digest)
    with pytest.raises(BankError, match="is not what was cut: its SHA-256 differs"):
        there.patches(bank.patch_ids)
    assert changed.names().count(name) == 1  # the server sends what the manifest says


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("whole_shards", [True, False])
def test_a_pickle_among_the_scenes_is_never_opened(
    changed, bank, tmp_path, monkeypatch, whole_shards
):
    """Though the manifest agrees with it."""
    monkeypatch.chdir(tmp_path)
    image_id = int(bank.scene_ids("train")[0])
    shard = str(bank.contents.shards_of_images(np.array([image_id]))[0])
    name = f"scenes/{shard}.tar"
    path, row = changed.folder / name, int(np.searchsorted(bank.contents.image_ids, image_id))
    held = io.BytesIO()
    np.save(held, np.array([Harm()], object), allow_pickle=True)
    data = bytearray(path.read_bytes())
    start = bank.contents.scenes["image_offset"][row].as_py()
    data[start : start + len(held.getvalue())] = held.getvalue()
    path.write_bytes(data)
    record(changed.folder, name)
    there = Bank.open(changed.address)
    with pytest.raises(BankError, match="an array of objects or in"):
        there.contents.scenes_of_shard(shard) if whole_shards else there.scene(image_id)
    assert not Path("harmed").exists()
    np.load(io.BytesIO(data[start:]), allow_pickle=True)
    assert Path("harmed").is_dir()  # it was one that harms


# Room for scenes


@pytest.fixture
def room_for_three(tmp_path, bank):
    """A mirror of shards of 1,000 bytes, and their names."""
    folder = tmp_path / "shards"
    (folder / "scenes").mkdir(parents=True)
    names = [f"scenes/{letter}.tar" for letter in "abcdef"]
    for name in (*names, "patches"):
        (folder / name).write_bytes(name[-5:].encode() * 200)
    files = {name: file_digest(folder / name) for name in (*names, "patches")}
    with serving(folder) as web:
        manifest = replace(bank.manifest, files=files)
        yield Mirror(web.address, tmp_path / "mirror", manifest, cache_gb=3.5e-6), names


def held(mirror: Mirror) -> list[str]:
    return sorted(f"scenes/{path.name}" for path in (mirror.folder / "scenes").iterdir())


def age(mirror: Mirror, *names: str) -> None:
    """The first was used longest ago."""
    for n, name in enumerate(names):
        os.utime(mirror.folder / name, (n, n))


def test_scenes_used_longest_ago_make_room(room_for_three):
    mirror, (a, b, c, d, e, _) = room_for_three
    for name in (a, b, c):
        assert mirror.file(name).is_file()
    assert held(mirror) == [a, b, c]
    age(mirror, b, c, a)
    mirror.file(b)  # used now
    mirror.file(d)
    assert held(mirror) == [a, b, d]
    mirror.file(e)
    assert held(mirror) == [b, d, e]


def test_on_a_full_disk_they_make_room_too(room_for_three, monkeypatch):
    mirror, (a, b, c, *_) = room_for_three
    mirror.file(a)
    mirror.file(b)
    age(mirror, a, b)

    def usage(_: Path) -> Usage:
        return Usage(0, 0, 100 if (mirror.folder / a).exists() else 1100)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    mirror.file(c)
    assert held(mirror) == [b, c]


def test_nothing_but_scenes_makes_room(room_for_three):
    mirror, names = room_for_three
    mirror.file("patches")
    os.utime(mirror.folder / "patches", (0, 0))
    for name in names:
        mirror.file(name)
    assert (mirror.folder / "patches").is_file()
    assert len(held(mirror)) == 3


# Which bank it is


def test_a_pinned_bank_is_the_one_that_was_asked_for(web, bank):
    for digest in (bank.content_digest, bank.manifest.manifest_digest):
        assert len(Bank.open(web.address, digest)) == len(bank)
        assert len(Bank.open(bank.path, digest)) == len(bank)
    for place in (web.address, bank.path):
        with pytest.raises(
            BankError, match=rf"^{place} has content digest .* asked for has 0{{12}}\.\.\.; it is"
        ):
            Bank.open(place, "0" * 64)
        for no_digest in ("", "x" * 64, "0" * 63, bank.content_digest.upper()):
            with pytest.raises(BankError, match="is no digest of a bank: one has 64 hexadecimal"):
                Bank.open(place, no_digest)
        with pytest.raises(BankError, match="is another one, or another version"):
            Bank.open(place, bank.manifest.derived_digest)


def test_another_manifest_than_the_pinned_is_refused_before_a_file_comes(web):
    with pytest.raises(BankError, match="it is another one"):
        Bank.open(web.address, "0" * 64)
    assert web.names() == ["manifest.json"]


@pytest.mark.parametrize("pinned", [True, False])
def test_the_content_digest_is_computed_not_believed(changed, bank, cache, pinned):
    """Of a bank whose manifest says it is another, whose tables it names."""
    path = changed.folder / "patches.arrow"
    table = read_table(path)
    x0 = pc.add(table["x0"], pa.scalar(0.25, pa.float32()))
    other = table.set_column(table.column_names.index("x0"), "x0", x0)
    path.unlink()
    write_table(path, other)
    record(changed.folder, "patches.arrow")
    digest = bank.content_digest if pinned else None
    for _ in range(2):
        with pytest.raises(
            BankError, match=rf"^{changed.address} claims content digest .*damaged or forged"
        ):
            Bank.open(changed.address, digest)
    with pytest.raises(BankError, match=r"changed claims content digest .*damaged or forged"):
        Bank.open(changed.folder, bank.content_digest)


def test_a_pinned_bank_that_was_fetched_needs_no_server(web, toy_bank, bank, caplog):
    Bank.open(web.address).patches(bank.patch_ids)
    with serving(toy_bank) as gone:
        pass
    there = Bank.open(gone.address, bank.manifest.manifest_digest)
    assert np.array_equal(there.patches(bank.patch_ids), bank.patches(bank.patch_ids))
    assert len(Bank.open(gone.address, bank.content_digest)) == len(bank)
    for digest in (None, "0" * 64):
        with pytest.raises(BankError, match="takes no connection"):
            Bank.open(gone.address, digest)


def test_by_its_content_digest_the_server_is_asked_first(web, bank, capsys):
    Bank.open(web.address)
    capsys.readouterr()
    web.asked.clear()
    Bank.open(web.address, bank.manifest.manifest_digest)
    assert web.asked == []
    Bank.open(web.address, bank.content_digest)
    assert web.names() == ["manifest.json"]
    web.always["manifest.json"] = status(503)
    opened = Bank.open(web.address, bank.content_digest)
    said = capsys.readouterr().err
    assert said.startswith(f"note: the bank is taken as it was fetched to {folder_of(opened)}: ")
    assert f": {web.address}/manifest.json: the server answers 503 " in said
    web.always["manifest.json"] = status(404)
    with pytest.raises(BankError, match="there is no bank at"):
        Bank.open(web.address, bank.content_digest)


def test_what_else_lies_among_the_mirrors_is_passed_over(web, bank, cache):
    folder = folder_of(Bank.open(web.address))
    (folder.parent / "unfinished").mkdir()
    damaged = folder.parent / "damaged"
    damaged.mkdir()
    (damaged / "manifest.json").write_text("{}")
    assert folder_of(Bank.open(web.address, bank.manifest.manifest_digest)) == folder


# Hostile names


@pytest.mark.parametrize(
    "name",
    [
        "/etc/x",
        "../x",
        "a/../../x",
        "C:\\x",
        "pipe:id",
        "a\nb",
        "a//b",
        "PATCHES.ARROW",
        "manifest.json",
    ],
)
def test_a_manifest_that_names_files_elsewhere_is_refused(changed, name, cache):
    files = json.loads((changed.folder / "manifest.json").read_text())["files"]
    files[name] = {"sha256": "0" * 64, "bytes": 1}
    edit_manifest(changed.folder, files=files)
    for place in (changed.address, changed.folder):
        with pytest.raises(BankError, match=r"manifest\.json is damaged \(it names ") as caught:
            Bank.open(place)
        assert "\n" not in str(caught.value)
    assert not cache.exists()


@pytest.mark.parametrize(
    "digest",
    [
        {"sha256": "0" * 64, "bytes": -1},
        {"sha256": "0" * 64, "bytes": 1 << 60},
        {"sha256": "0" * 64, "bytes": True},
        {"sha256": "0" * 64, "bytes": 1.5},
        {"sha256": "../../x", "bytes": 1},
        {"sha256": 7, "bytes": 1},
    ],
)
def test_a_manifest_with_absurd_sizes_or_digests_is_refused(changed, digest):
    files = json.loads((changed.folder / "manifest.json").read_text())["files"]
    edit_manifest(changed.folder, files={**files, "x.arrow": digest})
    for place in (changed.address, changed.folder):
        with pytest.raises(BankError, match=r"is damaged \(it does not say .* x\.arrow has"):
            Bank.open(place)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/b", "pipe:id", "a\\b", ".", ""])
def test_a_shard_whose_name_leads_elsewhere_is_refused(changed, name):
    path = changed.folder / "scenes.index.arrow"
    table = read_table(path)
    shards = pa.array([name, *table["shard"].to_pylist()[1:]])
    other = table.set_column(table.column_names.index("shard"), "shard", shards)
    path.unlink()
    write_table(path, other)
    record(changed.folder, path.name)
    for place in (changed.address, changed.folder):
        with pytest.raises(BankError, match=r"scenes\.index\.arrow: .* can be no shard's name"):
            Bank.open(place)


@pytest.mark.parametrize("name", ["../../x.faiss", "/etc/x", "pipe:id", 7])
def test_a_file_of_the_index_that_lies_elsewhere_is_refused(changed, bank, name):
    path = changed.folder / "index/index.json"
    about = json.loads(path.read_text())
    next(iter(about["categories"].values()))["file"] = name
    path.write_text(json.dumps(about))
    record(changed.folder, "index/index.json")
    for place in (changed.address, changed.folder):
        with pytest.raises(BankError, match="can be no file's name"):
            Bank.open(place).search(bank.features(bank.patch_ids[:1]), ["x"], 1)


def test_files_with_unusual_names_are_asked_for_as_they_are(changed, bank):
    for name in ("a b.json", "ü#%41.json"):
        (changed.folder / name).write_text("{}")
        record(changed.folder, name)
        assert Bank.open(changed.address).file(name).read_text() == "{}"


def test_no_mirror_opens_what_is_not_written_whole(web, monkeypatch):
    """Its manifest.json comes last."""
    monkeypatch.setattr(mirroring, "check_content", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Mirror.open(web.address)
    (folder,) = (mirroring.cache_folder() / "banks").iterdir()
    assert not (folder / "manifest.json").exists()
    monkeypatch.undo()


def test_a_mirror_is_a_bank_as_soon_as_all_has_come(web, toy_bank):
    there = Bank.open(web.address)
    there.files.fetch(there.manifest.files)
    local = Bank.open(folder_of(there))
    assert local.manifest == read_manifest(toy_bank)


def test_files_that_cannot_be_had_may_be_told_one_by_one(web, bank):
    there, failed = Mirror.open(web.address), []
    names = ["features.arrow", "quality.arrow", "candidates.arrow"]
    web.always = {names[0]: flips(9), names[2]: status(404)}
    there.fetch(names, failed=failed.append)
    assert [str(error).partition(" ")[0] for error in failed] == [
        web.address.file(name) for name in names[::2]
    ]
    assert there.file(names[1]).is_file()
    with pytest.raises(BankError, match=names[0]):
        there.fetch(names)
