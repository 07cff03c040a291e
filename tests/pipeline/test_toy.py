"""The toy world is fair, whole, the same every time, and its right answers are known."""

import json
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from pycocotools import mask as rle

from pipeline.errors import DatasetError
from pipeline.toy import world as toy_world
from pipeline.toy.coco import write_toy
from pipeline.toy.scenes import HEIGHT, WIDTH
from pipeline.toy.shapes import MARKS, SHAPES
from pipeline.toy.styles import STYLES
from pipeline.toy.visual_genome import write_toy_visual_genome
from pipeline.toy.world import held_out_mark, shares
from tests.pipeline.style_classifier import CHANCE, accuracy, is_chance

TRAIN, VAL = 400, 260

# pycocotools 2.0.11 itself calls numpy in a way that numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@dataclass(frozen=True)
class World:
    folder: Path
    styles: dict[int, int]
    names: dict[int, str]
    images: dict[str, list[dict[str, Any]]]  # by split
    rows: dict[int, list[dict[str, Any]]]  # by photo, in file order, as readers keep them

    def ids(self, split: str) -> list[int]:
        return [image["id"] for image in self.images[split]]


def _read(folder: Path) -> World:
    styles = json.loads((folder / "styles.json").read_text("utf-8"))["styles"]
    names, images, rows = {}, {}, defaultdict(list)
    for split in ("train", "val"):
        for kind in ("instances", "stuff"):
            file = folder / "annotations" / f"{kind}_{split}2017.json"
            content = json.loads(file.read_text("utf-8"))
            names |= {c["id"]: c["name"] for c in content["categories"]}
            images[split] = content["images"]
            for row in content["annotations"]:
                if names[row["category_id"]] != "other":
                    rows[row["image_id"]].append(row)
    return World(folder, {int(i): s for i, s in styles.items()}, names, images, dict(rows))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("data") / "toy"
    write_toy(folder, train_photos=TRAIN, val_photos=VAL)
    return _read(folder)


def _annotation_features(world: World, image_id: int, licence: int) -> NDArray[np.float32]:
    """Per category: how often, its mean box, mask area, place in file; then size, id, licence."""
    numbers = sorted(world.names)
    features = np.zeros((len(numbers), 7), np.float32)
    for place, row in enumerate(world.rows[image_id]):
        features[numbers.index(row["category_id"])] += [1, *row["bbox"], row["area"], place]
    features[:, 1:] /= np.maximum(features[:, :1], 1)
    order = [r["category_id"] for r in world.rows[image_id]]
    return np.append(features.ravel(), [len(order), order[0], image_id, licence])


def _pixels(world: World, split: str, image_id: int) -> NDArray[np.float32]:
    data = (world.folder / f"{split}2017" / f"{image_id:012d}.jpg").read_bytes()
    return np.asarray(simplejpeg.decode_jpeg(data), np.float32) / 255


def _look(patch: NDArray[np.float32]) -> list[float]:
    """Mean of each colour, then its spread and how much neighbours differ, in seven directions."""
    look = [*patch.mean((0, 1)), *patch.std((0, 1))]
    for down, right in ((0, 1), (1, 0), (1, 1), (0, 3), (3, 0), (3, 3)):
        there = patch[down:, right:]
        change = np.abs(there - patch[: there.shape[0], : there.shape[1]])
        look += [*change.mean((0, 1)), float((change**2).mean())]
    return [*look, float(np.abs(patch[1:, :-1] - patch[:-1, 1:]).mean())]


Side = tuple[NDArray[np.float32], list[int]]  # a row per patch, its style


@pytest.fixture(scope="module")
def looks(world: World) -> tuple[Side, Side]:
    """Of the first three patches of each photo, 64 px of each at most."""
    return _patch_looks(world, "train"), _patch_looks(world, "val")


def _patch_looks(world: World, split: str) -> Side:
    looks, styles = [], []
    for image_id in world.ids(split):
        photo = _pixels(world, split, image_id)
        for row in world.rows[image_id][:3]:
            x, y, width, height = (int(side) for side in row["bbox"])
            looks.append(_look(photo[y : y + min(height, 64), x : x + min(width, 64)]))
            styles.append(world.styles[image_id])
    return np.array(looks, np.float32), styles


def test_annotations_tell_nothing_of_the_style(world: World) -> None:
    sides = []
    for split in ("train", "val"):
        photos = [(image["id"], image["license"]) for image in world.images[split]]
        sides.append(np.stack([_annotation_features(world, *photo) for photo in photos]))
        sides.append([world.styles[i] for i, _ in photos])
    assert is_chance(accuracy(*sides), VAL)


def test_the_same_classifier_finds_the_style_in_the_pixels_of_a_patch(
    looks: tuple[Side, Side],
) -> None:
    train, val = looks
    assert accuracy(*train, *val) > 0.7


def test_the_mean_colour_of_a_patch_does_not_give_the_style_away(looks: tuple[Side, Side]) -> None:
    (train, train_y), (val, val_y) = looks
    of_colour = accuracy(train[:, :3], train_y, val[:, :3], val_y)
    assert 3 * CHANCE < of_colour < accuracy(train, train_y, val, val_y) - 0.1


def test_one_set_of_categories_occurs_in_many_styles(world: World) -> None:
    styles_of = defaultdict(list)
    for image_id, rows in world.rows.items():
        styles_of[tuple(sorted(r["category_id"] for r in rows))].append(world.styles[image_id])
    most = sorted(styles_of.values(), key=len)[-10:]
    assert all(len(set(styles)) >= 5 for styles in most)


