"""One COCO annotation file -> what it adds to the photos of its folder.

Every value is checked before it is used: a file that is not as COCO's stops the build, and the
message names its place.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pipeline.errors import DatasetError
from pipeline.json_file import read_json
from pipeline.masks import usable_segmentation
from pipeline.scene import IMAGE, MAX_IMAGE_ID, MAX_OBJECT_INDEX, AnnotatedObject, Photo

Kind = Literal["instances", "stuff"]
PHOTO_FOLDERS = ("train2017", "val2017")

MIN_AREA = 0.02  # of the photo; a box must cover more (sg2im)
LEFT_OUT_CATEGORY = "other"  # COCO-Stuff's name for all that is neither thing nor named stuff

MAX_SIDE_PX = 65_535  # JPEG's own limit
MAX_BOX_PX = 1_000_000  # of a box number: far outside any photo, far inside single precision

BROKEN = "unpack or download it again, it may have been cut short"

# Line breaks and lone surrogates would spoil messages and tables.
UNFIT = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")


@dataclass
class Gathered:
    """What is known of one photo; `objects` are those large enough."""

    photo: Photo
    objects: list[AnnotatedObject] = field(default_factory=list)
    num_annotations: int = 0
    has_stuff: bool = False


@dataclass
class Reading:
    """What the files read so far have told."""

    photos: dict[str, dict[int, Gathered]] = field(  # photo folder -> photos by id, in file order
        default_factory=lambda: {name: {} for name in PHOTO_FOLDERS}
    )
    categories: dict[int, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)


def read_file(reading: Reading, kind: Kind, photo_folder: str, path: Path) -> None:
    value, reading.inputs[f"annotations/{path.name}"] = read_json(path, BROKEN)
    if not isinstance(value, dict):
        raise DatasetError(f"{path} holds a {_kind_of(value)} where COCO has an object; {BROKEN}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(value.get(key), list):
            what = f"has no {key!r}" if key not in value else f"has {key!r} that is not a list"
            raise DatasetError(f"{path} {what}; COCO's {kind} files have a list of them")
    categories = _read_categories(value["categories"], reading.categories, path)
    _read_photos(value, reading, photo_folder, path)
    photos = reading.photos[photo_folder]
    for position, annotation in enumerate(value["annotations"]):
        _add(annotation, position, photos, categories, path)
        if kind == "stuff":
            photos[annotation["image_id"]].has_stuff = True


def _read_categories(values: list[Any], known: dict[int, str], path: Path) -> dict[int, str]:
    """The file's own categories by id; `known` gains them, and must not contradict them."""
    own: dict[int, str] = {}
    by_name = {name: number for number, name in known.items()}
    for position, value in enumerate(values):
        where = f"{path}, category {_label(value, position)}"
        number, name = _get(value, "id", where), _get(value, "name", where)
        if type(number) is not int:
            raise DatasetError(f"{where}: its id {_show(number)} is not a whole number")
        if not isinstance(name, str) or not name or UNFIT.search(name) or name == IMAGE:
            raise DatasetError(f"{where}: {_show(name)} cannot be the name of a category")
        if number in own:
            raise DatasetError(f"{where}: two categories have this id; ids must be unique")
        if known.get(number, name) != name or by_name.get(name, number) != number:
            other = known.get(number, name)
            before = repr(other) if other != name else f"{_show(name)} with id {by_name[name]}"
            raise DatasetError(
                f"{where}: {_show(name)} has id {number}, but {before} was met before; are all "
                f"annotation files from the same release?"
            )
        own[number] = known[number] = name
        by_name[name] = number
    return own


def _read_photos(value: Mapping[str, Any], reading: Reading, photo_folder: str, path: Path) -> None:
    licences = _licences(value.get("licenses"))
    photos = reading.photos[photo_folder]
    others = next(reading.photos[name] for name in PHOTO_FOLDERS if name != photo_folder)
    listed: set[int] = set()
    for position, image in enumerate(value["images"]):
        photo = _read_photo(image, position, licences, photo_folder, path)
        where = f"{path}, photo {photo.image_id}"
        if photo.image_id in listed:
            raise DatasetError(f"{where}: it is listed twice; photo ids must be unique")
        if photo.image_id in others:
            raise DatasetError(
                f"{where}: its id is that of {others[photo.image_id].photo.file} too; photo ids "
                f"must be unique over train2017 and val2017"
            )
        listed.add(photo.image_id)
        before = photos.setdefault(photo.image_id, Gathered(photo)).photo
        if (before.file, before.width, before.height) != (photo.file, photo.width, photo.height):
            raise DatasetError(
                f"{where}: {photo.file}, {photo.width} x {photo.height} px, is {before.file}, "
                f"{before.width} x {before.height} px, in the instances file; are both from the "
                f"same release?"
            )


