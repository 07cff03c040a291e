import copy
import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import boxes
from pipeline.coco.reader import CocoRules, read_coco
from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError, UserError
from pipeline.options import to_json
from pipeline.relations import predicate_of, scene_of
from pipeline.scene import GEOMETRIC, IMAGE, IN_IMAGE
from pipeline.splits import own_split
from pipeline.twice import listed_twice_note

SIDE = 100  # px, of every photo here
LARGE = [10, 10, 20, 20]  # 4 % of it
SMALL = [10, 10, 10, 20]  # exactly 2 %: one must cover more
THINGS = [{"id": 1, "name": "person"}, {"id": 9, "name": "boat"}]
STUFF = [{"id": 92, "name": "banner"}, {"id": 155, "name": "sea"}, {"id": 183, "name": "other"}]


def photo(image_id, **more):
    name = f"{image_id:012d}.jpg"
    return {"id": image_id, "file_name": name, "width": SIDE, "height": SIDE, **more}


def annotation_of(image_id, category=1, box=LARGE, **more):
    return {"image_id": image_id, "category_id": category, "bbox": list(box), **more}


def annotated(images, annotations, categories):
    numbered = [{"id": 100 + i, **a} for i, a in enumerate(annotations)]
    return {"images": images, "annotations": numbered, "categories": categories}


def files_of(train_ids=(1, 2), val_ids=(11, 12)):
    """Each photo has two things and one region of stuff: just enough to pass."""
    files = {}
    for split, ids in (("train", train_ids), ("val", val_ids)):
        images = [photo(i) for i in ids]
        things = [annotation_of(i, c) for i in ids for c in (1, 9)]
        stuff = [annotation_of(i, 155) for i in ids]
        files[f"instances_{split}2017"] = annotated(images, things, THINGS)
        files[f"stuff_{split}2017"] = annotated(copy.deepcopy(images), stuff, STUFF)
    return files


def put(folder, files):
    for name in ("annotations", "train2017", "val2017"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / "annotations" / f"{name}.json").write_text(json.dumps(value), "utf-8")
    return folder


@pytest.fixture
def files():
    return files_of()


def ids(dataset, split):
    return [p.photo.image_id for p in dataset.photos if p.photo.split == split]


