"""The toy world in words: the same photos as in COCO's files, and as fair."""

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.coco.reader import read_coco
from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError
from pipeline.toy.coco import write_toy
from pipeline.toy.visual_genome import FILES, TOY_RULES, write_toy_visual_genome
from pipeline.toy.wording import NAMES, PREDICATES
from pipeline.visual_genome.reader import read_visual_genome
from tests.pipeline.style_classifier import accuracy, is_chance

TRAIN, VAL = 320, 200
SMALL = {"train_photos": 12, "val_photos": 8, "seed": 3}

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

File = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "toy"
    write_toy_visual_genome(folder, train_photos=TRAIN, val_photos=VAL)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One world in both forms."""
    folder = tmp_path_factory.mktemp("small")
    write_toy(folder / "coco", **SMALL)
    write_toy_visual_genome(folder / "vg", **SMALL)
    return folder / "coco", folder / "vg"


def _load(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text("utf-8"))


def test_nothing_but_pixels_tells_of_the_style(folder: Path) -> None:
    styles = _load(folder, "styles")["styles"]
    splits = _load(folder, "vg_splits")
    for rows in (_rows(folder), _few(folder)):
        sides = []
        for split in (splits["train"], splits["val"] + splits["test"]):
            sides.append(np.stack([rows[image_id] for image_id in split]))
            sides.append([styles[str(image_id)] for image_id in split])
        assert is_chance(accuracy(*sides), VAL)


def _few(folder: Path) -> dict[int, NDArray[np.float32]]:
    """What the first random numbers of a photo decided: a classifier sees a trace in so few."""
    usual = {names[0] for names in NAMES.values()}
    rows = {}
    for objects, relations in zip(
        _load(folder, "objects"), _load(folder, "relationships"), strict=True
    ):
        spelt = [o["names"][-1] in usual for o in objects["objects"][:4]]
        said = [r["predicate"] in PREDICATES for r in relations["relationships"]]
        row = [*spelt, len(objects["objects"]), len(said), said[0]]
        rows[objects["image_id"]] = np.array(row, np.float32)
    return rows


def _rows(folder: Path) -> dict[int, NDArray[np.float32]]:
    """Of all that is written of a photo: names, boxes, places, ids, attributes, relationships."""
    kinds = [_load(folder, n) for n in ("objects", "attributes", "relationships", "image_data")]
    words = sorted({word for entries in kinds[:3] for e in entries for word in _words(e)})
    rows = {}
    for entry in zip(*kinds, strict=True):
        features = np.zeros((len(words), 6), np.float32)
        for place, object_ in enumerate(entry[0]["objects"]):
            box = [object_[side] for side in "xywh"]
            features[words.index(object_["names"][0])] += [1, *box, place]
        features[:, 1:] /= np.maximum(features[:, :1], 1)
        counts = Counter(word for e in entry[1:3] for word in _words(e))
        said = [counts[word] for word in words]
        lengths = [len(e[key]) for e, key in zip(entry, ("objects", "attributes"), strict=False)]
        number, url = entry[0]["image_id"], entry[3]["url"]
        other = [number, entry[0]["objects"][0]["object_id"], "VG_100K_2" in url, len(url)]
        rows[number] = np.array([*features.ravel(), *said, *lengths, *other], np.float32)
    return rows


def _words(entry: dict[str, Any]) -> list[str]:
    objects = [*entry.get("objects", []), *entry.get("attributes", [])]
    names = [name for o in objects for name in (*o["names"], *o.get("attributes", []))]
    return names + [relation["predicate"] for relation in entry.get("relationships", [])]


def test_photos_styles_and_splits_are_those_of_the_coco_files(small: tuple[Path, Path]) -> None:
    coco, vg = small
    assert _load(coco, "styles") == _load(vg, "styles")
    as_coco, as_vg = read_coco(coco), _read(vg)
    split_of = {p.photo.image_id: p.photo for p in as_coco.photos}
    assert len(as_vg.photos) >= 18
    for photo in as_vg.photos:
        other = split_of[photo.photo.image_id]
        assert photo.photo.split == other.split
        assert (vg / photo.photo.file).read_bytes() == (coco / other.file).read_bytes()


def _read(folder: Path) -> Any:
    """A small world has no frequent names."""
    rules = replace(TOY_RULES, min_object_count=1, min_relation_count=1, min_attribute_count=1)
    return read_visual_genome(DataFolder(folder), rules)


def test_objects_lie_where_the_coco_files_say_and_are_named_alike(
    small: tuple[Path, Path],
) -> None:
    coco, vg = small
    spelt = {name: category for category, names in NAMES.items() for name in names}
    boxes = {
        p.photo.image_id: [(o.category, o.box_px) for o in p.objects]
        for p in read_coco(coco).photos
    }
    for entry in _load(vg, "objects"):
        said = [
            (spelt[o["names"][-1]], tuple(float(o[side]) for side in "xywh"))
            for o in entry["objects"]
            if o["names"][-1] in spelt
        ]
        assert sorted(said) == sorted(boxes[entry["image_id"]])


def test_the_reader_keeps_nearly_all_and_its_filters_have_something_to_do(folder: Path) -> None:
    found = read_visual_genome(DataFolder(folder), TOY_RULES)
    counts = {what: sum(c.values()) for what, c in found.protocol.counts.items()}
    assert counts["photos_large_enough"] == TRAIN + VAL
    assert counts["photos_passed"] > 0.95 * (TRAIN + VAL)
    assert counts["objects_listed"] > counts["objects_of_a_kept_name"]
    assert counts["objects_of_a_kept_name"] > counts["objects_large_enough"]
    assert counts["photos_with_too_few_relations"] > 0  # predicates of val and test, unmended
    assert set(found.vocabulary.predicates[1:]) <= PREDICATES.keys() - {"of"}
    usual = {names[0] for names in NAMES.values()}
    assert usual - {"umbrella", "ball"} <= set(found.vocabulary.objects[1:]) <= usual | {"wheel"}
    assert found.protocol.notes == ()
    related = [len({e for r in p.relations for e in (r.subject, r.object)}) for p in found.photos]
    orphans = [len(p.objects) > n for p, n in zip(found.photos, related, strict=True)]
    assert 0.05 < np.mean(orphans) < 0.95
    assert np.mean([len(p.relations) for p in found.photos]) > 2
    assert any(o.attributes for p in found.photos for o in p.objects)


def test_relationships_follow_from_the_geometry(folder: Path) -> None:
    seen: Counter[str] = Counter()
    for photo in read_visual_genome(DataFolder(folder), TOY_RULES).photos:
        of = {o.object_index: o for o in photo.objects}
        for subject, predicate, object in photo.relations:
            a, b = of[subject].box_px, of[object].box_px
            (ax, ay), (bx, by) = ((x + w / 2, y + h / 2) for x, y, w, h in (a, b))
            holds = {
                "above": ay < by,
                "below": ay > by,
                "to left of": ax < bx,
                "to right of": ax > bx,
                "in": of[object].category == "sky",
                "on": a[1] + a[3] >= b[1] and of[object].category in ("grass", "sand", "ocean"),
                "under": b[1] + b[3] >= a[1],
            }
            assert holds.get(predicate, True), (photo.photo.image_id, predicate)
            seen[predicate] += 1
    assert min(seen[p] for p in ("above", "below", "to left of", "in", "on", "under")) > 5


def test_spellings_vary_and_some_need_the_alias_lists(folder: Path) -> None:
    names = Counter(n for e in _load(folder, "objects") for o in e["objects"] for n in o["names"])
    for usual, *others in NAMES.values():
        assert names[usual] > 0
        assert sum(names[other] for other in others) > 0
    said = Counter(
        r["predicate"] for e in _load(folder, "relationships") for r in e["relationships"]
    )
    assert any(p.isupper() for p in said)
    assert any(p != p.strip() for p in said)
    assert any(p in said for usual, *others in PREDICATES.values() for p in others)


def test_files_are_of_the_releases_that_the_reader_asks_for(folder: Path) -> None:
    assert all((folder / name).is_file() for name in FILES)
    described = [o for entry in _load(folder, "attributes") for o in entry["attributes"]]
    assert {"object_id", "names", "synsets", "x", "y", "w", "h"} <= described[0].keys()
    assert {bool(o.get("attributes", "absent")) for o in described} == {True}
    assert 0.2 < np.mean(["attributes" in o for o in described]) < 0.8
    relations = [r for e in _load(folder, "relationships") for r in e["relationships"]]
    assert all("name" in r["subject"] and "merged_object_ids" in r["object"] for r in relations)
    ids = [o["object_id"] for e in _load(folder, "objects") for o in e["objects"]]
    assert len(set(ids)) == len(ids)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_arguments_give_the_same_bytes(small: tuple[Path, Path], tmp_path: Path) -> None:
    write_toy_visual_genome(tmp_path / "vg", **SMALL)
    assert _bytes(tmp_path / "vg") == _bytes(small[1])


@pytest.mark.parametrize("lost", ["relationships.json", "VG_100K/*.jpg", "VG_100K_2/*.jpg"])
def test_a_whole_world_is_left_alone_and_a_damaged_one_is_drawn_again(
    tmp_path: Path, lost: str
) -> None:
    folder = tmp_path / "vg"
    write_toy_visual_genome(folder, train_photos=6, val_photos=4)
    whole, side = _bytes(folder), folder / "styles.json"
    written = side.stat().st_mtime_ns
    write_toy_visual_genome(folder, train_photos=6, val_photos=4)
    assert side.stat().st_mtime_ns == written
    next(folder.glob(lost)).unlink()
    write_toy_visual_genome(folder, train_photos=6, val_photos=4)
    assert _bytes(folder) == whole


def test_an_older_world_is_replaced_but_nothing_else_that_lies_there_is_lost(
    small: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(small[1], tmp_path / "toy")
    (tmp_path / "toy" / "vg_splits.json").unlink()
    write_toy_visual_genome(tmp_path / "toy", **SMALL)
    assert _bytes(tmp_path / "toy") == _bytes(small[1])
    (tmp_path / "toy" / "vg_splits.json").unlink()
    (tmp_path / "toy" / "notes.txt").write_text("mine")
    shutil.copytree(small[0], tmp_path / "as-coco")
    for folder, found in (("toy", "notes.txt"), ("as-coco", "annotations")):
        before = _bytes(tmp_path / folder)
        with pytest.raises(DatasetError, match=f"{folder} holds '{found}' beside"):
            write_toy_visual_genome(tmp_path / folder, **SMALL)
        assert _bytes(tmp_path / folder) == before
        assert not (tmp_path / f"{folder}.partial").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"a photo")
    with pytest.raises(DatasetError, match=re.escape("not a toy world")):
        write_toy_visual_genome(tmp_path / "photos", train_photos=1, val_photos=1)
