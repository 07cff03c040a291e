"""Files that are not as they should be: met and noted, or refused in one line with the place."""

import json
import shutil

import pytest

from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError
from pipeline.options import to_json
from pipeline.visual_genome.reader import _notes_on, read_visual_genome
from tests.pipeline.visual_genome_files import SMALL_RULES, files, listed_object, relation, write


@pytest.fixture
def content():
    return files()


def read(folder, content):
    return read_visual_genome(write(folder, content), SMALL_RULES)


def refusal(folder, content):
    with pytest.raises(DatasetError) as caught:
        read(folder, content)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize("kind", ["objects", "relationships", "attributes", "image_data"])
def test_an_entry_without_its_photos_id_is_left_out_and_noted(tmp_path, content, kind):
    del content[f"{kind}.json"][1]["image_id"]
    found = read(tmp_path, content)
    note = f"{kind}.json: entries without image_id, left out: 1; the first is entry 1"
    assert note in found.protocol.notes
    assert (2 in [p.photo.image_id for p in found.photos]) == (kind == "attributes")


def test_of_a_photo_that_is_listed_twice_the_later_list_stands(tmp_path, content):
    new = [listed_object(1, p, "man", x=100 + p) for p in range(3)]
    content["objects.json"].append({"image_id": 1, "objects": new})
    links = [relation(1, 2, "near", 1)]
    content["relationships.json"].insert(0, {"image_id": 1, "relationships": links * 2})
    content["attributes.json"].append({"image_id": 1, "attributes": []})
    content["image_data.json"].append({**content["image_data.json"][0], "width": 801})
    found = read(tmp_path, content)
    first = found.photos[0]
    assert [(o.category, o.box_px[0]) for o in first.objects] == [
        ("man", 100), ("man", 101), ("man", 102),
    ]  # fmt: skip
    assert [tuple(r) for r in first.relations] == [(0, "near", 1)]
    assert {o.attributes for o in first.objects} == {()}
    assert first.photo.width == 801
    notes = [n for n in found.protocol.notes if "listed again" in n]
    assert len(notes) == 4
    assert notes[0].endswith("the later list stands: 1; the first is photo 1")


HUGE = 10**400
BAD = [
    ("image_data.json", (0, "width"), -800, "photo 1, entry 0, width -800: Expected int >= 1"),
    ("image_data.json", (0, "height"), "6o0", "photo 1, entry 0, height '6o0': Expected int"),
    ("image_data.json", (0, "width"), HUGE, "photo 1, entry 0, width 1000"),
    ("image_data.json", (1, "image_id"), "2.5", "entry 1, image_id '2.5': Expected int"),
    ("image_data.json", (1, "image_id"), -2, "photo -2, entry 1, image_id -2: Expected int >= 0"),
    ("image_data.json", (1, "image_id"), 1 << 47, "Expected int <= 140737488355327"),
    ("image_data.json", (1, "image_id"), True, "image_id True: Expected int, got bool"),
    ("image_data.json", (1, "url"), None, "photo 2, entry 1, url: Expected str, got null"),
    ("image_data.json", (1, "url"), "https://a.b/../x.jpg", "photo 2: its url"),
    ("image_data.json", (1, "url"), "x.jpg", "photo 2: its url 'x.jpg' does not end in FOLDER"),
    ("image_data.json", (1, "url"), "https://a.b/VG_100K/", "photo 2: its url"),
    ("image_data.json", (1, "url"), "https://a.b/VG\n/2.jpg", "photo 2: its url"),
    ("image_data.json", (1,), [], "entry 1: Expected object, got array"),
    ("objects.json", (2, "objects", 3, "w"), None, "photo 3, entry 2, objects[3].w: Expected f"),
    ("objects.json", (2, "objects", 3, "x"), HUGE, "photo 3, entry 2, objects[3].x 1000"),
    ("objects.json", (2, "objects", 3, "y"), 1e7, "objects[3].y 10000000.0: Expected float <="),
    ("objects.json", (2, "objects", 3, "object_id"), 1.5, "objects[3].object_id 1.5: Expected"),
    ("objects.json", (2, "objects", 3, "object_id"), 1 << 63, "objects[3].object_id 9223"),
    ("objects.json", (2, "objects", 3, "names"), "tree", "objects[3].names 'tree': Expected arr"),
    ("objects.json", (2, "objects", 3, "names"), [["x"]], "objects[3].names[0]: Expected str"),
    ("objects.json", (2, "objects", 3), 7, "objects[3] 7: Expected object, got int"),
    ("objects.json", (2, "objects"), {}, "photo 3, entry 2, objects: Expected array, got object"),
    ("objects.json", (2,), None, "entry 2: Expected object, got null"),
    ("relationships.json", (1, "relationships", 0, "predicate"), 3, "photo 2, entry 1, relation"),
    ("relationships.json", (1, "relationships", 0, "subject"), [], "relationships[0].subject: "),
    ("relationships.json", (1, "relationships", 0, "object", "object_id"), "ix", "object_id 'ix'"),
    ("attributes.json", (1, "attributes", 0, "attributes"), "green", "attributes[0].attributes "),
    ("attributes.json", (1, "attributes", 0, "attributes"), [None], "attributes[0].attributes[0]"),
    ("vg_splits.json", ("val",), {}, "vg_splits.json, val: Expected array, got object"),
    ("vg_splits.json", ("val", 1), "b", "vg_splits.json, val[1] 'b': Expected int, got str"),
    ("vg_splits.json", ("val", 1), 1.5, "vg_splits.json, val[1] 1.5: Expected int"),
    ("vg_splits.json", ("val", 1), 3, "val[1]: photo 3 is in 'train' already"),
    ("vg_splits.json", ("val", 1), 11, "val[1]: photo 11 is in 'val' already"),
    ("attributes.json", (1, "\ud800"), 0, r"photo 2, entry 1: '\ud800' in it is no character"),
    ("vg_splits.json", ("\udfff",), [], r"vg_splits.json: '\udfff' in it is no character"),
    ("vg_splits.json", ("more",), [], "Object contains unknown field more"),
]


