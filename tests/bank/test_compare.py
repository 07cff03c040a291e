import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from bank import compare as comparing
from bank.bank import Bank
from bank.candidates import Candidates
from bank.compare import LEVELS, _Common, _unlike_rows, compare, gap, overlap
from bank.contents import content_digest
from bank.manifest import read_manifest, write_manifest
from bank.verify import verify
from jobs.build_bank import BuildBank, main
from jobs.verify_bank import VerifyBank
from jobs.verify_bank import main as verify_bank
from model.graph.frozen_encoder import GraphEncoder
from pipeline.coco.reader import read_coco

LIMIT = 6


@pytest.fixture(scope="module")
def options(toy_data, toy_bank, tmp_path_factory):
    return BuildBank(
        dataset="toy",
        data=toy_data,
        out=tmp_path_factory.mktemp("compare") / "bank",
        limit=LIMIT,
        image_size=16,
        patch_size=8,
        candidates=4,
        graph_encoder=str(toy_bank / "graph_encoder.safetensors"),
        cooccurrence=str(toy_bank / "cooccurrence.safetensors"),
    )


@pytest.fixture(scope="module")
def bank(options):
    main(options)
    return Bank.open(options.bank)


@pytest.fixture
def other(options, tmp_path):
    """Builds another bank, with these settings changed."""

    def build(**changes):
        changed = replace(options, out=tmp_path / "other", **changes)
        main(changed)
        return Bank.open(changed.bank)

    return build


def lines_of(lines, start):
    return [line for line in lines if line.startswith(start)]


def test_a_copy_has_the_same_files(bank, tmp_path):
    found = compare(bank, Bank.open(shutil.copytree(bank.path, tmp_path / "copy")))
    assert found == (5, (), ())


def test_another_size_of_shard_is_the_same_bank_in_other_files(bank, other):
    found = compare(bank, other(shard_photos=2))
    assert LEVELS[found.level] == "the same content and derived parts"
    assert found.causes == (
        "setting --shard-photos: A 256, B 2 (may alter which file holds what, no more)",
    )
    assert all(line.startswith("files: ") for line in found.differences)
    assert found.differences[-1].startswith("files: 3 shards in A, 7 in B")


def test_photos_in_another_folder_are_the_same_photos(bank, other, options, tmp_path):
    data = shutil.copytree(options.data, tmp_path / "data")
    (data / "images").mkdir()
    (data / "train2017").rename(data / "images" / "train2017")
    moved = other(data=data)
    assert (moved.content_digest, moved.manifest.derived_digest) == (
        bank.content_digest,
        bank.manifest.derived_digest,
    )
    found = compare(bank, moved)
    assert LEVELS[found.level] == "the same content and derived parts"
    (line,) = lines_of(found.differences, "patches: ")
    assert " with another photo_file, the first is " in line


def test_other_pixels_are_counted_and_measured(bank, other):
    resized = other(resizer="pillow")
    found = compare(bank, resized)
    assert LEVELS[found.level] == "the same patch ids"
    assert found.causes == ("setting --resizer: A torch, B pillow",)
    apart = np.abs(
        bank.patches(bank.patch_ids).astype(int) - resized.patches(bank.patch_ids)
    ).reshape(len(bank), -1)
    unlike = bank.patch_ids[apart.any(1)]
    (line,) = lines_of(found.differences, "patches: ")
    photos = len(set((unlike >> 16).tolist()))
    assert line.startswith(f"patches: {len(unlike)} with other pixels, of {photos} photos, ")
    mean = apart[apart.any(1)].mean()
    assert f"the first is {unlike[0]} of val2017/" in line
    assert line.endswith(f"by at most {apart.max()} of 255, {mean:.3g} on average")
    (line,) = lines_of(found.differences, "scenes: ")
    assert line.endswith("(image)")


