"""The toy world itself: its photos with their geometry and hidden styles, and its folder on disk.

Every photo has a hidden style (light, palette, texture, weather) that all its objects share. It
comes from a random stream of its own, so nothing that is written beside the pixels tells of it;
`styles.json` names it for the scores, and no training code reads that file.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipeline.errors import DatasetError
from pipeline.files import remove_partial, written_folder
from pipeline.options import write_json
from pipeline.progress import progress
from pipeline.toy.painting import CHOICES, paint
from pipeline.toy.scenes import Placed, draw_scene
from pipeline.toy.shapes import MARKS
from pipeline.toy.styles import STYLES

Folder = Literal["train", "val"]

WORLD = 1  # raise when the same arguments are to give other bytes
JPEG_QUALITY = 92
MOST_IMAGE_ID = 600_000  # ids are drawn from below this, as COCO's are
LEAST_PHOTOS = 3  # one each for training, validation and test
LICENCES = 2  # each photo is under one of so many

# COCO-Stuff's 'other' is never drawn, but has had its place here from the first world on.
CATEGORIES = sorted([*CHOICES, "other"])


@dataclass(frozen=True)
class World:
    """All that its bytes depend on."""

    world: int
    train_photos: int
    val_photos: int
    seed: int

    def __post_init__(self) -> None:
        if min(self.train_photos, self.val_photos, self.seed) < 0:
            raise ValueError("photos to draw and seed are at least 0")

    @property
    def photos(self) -> dict[Folder, int]:
        return {"train": self.train_photos, "val": self.val_photos}


@dataclass(frozen=True)
class DrawnPhoto:
    """One photo as it goes to disk."""

    image_id: int
    split: Folder
    number: int  # in its split
    pixels: NDArray[np.uint8]  # (HEIGHT, WIDTH, 3)
    objects: tuple[Placed, ...]  # in file order
    style: int
    licence: int  # from 1


def shares(photos: int) -> dict[str, int]:
    """How many of so many photos are for training, and how many are not: 4 : 3, as by default."""
    if not LEAST_PHOTOS <= photos <= MOST_IMAGE_ID:
        raise ValueError(
            f"--toy-photos is {photos:,}; it must be from {LEAST_PHOTOS} (one each for training, "
            f"validation and test) to {MOST_IMAGE_ID:,}"
        )
    train_photos = photos * 4 // 7
    return {"train_photos": train_photos, "val_photos": photos - train_photos}


def check_photos(folder: Path, photos: int) -> None:
    """DatasetError where the toy world in `folder` is not one of so many photos."""
    there = _parameters(folder)
    if any(there.get(name) != count for name, count in shares(photos).items()):
        raise DatasetError(
            f"{folder} holds a toy world of another size than --toy-photos {photos}: name another "
            f"folder for this one, or leave out --toy-photos and take what is there"
        )


def write_world(
    folder: Path,
    world: World,
    write: Callable[[Path], Mapping[int, int]],
    is_whole: Callable[[Path], bool],
) -> None:
    """Let `write` draw the world, photo's id -> style; nothing where this very one `is_whole`.

    It is drawn next to `folder` and moved there at the end, so half a world never looks whole. An
    older toy world of the same files is replaced; a folder that holds anything else is refused.
    """
    if _is_of(folder, world) and is_whole(folder):
        return
    remove_partial(folder)
    with written_folder(folder) as partial:
        styles = {str(image_id): style for image_id, style in write(partial).items()}
        side = {"num_styles": len(STYLES), "names": [s.name for s in STYLES]}
        side |= {"parameters": asdict(world), "styles": styles}
        write_json(partial / "styles.json", side)
        if folder.exists():
            _check_nothing_else(folder, {path.name for path in partial.iterdir()})


def _check_nothing_else(folder: Path, names: set[str]) -> None:
    """DatasetError where replacing the folder would take more than an older world's files."""
    if others := sorted({path.name for path in folder.iterdir()} - names):
        raise DatasetError(
            f"{folder} holds {others[0]!r} beside an older toy world, or a toy world in another "
            f"dataset's files: name another folder for this one, or empty it"
        )


def _is_of(folder: Path, world: World) -> bool:
    """Whether `folder` was drawn with these arguments; refuses one that is no toy world at all."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    return _parameters(folder) == asdict(world)


def _parameters(folder: Path) -> dict[str, Any]:
    """What the toy world in `folder` was drawn with; DatasetError where there is none."""
    try:
        side = json.loads((folder / "styles.json").read_text("utf-8"))
        return dict(side["parameters"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise DatasetError(
            f"{folder} holds something that is not a toy world (no readable styles.json): "
            "name another folder for it, or empty this one"
        ) from None


def draw_photos(world: World, split: Folder) -> Iterator[DrawnPhoto]:
    """In an order that does not depend on their ids."""
    ids = _image_ids(world.train_photos + world.val_photos, world.seed)
    ids = ids[: world.train_photos] if split == "train" else ids[world.train_photos :]
    for number, image_id in progress(enumerate(ids), f"toy {split} photos", len(ids), "photo"):
        yield _draw(image_id, split, number, world.seed)


def stream_of(photo: DrawnPhoto, seed: int, purpose: int) -> np.random.Generator:
    """A random stream for what is written beside the pixels of a photo; purposes from 3 on."""
    if purpose < 3:
        raise ValueError(f"stream {purpose} draws geometry, style or paint: it would reveal them")
    return _stream(seed, *_place(photo.split, photo.number), purpose)


def write_jpeg(path: Path, pixels: NDArray[np.uint8]) -> None:
    encoded: bytes = simplejpeg.encode_jpeg(
        pixels, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444", fastdct=False
    )
    path.write_bytes(encoded)


def held_out_mark(category: str, style: int) -> int | None:
    """The set of inner marks that no training photo shows on this category in this style."""
    place = CATEGORIES.index(category)
    return (place + style // 3) % MARKS if (place + style) % 3 == 0 else None


def _stream(seed: int, *path: int) -> np.random.Generator:
    """A random stream of its own for each purpose: what one draws moves nothing in another."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([WORLD, seed, *path])))


def _place(split: Folder, number: int) -> tuple[int, int]:
    return (1 if split == "train" else 2), number


def _image_ids(count: int, seed: int) -> list[int]:
    drawn = _stream(seed, 0).permutation(MOST_IMAGE_ID)[:count] + 1
    return [int(i) for i in drawn]


def _draw(image_id: int, split: Folder, number: int, seed: int) -> DrawnPhoto:
    """Geometry first, style from its own stream, paint last."""
    place = _place(split, number)
    geometry, paints = _stream(seed, *place, 0), _stream(seed, *place, 2)
    scene = draw_scene(geometry)
    order = geometry.permutation(len(scene))
    licence = int(geometry.integers(1, LICENCES + 1))
    style = int(_stream(seed, *place, 1).integers(len(STYLES)))
    marks = [_draw_mark(o.category, style, split, paints) for o in scene]
    pixels = paint(scene, style, marks, paints)
    return DrawnPhoto(
        image_id, split, number, pixels, tuple(scene[i] for i in order), style, licence
    )


def _draw_mark(category: str, style: int, split: Folder, random: np.random.Generator) -> int:
    held_out = held_out_mark(category, style) if split == "train" else None
    allowed = [m for m in range(MARKS) if m != held_out]
    return allowed[int(random.integers(len(allowed)))]
