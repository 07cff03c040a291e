import dataclasses
import hashlib
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError, UserError
from pipeline.options import to_json
from pipeline.protocol import lines
from pipeline.relations import scene_of
from pipeline.scene import MAX_OBJECT_INDEX, Relation
from pipeline.splits import own_split
from pipeline.visual_genome.cap import drawn_objects
from pipeline.visual_genome.reader import read_visual_genome
from pipeline.visual_genome.rules import VisualGenomeRules
from tests.pipeline.visual_genome_files import (
    NAMES,
    SMALL_RULES,
    TRAIN,
    files,
    listed_object,
    photo,
    relation,
    write,
)

REAL = os.environ.get("RETRIEVEGAN_DATA")


@pytest.fixture
def content():
    return files()


def read(folder, content, limit=None, **rules):
    rules = dataclasses.replace(SMALL_RULES, **rules)
    return read_visual_genome(write(folder, content), rules, limit)


def ids(dataset):
    return [p.photo.image_id for p in dataset.photos]


def test_a_photo_keeps_its_names_boxes_attributes_and_relationships(tmp_path, content):
    found = read(tmp_path, content)
    first = found.photos[0]
    assert ids(found) == [1, 2, 3, 11, 12, 21, 22]
    assert [p.photo.split for p in found.photos] == ["train"] * 3 + ["val"] * 2 + ["test"] * 2
    assert found.vocabulary.objects == ("__image__", *NAMES)
    assert [o.category for o in first.objects] == list(NAMES)
    assert first.objects[2].box_px == (20, 5, 42, 50)
    assert [o.attributes for o in first.objects] == [("green",), (), (), ()]
    assert first.relations == (Relation(0, "near", 1),)
    assert first.photo.file == "VG_100K/1.jpg"
    assert first.photo.source_url == "https://example.org/VG_100K/1.jpg"
    assert (first.photo.width, first.photo.height, first.photo.licence) == (800, 600, "")
    assert {o.segmentation for o in first.objects} == {None}


def test_relations_point_to_object_indices_whatever_was_left_out_before_them(tmp_path, content):
    for entry in content["objects.json"]:
        entry["objects"].insert(0, listed_object(entry["image_id"], 77, "a rare name"))
    photo = read(tmp_path, content, min_object_count=4 - 1).photos[0]
    assert [o.object_index for o in photo.objects] == [0, 1, 2, 3, 4]
    content["objects.json"][0]["objects"][0]["w"] = 31
    photo = read(tmp_path, content, min_object_count=4 - 1).photos[0]
    assert [o.object_index for o in photo.objects] == [1, 2, 3, 4]
    assert photo.relations == (Relation(1, "near", 2),)
    assert scene_of(photo).relations == (Relation(0, "near", 1),)


def test_boxes_may_reach_outside_the_photo(tmp_path, content):
    content["objects.json"][0]["objects"][0] |= {"x": -7, "w": 5000.5}
    assert read(tmp_path, content).photos[0].objects[0].box_px == (-7, 5, 5000.5, 50)


def test_a_size_below_zero_is_too_small_like_any_other(tmp_path, content):
    content["objects.json"][0]["objects"][0]["w"] = -50
    found = read(tmp_path, content)
    assert found.protocol.counts["objects_of_a_kept_name"]["train"] == 12
    assert found.protocol.counts["objects_large_enough"]["train"] == 11


def test_an_object_id_that_occurs_twice_has_the_later_name_and_box(tmp_path, content):
    content["objects.json"][0]["objects"].append(listed_object(1, 0, "dog", x=300))
    content["objects.json"][0]["objects"].append(listed_object(1, 0, "man", w=10))  # not kept
    photo = read(tmp_path, content).photos[0]
    assert [o.object_index for o in photo.objects] == [0, 1, 2, 3, 4, 5]
    assert [photo.objects[i].category for i in (0, 4, 5)] == ["dog"] * 3
    assert {photo.objects[i].box_px[0] for i in (0, 4, 5)} == {300}
    assert photo.relations == (Relation(5, "near", 1),)


def test_an_object_has_thirty_attributes_at_most(tmp_path, content):
    content["attributes.json"][0]["attributes"][0]["attributes"] = ["rare"] + ["green"] * 40
    assert read(tmp_path, content).photos[0].objects[0].attributes == ("green",) * 30


@pytest.mark.parametrize("absent", [{"attributes": None}, {}])
def test_of_an_object_described_twice_the_later_attributes_stand(tmp_path, content, absent):
    described = content["attributes.json"][0]["attributes"]
    described.append({"object_id": described[0]["object_id"], **absent})
    assert read(tmp_path, content).photos[0].objects[0].attributes == ()


