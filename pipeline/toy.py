"""A small world whose right answers are known, written as COCO-Stuff files.

Every photo has a hidden style (light, palette, texture, weather) that all its objects share. It
comes from a random stream of its own, so graph, boxes, masks and file order tell nothing of it;
`styles.json` names it for the scores, and no training code reads that file.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from pycocotools import mask as rle

from pipeline.errors import DatasetError
from pipeline.options import write_json
from pipeline.progress import progress
from pipeline.toy_painting import paint
from pipeline.toy_scenes import HEIGHT, WIDTH, Placed, draw_scene
from pipeline.toy_shapes import MARKS
from pipeline.toy_styles import STYLES

Folder = Literal["train", "val"]

WORLD = 1  # raise when the same arguments are to give other bytes
JPEG_QUALITY = 92
MOST_IMAGE_ID = 600_000  # ids are drawn from below this, as COCO's are

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


@dataclass(frozen=True)
class _Parameters:
    world: int
    train_photos: int
    val_photos: int
    seed: int


_COUNT: dict[Folder, str] = {"train": "train_photos", "val": "val_photos"}


@dataclass(frozen=True)
class _Drawn:
    """One photo as it goes to disk."""

    pixels: NDArray[np.uint8]  # (HEIGHT, WIDTH, 3)
    objects: tuple[Placed, ...]  # in file order
    style: int
    licence: int


def write_toy(
    folder: Path, *, train_photos: int = 1600, val_photos: int = 1200, seed: int = 0
) -> None:
    """Draw the world into `folder`; nothing happens where this very world is already whole.

    It is drawn next to `folder` and moved there at the end, so half a world never looks whole. An
    older toy world is replaced; a folder that holds anything else is refused.
    """
    if min(train_photos, val_photos, seed) < 0:
        raise ValueError("photos to draw and seed are at least 0")
    parameters = _Parameters(WORLD, train_photos, val_photos, seed)
    if _is_there(folder, parameters):
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "annotations").mkdir(parents=True)
    ids = _image_ids(train_photos + val_photos, seed)
    styles = _write_split(partial, "train", ids[:train_photos], seed)
    styles |= _write_split(partial, "val", ids[train_photos:], seed)
    side = {"num_styles": len(STYLES), "names": [s.name for s in STYLES]}
    side |= {"parameters": asdict(parameters), "styles": styles}
    write_json(partial / "styles.json", side)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def held_out_mark(category: str, style: int) -> int | None:
    """The set of inner marks that no training photo shows on this category in this style."""
    place = sorted(NUMBER).index(category)
    return (place + style // 3) % MARKS if (place + style) % 3 == 0 else None


def _is_there(folder: Path, parameters: _Parameters) -> bool:
    """Whether this world is whole in `folder`; refuses a folder that is no toy world at all."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        side = json.loads((folder / "styles.json").read_text("utf-8"))
        found = side["parameters"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DatasetError(
            f"{folder} holds something that is not a toy world (no readable styles.json): "
            "name another folder for it, or empty this one"
        ) from None
    names = [f"{kind}_{split}2017.json" for kind in ("instances", "stuff") for split in _COUNT]
    return (
        found == asdict(parameters)
        and all((folder / "annotations" / name).is_file() for name in names)
        and all(
            len(list((folder / f"{split}2017").glob("*.jpg"))) == getattr(parameters, field)
            for split, field in _COUNT.items()
        )
    )


def _stream(seed: int, *path: int) -> np.random.Generator:
    """A random stream of its own for each purpose: what one draws moves nothing in another."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([WORLD, seed, *path])))


def _image_ids(count: int, seed: int) -> list[int]:
    drawn = _stream(seed, 0).permutation(MOST_IMAGE_ID)[:count] + 1
    return [int(i) for i in drawn]


def _draw(split: Folder, number: int, seed: int) -> _Drawn:
    """Geometry first, style from its own stream, paint last."""
    place = (1 if split == "train" else 2, number)
    geometry, paints = _stream(seed, *place, 0), _stream(seed, *place, 2)
    scene = draw_scene(geometry)
    order = geometry.permutation(len(scene))
    licence = int(geometry.integers(1, len(LICENCES) + 1))
    style = int(_stream(seed, *place, 1).integers(len(STYLES)))
    marks = [_draw_mark(o.category, style, split, paints) for o in scene]
    pixels = paint(scene, style, marks, paints)
    return _Drawn(pixels, tuple(scene[i] for i in order), style, licence)


def _draw_mark(category: str, style: int, split: Folder, random: np.random.Generator) -> int:
    held_out = held_out_mark(category, style) if split == "train" else None
    allowed = [m for m in range(MARKS) if m != held_out]
    return allowed[int(random.integers(len(allowed)))]


def _write_split(folder: Path, split: Folder, ids: list[int], seed: int) -> dict[str, int]:
    """Photos and both annotation files; returns image id -> style."""
    photos = folder / f"{split}2017"
    photos.mkdir()
    images, instances, stuff, styles = [], [], [], {}
    numbered = progress(enumerate(ids), f"toy {split} photos", len(ids), "photos")
    for number, image_id in numbered:
        drawn = _draw(split, number, seed)
        file = f"{image_id:012d}.jpg"
        (photos / file).write_bytes(_jpeg(drawn.pixels))
        styles[str(image_id)] = drawn.style
        images.append(_image_row(split, file, image_id, drawn.licence))
        instances += _rows(drawn.objects, image_id, THINGS)
        stuff += _rows(drawn.objects, image_id, STUFF) + _other_row(drawn.objects, image_id)
    images.sort(key=lambda row: row["id"])
    _write_annotations(folder, f"instances_{split}2017.json", images, instances, THINGS)
    _write_annotations(folder, f"stuff_{split}2017.json", images, stuff, STUFF)
    return styles


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    encoded: bytes = simplejpeg.encode_jpeg(
        pixels, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444", fastdct=False
    )
    return encoded


def _image_row(split: Folder, file: str, image_id: int, licence: int) -> dict[str, Any]:
    return {
        "id": image_id,
        "file_name": file,
        "width": WIDTH,
        "height": HEIGHT,
        "license": licence,
        "coco_url": f"https://example.org/toy/{split}2017/{file}",
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
