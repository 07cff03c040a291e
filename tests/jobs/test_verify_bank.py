import json
import os
import shutil
from pathlib import Path

import lmdb
import pytest

from bank.errors import BankError
from bank.files import file_digest
from bank.manifest import read_manifest
from jobs.verify_bank import VerifyBank, main


@pytest.fixture
def bank(toy_bank, tmp_path):
    return shutil.copytree(toy_bank, tmp_path / "bank")


def verified(bank: Path, capsys) -> tuple[int, list[str]]:
    code = 0
    capsys.readouterr()
    try:
        main(VerifyBank(bank=bank))
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().out.splitlines()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_whole_bank_says_its_two_digests(bank, capsys):
    manifest = read_manifest(bank)
    code, lines = verified(bank, capsys)
    assert code == 0
    assert lines[-2:] == [
        f"derived digest: {manifest.derived_digest}",
        f"content digest: {manifest.content_digest}",
    ]


@pytest.mark.parametrize(
    "file",
    [
        "patches/train-00000/data.mdb",
        "patches.arrow",
        "scenes/val-00000.tar",
        "scenes.index.arrow",
        "vocabulary.json",
        "graph_encoder.safetensors",
        "features.arrow",
        "cooccurrence.arrow",
        "candidates.arrow",
    ],
)
def test_one_flipped_bit_is_found_and_its_file_named(bank, capsys, file):
    flip(bank / file)
    code, lines = verified(bank, capsys)
    assert code == 1
    assert any(line.startswith(f"damaged: {file}: has other bytes") for line in lines)
    assert lines[-2].startswith("derived digest: ")
    assert lines[-1].startswith("content digest: ")


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


def resign(bank: Path, file: str) -> None:
    """Make the manifest agree with a file that was changed."""
    manifest = json.loads((bank / "manifest.json").read_text())
    manifest["files"][file] = file_digest(bank / file)._asdict()
    (bank / "manifest.json").write_text(json.dumps(manifest))


def test_a_changed_patch_is_found_even_where_the_manifest_was_made_to_agree(bank, capsys):
    file = "patches/train-00000/data.mdb"
    env = lmdb.open(str((bank / file).parent), lock=False)
    with env.begin(write=True) as txn, txn.cursor() as cursor:
        cursor.first()
        key = cursor.key()
        txn.put(key, bytes(len(cursor.value())))
    env.close()
    resign(bank, file)
    code, lines = verified(bank, capsys)
    assert code == 1
    first = int.from_bytes(key, "big")
    assert any("patches/train-00000: 1 patches differ" in l and str(first) in l for l in lines)
    assert any("content digest is" in line for line in lines)


def test_a_changed_scene_is_found_even_where_the_manifest_was_made_to_agree(bank, capsys):
    file = "scenes/train-00000.tar"
    data = bytearray((bank / file).read_bytes())
    at = data.index(b'"boxes":[[0.') + len(b'"boxes":[[0.')
    data[at] = ord("1") if data[at] != ord("1") else ord("2")
    (bank / file).write_bytes(data)
    resign(bank, file)
    code, lines = verified(bank, capsys)
    assert code == 1
    assert any("scenes/train-00000: 1 scenes differ" in line for line in lines)


def test_a_shard_that_nobody_wrote_is_named(bank, capsys):
    shutil.copy(bank / "scenes/train-00000.tar", bank / "scenes/train-00099.tar")
    code, lines = verified(bank, capsys)
    assert code == 1
    assert "damaged: scenes/train-00099.tar: is not in the manifest" in lines


def test_an_unfinished_bank_is_one_line(bank, tmp_path):
    (bank / "manifest.json").unlink()
    (bank / "work").mkdir()
    with pytest.raises(BankError, match="did not finish"):
        main(VerifyBank(bank=bank))
    with pytest.raises(BankError, match="there is no bank at"):
        main(VerifyBank(bank=tmp_path / "nowhere"))