@pytest.mark.parametrize(("file", "path", "value", "message"), BAD)
def test_a_value_of_another_kind_is_refused_by_file_photo_and_place(
    tmp_path, content, file, path, value, message
):
    inside = content[file]
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    said = refusal(tmp_path, content)
    assert said.startswith(f"{tmp_path / file}")
    assert message in said


@pytest.mark.parametrize("write", [float, str], ids=["as a float", "as text"])
def test_whole_numbers_may_be_written_otherwise(tmp_path, content, write):
    (tmp_path / "plain").mkdir()
    plain = read(tmp_path / "plain", content)

    def otherwise(value):
        if isinstance(value, dict):
            return {key: otherwise(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [otherwise(inner) for inner in value]
        return write(value) if type(value) is int else value

    found = read(tmp_path, {n: otherwise(v) for n, v in content.items()})
    assert found.photos == plain.photos
    assert json.dumps(to_json(found.photos[0])) == json.dumps(to_json(plain.photos[0]))


@pytest.mark.parametrize("key", ["object_id", "names", "x", "h"])
def test_a_missing_value_is_refused_by_its_place(tmp_path, content, key):
    del content["objects.json"][1]["objects"][2][key]
    said = refusal(tmp_path, content)
    assert f"photo 2, entry 1, objects[2]: Object missing required field {key}" in said


def test_more_objects_than_patch_ids_have_room_for_are_refused(tmp_path, content):
    content["objects.json"][0]["objects"] = [listed_object(1, p, "tree") for p in range(65_537)]
    assert "photo 1, entry 0, objects: Expected array of length <= 65536" in refusal(
        tmp_path, content
    )


@pytest.mark.parametrize("name", ["", "tr\nee", "tr\u2028ee", "tree\ud800", "__image__"])
def test_an_unfit_name_is_refused_where_it_is_frequent_and_never_used_where_it_is_not(
    tmp_path, content, name
):
    content["objects.json"][1]["objects"][2]["names"].insert(0, name)
    found = read(tmp_path, content)
    assert name not in found.vocabulary.objects or name == "__image__"
    assert found.photos[1].objects[2].category == "car"
    content["objects.json"][2]["objects"][2]["names"].insert(0, name)
    said = refusal(tmp_path, content)
    assert "objects.json, photo 2, objects[2]: " in said
    assert "cannot be a name, yet it occurs 2 times" in said


def test_an_unfit_predicate_or_attribute_is_refused_where_it_is_frequent(tmp_path, content):
    for entry in content["relationships.json"]:
        entry["relationships"].append(relation(entry["image_id"], 0, " \n", 1))
    assert "relationships.json, photo 1, relationships[1]: ''" in refusal(tmp_path, content)
    content = files()
    for entry in content["attributes.json"]:
        entry["attributes"][0]["attributes"] = ["gr\teen"]
    assert "attributes.json, photo 1, attributes[0]: 'gr\\teen'" in refusal(tmp_path, content)


@pytest.mark.parametrize("kind", ["objects", "relationships", "attributes", "image_data"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[: len(data) // 2], "is not JSON at byte"),
        (lambda data: b'{"a": ' + data + b"}", "holds no list"),
        (lambda data: b"<html>404</html>", "is not JSON at byte 0 of"),
        (lambda data: data[:20] + b"\xff" + data[21:], "is not UTF-8 text at byte"),
        (lambda data: data[:-1] + b", " + b"[" * 200_000, "nests brackets too deeply"),
        (lambda data: data[:-1] + b', {"image_id": NaN}]', "image_id nan: Expected int"),
        (lambda data: data[:-1] + b', {"image_id": 1e999}]', "image_id inf: Expected int"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_in_one_line(tmp_path, content, kind, spoil, message):
    file = f"{kind}.json"
    content[file] = spoil(json.dumps(content[file]).encode())
    said = refusal(tmp_path, content)
    assert said.startswith(str(tmp_path / file))
    assert message in said


def test_small_files_that_are_not_whole_are_refused_too(tmp_path, content):
    content["vg_splits.json"] = b'{"train": [1, 2'
    assert "vg_splits.json is not JSON at byte 15 of 15" in refusal(tmp_path, content)
    content = files()
    content["object_alias.txt"] = b"tree,trees\n\xff\xfe"
    assert "object_alias.txt is not UTF-8 text at byte 11" in refusal(tmp_path, content)


def test_later_alias_lines_overrule_and_blank_ones_do_not_matter(tmp_path, content):
    content["object_alias.txt"] = "\ufeffplant,tree\r\n\r\n  animal , dog,man \rbeast,dog\n\n"
    found = read(tmp_path, content)
    assert [o.category for o in found.photos[0].objects] == ["plant", "animal", "car", "beast"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("objects.json", "release 1.4 is needed: download it from visualgenome.org"),
        ("relationships.json", "release 1.4 is needed: download it from visualgenome.org"),
        ("attributes.json", "release 1.2 is needed: download it from visualgenome.org"),
        ("image_data.json", "release 1.2 is needed: download it from visualgenome.org"),
        ("object_alias.txt", "it comes with release 1.4: download it from visualgenome.org"),
        ("relationship_alias.txt", "it comes with release 1.4: download it from"),
        ("vg_splits.json", "take sg2im/data/vg_splits.json from sg2im's repository"),
    ],
)
def test_a_missing_file_is_named_with_where_to_get_it(tmp_path, content, file, message):
    del content[file]
    said = refusal(tmp_path, content)
    assert said.startswith(f"there is no file {tmp_path / file}")
    assert message in said


def test_a_file_of_another_release_is_named_where_the_right_one_is_missing(tmp_path, content):
    content["objects_v1_2.json"] = content.pop("objects.json")
    assert "objects.json (only objects_v1_2.json, of another release)" in refusal(tmp_path, content)


def test_missing_photo_folders_and_data_folders_are_named(tmp_path, content):
    with pytest.raises(DatasetError, match=r"there is no folder .*nowhere"):
        read_visual_genome(DataFolder(tmp_path / "nowhere"), SMALL_RULES)
    folder = write(tmp_path, content)
    shutil.rmtree(tmp_path / "VG_100K")
    with pytest.raises(DatasetError, match=r"no folder .*VG_100K: .*images\.zip and images2"):
        read_visual_genome(folder, SMALL_RULES)


def old(value, with_ids):
    """As release 1.0 or 1.2 has it."""
    if isinstance(value, list):
        return [old(v, with_ids) for v in value]
    if not isinstance(value, dict):
        return value
    names = {} if with_ids else {"image_id": "id", "object_id": "id", "relationship_id": "id"}
    return {
        names.get(key, key): old(inner, with_ids)
        for key, inner in value.items()
        if key != "merged_object_ids"
    }


@pytest.mark.parametrize("kind", ["objects", "relationships"])
def test_objects_and_relationships_of_release_1_2_are_refused(tmp_path, content, kind):
    content[f"{kind}.json"] = old(content[f"{kind}.json"], with_ids=True)
    said = refusal(tmp_path, content)
    assert f"{kind}.json is of release 1.2 (no object has 'merged_object_ids')" in said
    assert "release 1.4 is needed: download it from visualgenome.org" in said
    assert 'merely in Visual Genome\'s form, give the objects "merged_object_ids": []' in said


def test_one_object_with_merged_object_ids_is_enough(tmp_path, content):
    objects = old(content["objects.json"], with_ids=True)
    objects[0]["objects"][0]["merged_object_ids"] = []
    content["objects.json"] = objects
    assert read_visual_genome(write(tmp_path, content), SMALL_RULES).photos


@pytest.mark.parametrize("kind", ["objects", "relationships", "attributes", "image_data"])
def test_files_of_release_1_0_are_refused(tmp_path, content, kind):
    content[f"{kind}.json"] = old(content[f"{kind}.json"], with_ids=False)
    said = refusal(tmp_path, content)
    assert f"{kind}.json is of release 1.0 (it says 'id'" in said
    assert "is needed: download it from visualgenome.org" in said


def test_files_without_any_relationship_are_of_no_release_and_leave_nothing(tmp_path, content):
    for entry in content["relationships.json"]:
        entry["relationships"] = []
    assert "none of the 3 training photos passes the filter" in refusal(tmp_path, content)


def test_one_merged_object_in_a_file_is_enough_to_know_release_1_4(tmp_path, content):
    for kind in ("objects", "relationships"):
        entries = content[f"{kind}.json"]
        content[f"{kind}.json"] = [*old(entries[:-1], with_ids=True), entries[-1]]
    assert len(read(tmp_path, content).photos) == 7


def test_thresholds_too_high_for_the_files_are_said_to_be_so(tmp_path, content):
    with pytest.raises(DatasetError, match=r"none of the 3 training photos passes .* lower --vg-"):
        read_visual_genome(write(tmp_path, content))


def test_a_photo_without_an_entry_in_relationships_is_counted_and_noted(tmp_path, content):
    gone = content["relationships.json"].pop(0)["image_id"]
    protocol = read(tmp_path, content).protocol
    assert sum(protocol.counts["photos_not_in_relationships"].values()) == 1, gone
    assert any("without an entry in relationships, left out: 1" in n for n in protocol.notes)


@pytest.mark.parametrize("file", ["relationship_alias.txt", "attributes.json", "vg_splits.json"])
def test_a_missing_file_is_told_before_any_is_read(tmp_path, content, file, capsys):
    write(tmp_path, content)
    (tmp_path / file).unlink()
    with pytest.raises(DatasetError, match=file):
        read_visual_genome(DataFolder(tmp_path), SMALL_RULES)
    assert "reading" not in capsys.readouterr().err


def test_a_missing_folder_of_photos_is_told_before_the_large_files_are_read(
    tmp_path, content, capsys
):
    write(tmp_path, content)
    for place in tmp_path.glob("VG_100K*"):
        shutil.rmtree(place)
    with pytest.raises(DatasetError, match="VG_100K"):
        read_visual_genome(DataFolder(tmp_path), SMALL_RULES)
    assert "objects.json" not in capsys.readouterr().err


def boxes_of(content, change):
    for entry in content["objects.json"]:
        for object_ in entry["objects"]:
            object_.update(change(object_))


def test_a_few_boxes_a_little_beyond_their_photo_are_not_worth_a_word(tmp_path, content):
    content["objects.json"][0]["objects"][0].update(x=762, w=40)  # 2 px
    assert read(tmp_path, content).protocol.notes == ()
    content["objects.json"][0]["objects"][0].update(x=763, w=40)
    (note,) = read(tmp_path, content).protocol.notes
    assert note.startswith("1 of 28 boxes reach more than 2 px beyond their photo, which Visual")
    assert "photo 1, objects[0]: [763.0, 5.0, 40.0, 50.0] in 800 x 600 px" in note


def test_one_in_a_hundred_boxes_may_reach_beyond_its_photo(tmp_path, content):
    photo = read(tmp_path, content).photos[0].photo
    boxes = [(photo, place, (0, 0, 40, 50)) for place in range(99)]
    assert _notes_on([*boxes, (photo, 99, (790, 0, 40, 50))]) == []
    (note,) = _notes_on([*boxes[1:], *[(photo, 99, (790, 0, 40, 50))] * 2])
    assert note.startswith("2 of 100 boxes reach")


def test_boxes_written_as_corners_are_told_to_be_that(tmp_path, content):
    boxes_of(content, lambda o: {"x": 700, "y": 500, "w": 700 + o["w"], "h": 500 + o["h"]})
    (note,) = read(tmp_path, content).protocol.notes
    assert note.startswith("28 of 28 boxes reach more than 2 px beyond")
    assert "are they corners x0, y0, x1, y1? Visual Genome has x, y, width, height" in note


def test_boxes_as_shares_of_the_photo_leave_nothing_and_are_told_to_be_that(tmp_path, content):
    boxes_of(content, lambda o: {name: o[name] / 800 for name in "xywh"})
    with pytest.raises(DatasetError, match=r"28 of 28 boxes are smaller .*Visual Genome has px"):
        read(tmp_path, content)


def test_a_photo_under_two_ids_is_named_where_it_is_for_training_and_held_out(tmp_path, content):
    first, *_, last = content["image_data.json"]
    last["url"] = first["url"]
    (note,) = read(tmp_path, content).protocol.notes
    assert note.startswith("1 photo listed more than once under other ids, e.g. VG_100K/1.jpg")
    assert "VG_100K/1.jpg as 1 (train) and 22 (test): numbers on these say nothing" in note