def refused(folder, *words, **options):
    """The message, one line, with these words in it."""
    with pytest.raises(UserError) as caught:
        read_coco(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


# What is read


def test_the_vocabulary_goes_by_category_id_and_has_no_other(tmp_path, files):
    for value in files.values():
        value["categories"] = value["categories"][::-1]

    vocabulary = read_coco(put(tmp_path, files)).vocabulary

    assert vocabulary.objects == (IMAGE, "person", "boat", "banner", "sea")
    assert vocabulary.predicates == (IN_IMAGE, *GEOMETRIC)


def test_a_photo_tells_its_file_size_licence_and_source(tmp_path, files):
    instances = files["instances_train2017"]
    url = "http://creativecommons.org/licenses/by/2.0/"
    instances["licenses"] = [{"id": 4, "url": url, "name": "Attribution"}, {"id": 5, "name": "?"}]
    instances["images"][0] |= {"license": 4, "flickr_url": "http://f/1", "coco_url": "http://c/1"}
    instances["images"][1] |= {"license": 6, "flickr_url": "javascript:alert(1)"}

    first, second = (p.photo for p in read_coco(put(tmp_path, files)).photos[:2])

    assert first.file == "train2017/000000000001.jpg"
    assert (first.width, first.height, first.split) == (SIDE, SIDE, "train")
    assert (first.licence, first.source_url) == (url, "http://f/1")
    assert (second.licence, second.source_url) == ("", "")


def test_an_object_must_cover_more_than_two_percent_and_no_more_is_asked(tmp_path, files):
    files["instances_train2017"]["annotations"] += [
        annotation_of(1, 9, SMALL),
        annotation_of(1, 9, [0, 0, 21, 10]),
    ]

    objects = read_coco(put(tmp_path, files)).photos[0].objects

    assert [o.box_px for o in objects if o.box_px[2] != 20.0] == [(0.0, 0.0, 21.0, 10.0)]


def test_objects_are_numbered_before_the_filter_things_first(tmp_path, files):
    files["instances_train2017"]["annotations"].insert(0, annotation_of(1, 9, SMALL))
    files["stuff_train2017"]["annotations"].insert(0, annotation_of(1, 183))  # "other"

    objects = read_coco(put(tmp_path, files)).photos[0].objects

    assert [(o.object_index, o.category) for o in objects] == [
        (1, "person"),
        (2, "boat"),
        (4, "sea"),
    ]
    assert objects[0].box_px == (10.0, 10.0, 20.0, 20.0)


def test_a_box_of_exactly_two_percent_is_too_small(tmp_path, files):
    files["instances_train2017"]["annotations"][0]["bbox"] = SMALL

    dataset = read_coco(put(tmp_path, files))

    assert ids(dataset, "train") == [2]
    assert dataset.protocol.counts["photos_with_too_few_objects"]["train2017"] == 1


def test_a_box_turned_inside_out_is_not_large(tmp_path, files):
    files["instances_train2017"]["annotations"][0]["bbox"] = [90, 90, -80, -80]

    assert ids(read_coco(put(tmp_path, files)), "train") == [2]


def test_eight_objects_pass_and_nine_do_not(tmp_path, files):
    annotations = files["instances_train2017"]["annotations"]
    annotations += [annotation_of(1) for _ in range(5)] + [annotation_of(2) for _ in range(6)]

    dataset = read_coco(put(tmp_path, files))

    assert ids(dataset, "train") == [1]
    assert dataset.protocol.counts["photos_with_too_many_objects"]["train2017"] == 1


def test_stuff_that_is_too_small_still_makes_a_photo_one_with_stuff(tmp_path, files):
    files["instances_train2017"]["annotations"] += [annotation_of(1), annotation_of(2)]
    files["stuff_train2017"]["annotations"] = [annotation_of(1, 155, SMALL)]

    dataset = read_coco(put(tmp_path, files))

    assert ids(dataset, "train") == [1]
    assert ids(read_coco(tmp_path, rules=CocoRules(require_stuff=False)), "train") == [1, 2]
    assert dataset.protocol.counts["photos_considered"]["train2017"] == 1


def test_crowds_are_kept_as_sg2im_keeps_them(tmp_path, files):
    files["instances_train2017"]["annotations"][0]["iscrowd"] = 1

    assert ids(read_coco(put(tmp_path, files)), "train") == [1, 2]


def test_few_held_out_photos_are_halved_by_id_whatever_their_order(tmp_path):
    dataset = read_coco(put(tmp_path, files_of(val_ids=(15, 11, 14, 12, 13))))

    assert ids(dataset, "val") == [11, 12, 13]
    assert ids(dataset, "test") == [14, 15]


def test_of_many_held_out_photos_the_first_1024_of_the_file_are_for_validation(tmp_path):
    order = [*range(5000, 3976, -1), *range(1024)]  # the first have the high ids
    dataset = read_coco(put(tmp_path, files_of(train_ids=(9000,), val_ids=order)))

    assert ids(dataset, "val") == sorted(order[:1024])
    assert ids(dataset, "test") == list(range(1024))


def test_a_limit_takes_the_first_that_pass_of_each_folder(tmp_path):
    files = files_of(train_ids=(3, 1, 2), val_ids=(13, 11, 12))
    files["instances_train2017"]["annotations"][0]["bbox"] = SMALL  # photo 3 does not pass

    dataset = read_coco(put(tmp_path, files), limit=2)

    assert ids(dataset, "train") == [1, 2]
    assert ids(dataset, "val") + ids(dataset, "test") == [11, 13]
    assert dataset.protocol.rules["limit_per_folder"] == 2
    refused(tmp_path, "limit of 0", limit=0)


def test_the_dataset_names_its_inputs_by_their_bytes(tmp_path, files):
    inputs = read_coco(put(tmp_path, files)).inputs

    assert list(inputs) == sorted(f"annotations/{name}.json" for name in files)
    for name, digest in inputs.items():
        assert digest == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_the_protocol_counts_before_and_after_each_filter(tmp_path, files):
    files["instances_train2017"]["annotations"].append(annotation_of(2, 1, SMALL))

    protocol = read_coco(put(tmp_path, files)).protocol

    counts = {what: by_folder["train2017"] for what, by_folder in protocol.counts.items()}
    assert (counts["annotations"], counts["objects_large_enough"]) == (7, 6)
    assert (counts["photos"], counts["photos_passed"], counts["objects_passed"]) == (2, 2, 6)
    assert protocol.splits == {"train": 2, "val": 1, "test": 1}
    assert protocol.rules["objects_per_photo"] == [3, 8]
    json.dumps(to_json(protocol))


def test_a_folder_of_ones_own_needs_no_stuff_files(tmp_path, files):
    own = {name: value for name, value in files.items() if name.startswith("instances")}
    for value in own.values():
        value["annotations"] += [annotation_of(image["id"]) for image in value["images"]]
        for annotation in value["annotations"]:
            annotation["segmentation"] = []  # boxes alone, as many tools write it

    dataset = read_coco(put(tmp_path, own), rules=CocoRules(require_stuff=False))

    assert ids(dataset, "train") == [1, 2]
    assert all(o.segmentation is None for p in dataset.photos for o in p.objects)
    refused(tmp_path, "stuff_train2017.json", "--no-require-stuff")


def packed(folder):
    """The same as the official zips have it, and nothing unpacked."""
    for name, pattern in (
        ("annotations_trainval2017.zip", "annotations/instances_*"),
        ("stuff_annotations_trainval2017.zip", "annotations/**/[!i]*"),
        ("train2017.zip", "train2017/*"),
        ("val2017.zip", "val2017/*"),
    ):
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(p for p in folder.glob(pattern) if p.is_file()):
                archive.write(path, path.relative_to(folder))
            if name in ("train2017.zip", "val2017.zip"):
                archive.writestr(f"{name[:-4]}/none.jpg", b"")  # a folder with something in it
    for place in ("annotations", "train2017", "val2017"):
        shutil.rmtree(folder / place)
    return folder


def test_the_official_zips_read_as_the_unpacked_folder_does(tmp_path, files):
    unpacked = read_coco(put(tmp_path, files))
    zipped = read_coco(packed(tmp_path))

    assert zipped == unpacked


ID_LISTS = "annotations/deprecated-challenge2017"


def test_the_deprecated_edition_has_the_stuff_of_listed_photos_alone(tmp_path):
    put(tmp_path, files_of(train_ids=(1, 2, 3), val_ids=(11, 12)))
    (tmp_path / ID_LISTS).mkdir()
    (tmp_path / ID_LISTS / "train-ids.txt").write_text("000000000001\n3\n")
    (tmp_path / ID_LISTS / "val-ids.txt").write_text("11\n12\n")

    dataset = read_coco(tmp_path, CocoRules(edition="deprecated-40k"))

    assert ids(dataset, "train") == [1, 3]
    assert dataset.protocol.counts["photos_with_stuff"]["train2017"] == 2
    assert [k.known for k in dataset.protocol.known] == [24_972, 1_024, 2_048]
    assert ids(read_coco(tmp_path), "train") == [1, 2, 3]
    zipped = read_coco(packed(tmp_path), CocoRules(edition="deprecated-40k"))
    assert zipped == dataset


@pytest.mark.parametrize("where", ["area", "bbox", "segmentation"])
def test_a_number_of_thousands_of_digits_is_refused_by_annotation(tmp_path, files, where):
    value = [[10**6]] if where == "segmentation" else 10**6
    files["stuff_train2017"]["annotations"][0][where] = value
    path = put(tmp_path, files) / "annotations/stuff_train2017.json"
    path.write_text(path.read_text().replace("1000000", "9" * 5000))
    if where == "area":  # which nobody reads
        assert read_coco(tmp_path).photos
    else:
        refused(tmp_path, "stuff_train2017.json, annotation ", "cannot be read as JSON")


def test_a_name_of_thousands_of_letters_is_shown_short(tmp_path, files):
    long = {"id": 92, "name": "x" * 5000}
    files["stuff_train2017"]["categories"] = [long, *STUFF[1:]]
    assert len(refused(put(tmp_path, files), "are all annotation files")) < 1000


def test_file_names_of_thousands_of_letters_are_shown_short(tmp_path, files):
    files["stuff_train2017"]["images"][1]["file_name"] = "x" * 5000
    assert len(refused(put(tmp_path, files), "photo 2: train2017/xxx", "...")) < 1000
    files["instances_train2017"]["images"][1]["file_name"] = "x" * 5000
    files["instances_val2017"]["images"][1]["id"] = 2
    assert len(refused(put(tmp_path, files), "photo 2: its id is that of", "...")) < 1000


def test_without_its_id_lists_the_deprecated_edition_is_refused(tmp_path, files):
    rules = CocoRules(edition="deprecated-40k")
    words = ("no file", "train-ids.txt", "stuff_annotations_trainval2017.zip")
    refused(put(tmp_path, files), *words, rules=rules)
    (tmp_path / ID_LISTS).mkdir()
    (tmp_path / ID_LISTS / "train-ids.txt").write_text("12\nabc\n")
    refused(tmp_path, "train-ids.txt is no list of photo ids", rules=rules)


@pytest.mark.parametrize(("rule", "first"), [("remainder", 1024), ("last-2048", 1124)])
def test_the_test_photos_are_the_others_or_the_last_2048(tmp_path, rule, first):
    order = range(3172)
    put(tmp_path, files_of(train_ids=(9000,), val_ids=order))

    dataset = read_coco(tmp_path, CocoRules(test_rule=rule))

    assert ids(dataset, "val") == list(range(1024))
    assert ids(dataset, "test") == list(range(first, 3172))
    known = {k.what: k.known == k.found for k in dataset.protocol.known}
    assert known == {"train": False, "val": True, "test": rule == "last-2048"}


def test_by_the_rule_half_the_halves_are_those_by_id_however_many_photos_there_are(tmp_path):
    order = [3, *range(10, 3180), 7]
    put(tmp_path, files_of(train_ids=(9000,), val_ids=order))

    dataset = read_coco(tmp_path, CocoRules(test_rule="half"))

    assert (ids(dataset, "val"), ids(dataset, "test")) == (
        [3, 7, *range(10, 1594)],
        [*range(1594, 3180)],
    )
    assert dataset.protocol.rules["test"] == "the second half"
    assert "--test-rule half" in dataset.protocol.not_compared


def test_only_photos_under_accepted_licences_are_kept(tmp_path, files):
    instances = files["instances_train2017"]
    instances["licenses"] = [
        {"id": 1, "url": "http://creativecommons.org/licenses/by-nc/2.0/"},
        {"id": 4, "url": "http://creativecommons.org/licenses/by/2.0/"},
    ]
    instances["images"][0]["license"], instances["images"][1]["license"] = 1, 4

    dataset = read_coco(put(tmp_path, files), CocoRules(licences=("cc-by",)))

    assert ids(dataset, "train") == [2]
    assert dataset.protocol.counts["photos_with_accepted_licence"] == {
        "train2017": 1,
        "val2017": 0,
    }
    assert "--licences" in dataset.protocol.not_compared
    refused(tmp_path, "--licences cc-bx: no photo has it", rules=CocoRules(licences=("cc-bx",)))
    message = refused(
        tmp_path, "of the 2 photos of train2017, 0 pass", rules=CocoRules(licences=("unknown",))
    )
    assert "accept more" in message


OWN = CocoRules(require_stuff=False)


def own_files(names):
    """Files of one's own under other names, a third thing in each photo in place of stuff."""
    files = {}
    for number, name in enumerate(names):
        images = [photo(100 * number + i) for i in range(1, 41)]
        things = [annotation_of(image["id"], c) for image in images for c in (1, 9, 9)]
        files[f"instances_{name}"] = annotated(images, things, THINGS)
    return files


def put_own(folder, files, *places):
    for place in ("annotations", *places):
        (folder / place).mkdir(parents=True)
    for name, value in files.items():
        (folder / "annotations" / f"{name}.json").write_text(json.dumps(value), "utf-8")
    return folder


def test_files_of_ones_own_may_have_other_names(tmp_path):
    put_own(tmp_path, own_files(("train", "val")), "images/train", "val")

    dataset = read_coco(tmp_path, OWN)

    assert len(ids(dataset, "train")) == 40
    assert (len(ids(dataset, "val")), len(ids(dataset, "test"))) == (20, 20)
    assert dataset.photos[0].photo.file == "images/train/000000000001.jpg"
    assert dataset.photos[-1].photo.file.startswith("val/")
    assert dataset.vocabulary.objects == (IMAGE, "person", "boat")
    assert "not COCO's" in dataset.protocol.not_compared


def test_one_file_for_all_photos_is_split_by_their_ids(tmp_path):
    put_own(tmp_path, own_files(("default",)), "images")

    dataset = read_coco(tmp_path, OWN)

    assert {p.photo.image_id: p.photo.split for p in dataset.photos} == {
        i: own_split(i) for i in range(1, 41)
    }
    assert {p.photo.split for p in dataset.photos} == {"train", "val", "test"}
    assert dataset.photos[0].photo.file == "images/000000000001.jpg"


def test_two_exports_in_zips_whose_annotation_files_have_one_name_are_refused(tmp_path):
    for task, value in enumerate(own_files(("default", "other")).values()):
        with zipfile.ZipFile(tmp_path / f"task_{task}.zip", "w") as archive:
            archive.writestr("annotations/instances_default.json", json.dumps(value))
    words = ("task_0.zip and task_1.zip both hold annotations/instances_default.json", "move one")
    refused(tmp_path, *words, rules=OWN)
    (tmp_path / "task_1.zip").unlink()
    shutil.copy(tmp_path / "task_0.zip", tmp_path / "task_0 (1).zip")
    assert len(read_coco(tmp_path, OWN).photos) == 40


def moved(folder, names):
    """Each annotation file at another place, as other tools write it."""
    for name, place in names.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / "annotations" / name).rename(folder / place)
    (folder / "annotations").rmdir()


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (
            ("train/_annotations.coco.json", "valid/_annotations.coco.json"),
            ("train/_annotations.coco.json must be annotations/instances_train.json", "nces_val"),
        ),
        (("result.json",), ("/result.json must be annotations/instances_train.json", "NAME/ or i")),
        (("a/one.json", "a/two.json"), ("a/one.json must be annotations/instances_one.json",)),
        (("a/x.json", "b/x.json"), ("b/x.json must be annotations/instances_2.json",)),
        (("mine/annotations/instances_train.json",), ("in a folder mine/: give --data", "/mine")),
    ],
)
def test_annotations_in_another_tools_place_are_named_with_the_name_to_give(
    tmp_path, places, words
):
    files = own_files(("train", "val")[: len(places)])
    put_own(tmp_path, files, "images")
    moved(tmp_path, {f"{name}.json": place for name, place in zip(files, places, strict=True)})
    assert "cocodataset" not in refused(tmp_path, *words, rules=OWN)