def test_masks_agree_with_boxes_and_areas(world: World) -> None:
    for rows in list(world.rows.values())[:300]:
        for row in rows:
            mask = rle.decode(row["segmentation"]).astype(bool)
            ys, xs = np.nonzero(mask)
            box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
            assert row["bbox"] == box
            assert row["area"] == mask.sum()


def test_masks_of_one_photo_do_not_overlap(world: World) -> None:
    for rows in list(world.rows.values())[:100]:
        masks = [rle.decode(row["segmentation"]) for row in rows]
        assert np.sum(masks, axis=0, dtype=np.int64).max() == 1


def test_every_photo_keeps_three_to_eight_objects(world: World) -> None:
    photo = WIDTH * HEIGHT
    assert len(world.rows) == TRAIN + VAL
    for rows in world.rows.values():
        large = [r for r in rows if r["bbox"][2] * r["bbox"][3] / photo > 0.02]
        assert 4 <= len(large) == len(rows) <= 6


def test_sky_lies_over_land_and_sea(world: World) -> None:
    for rows in world.rows.values():
        top = {world.names[r["category_id"]]: r["bbox"][1] for r in rows}
        ground = [top[name] for name in ("grass", "sand", "sea") if name in top]
        assert top["sky-other"] <= 2
        assert all(t > 30 for t in ground)
        assert ground


def test_the_oracle_finds_what_goes_together_and_chance_does_not(world: World) -> None:
    # Start at a candidate drawn at random, then pick by true style: an oracle for this start.
    # The score is the fraction of pairs of picks whose styles agree.
    random = np.random.default_rng(0)
    pool = defaultdict(list)
    for image_id in world.ids("train"):
        for row in world.rows[image_id]:
            pool[row["category_id"]].append((image_id, world.styles[image_id]))
    oracle, chance = [], []
    for image_id in world.ids("val"):
        lists = []
        for row in world.rows[image_id]:
            rows = random.permutation(len(pool[row["category_id"]]))[:20]
            lists.append([pool[row["category_id"]][i][1] for i in rows])
        start = lists[random.integers(len(lists))][random.integers(20)]
        oracle.append(_agreement([start if start in found else found[0] for found in lists]))
        chance.append(_agreement([found[0] for found in lists]))
    assert np.mean(oracle) >= 0.6
    assert np.mean(chance) <= 0.1


def _agreement(styles: list[int]) -> float:
    pairs = [(a, b) for i, a in enumerate(styles) for b in styles[:i]]
    return sum(a == b for a, b in pairs) / len(pairs)


def test_some_marks_are_seen_in_validation_photos_alone() -> None:
    random = np.random.default_rng(0)
    held_out = 0
    for category in SHAPES:
        for style in range(len(STYLES)):
            seen = {
                split: {toy_world._draw_mark(category, style, split, random) for _ in range(60)}
                for split in ("train", "val")
            }
            mark = held_out_mark(category, style)
            held_out += mark is not None
            assert seen["val"] == set(range(MARKS))
            assert seen["train"] == set(range(MARKS)) - {mark}
    assert held_out == len(SHAPES) * len(STYLES) // 3


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    write_toy(tmp_path / "a", train_photos=12, val_photos=6, seed=3)
    write_toy(tmp_path / "b", train_photos=12, val_photos=6, seed=3)
    write_toy(tmp_path / "c", train_photos=12, val_photos=6, seed=4)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    assert not set(_bytes(tmp_path / "a").values()) & set(_bytes(tmp_path / "c").values())


def test_a_whole_world_is_left_alone_and_a_damaged_one_is_drawn_again(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    write_toy(folder, train_photos=4, val_photos=2)
    whole, side = _bytes(folder), folder / "styles.json"
    written = side.stat().st_mtime_ns
    write_toy(folder, train_photos=4, val_photos=2)
    assert side.stat().st_mtime_ns == written
    next((folder / "train2017").glob("*.jpg")).unlink()
    write_toy(folder, train_photos=4, val_photos=2)
    assert _bytes(folder) == whole
    write_toy(folder, train_photos=3, val_photos=2)
    assert len(list((folder / "train2017").iterdir())) == 3


def test_what_an_interrupted_run_left_does_not_matter(tmp_path: Path) -> None:
    write_toy(tmp_path / "toy", train_photos=4, val_photos=2)
    shutil.move(tmp_path / "toy", tmp_path / "toy.1.partial")
    (tmp_path / "toy.1.partial" / "train2017" / "rest.jpg").write_bytes(b"half")
    write_toy(tmp_path / "toy", train_photos=4, val_photos=2)
    assert len(list((tmp_path / "toy" / "train2017").iterdir())) == 4
    assert not (tmp_path / "toy.1.partial").exists()


@pytest.mark.parametrize("write", [write_toy, write_toy_visual_genome])
def test_the_default_size_has_the_shares_of_every_other(write: Any) -> None:
    assert shares(2800).items() <= write.__kwdefaults__.items()


@pytest.mark.parametrize("photos", [3, 4, 5, 6, 7, 600_000])
def test_every_size_has_photos_for_training_validation_and_test(photos: int) -> None:
    train, others = shares(photos).values()
    assert train >= 1
    assert others >= 2
    assert train + others == photos


@pytest.mark.parametrize("photos", [-1, 0, 2, 600_001])
def test_a_size_that_cannot_be_drawn_is_refused(photos: int) -> None:
    with pytest.raises(ValueError, match=f"--toy-photos is {photos:,}; it must be from 3"):
        shares(photos)


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train2017").mkdir()
    with pytest.raises(DatasetError, match="not a toy world"):
        write_toy(tmp_path, train_photos=1, val_photos=1)
    assert (tmp_path / "train2017").is_dir()