def test_patches_that_one_bank_lacks_are_named_with_the_reason(bank, other, options, tmp_path):
    data = shutil.copytree(options.data, tmp_path / "data")
    photo = read_coco(data, limit=LIMIT).photos[2].photo
    (data / photo.file).unlink()
    found = compare(bank, other(data=data))
    assert LEVELS[found.level] == "not even the same patch ids"
    lost = bank.patch_ids[bank.patch_ids >> 16 == photo.image_id]
    (line,) = lines_of(found.differences, "patches: ")
    assert f"{len(lost)} only in A, the first is {lost[0]}, a " in line
    assert f" of photo {photo.image_id}; B left it out: photo_missing" in line
    assert "scenes: 1 only in A" in found.differences
    assert "left out for photo_missing: A none, B 1" in found.causes


def test_a_photo_that_was_replaced_is_distinguished_from_one_that_was_decoded_otherwise(
    bank, other, options, tmp_path
):
    data = shutil.copytree(options.data, tmp_path / "data")
    photo = read_coco(data, limit=LIMIT).photos[2].photo
    Image.new("RGB", (photo.width, photo.height), "red").save(data / photo.file)
    found = compare(bank, other(data=data))
    assert LEVELS[found.level] == "the same patch ids"
    assert f"photos: 1 with other bytes, the first is {photo.image_id}" in found.differences
    assert lines_of(found.causes, "input photos: ")


def test_another_network_leaves_the_content_and_how_far_the_rest_is_apart_is_reported(
    bank, other, options, tmp_path
):
    network = GraphEncoder.load(options.bank / "graph_encoder.safetensors")
    for weights in network.parameters():
        weights.data *= 1.01
    network.save(tmp_path / "network.safetensors")
    changed = other(graph_encoder=str(tmp_path / "network.safetensors"))
    found = compare(bank, changed)
    assert LEVELS[found.level] == "the same content: scenes and names too"
    assert found.differences[0] == "graph_encoder.safetensors: other weights"
    starts = [line.split(":")[0] for line in found.differences]
    assert starts[1:3] == ["features.arrow", "candidates.arrow"]
    assert set(starts[3:]) == {"files"}
    ids = bank.patch_ids
    x, y = bank.features(ids), changed.features(ids)
    apart = gap(bank, changed, Bank.features)
    assert apart.rows == len(ids)
    assert apart.differ == (x != y).any(1).sum()
    assert apart.largest == np.abs(x.astype(float) - y).max()
    lengths = np.maximum(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))
    assert apart.relative == pytest.approx((np.linalg.norm(x - y, axis=1) / lengths).max(), 1e-4)
    a, b = bank.candidates(ids), changed.candidates(ids)
    fractions = [len(set(p[v]) & set(q)) / v.sum() for p, q, v in zip(a.ids, b.ids, a.valid)]  # noqa: B905
    assert 0.2 < overlap(bank, changed).fraction < 1
    assert overlap(bank, changed) == (
        len(ids),
        pytest.approx(np.mean(fractions)),
        (a.ids == b.ids).all(1).sum(),
        (a.ids[:, 0] == b.ids[:, 0]).sum(),
    )


def test_what_the_manifests_say_is_reported_even_of_equal_banks(bank, tmp_path):
    copy = shutil.copytree(bank.path, tmp_path / "copy")
    manifest = read_manifest(copy)
    changed = replace(
        manifest,
        versions={**manifest.versions, "simplejpeg": "1.8.0"},
        codec={**manifest.codec, "JPEG": "0123456789abcdef"},
        machine={**manifest.machine, "instructions": "AVX"},
        edits=({"removed": [7]},),
    )
    write_manifest(copy, changed)
    found = compare(bank, Bank.open(copy))
    assert found.level == 5
    causes = "\n".join(found.causes)
    assert f"answer of the codec to JPEG: A {manifest.codec['JPEG']}, B 0123456789abcdef" in causes
    assert "B 1.8.0 (may alter pixels of JPEGs)" in causes
    assert "machine's instructions: A " in causes
    assert 'edits: A none; B 1, the last {"removed": [7]}' in causes