def test_predicates_of_validation_photos_are_taken_as_they_stand_or_mended(tmp_path, content):
    for entry in content["relationships.json"]:
        entry["relationships"][0]["predicate"] = "  Next TO "
    found = read(tmp_path, content)
    assert found.vocabulary.predicates == ("__in_image__", "near")
    assert ids(found) == list(TRAIN)
    assert found.protocol.counts["photos_with_too_few_relations"] == {
        "train": 0,
        "val": 2,
        "test": 2,
    }
    assert len(read(tmp_path, content, predicate_names="mended").photos) == 7


def test_photos_need_three_to_thirty_objects_and_one_to_thirty_relationships(tmp_path, content):
    objects, relations = content["objects.json"], content["relationships.json"]
    objects[0]["objects"] = [listed_object(1, p, NAMES[p % 4]) for p in range(30)]
    objects[1]["objects"] = [listed_object(2, p, "tree") for p in range(31)]
    del objects[2]["objects"][2:]
    relations[3]["relationships"] = []
    relations[4]["relationships"] *= 30
    relations[5]["relationships"] *= 31
    found = read(tmp_path, content, min_object_count=1)
    assert ids(found) == [1, 12, 22]
    counts = found.protocol.counts
    assert counts["photos_with_too_many_objects"]["train"] == 1
    assert counts["photos_with_too_few_objects"]["train"] == 1
    assert counts["photos_with_too_few_relations"]["val"] == 1
    assert counts["photos_with_too_many_relations"]["test"] == 1


def test_the_limit_takes_the_lowest_ids_of_training_photos_and_of_all_others(tmp_path, content):
    content["vg_splits.json"] = {"train": [3, 2, 1], "val": [22, 12], "test": [11, 21]}
    assert ids(read(tmp_path, content, limit=3)) == [1, 2, 3, 12, 11, 21]
    found = read(tmp_path, content, limit=1)
    assert ids(found) == [1, 11]
    assert found.protocol.counts["photos_passed"]["train"] == 3
    assert found.protocol.counts["photos_within_limit"]["train"] == 1
    with pytest.raises(UserError, match="limit of 0 photos"):
        read(tmp_path, content, limit=0)


def test_our_own_split_takes_every_photo_and_needs_no_list(tmp_path, content):
    del content["vg_splits.json"]
    found = read(tmp_path, content, splits="own")
    assert sorted(ids(found)) == [1, 2, 3, 11, 12, 21, 22]
    assert all(p.photo.split == own_split(p.photo.image_id) for p in found.photos)
    with pytest.raises(DatasetError, match=r"vg_splits\.json: take .* or pass --splits own"):
        read(tmp_path, content)


def test_ends_of_relationships_come_before_other_objects():
    ends = [(3, 5), (5, 11), (3, 3)]
    for image_id in range(50):
        drawn = drawn_objects(image_id, 20, ends, "sg2im")
        assert {3, 5, 11} <= set(drawn)
        assert len(drawn) == len(set(drawn)) == 9
        assert drawn == sorted(drawn)
    assert drawn_objects(1, 6, ends[:1], "sg2im") == [0, 1, 2, 3, 4, 5]


def test_more_than_nine_related_objects_are_cut_to_ten_or_to_nine():
    ends = [(i, i + 1) for i in range(0, 24, 2)]
    for cap, most in (("sg2im", 10), ("9", 9)):
        drawn = drawn_objects(5, 30, ends, cap)
        assert len(drawn) == most
        assert set(drawn) < set(range(24))
    for num_related in (9, 10):
        ends = [(0, i) for i in range(1, num_related)]
        expected = min(num_related, 9)
        assert len(drawn_objects(5, 30, ends, "9")) == expected
        assert drawn_objects(5, 30, ends, "sg2im") == list(range(num_related))


def test_every_object_is_drawn_as_often_as_another_and_always_the_same():
    ends = [(i, i + 1) for i in range(0, 20, 2)]
    counts = [0] * 20
    for image_id in range(2000):
        for place in drawn_objects(image_id, 20, ends, "9"):
            counts[place] += 1
    assert 800 < min(counts) <= max(counts) < 1000
    assert drawn_objects(2407890, 12, [(0, 11)], "sg2im") == [0, 2, 4, 6, 7, 8, 9, 10, 11]


def test_the_protocol_says_what_each_filter_left_and_what_it_is_compared_with(tmp_path, content):
    content["image_data.json"].append(photo(31, height=199))
    content["vg_splits.json"]["train"] += [31, 99]
    content["objects.json"].pop()
    protocol = read(tmp_path, content).protocol
    train = {what: by_split["train"] for what, by_split in protocol.counts.items()}
    assert train["photos_listed"] == 5
    assert train["photos_not_in_image_data"] == 1
    assert train["photos_large_enough"] == 3
    assert train["objects_listed"] == train["objects_after_the_cap"] == 12
    assert protocol.counts["photos_not_in_objects"]["test"] == 1
    assert protocol.known == ()
    assert "--vg-min-object-count, --vg-min-relation-count" in protocol.not_compared
    assert any("without an entry in image_data, left out: 1" in n for n in protocol.notes)
    assert any("without an entry in objects, left out: 1" in n for n in protocol.notes)
    assert protocol.rules["splits"] == "sg2im"
    json.dumps(to_json(protocol))
    assert not any(re.search("[\n\r]", line) for line in lines(protocol))