def _read_photo(
    value: Any, position: int, licences: Mapping[int, str], photo_folder: str, path: Path
) -> Photo:
    where = f"{path}, photo {_label(value, position)}"
    number = _get(value, "id", where)
    if type(number) is not int or not 0 <= number <= MAX_IMAGE_ID:
        raise DatasetError(
            f"{where}: its id {_show(number)} is not a whole number from 0 to {MAX_IMAGE_ID}"
        )
    width, height = _get(value, "width", where), _get(value, "height", where)
    for name, side in (("width", width), ("height", height)):
        if type(side) is not int or not 1 <= side <= MAX_SIDE_PX:
            raise DatasetError(
                f"{where}: its {name} {_show(side)} is not from 1 to {MAX_SIDE_PX} px"
            )
    name = _get(value, "file_name", where)
    if not _stays_inside(name):
        raise DatasetError(
            f"{where}: its file_name {_show(name)} is not a plain relative path, with "
            f"forward slashes, that stays inside {photo_folder}/"
        )
    licence = value.get("license")
    return Photo(
        image_id=number,
        file=str(PurePosixPath(photo_folder, name)),
        width=width,
        height=height,
        split="train" if photo_folder == "train2017" else "val",
        licence=licences.get(licence, "") if type(licence) is int else "",
        source_url=_url(value.get("flickr_url")) or _url(value.get("coco_url")),
    )


def _add(
    annotation: Any,
    position: int,
    photos: Mapping[int, Gathered],
    categories: Mapping[int, str],
    path: Path,
) -> None:
    """Count an annotation of its photo, and keep it where its box is large enough."""
    where = f"{path}, annotation {_label(annotation, position)}"
    image_id = _get(annotation, "image_id", where)
    if type(image_id) is not int or image_id not in photos:
        raise DatasetError(
            f"{where}: image_id {_show(image_id)} is not among the {len(photos):,} photos "
            f"listed; are all annotation files from the same release?"
        )
    category_id = _get(annotation, "category_id", where)
    if type(category_id) is not int or category_id not in categories:
        raise DatasetError(
            f"{where}: category_id {_show(category_id)} is not among the {len(categories)} "
            f"categories of that file; are all annotation files from the same release?"
        )
    box = _get(annotation, "bbox", where)
    if not _is_box(box):
        raise DatasetError(f"{where}: its bbox {_show(box)} is not four numbers x, y, w, h in px")
    gathered = photos[image_id]
    index = gathered.num_annotations
    gathered.num_annotations += 1
    if index > MAX_OBJECT_INDEX:
        raise DatasetError(
            f"{where}: photo {image_id} has more than {MAX_OBJECT_INDEX + 1:,} annotations; a "
            f"patch id has no place for more"
        )
    category = categories[category_id]
    photo = gathered.photo
    if not _is_large(box, photo) or category == LEFT_OUT_CATEGORY:
        return
    try:
        segmentation = usable_segmentation(
            annotation.get("segmentation"), photo.width, photo.height
        )
    except ValueError as error:
        raise DatasetError(f"{where}: its segmentation is malformed: {error}") from error
    x, y, width, height = (float(v) for v in box)
    gathered.objects.append(AnnotatedObject(index, category, (x, y, width, height), segmentation))


def _get(value: Any, key: str, where: str) -> Any:
    if not isinstance(value, dict):
        raise DatasetError(f"{where}: it is a {_kind_of(value)}, not an object with {key!r}")
    if key not in value:
        raise DatasetError(f"{where}: it has no {key!r}")
    return value[key]


def _label(value: Any, position: int) -> str:
    """How a message names an entry: by its id, or by its place where it has none."""
    number = value.get("id") if isinstance(value, dict) else None
    return _show(number) if isinstance(number, int | str) else f"at place {position}"


def _show(value: Any) -> str:
    """Short enough for a line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _kind_of(value: Any) -> str:
    names = {list: "list", dict: "object", str: "text", bool: "truth value"}
    return names.get(type(value), "null" if value is None else "number")


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(type(v) in (int, float) and abs(v) <= MAX_BOX_PX for v in value)
    )


def _is_large(box: list[float], photo: Photo) -> bool:
    _, _, width, height = box
    # A box turned inside out both ways would have a large area.
    return width > 0 and width * height / (photo.width * photo.height) > MIN_AREA


def _stays_inside(name: Any) -> bool:
    if not isinstance(name, str) or UNFIT.search(name) or re.match("[A-Za-z]:", name):
        return False
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and not {"..", "\\"} & {*path.parts, *name}


def _licences(values: Any) -> dict[int, str]:
    """Licence number -> its URL, which names the version too, or else its name."""
    entries = [v for v in values if isinstance(v, dict)] if isinstance(values, list) else []
    return {
        v["id"]: _url(v.get("url")) or _words(v.get("name"))
        for v in entries
        if type(v.get("id")) is int
    }


def _url(value: Any) -> str:
    # Reports make links of these: nothing but the web's own schemes.
    words = _words(value)
    return words if words.startswith(("http://", "https://")) else ""


def _words(value: Any) -> str:
    return value if isinstance(value, str) and not UNFIT.search(value) else ""