def test_photos_without_annotations_are_not_sent_for_coco_but_an_empty_folder_is(tmp_path):
    refused(tmp_path, "cocodataset.org", rules=OWN)
    (tmp_path / "images").mkdir()
    message = refused(tmp_path, "no annotation file", "annotations/instances_train", rules=OWN)
    assert "cocodataset" not in message


def test_a_zip_of_a_whole_dataset_may_have_it_in_one_folder(tmp_path):
    plain = put_own(tmp_path / "plain", own_files(("train", "val")), "train", "val")
    for name in ("train", "val"):
        (plain / name / "1.jpg").write_bytes(b"a photo")
    unpacked = read_coco(plain, OWN)
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / "mine.zip", "w") as archive:
        for path in sorted(p for p in plain.rglob("*") if p.is_file()):
            archive.write(path, f"mine/{path.relative_to(plain)}")
        archive.writestr("__MACOSX/mine/._train", b"")

    zipped = read_coco(tmp_path / "zipped", OWN)

    assert zipped.photos == unpacked.photos
    assert zipped.inputs == unpacked.inputs
    assert DataFolder(tmp_path / "zipped").read("train/1.jpg") == b"a photo"


def test_a_folder_of_ones_own_with_nothing_for_training_is_refused(tmp_path):
    put_own(tmp_path, own_files(("val",)), "val")
    refused(tmp_path, "instances_val.json none is for training", rules=OWN)


