import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from bank.bank import Bank
from bank.contents import Contents
from bank.errors import BankError
from bank.table import PHOTOS, read_table, write_table
from pipeline.coco.reader import read_coco
from pipeline.crop import cut_patches, decode_photo, resize_photo
from pipeline.errors import UserError
from pipeline.relations import scene_of
from pipeline.scene import SPLITS, image_of


@pytest.fixture(scope="module")
def bank(toy_bank):
    return Bank.open(toy_bank)


@pytest.fixture(scope="module")
def annotated(toy_data):
    return {p.photo.image_id: p for p in read_coco(toy_data).photos}


def test_every_photo_of_the_dataset_is_a_scene_of_its_split(bank, annotated):
    for split in SPLITS:
        wanted = sorted(i for i, p in annotated.items() if p.photo.split == split)
        assert bank.scene_ids(split).tolist() == wanted
    assert [len(bank.scene_ids(split)) for split in SPLITS] == [60, 20, 20]


def test_a_scene_and_its_patches_are_those_of_the_photo(bank, annotated, toy_data):
    image_id = int(bank.scene_ids("val")[3])
    scene = scene_of(annotated[image_id])
    photo = decode_photo(
        (toy_data / scene.photo.file).read_bytes(), (scene.photo.width, scene.photo.height)
    )
    sample = bank.scene(image_id)
    assert sample.objects == scene.graph.objects
    assert sample.triples == scene.relations
    assert tuple(sample.patch_ids) == scene.patch_ids
    assert np.array_equal(sample.image, resize_photo(photo, bank.image_size))
    assert np.array_equal(sample.masks, np.stack([o.mask for o in scene.objects]))
    wanted = cut_patches(photo, [o.box for o in scene.objects], bank.patch_size)
    assert np.array_equal(bank.patches(sample.patch_ids), wanted)


def test_every_object_of_every_scene_is_a_patch(bank):
    ids = [bank.scene(int(i)).patch_ids for split in SPLITS for i in bank.scene_ids(split)]
    assert np.array_equal(np.sort(np.concatenate(ids)), bank.patch_ids)
    assert np.array_equal(bank.rows(bank.patch_ids), np.arange(len(bank)))


def test_a_bank_says_which_patches_it_has(bank):
    has = bank.patch_ids.tolist()
    assert all(patch in bank for patch in has)
    beside = {patch + step for patch in has for step in (-1, 1)} - {*has}
    for patch in (*beside, -1, 10**30):
        assert patch not in bank


def test_padding_is_zero_in_every_store(bank):
    ids = np.array([[-1, bank.patch_ids[0]]])
    for read in (bank.patches, bank.features, bank.cooccurrence):
        found = read(ids)
        assert found.shape[:2] == (1, 2)
        assert not found[0, 0].any()
        assert found[0, 1].any()


def test_features_are_those_of_their_own_row(bank):
    mixed = bank.patch_ids[[5, 0, 9]]
    assert bank.features(mixed).shape == (3, 128)
    assert np.array_equal(bank.features(mixed)[1], bank.features(bank.patch_ids)[0])


def test_candidates_are_training_patches_of_other_photos(bank):
    found = bank.candidates(bank.patch_ids)
    assert found.ids.shape == (len(bank), 20)
    train = set(bank.scene_ids("train").tolist())
    for own, ids, valid in zip(bank.patch_ids, found.ids, found.valid, strict=True):
        photos = set((ids[valid] >> 16).tolist())
        assert photos <= train - {int(own) >> 16}
        assert (ids[~valid] == -1).all()


def test_fewer_candidates_are_the_first_of_them(bank):
    ids = bank.patch_ids[[7, 2]]
    assert np.array_equal(bank.candidates(ids, 3).ids, bank.candidates(ids).ids[:, :3])
    with pytest.raises(BankError, match="build it with --candidates 21"):
        bank.candidates(ids, 21)


def test_a_search_with_a_stored_feature_finds_its_patch_unless_its_photo_is_excluded(bank):
    own = bank.scene(int(bank.scene_ids("train")[0])).patch_ids[:1]
    category = bank.credits(own)[0]["category"]
    assert bank.search(bank.features(own), [category], 1).distances[0, 0] == 0
    found = bank.search(bank.features(own), [category], 5, exclude_images=[int(own[0]) >> 16])
    assert own[0] not in found.ids


def test_a_bank_of_scope_all_searches_all_and_marks_other_categories(bank):
    manifest = replace(bank.manifest, recipe={**bank.manifest.recipe, "candidate_scope": "all"})
    everything = Bank(bank.path, manifest)
    features = bank.features(bank.patch_ids[:1]) * 0
    found = {
        name: everything.search(features, [name], 20) for name in ("tree", "grass", "sky-other")
    }
    assert len({tuple(f.ids[0]) for f in found.values()}) == 1
    for name, candidates in found.items():
        others = [c["category"] != name for c in bank.credits(candidates.ids[0].tolist())]
        assert candidates.fallback[0].tolist() == others


def test_credits_name_the_photo_and_its_terms(bank, annotated):
    ids = bank.patch_ids[[4, 1]].tolist()
    for patch_id, credit in zip(ids, bank.credits(ids), strict=True):
        photo = annotated[patch_id >> 16].photo
        assert credit["patch_id"] == patch_id
        assert (credit["file"], credit["licence"]) == (photo.file, photo.licence)
        assert (credit["source_url"], credit["image_id"]) == (photo.source_url, photo.image_id)
    assert set(credit) == {"patch_id", "image_id", "category", "licence", "source_url", "file"}