def test_a_setting_that_is_newer_than_a_bank_is_no_difference(bank, tmp_path):
    copy = shutil.copytree(bank.path, tmp_path / "copy")
    manifest = read_manifest(copy)
    newer = ("resizer", "toy_format", "licences", "seed", "cooccurrence_steps")
    recipe = {name: value for name, value in manifest.recipe.items() if name not in newer}
    write_manifest(copy, replace(manifest, recipe=recipe))
    assert compare(bank, Bank.open(copy)).causes == ()
    write_manifest(copy, replace(manifest, recipe={**recipe, "resizer": "pillow"}))
    (cause,) = compare(Bank.open(copy), bank).causes
    assert cause == "setting --resizer: A pillow, B torch"


def test_a_content_digest_by_another_rule_is_reported(bank, tmp_path):
    copy = shutil.copytree(bank.path, tmp_path / "copy")
    older = replace(
        read_manifest(copy), content_rule=1, content_digest=content_digest(copy, rule=1)
    )
    write_manifest(copy, older)
    assert verify(copy) == ((), older.content_digest, older.derived_digest)
    found = compare(bank, Bank.open(copy))
    assert found.causes == ("rule of the content digest: A 2, B 1",)


def test_padding_is_no_candidate_that_two_banks_have_in_common():
    def bank(*ids):
        ids = np.array(ids)
        found = Candidates(ids, np.zeros(ids.shape), ids >= 0, np.zeros(ids.shape, bool))
        rows = np.arange(len(ids))
        return SimpleNamespace(
            patch_ids=rows, candidates=lambda asked: Candidates(*(f[asked] for f in found))
        )

    a = bank([7, 8, -1], [-1, -1, -1], [7, 8, 9], [7, -1, -1])
    b = bank([8, -1, -1], [-1, -1, -1], [7, 8, 9], [9, -1, -1])
    assert overlap(a, b) == (4, pytest.approx((0.5 + 1 + 1 + 0) / 4), 2, 2)


@pytest.mark.parametrize("rows_at_once", [3, 10])
def test_null_is_like_null_and_unlike_all_else(rows_at_once, monkeypatch):
    monkeypatch.setattr(comparing, "ROWS_AT_ONCE", rows_at_once)
    a, b = (pa.table({"x": pa.array(x, pa.int64())}) for x in ([1, None, None, 4], [1, None, 3, 5]))
    common = _Common.of(np.arange(4), np.arange(4))
    assert _unlike_rows(a, b, "x", common).tolist() == [2, 3]


def test_rows_are_matched_by_their_key():
    a = pa.table({"x": ["p", "q", "r"]})
    b = pa.table({"x": ["q", "s", "t"]})
    common = _Common.of(np.array([1, 2, 3]), np.array([2, 3, 4]))
    assert not common.all
    assert common.in_a[_unlike_rows(a, b, "x", common)].tolist() == [2]


def run(capsys, **options):
    code = 0
    capsys.readouterr()
    try:
        verify_bank(VerifyBank(**options))
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().out.splitlines()


def test_the_command_says_whether_two_banks_are_the_same(bank, other, capsys):
    same, unlike = other(shard_photos=2).path, bank.path.with_name("unlike")
    code, lines = run(capsys, bank=bank.path, other=same)
    assert code == 0
    assert lines[-1] == "the same bank: level 4 of 5, the same content and derived parts"
    assert f"content digest: {bank.content_digest}" in lines
    shutil.rmtree(same)
    other(candidates=3).path.rename(unlike)
    code, lines = run(capsys, bank=bank.path, other=unlike)
    assert code == 1
    assert lines[-1].startswith("not the same bank: level 3 of 5, ")
    assert "  setting --candidates: A 4, B 3" in lines


def test_a_damaged_bank_is_not_compared(bank, tmp_path, capsys):
    copy = shutil.copytree(bank.path, tmp_path / "copy")
    data = bytearray((copy / "features.arrow").read_bytes())
    data[-1000] ^= 1
    (copy / "features.arrow").write_bytes(data)
    code, lines = run(capsys, bank=bank.path, other=copy)
    assert code == 1
    assert lines_of(lines, "damaged: features.arrow")
    assert not any("level" in line for line in lines)
    code, lines = run(capsys, bank=bank.path, other=copy, quick=True)
    assert code == 0  # by what is recorded


def test_quick_is_for_two_banks(bank):
    with pytest.raises(ValueError, match="name the other one"):
        VerifyBank(bank=bank.path, quick=True)