def test_photos_of_ones_own_are_found_where_their_file_names_lead(tmp_path):
    files = own_files(("train",))
    for image in files["instances_train"]["images"]:
        image["file_name"] = f"images/{image['file_name']}"
    put_own(tmp_path, files, "train", "images")  # train/ is an empty leftover
    (tmp_path / "images" / "000000000003.jpg").touch()

    assert read_coco(tmp_path, OWN).photos[0].photo.file == "images/000000000001.jpg"


def test_a_protocol_of_ones_own_says_how_its_photos_are_split_and_nothing_of_val2017(tmp_path):
    put_own(tmp_path, own_files(("default", "extra_train", "val")), "images")
    rules = read_coco(tmp_path, OWN).protocol.rules

    assert rules["default"] == "80% for training, 10% validation, others test, by id"
    assert rules["val"] == "validation and test, half each by id"
    assert "val2017" not in str(rules)
    assert "edition" not in rules


def test_photos_of_ones_own_may_have_stuff_and_a_category_called_other(tmp_path):
    files = own_files(("train",))
    ids = [image["id"] for image in files["instances_train"]["images"]]
    files["stuff_train"] = annotated(
        [photo(i) for i in ids], [annotation_of(i, 183) for i in ids], STUFF
    )
    dataset = read_coco(put_own(tmp_path, files, "train"))  # by the default rules

    assert len(dataset.photos) == 40
    assert {o.category for o in dataset.photos[0].objects} == {"person", "boat", "other"}
    assert "other" in dataset.vocabulary.objects