@pytest.mark.parametrize("object_cap", ["sg2im", "9"])
def test_literature_is_compared_with_under_the_published_rules_alone(tmp_path, content, object_cap):
    many = [
        {
            "image_id": 10_000 + i,
            "objects": [listed_object(10_000 + i, p, "tree") for p in range(30)],
        }
        for i in range(67)
    ]
    content["objects.json"] += many
    content["image_data.json"] += [photo(e["image_id"]) for e in many]
    content["relationships.json"] += [
        {"image_id": e["image_id"], "relationships": [relation(e["image_id"], 0, "near", 1)] * 30}
        for e in many
    ]
    content["vg_splits.json"]["train"] += [e["image_id"] for e in many]
    folder = write(tmp_path, content)
    protocol = read_visual_genome(folder, VisualGenomeRules(object_cap=object_cap)).protocol
    assert protocol.not_compared == ""
    known = {k.what: k.known for k in protocol.known}
    assert known == {
        "train": 62_565,
        "val": 5_506,
        "test": 5_088,
        "objects": 178,
        "relations": 45,
    }
    mended = VisualGenomeRules(object_cap=object_cap, predicate_names="mended")
    assert "--vg-predicate-names" in read_visual_genome(folder, mended).protocol.not_compared
    limited = read_visual_genome(folder, VisualGenomeRules(), 5).protocol
    assert limited.not_compared == "other rules are in force (--limit)"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"min_object_count": 0}, "--vg-min-object-count must be at least 1, but is 0"),
        ({"min_photo_px": -5}, "--vg-min-photo-px must be at least 1, but is -5"),
        ({"splits": "ours"}, "--splits must be sg2im or own, but is 'ours'"),
        ({"object_cap": 9}, "--vg-object-cap must be sg2im or 9, but is 9"),
    ],
)
def test_rules_that_make_no_sense_are_refused_by_their_flag(rules, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        VisualGenomeRules(**rules)


def test_inputs_are_the_hashes_of_the_files(tmp_path, content):
    found = read(tmp_path, content)
    assert dict(found.inputs) == {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in content
    }


def test_the_official_zips_and_folders_below_images_will_do(tmp_path, content):
    (tmp_path / "plain").mkdir()
    plain = read(tmp_path / "plain", content)
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    for name in content:
        with zipfile.ZipFile(zipped / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            packed.write(tmp_path / "plain" / name, name)
    with zipfile.ZipFile(zipped / "images.zip", "w") as packed:
        packed.writestr("VG_100K/1.jpg", b"a photo")
    found = read_visual_genome(DataFolder(zipped), SMALL_RULES)
    assert found.photos == plain.photos
    assert found.inputs == plain.inputs
    (zipped / "images.zip").unlink()
    (zipped / "images" / "VG_100K").mkdir(parents=True)
    found = read_visual_genome(DataFolder(zipped), SMALL_RULES)
    assert found.photos[0].photo.file == "images/VG_100K/1.jpg"


def test_a_file_named_after_its_release_will_do(tmp_path, content):
    for kind, release in (("objects", "v1_4"), ("attributes", "v1_2")):
        content[f"{kind}_{release}.json"] = content.pop(f"{kind}.json")
    found = read(tmp_path, content)
    assert {"objects_v1_4.json", "attributes_v1_2.json"} < found.inputs.keys()


@pytest.mark.skipif(REAL is None, reason="RETRIEVEGAN_DATA names no folder of real data")
def test_genuine_files_are_read(tmp_path):
    genuine = Path(REAL) / "vg_annotations"
    for source in (genuine, genuine / "hf_dummy/attributes_v1.2.0"):
        for path in (*source.glob("*.json"), *source.glob("*_alias.txt")):
            shutil.copy(path, tmp_path / path.name)
    content = {"image_data.json": [photo(i) for i in range(1, 51)]}
    rules = VisualGenomeRules(min_object_count=3, min_attribute_count=2, min_relation_count=2)
    found = read_visual_genome(write(tmp_path, content), rules)
    protocol = found.protocol
    assert [n for n in protocol.notes if "without image_id" in n] == [
        "relationships.json: entries without image_id, left out: 1; the first is entry 49"
    ]
    assert protocol.counts["photos_listed"] == {"train": 86_463, "val": 10_807, "test": 10_807}
    assert "tree" in found.vocabulary.objects
    assert "trees" not in found.vocabulary.objects
    assert len(found.photos) > 10
    assert max(o.object_index for p in found.photos for o in p.objects) <= MAX_OBJECT_INDEX
    assert all(scene_of(p).relations for p in found.photos if p.relations)
