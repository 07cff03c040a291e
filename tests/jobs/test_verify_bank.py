import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import lmdb
import numpy as np
import pytest

from bank.bank import Bank
from bank.contents import content_digest
from bank.errors import BankError
from bank.files import file_digest
from bank.manifest import read_manifest, write_manifest
from bank.shards import close_shards
from bank.verify import verify
from jobs.build_bank import BuildBank
from jobs.build_bank import main as build
from jobs.stages import cluster
from jobs.verify_bank import VerifyBank, main
from pipeline.errors import UserError


@pytest.fixture
def bank(toy_bank, tmp_path):
    return shutil.copytree(toy_bank, tmp_path / "bank")


@pytest.fixture(scope="module")
def small_bank(toy_data, toy_bank, tmp_path_factory):
    """A few photos, small patches and given networks: little to hash."""
    out = tmp_path_factory.mktemp("small") / "bank"
    small = BuildBank(
        dataset="toy",
        data=toy_data,
        out=out,
        limit=4,
        image_size=16,
        patch_size=8,
        candidates=3,
        graph_encoder=str(toy_bank / "graph_encoder.safetensors"),
        cooccurrence=str(toy_bank / "cooccurrence.safetensors"),
    )
    build(small)
    return out


def verified(bank: Path, capsys, **options) -> tuple[int, list[str]]:
    code = 0
    capsys.readouterr()
    try:
        main(VerifyBank(bank=bank, **options))
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().out.splitlines()