def test_what_own_folders_lack_or_cannot_have_is_told_without_sending_for_coco(tmp_path):
    files = own_files(("train", "val"))
    put_own(tmp_path, files, "train", "val")
    for message in (
        refused(tmp_path, "stuff_train.json", "--no-require-stuff"),
        refused(tmp_path, "number one file's anew", rules=OWN) if same_ids(tmp_path) else "",
    ):
        assert "cocodataset" not in message
    (tmp_path / "annotations" / "stuff_train.json").write_text(json.dumps(annotated([], [], STUFF)))
    same_ids(tmp_path, 100)
    rules = CocoRules(require_stuff=False, edition="deprecated-40k")
    refused(tmp_path, "--edition deprecated-40k is of COCO's own photos", rules=rules)
    rules = CocoRules(require_stuff=False, test_rule="last-2048")
    refused(tmp_path, "--test-rule last-2048 is of COCO's own photos", rules=rules)
    for path in (tmp_path / "annotations").iterdir():
        path.rename(path.with_name(f"my_{path.name}"))
    refused(tmp_path, "my_instances_train.json", "no instances_NAME.json", rules=OWN)


def same_ids(folder, add=0):
    """Number the validation file's photos from 1 on, as many tools do, or from beyond `add`."""
    path = folder / "annotations" / "instances_val.json"
    value = json.loads(path.read_text())
    first = value["images"][0]["id"]
    for row, key in [
        *((i, "id") for i in value["images"]),
        *((a, "image_id") for a in value["annotations"]),
    ]:
        row[key] += 1 + add - first
    path.write_text(json.dumps(value))
    return True


def test_where_all_photos_are_drawn_for_other_splits_the_message_says_so(tmp_path):
    files = own_files(("default",))
    value = files["instances_default"]
    value["images"] = [i for i in value["images"] if own_split(i["id"]) != "train"]
    kept = {i["id"] for i in value["images"]}
    value["annotations"] = [a for a in value["annotations"] if a["image_id"] in kept]
    refused(put_own(tmp_path, files, "images"), "drawn for validation or test", rules=OWN)


RUNS = [[0, SIDE * SIDE], [100, SIDE * SIDE - 100]]
WHOLE = {"id", "image_id", "category_id", "width", "height", "license"}


@pytest.mark.parametrize("write", [float, str, lambda n: f"{n:012d}"])
def test_whole_numbers_may_be_written_with_a_point_or_as_text(tmp_path, files, write):
    files = json.loads(json.dumps(files))  # the categories are everyone's
    files["instances_train2017"]["licenses"] = [{"id": 4, "url": "https://e.org/by"}]
    files["instances_train2017"]["images"][0]["license"] = 4
    for entry, runs in zip(files["instances_train2017"]["annotations"], RUNS, strict=False):
        entry["segmentation"] = {"size": [SIDE, SIDE], "counts": runs}
    plain = read_coco(put(tmp_path, files))
    for value in files.values():
        for entry in (*value["images"], *value["annotations"], *value["categories"]):
            for key in entry.keys() & {
                "id",
                "image_id",
                "category_id",
                "width",
                "height",
                "license",
            }:
                entry[key] = write(entry[key])
    for licence in files["instances_train2017"]["licenses"]:
        licence["id"] = write(licence["id"])
    for entry in files["instances_train2017"]["annotations"][:2]:
        entry["segmentation"]["counts"] = [write(n) for n in entry["segmentation"]["counts"]]

    written = read_coco(put(tmp_path, files))

    assert written.photos == plain.photos
    assert written.vocabulary == plain.vocabulary
    assert written.photos[0].photo.licence == "https://e.org/by"
    assert json.dumps(to_json(written.photos[0])) == json.dumps(to_json(plain.photos[0]))


@pytest.mark.parametrize("number", [1.5, "1.5", "one", "", "\u0661", True, 1e300, "9" * 5000, None])
def test_what_is_no_whole_number_is_shown_as_it_was_written(tmp_path, files, number):
    files["instances_val2017"]["images"][0]["id"] = number
    message = refused(
        put(tmp_path, files), "instances_val2017.json, photo", "is not a whole number"
    )
    assert len(message) < 600


# What is refused


def test_a_missing_folder_says_what_to_download_and_where_it_goes(tmp_path, files):
    folder = tmp_path / "coco"
    wanted = ("train2017.zip", "val2017.zip", "annotations_trainval2017.zip")
    wanted += ("stuff_annotations_trainval2017.zip", f"in {folder}", "instances_{train,val}2017")
    refused(folder, "there is no folder", *wanted)

    put(folder, files)
    (folder / "annotations" / "instances_val2017.json").unlink()
    refused(folder, "instances_val2017.json", *wanted)

    (folder / "val2017").rmdir()
    refused(folder, f"no folder {folder}/val2017", *wanted)


def test_a_file_cut_short_is_named_with_the_byte_where_it_ends(tmp_path, files):
    path = put(tmp_path, files) / "annotations" / "stuff_val2017.json"
    text = '{"info": "l\'été", "images": [{"id": 11'
    path.write_text(text, "utf-8")
    end = len(text) + 2  # each é has two bytes

    place = f"is not JSON at byte {end} of {end} (line 1, column {len(text) + 1})"
    refused(tmp_path, "stuff_val2017.json", place, "it may have been cut short")