def test_a_bank_that_was_sent_to_another_process_is_the_same(bank):
    bank.features(bank.patch_ids[:1])
    data = pickle.dumps(bank)
    assert len(data) < 1000  # paths, not arrays
    sent = pickle.loads(data)
    assert np.array_equal(sent.patches(bank.patch_ids[:3]), bank.patches(bank.patch_ids[:3]))


def test_an_id_that_is_not_there_is_named(bank):
    for read in (bank.patches, bank.features, bank.candidates, bank.credits):
        with pytest.raises(BankError, match="no patch 12 "):
            read(np.array([12]))
    with pytest.raises(BankError, match="no scene 5 "):
        bank.scene(5)


def test_what_is_no_finished_bank_says_what_it_is(tmp_path, toy_bank):
    with pytest.raises(BankError, match="there is no bank at"):
        Bank.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"'s3://bank': a bank lies in a folder, or at an address"):
        Bank.open("s3://bank")
    with pytest.raises(BankError, match="is not a bank"):
        Bank.open(tmp_path)
    (tmp_path / "work").mkdir()
    with pytest.raises(BankError, match="did not finish; run"):
        Bank.open(tmp_path)


def test_another_format_is_named(tmp_path, toy_bank):
    bank = shutil.copytree(toy_bank, tmp_path / "bank")
    manifest = json.loads((bank / "manifest.json").read_text())
    (bank / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(BankError, match="says format 2, and this version reads format 1"):
        Bank.open(bank)


@pytest.mark.parametrize("name", ["image_size", "patch_size", "candidates", "candidate_scope"])
def test_a_recipe_without_what_opening_needs_is_named(tmp_path, toy_bank, name):
    manifest = json.loads((toy_bank / "manifest.json").read_text())
    del manifest["recipe"][name]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BankError, match=f"its recipe has no usable {name}"):
        Bank.open(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 1, "files": 3}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(BankError, match=r"manifest\.json is damaged"):
        Bank.open(tmp_path)


def test_a_file_cut_short_is_noticed_before_it_is_mapped(tmp_path, toy_bank):
    bank = shutil.copytree(toy_bank, tmp_path / "bank")
    (bank / "features.arrow").write_bytes((bank / "features.arrow").read_bytes()[:-8])
    with pytest.raises(BankError, match=r"features\.arrow has .* bytes, but was written with"):
        Bank.open(bank)
    (bank / "features.arrow").unlink()
    with pytest.raises(BankError, match=r"features\.arrow cannot be read"):
        Bank.open(bank)


@pytest.mark.parametrize(
    "file", ["vocabulary.json", "index/index.json", "graph_encoder.safetensors"]
)
def test_a_small_file_with_another_byte_is_noticed_when_the_bank_is_opened(
    tmp_path, toy_bank, file
):
    bank = shutil.copytree(toy_bank, tmp_path / "bank")
    data = bytearray((bank / file).read_bytes())
    data[len(data) // 2] ^= 1
    (bank / file).write_bytes(data)
    with pytest.raises(BankError, match=f"{file} is not as it was written"):
        Bank.open(bank)


def test_crops_are_a_patchs_box_and_its_photo_by_file_not_by_id(toy_bank, tmp_path):
    """Two photos, the same file: the second one's patches are of the first's."""
    copy = tmp_path / "bank"
    shutil.copytree(toy_bank, copy)
    photos = read_table(copy / "photos.arrow", PHOTOS.names)
    rows = photos.to_pylist()
    bank = Bank.open(toy_bank)
    first, second = sorted(int(i) for i in bank.scene_ids("train")[[3, 7]])
    of = {row["image_id"]: row for row in rows}
    of[first]["sha256"] = of[second]["sha256"]
    write_table(copy / "photos.arrow", pa.Table.from_pylist(rows, PHOTOS))
    ids = np.concatenate([bank.scene(i).patch_ids for i in (first, second)])
    ids = np.append(ids, -1)
    photo, box = Bank.open(copy).crops(ids)
    assert photo.tolist() == [first] * (len(ids) - 1) + [-1]
    assert bank.crops(ids)[0].tolist() == [*image_of(ids[:-1]).tolist(), -1]
    table = bank.table.take(bank.rows(ids[:-1]))
    for column, values in zip(("x0", "y0", "x1", "y1"), box[:-1].T, strict=True):
        assert values.tolist() == pytest.approx(table.column(column).to_pylist())
    assert not box[-1].any()


def test_without_a_table_of_photos_every_id_is_a_photo(toy_bank, tmp_path):
    copy = tmp_path / "bank"
    shutil.copytree(toy_bank, copy)
    (copy / "photos.arrow").unlink()
    contents = Contents(copy, 64)  # as a bank of an earlier version
    assert contents.photos_of_patches.tolist() == image_of(contents.patch_ids).tolist()


def test_a_flipped_bit_in_the_header_of_a_picture_is_named(tmp_path, toy_bank):
    bank = Bank.open(shutil.copytree(toy_bank, tmp_path / "bank"))
    image_id = int(bank.scene_ids("train")[0])
    shard = str(bank.contents.shards_of_images(np.array([image_id]))[0])
    path = bank.path / f"scenes/{shard}.tar"
    row = int(np.searchsorted(bank.contents.image_ids, image_id))
    start = bank.contents.scenes["image_offset"][row].as_py()
    data = bytearray(path.read_bytes())
    data[data.index(b"), }", start)] ^= 1 << 3  # the bracket stays open
    path.write_bytes(data)
    for read in (
        lambda: bank.scene(image_id),
        lambda: bank.contents.scenes_of_shard(shard),
    ):
        with pytest.raises(BankError, match=rf"cannot be read.*verify_bank {bank.path}`") as caught:
            read()
        assert str(path) in str(caught.value)