def flip(path: Path, place: int | None = None, bits: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= bits
    path.write_bytes(data)


def test_a_whole_bank_says_its_two_digests(bank, capsys):
    manifest = read_manifest(bank)
    code, lines = verified(bank, capsys)
    assert code == 0
    assert lines[-2:] == [
        f"derived digest: {manifest.derived_digest}",
        f"content digest: {manifest.content_digest}",
    ]


def test_a_bank_of_before_photos_arrow_is_whole(bank, capsys):
    (bank / "photos.arrow").unlink()
    now = read_manifest(bank)
    files = {path: digest for path, digest in now.files.items() if path != "photos.arrow"}
    digest = content_digest(bank, rule=1)
    write_manifest(bank, replace(now, files=files, content_digest=digest, content_rule=1))
    assert verified(bank, capsys)[0] == 0


def test_one_flipped_bit_is_found_and_its_file_named(bank, capsys):
    flip(bank / "patches.arrow")
    code, lines = verified(bank, capsys)
    assert code == 1
    assert any(line.startswith("damaged: patches.arrow: has other bytes") for line in lines)
    assert lines[-2].startswith("derived digest: ")
    assert lines[-1].startswith("content digest: ")


def test_one_flipped_byte_anywhere_is_found_and_its_file_named(small_bank, tmp_path, capsys):
    bank = shutil.copytree(small_bank, tmp_path / "bank")
    draw = random.Random(5)
    files = sorted(p for p in bank.rglob("*") if p.is_file())
    assert {p.name for p in files} >= {"manifest.json", "data.mdb", "failures.jsonl", "index.json"}
    for path in files:
        whole = path.read_bytes()
        size = len(whole)
        for place in (
            sorted({0, size - 1, *(draw.randrange(size) for _ in range(2))}) if size else ()
        ):
            flip(path, place, draw.randrange(1, 256))
            name = path.relative_to(bank).as_posix()
            if name == "manifest.json":
                with pytest.raises(BankError, match=r"manifest\.json (is damaged|says format)"):
                    main(VerifyBank(bank=bank))
            else:
                code, lines = verified(bank, capsys)
                assert (code, [li for li in lines if f"damaged: {name}: " in li] != []) == (1, True)
            path.write_bytes(whole)
    assert verified(bank, capsys)[0] == 0


@pytest.mark.parametrize("number", range(40))
def test_a_manifest_with_one_other_byte_is_refused_by_every_reader(small_bank, tmp_path, number):
    data = bytearray((small_bank / "manifest.json").read_bytes())
    draw = random.Random(number)
    data[draw.randrange(len(data))] ^= draw.randrange(1, 256)
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(BankError, match=r"manifest\.json (is damaged|says format)"):
        read_manifest(tmp_path)


def test_a_reader_names_patch_scene_and_file_of_pixels_that_are_not_those_that_were_cut(bank):
    opened = Bank.open(bank)
    patch_id = int(opened.patch_ids[0])
    image_id = patch_id >> 16
    pixels = opened.patches(np.array([patch_id])).tobytes()
    picture = opened.scene(image_id).image.tobytes()
    close_shards()
    for folder, held in (("patches/*/data.mdb", pixels), ("scenes/*.tar", picture)):
        (path,) = (p for p in bank.glob(folder) if held in p.read_bytes())
        flip(path, path.read_bytes().index(held) + len(held) // 2)
    again = Bank.open(bank)  # sizes are as they were
    with pytest.raises(BankError, match=rf"patch {patch_id} is not what was cut.*data\.mdb"):
        again.patches(again.patch_ids)
    with pytest.raises(BankError, match=rf"scene {image_id} cannot be read from .*tar .*SHA-256"):
        again.scene(image_id)
    assert again.contents.scene(image_id, image=False).image_id == image_id


def test_every_damaged_file_is_named(bank, capsys):
    # Half a file: reading patches from its map would end this process.
    os.truncate(bank / "patches/test-00000/data.mdb", 1 << 16)
    (bank / "scenes/train-00001.tar").unlink()
    flip(bank / "cooccurrence.safetensors")
    code, lines = verified(bank, capsys)
    assert code == 1
    damaged = {line.split(":")[1].strip() for line in lines if line.startswith("damaged:")}
    assert damaged >= {
        "patches/test-00000/data.mdb",
        "scenes/train-00001.tar",
        "cooccurrence.safetensors",
    }


def test_a_damaged_table_of_quality_is_named_and_both_digests_stand(toy_bank, tmp_path, capsys):
    bank = shutil.copytree(toy_bank, tmp_path / "bank")
    assert verified(bank, capsys)[0] == 0
    flip(bank / "quality.arrow")
    code, lines = verified(bank, capsys)
    assert code == 1
    damaged = [line for line in lines if line.startswith("damaged:")]
    assert len(damaged) == 1
    assert damaged[0].startswith("damaged: quality.arrow: has other bytes")
    manifest = read_manifest(bank)
    assert lines[-1] == f"content digest: {manifest.content_digest}"
    assert lines[-2] == f"derived digest: {manifest.derived_digest}"


def resign(bank: Path, file: str) -> None:
    """Make the manifest agree with a file that was changed."""
    manifest = read_manifest(bank)
    files = {**manifest.files, file: file_digest(bank / file)}
    write_manifest(bank, replace(manifest, files=files))


def change_patch(bank: Path, shard: str) -> bytes:
    """Make the first patch of a shard black, and the manifest agree; returns its key."""
    file = f"patches/{shard}/data.mdb"
    env = lmdb.open(str((bank / file).parent), lock=False)
    with env.begin(write=True) as txn, txn.cursor() as cursor:
        cursor.first()
        key = cursor.key()
        txn.put(key, bytes(len(cursor.value())))
    env.close()
    resign(bank, file)
    return key


def change_scene(bank: Path, shard: str) -> None:
    """Move a box of a shard's first scene, and make the manifest agree."""
    file = f"scenes/{shard}.tar"
    data = bytearray((bank / file).read_bytes())
    at = data.index(b'"boxes":[[0.') + len(b'"boxes":[[0.')
    data[at] = ord("1") if data[at] != ord("1") else ord("2")
    (bank / file).write_bytes(data)
    resign(bank, file)


def test_a_changed_patch_is_found_even_where_the_manifest_was_made_to_agree(bank, capsys):
    key = change_patch(bank, "train-00000")
    code, lines = verified(bank, capsys)
    assert code == 1
    first = int.from_bytes(key, "big")
    assert any("patches/train-00000: 1 patch with another" in l and str(first) in l for l in lines)
    assert any("content digest is" in line for line in lines)


def test_a_changed_scene_is_found_even_where_the_manifest_was_made_to_agree(bank, capsys):
    change_scene(bank, "train-00000")
    code, lines = verified(bank, capsys)
    assert code == 1
    assert any("scenes/train-00000: 1 scene with another" in line for line in lines)


def test_a_shard_that_nobody_wrote_is_named(bank, capsys):
    shutil.copy(bank / "scenes/train-00000.tar", bank / "scenes/train-00099.tar")
    code, lines = verified(bank, capsys)
    assert code == 1
    assert "damaged: scenes/train-00099.tar: is not in the manifest" in lines


def test_a_shard_that_the_manifest_lacks_is_not_read(bank, capsys):
    manifest = read_manifest(bank)
    files = {path: d for path, d in manifest.files.items() if "/val-00000" not in path}
    write_manifest(bank, replace(manifest, files=files))
    code, lines = verified(bank, capsys)
    assert code == 1
    assert "damaged: scenes/val-00000.tar: is not in the manifest" in lines
    for of in ("patches", "scenes"):
        line = next(line for line in lines if line.startswith(f"damaged: {of}/val-00000: "))
        count = manifest.shards["val-00000"][of]
        assert f": {count} {of} that cannot be read" in line


def test_an_unfinished_bank_is_one_line(bank, tmp_path):
    (bank / "manifest.json").unlink()
    (bank / "work").mkdir()
    with pytest.raises(BankError, match="did not finish"):
        main(VerifyBank(bank=bank))
    with pytest.raises(BankError, match="there is no bank at"):
        main(VerifyBank(bank=tmp_path / "nowhere"))


@pytest.fixture(scope="module")
def damaged(toy_bank, tmp_path_factory):
    """Where a file, a patch or a scene can be wrong, at least one is."""
    bank = shutil.copytree(toy_bank, tmp_path_factory.mktemp("damaged") / "bank")
    for shard in ("train-00000", "train-00003"):
        change_patch(bank, shard)
        change_scene(bank, shard)
    os.truncate(bank / "patches/test-00000/data.mdb", 1 << 16)
    (bank / "scenes/train-00001.tar").unlink()
    (bank / "failures.jsonl").unlink()
    flip(bank / "cooccurrence.safetensors")
    shutil.copy(bank / "scenes/train-00002.tar", bank / "scenes/train-00099.tar")
    return bank


def test_everything_that_is_damaged_has_its_line_in_the_order_of_the_manifest(damaged):
    verification = verify(damaged)
    named = [line.split(":")[0] for line in verification.damages]
    assert named == [
        "cooccurrence.safetensors",
        "failures.jsonl",
        "patches/test-00000/data.mdb",
        "scenes/train-00001.tar",
        "scenes/train-00099.tar",
        "patches/test-00000",
        "patches/train-00000",
        "patches/train-00003",
        "scenes/train-00000",
        "scenes/train-00001",
        "scenes/train-00003",
        "manifest.json",
        "manifest.json",
    ]
    assert verification.content_digest == "cannot be computed"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("which", ["bank", "damaged"])
def test_what_is_found_does_not_depend_on_the_order_of_the_results(
    which, seed, request, monkeypatch
):
    def shuffled(function, tasks):
        return map(function, random.Random(seed).sample(tasks, len(tasks)))

    bank = request.getfixturevalue(which)
    expected = verify(bank)
    monkeypatch.setattr("bank.verify.BYTES_AT_ONCE", 10_000)
    assert verify(bank, shuffled) == expected


def test_two_workers_find_in_two_banks_what_this_process_finds(
    toy_bank, damaged, capsys, monkeypatch
):
    expected = verified(toy_bank, capsys, other=damaged)
    monkeypatch.setattr("bank.verify.close_shards", None)  # so that no task can run here
    assert verified(toy_bank, capsys, other=damaged, workers=2) == expected
    code, lines = expected
    assert (code, lines[0]) == (1, f"{toy_bank}: no damage found")


def test_a_scheduler_that_is_not_there_is_named(bank, monkeypatch):
    monkeypatch.setattr(cluster, "JOIN_S", 0.2)
    with pytest.raises(UserError, match="no Dask scheduler answers at 'nonsense://'"):
        main(VerifyBank(bank=bank, scheduler="nonsense://"))


def test_workers_here_and_a_scheduler_are_not_both_taken(bank):
    with pytest.raises(ValueError, match=r"--workers starts workers here, .*: give one"):
        VerifyBank(bank=bank, workers=2, scheduler="tcp://here:1")
    with pytest.raises(ValueError, match="--workers is -1"):
        VerifyBank(bank=bank, workers=-1)