def test_a_file_that_is_not_text_or_nests_without_end_is_refused(tmp_path, files):
    path = put(tmp_path, files) / "annotations" / "stuff_val2017.json"
    path.write_bytes(b'{"images": "\xff')
    refused(tmp_path, "stuff_val2017.json", "not UTF-8 text at byte 12")
    path.write_bytes(b"[" * 1_000_000)
    refused(tmp_path, "stuff_val2017.json", "nests brackets too deeply")
    path.write_bytes(b'{"images": ' + b"9" * 10_000 + b"}")
    refused(tmp_path, "stuff_val2017.json", "cannot be read as JSON")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "holds a list"),
        ({"images": [], "annotations": []}, "has no 'categories'"),
        ({"images": [], "annotations": {}, "categories": []}, "'annotations' that is not a list"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, files, value, words):
    refused(put(tmp_path, files | {"stuff_val2017": value}), "stuff_val2017.json", words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": 7}, "image_id 7 is not among the 2 photos"),
        ({"image_id": 11}, "image_id 11 is not among the 2 photos"),  # a photo of val2017
        ({"image_id": [1]}, "image_id [1] is not among"),
        ({"category_id": 92}, "category_id 92 is not among the 2 categories"),
        ({"category_id": True}, "category_id True is not among"),
        ({"bbox": [1, 2, 3]}, "its bbox [1, 2, 3] is not four"),
        ({"bbox": [1, 2, 3, float("nan")]}, "its bbox [1, 2, 3, nan] is not four"),
        ({"bbox": [1, 2, 3, float("inf")]}, "its bbox [1, 2, 3, inf] is not four"),
        ({"bbox": [1, 2, 3, 10**400]}, "its bbox"),
        ({"bbox": [1, 2, 3, "4"]}, "its bbox"),
        ({"bbox": None}, "its bbox None is not four"),
        ({"segmentation": "no"}, "its segmentation is malformed"),
        ({"segmentation": [[1, 2, 3, 4, 5]]}, "its segmentation is malformed"),
        ({"segmentation": [1, 2, 3.5, 4, 5, 6]}, "malformed: it is one flat list of numbers where"),
        ({"segmentation": [[[1, 2], [3, 4], [5, 6]]]}, "malformed: a polygon holds lists, as poi"),
        ({"segmentation": {"size": [SIDE, SIDE], "counts": [5]}}, "its segmentation is malformed"),
    ],
)
def test_an_annotation_that_makes_no_sense_is_named(tmp_path, files, change, words):
    files["instances_train2017"]["annotations"][3] |= change
    refused(put(tmp_path, files), "instances_train2017.json, annotation 103: ", words)


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox"])
def test_an_annotation_that_lacks_a_key_is_named_by_its_place(tmp_path, files, key):
    annotation = files["instances_train2017"]["annotations"][3]
    del annotation["id"], annotation[key]
    refused(put(tmp_path, files), "annotation at place 3: ", f"it has no {key!r}")


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd.jpg",
        "a/../../../b.jpg",
        "/etc/passwd.jpg",
        "..\\b.jpg",
        "C:/b.jpg",
        "",
        ".",
        "a\nb.jpg",
        "a\0.jpg",
        "\ud800.jpg",
        5,
    ],
)
def test_a_file_name_that_leaves_its_folder_is_refused(tmp_path, files, name):
    files["instances_train2017"]["images"][1]["file_name"] = name
    refused(put(tmp_path, files), "instances_train2017.json, photo 2: its file_name", "train2017/")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": -1}, "its id -1 is not a whole number from 0 to 140737488355327"),
        ({"id": 2**47}, "is not a whole number from 0 to 140737488355327"),
        ({"id": "a"}, "its id 'a' is not"),
        ({"width": 0}, "its width 0 is not"),
        ({"height": 1e9}, "its height 1000000000.0 is not"),
        ({"width": 99.5}, "its width 99.5 is not a whole number from 1 to 65535 px"),
        ({"id": 1}, "listed twice"),
        ({"id": 11}, "val2017/000000000011.jpg too"),
    ],
)
def test_a_photo_that_makes_no_sense_is_named(tmp_path, files, change, words):
    files["stuff_val2017"]["images"] = []
    files["stuff_val2017"]["annotations"] = []
    files["instances_val2017"]["images"][1] |= change
    if change.get("id") == 1:
        files["instances_val2017"]["images"] = [photo(1), photo(1)]
        files["instances_train2017"] = annotated([], [], THINGS)
    if change.get("id") == 11:
        files["instances_train2017"]["images"].append(photo(11))
        words = "train2017/000000000011.jpg too"
    files["instances_val2017"]["annotations"] = []
    refused(put(tmp_path, files), "instances_val2017.json, photo", words)


def test_things_and_stuff_must_speak_of_the_same_photos(tmp_path, files):
    files["stuff_train2017"]["images"][1]["width"] = SIDE + 1
    refused(put(tmp_path, files), "stuff_train2017.json, photo 2:", "101 x 100 px", "100 x 100 px")


@pytest.mark.parametrize(
    ("category", "words"),
    [
        ({"id": 9, "name": "ship"}, "'ship' has id 9, but 'boat' was met before"),
        ({"id": 10, "name": "boat"}, "'boat' has id 10, but 'boat' with id 9 was met before"),
        ({"id": 10, "name": IMAGE}, "cannot be the name"),
        ({"id": 10, "name": ""}, "cannot be the name"),
        ({"id": 155, "name": "sea"}, "two categories have this id"),
        ({"id": None, "name": "sea"}, "its id None"),
    ],
)
def test_a_category_that_contradicts_another_is_refused(tmp_path, files, category, words):
    files["stuff_train2017"]["categories"] = [*STUFF, category]
    refused(put(tmp_path, files), "stuff_train2017.json, category", words)


def test_a_photo_has_at_most_65536_annotations(tmp_path, files):
    files["instances_train2017"]["annotations"] += [annotation_of(1, 1, SMALL)] * (65_536 - 3)
    read_coco(put(tmp_path, files))  # with its stuff, 65,536

    files["instances_train2017"]["annotations"] += [annotation_of(1, 1, SMALL)]
    refused(put(tmp_path, files), "photo 1 has more than 65,536 annotations")


