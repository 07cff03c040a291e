"""The toy world as COCO-Stuff files: right answers are known, and real readers read them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from pipeline.toy.scenes import HEIGHT, WIDTH, Placed
from pipeline.toy.world import (
    WORLD,
    DrawnPhoto,
    Folder,
    World,
    draw_photos,
    write_jpeg,
    write_world,
)

# COCO's and COCO-Stuff's own numbers.
THINGS = {
    3: ("car", "vehicle"), 5: ("airplane", "vehicle"), 9: ("boat", "vehicle"),
    20: ("sheep", "animal"), 28: ("umbrella", "accessory"), 37: ("sports ball", "sports"),
    38: ("kite", "sports"),
}  # fmt: skip
STUFF = {
    106: ("clouds", "sky"), 124: ("grass", "plant"), 128: ("house", "building"),
    135: ("mountain", "solid"), 154: ("sand", "ground"), 155: ("sea", "water"),
    157: ("sky-other", "sky"), 169: ("tree", "plant"), 183: ("other", "other"),
}  # fmt: skip
OTHER = 183  # COCO-Stuff's label for the pixels of things
NUMBER = {name: number for number, (name, _) in (THINGS | STUFF).items()}

LICENCES = [
    {"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"},
    {"id": 2, "name": "CC BY 4.0", "url": "https://creativecommons.org/licenses/by/4.0/"},
]


def write_toy(
    folder: Path, *, train_photos: int = 1600, val_photos: int = 1200, seed: int = 0
) -> None:
    """Draw the world into `folder`; nothing happens where this very world is already whole.

    An older toy world is replaced; a folder that holds anything else is refused.
    """
    world = World(WORLD, train_photos, val_photos, seed)

    def write(partial: Path) -> dict[int, int]:
        (partial / "annotations").mkdir()
        return {
            image_id: style
            for split in world.photos
            for image_id, style in _write_split(partial, split, world).items()
        }

    write_world(folder, world, write, lambda there: _is_whole(there, world))


def _is_whole(folder: Path, world: World) -> bool:
    names = [
        f"{kind}_{split}2017.json" for kind in ("instances", "stuff") for split in world.photos
    ]
    return all((folder / "annotations" / name).is_file() for name in names) and all(
        len(list((folder / f"{split}2017").glob("*.jpg"))) == count
        for split, count in world.photos.items()
    )


def _write_split(folder: Path, split: Folder, world: World) -> dict[int, int]:
    """Photos and both annotation files; returns image id -> style."""
    photos = folder / f"{split}2017"
    photos.mkdir()
    images, instances, stuff, styles = [], [], [], {}
    for drawn in draw_photos(world, split):
        file = f"{drawn.image_id:012d}.jpg"
        write_jpeg(photos / file, drawn.pixels)
        styles[drawn.image_id] = drawn.style
        images.append(_image_row(drawn, file))
        instances += _rows(drawn.objects, drawn.image_id, THINGS)
        stuff += _rows(drawn.objects, drawn.image_id, STUFF)
        stuff += _other_row(drawn.objects, drawn.image_id)
    images.sort(key=lambda row: row["id"])
    _write_annotations(folder, f"instances_{split}2017.json", images, instances, THINGS)
    _write_annotations(folder, f"stuff_{split}2017.json", images, stuff, STUFF)
    return styles


def _image_row(drawn: DrawnPhoto, file: str) -> dict[str, Any]:
    return {
        "id": drawn.image_id,
        "file_name": file,
        "width": WIDTH,
        "height": HEIGHT,
        "license": drawn.licence,
        "coco_url": f"https://example.org/toy/{drawn.split}2017/{file}",
    }


def _rows(
    objects: tuple[Placed, ...], image_id: int, categories: dict[int, tuple[str, str]]
) -> list[dict[str, Any]]:
    return [
        _row(o.mask, image_id, NUMBER[o.category])
        for o in objects
        if NUMBER[o.category] in categories
    ]


def _other_row(objects: tuple[Placed, ...], image_id: int) -> list[dict[str, Any]]:
    """The pixels of all things, which COCO-Stuff labels 'other' and readers leave out."""
    masks = [o.mask for o in objects if NUMBER[o.category] in THINGS]
    if not masks:
        return []
    return [_row(np.logical_or.reduce(masks), image_id, OTHER)]


def _row(mask: NDArray[np.bool_], image_id: int, category: int) -> dict[str, Any]:
    encoded = rle.encode(np.asfortranarray(mask, np.uint8))
    counts = encoded["counts"].decode("ascii")
    return {
        "image_id": image_id,
        "category_id": category,
        "bbox": [float(side) for side in rle.toBbox(encoded)],
        "area": float(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts},
    }


def _write_annotations(
    folder: Path,
    name: str,
    images: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    categories: dict[int, tuple[str, str]],
) -> None:
    """COCO's JSON; each row gets its number, rows of one photo stay in their order."""
    rows = sorted(rows, key=lambda row: row["image_id"])
    content = {
        "info": {"description": "toy world", "version": str(WORLD)},
        "licenses": LICENCES,
        "images": images,
        "annotations": [{"id": i, **row} for i, row in enumerate(rows, 1)],
        "categories": [
            {"id": number, "name": category, "supercategory": parent}
            for number, (category, parent) in categories.items()
        ],
    }
    (folder / "annotations" / name).write_text(json.dumps(content) + "\n", "utf-8")