def test_when_nothing_passes_the_message_has_the_counts_and_a_way_on(tmp_path, files):
    for split in ("train", "val"):
        files[f"stuff_{split}2017"]["annotations"] = []
    refused(put(tmp_path, files), "of the 2 photos", "0 pass", "0 have stuff", "--no-require-stuff")
    message = refused(tmp_path, "2 have fewer than 3", rules=CocoRules(require_stuff=False))
    assert "--no-require-stuff" not in message


def test_a_bad_dataset_is_told_as_such(tmp_path):
    with pytest.raises(DatasetError):
        read_coco(tmp_path / "nowhere")


# What plausible numbers cannot tell


def notes_of(folder):
    return read_coco(folder).protocol.notes


def with_boxes(files, change):
    for value in files.values():
        for entry in value["annotations"]:
            entry["bbox"] = change(*entry["bbox"])
    return files


def test_boxes_to_the_edge_and_a_pixel_beyond_are_not_worth_a_word(tmp_path, files):
    edges = ([-1, -1, 102, 102], [0, 0, 100, 100], [80.5, 80.5, 20.4, 20.4])
    for entry, box in zip(files["instances_train2017"]["annotations"], edges, strict=False):
        entry["bbox"] = box
    assert notes_of(put(tmp_path, files)) == ()


@pytest.mark.parametrize(
    "box", [[-1.5, 9, 20, 20], [9, -2, 20, 20], [82, 9, 20, 20], [9, 82, 20, 20]]
)
def test_each_box_that_reaches_beyond_its_photo_is_counted(tmp_path, files, box):
    files["instances_train2017"]["annotations"][2]["bbox"] = box
    (note,) = notes_of(put(tmp_path, files))
    assert note.startswith("1 of 12 boxes reach more than 1 px beyond their photo")
    assert f"instances_train2017.json, annotation 102: {box} in 100 x 100 px" in note
    assert "upper left corner" in note
    assert str(tmp_path) not in note


def test_corners_in_place_of_sizes_are_told_to_be_that(tmp_path, files):
    corners = with_boxes(files, lambda x, y, w, h: [x + 40, y + 40, x + w + 40, y + h + 40])
    (note,) = notes_of(put(tmp_path, corners))
    assert "12 of 12 boxes reach more than 1 px beyond" in note
    assert "are they corners x0, y0, x1, y1? COCO has x, y, width, height" in note


def test_boxes_as_shares_of_the_photo_are_told_to_be_that(tmp_path, files):
    for entry in files["instances_val2017"]["annotations"]:
        entry["bbox"] = [v / SIDE for v in entry["bbox"]]
    (note,) = notes_of(put(tmp_path, files))
    assert note.startswith("4 of 12 boxes are smaller than 2 px each way (e.g. instances_val2017")
    assert "are they shares of the photo? COCO has px" in note
    with_boxes(files, lambda *box: [v / SIDE for v in box])
    message = refused(put(tmp_path, files), "12 of 12 boxes are smaller than 2 px", "shares")
    assert "whole annotation files" not in message


def test_a_few_tiny_boxes_are_not_worth_a_word(tmp_path, files):
    files["instances_train2017"]["annotations"].append(annotation_of(1, 1, [5, 5, 1.5, 1.5]))
    assert notes_of(put(tmp_path, files)) == ()


def test_thin_boxes_are_not_tiny(tmp_path, files):
    for entry in files["instances_val2017"]["annotations"]:
        entry["bbox"][2] = 1.5
    assert notes_of(put(tmp_path, files)) == ()


def outline(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def test_segmentations_with_nothing_inside_their_box_are_counted(tmp_path, files):
    for name in ("instances_train2017", "stuff_train2017"):
        for entry in files[name]["annotations"]:
            entry["segmentation"] = outline(*entry["bbox"])
    assert notes_of(put(tmp_path, files)) == ()
    for entry in files["instances_train2017"]["annotations"][1:3]:
        entry["bbox"] = [10, 70, 20, 20]  # its y counted from below
    (note,) = notes_of(put(tmp_path, files))
    assert note.startswith("2 of 6 segmentations have nothing inside their box")
    assert "photo 1, boat: box [10.0, 70.0, 20.0, 20.0]" in note
    assert "boxes and polygons are of different places" in note


def test_one_empty_mask_of_a_hundred_is_not_worth_a_word_and_a_thousand_photos_are_looked_at(
    tmp_path, monkeypatch
):
    files = own_files(("train",))
    things = files["instances_train"]["annotations"]
    for entry in things[:100]:
        entry["segmentation"] = outline(*entry["bbox"])
    things[0]["segmentation"] = outline(80, 80, 10, 10)
    put_own(tmp_path, files, "train")
    assert read_coco(tmp_path, OWN).protocol.notes == ()
    things[99]["segmentation"] = []
    (tmp_path / "annotations" / "instances_train.json").write_text(
        json.dumps(files["instances_train"])
    )
    (note,) = read_coco(tmp_path, OWN).protocol.notes
    assert note.startswith("1 of 99 segmentations")
    monkeypatch.setattr(boxes, "PHOTOS_LOOKED_AT", 13)  # of 40: every fourth
    (note,) = read_coco(tmp_path, OWN).protocol.notes
    assert note.startswith("1 of 27 segmentations")


def listed_again(value, image, new):
    """The photo once more, under another id."""
    value["images"].append({**image, "id": new})
    value["annotations"] += [annotation_of(new, c) for c in (1, 9, 9)]


def test_photos_listed_twice_are_counted_and_told_where_they_are_for_training_and_held_out(
    tmp_path,
):
    files = own_files(("train", "val"))
    train, val = files["instances_train"], files["instances_val"]
    for image in train["images"][:3]:
        listed_again(train, image, image["id"] + 1000)
    for image in train["images"][:2]:
        listed_again(val, image, image["id"] + 2000)
    put_own(tmp_path, files, "train", "val")
    for name in ("000000000001.jpg", "000000000002.jpg"):
        (tmp_path / "train" / name).write_bytes(b"a photo " + name.encode())
        (tmp_path / "val" / name).write_bytes(b"a photo " + name.encode())

    (note,) = read_coco(tmp_path, OWN).protocol.notes

    assert note.startswith("3 photos listed more than once under other ids")
    assert "2 of them both for training and held out, e.g. train/000000000001.jpg as 1" in note
    assert "(train) and 2001 (test): numbers on these say nothing about new photos" in note
    (tmp_path / "val" / "000000000001.jpg").write_bytes(b"another")
    (tmp_path / "val" / "000000000002.jpg").write_bytes(b"a photo of its own, as ")
    (note,) = read_coco(tmp_path, OWN).protocol.notes
    assert note.startswith("3 photos listed more than once")
    assert "held out" not in note


def test_photos_that_share_a_name_alone_are_not_listed_twice(tmp_path):
    files = own_files(("train", "val"))
    for image, other in zip(
        files["instances_train"]["images"], files["instances_val"]["images"], strict=True
    ):
        other["file_name"] = image["file_name"]
    put_own(tmp_path, files, "train", "val")
    for split in ("train", "val"):
        (tmp_path / split / "000000000001.jpg").write_text(split[:3])  # of one size
    assert read_coco(tmp_path, OWN).protocol.notes == ()


def test_photos_listed_twice_among_those_held_out_are_not_in_training(tmp_path):
    photos = [
        SimpleNamespace(photo=SimpleNamespace(file="a.jpg", image_id=i, split=split))
        for i, split in enumerate(("val", "test"))
    ]
    (note,) = listed_twice_note(photos, DataFolder(tmp_path))
    assert note.startswith("1 photo listed more than once")
    assert "for training" not in note


def test_photos_of_one_name_are_read_only_where_their_sizes_are_equal(tmp_path, monkeypatch):
    files = {"a/x.jpg": b"one", "b/x.jpg": b"one", "c/x.jpg": b"another", "d/y.jpg": b"one"}
    photos, read = [], []
    for number, (file, content) in enumerate(files.items()):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_bytes(content)
        photo = SimpleNamespace(file=file, image_id=number, split="train")
        photos.append(SimpleNamespace(photo=photo))
    plain = DataFolder.read
    monkeypatch.setattr(DataFolder, "read", lambda f, name: read.append(name) or plain(f, name))
    (note,) = listed_twice_note(photos, DataFolder(tmp_path))
    assert note.startswith("1 photo listed more than once")
    assert sorted(read) == ["a/x.jpg", "b/x.jpg"]


def test_photos_with_too_few_or_too_many_objects_are_told_to_be_that(tmp_path):
    (name, value), *_ = own_files(("train",)).items()
    put_own(tmp_path, {}, "train")
    path = tmp_path / "annotations" / f"{name}.json"
    things = value["annotations"]
    for kept, words in (
        (things[::3], "the photos have 1 annotations each, and a scene needs 3 objects"),
        (things[::3] + things[1:2], "have 1 to 2 annotations each, and a scene needs 3"),
        ([], "the photos have 0 annotations each"),
        (things * 3, "a scene has at most 8: annotate the larger things alone"),
        ([t | {"bbox": SMALL} for t in things], "have 3.0 annotations each, and a scene needs 3 t"),
    ):
        path.write_text(json.dumps(value | {"annotations": kept}))
        assert "whole annotation files" not in refused(tmp_path, words, rules=OWN)
    path.write_text(json.dumps(value | {"images": [], "annotations": []}))
    refused(tmp_path, "the files list no photo for training", rules=OWN)


# sg2im's own answers on real photos


@pytest.fixture(scope="module")
def real_data():
    if not (place := os.environ.get("RETRIEVEGAN_DATA")):
        pytest.skip("RETRIEVEGAN_DATA names no folder with real COCO photos and golden answers")
    return Path(place)


@pytest.fixture(scope="module")
def golden(real_data):
    return json.loads((real_data / "golden" / "coco_protocol.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def real(real_data):
    return read_coco(real_data / "coco")


def test_the_photos_and_objects_are_sg2ims_in_its_order(real, golden):
    for folder, num_photos in (("train2017", 85), ("val2017", 40)):
        ours = {
            str(p.photo.image_id): [[o.category, list(o.box_px)] for o in p.objects]
            for p in real.photos
            if p.photo.file.startswith(folder)
        }
        assert len(ours) == num_photos
        assert ours == {i: scene["objects"] for i, scene in golden[folder].items()}


def test_of_real_boxes_nothing_is_told(real):
    assert real.protocol.notes == ()


def test_every_ordered_pair_has_sg2ims_predicate(real, golden):
    wanted = {image_id: s["relations"] for part in golden.values() for image_id, s in part.items()}
    wrong, num_pairs = [], 0
    for photo in real.photos:
        objects = scene_of(photo).objects
        for pair, predicate in wanted[str(photo.photo.image_id)].items():
            s, o = (int(i) for i in pair.split(","))
            num_pairs += 1
            if (ours := predicate_of(objects[s], objects[o])) != predicate:
                wrong.append((photo.photo.image_id, pair, predicate, ours))
    assert not wrong
    assert num_pairs == 3270
