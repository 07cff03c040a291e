"""One COCO annotation file -> what it adds to the photos of its folder.

Every value is checked before it is used: a file that is not as COCO's stops the build, and the
message names its place. msgspec reads what is well formed; where it declines, the standard library
reads again and says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, TypedDict

import msgspec

from pipeline.boxes import BoxTally
from pipeline.checks import (
    BROKEN,
    MAX_SIDE_PX,
    UNFIT,
    clip,
    get,
    is_box,
    kind_of,
    show,
    side,
    stays_inside,
    url,
    whole,
    words,
)
from pipeline.coco.layout import Part
from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError
from pipeline.json_file import decoded
from pipeline.masks import usable_segmentation
from pipeline.progress import progress
from pipeline.scene import IMAGE, MAX_IMAGE_ID, MAX_OBJECT_INDEX, AnnotatedObject, Photo
from pipeline.wording import counted

Kind = Literal["instances", "stuff"]

MIN_AREA = 0.02  # of the photo; a box must cover more (sg2im)

LOOKED_AT = 20  # photos, to find the folder that they lie in


class LargeObject(NamedTuple):
    """An object large enough, its segmentation not yet parsed: most photos will not pass."""

    object_index: int
    category: str
    box_px: tuple[float, float, float, float]
    segmentation: Any  # msgspec.Raw, or a value where the standard library has parsed the file
    path: str  # of the annotation file, for messages
    label: str


@dataclass
class Gathered:
    """What is known of one photo; `objects` are those large enough."""

    photo: Photo
    objects: list[LargeObject] = field(default_factory=list)
    num_annotations: int = 0
    has_stuff: bool = False


@dataclass
class Reading:
    """What has been read from the files so far."""

    folder: DataFolder
    photos: dict[str, dict[int, Gathered]]  # part -> photos by id, in file order
    left_out: str | None  # a category of which nothing is kept
    categories: dict[int, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    boxes: BoxTally = field(default_factory=BoxTally)


class _File(msgspec.Struct):
    """Annotations stay bytes until their turn comes: parsed, stuff_train2017.json fills 6 GB."""

    images: list[Any]
    annotations: list[msgspec.Raw]
    categories: list[Any]
    licenses: Any = None


class _Annotation(TypedDict, total=False):
    """What is used of an annotation; a segmentation is parsed where its object is kept."""

    id: Any
    image_id: Any
    category_id: Any
    bbox: Any
    segmentation: msgspec.Raw


class _Place(NamedTuple):
    """Where an annotation stands, for messages."""

    path: str
    annotation: Any
    position: int

    def __str__(self) -> str:
        return f"{self.path}, annotation {_label(self.annotation, self.position)}"

    def short(self) -> str:
        """The same wherever the folder is."""
        name = PurePosixPath(self.path).name
        return f"{name}, annotation {_label(self.annotation, self.position)}"


def read_file(
    reading: Reading, kind: Kind, part: Part, stuff_photos: frozenset[int] | None = None
) -> None:
    """`stuff_photos`: stuff of other photos is as if it were not there; None: all counts."""
    name = part.instances if kind == "instances" else part.stuff
    assert name is not None
    path = reading.folder.where(name)
    file = _parse(reading.folder.read_input(name, reading.inputs), path, kind)
    categories = _read_categories(file.categories, reading.categories, path)
    _read_photos(file, reading, part, path)
    photos = reading.photos[part.name]
    entries = progress(file.annotations, name, len(file.annotations), "annotation")
    decode = msgspec.json.Decoder(_Annotation).decode
    for position, entry in enumerate(entries):
        annotation = decoded(entry, decode, f"{path}, annotation at place {position},")
        place = _Place(path, annotation, position)
        gathered = _photo_of(annotation, photos, place)
        if stuff_photos is not None and gathered.photo.image_id not in stuff_photos:
            gathered.num_annotations += 1  # it keeps its number
            continue
        gathered.has_stuff |= kind == "stuff"
        _add(annotation, gathered, categories, place, reading)


def _parse(data: bytes, path: str, kind: Kind) -> _File:
    value = decoded(data, msgspec.json.Decoder(_File).decode, path)
    if isinstance(value, _File):
        return value
    if not isinstance(value, dict):
        raise DatasetError(f"{path} holds a {kind_of(value)} where COCO has an object; {BROKEN}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(value.get(key), list):
            what = f"has no {key!r}" if key not in value else f"has {key!r} that is not a list"
            raise DatasetError(f"{path} {what}; COCO's {kind} files have a list of them")
    return _File(value["images"], value["annotations"], value["categories"], value.get("licenses"))


def _read_categories(values: list[Any], known: dict[int, str], path: str) -> dict[int, str]:
    """The file's own categories by id; `known` gains them, and must not contradict them."""
    own: dict[int, str] = {}
    by_name = {name: number for number, name in known.items()}
    for position, value in enumerate(values):
        where = f"{path}, category {_label(value, position)}"
        given, name = get(value, "id", where), get(value, "name", where)
        if (number := whole(given)) is None:
            raise DatasetError(f"{where}: its id {show(given)} is not a whole number")
        if not isinstance(name, str) or not name or UNFIT.search(name) or name == IMAGE:
            raise DatasetError(f"{where}: {show(name)} cannot be the name of a category")
        if number in own:
            raise DatasetError(f"{where}: two categories have this id; ids must be unique")
        if known.get(number, name) != name or by_name.get(name, number) != number:
            other = known.get(number, name)
            before = show(other) if other != name else f"{show(name)} with id {by_name[name]}"
            raise DatasetError(
                f"{where}: {show(name)} has id {number}, but {before} was met before; are all "
                f"annotation files from the same release?"
            )
        own[number] = known[number] = name
        by_name[name] = number
    return own


def _read_photos(file: _File, reading: Reading, part: Part, path: str) -> None:
    licences = _licences(file.licenses)
    names = (v.get("file_name") for v in file.images[:LOOKED_AT] if isinstance(v, dict))
    place = part.photos(reading.folder, [str(name) for name in names if stays_inside(name)])
    photos = reading.photos[part.name]
    others = {name: known for name, known in reading.photos.items() if name != part.name}
    listed: set[int] = set()
    for position, image in enumerate(file.images):
        photo = _read_photo(image, position, licences, place, path)
        where = f"{path}, photo {photo.image_id}"
        if photo.image_id in listed:
            raise DatasetError(f"{where}: it is listed twice; photo ids must be unique")
        for known in others.values():
            if photo.image_id in known:
                raise DatasetError(
                    f"{where}: its id is that of {clip(known[photo.image_id].photo.file)} too; "
                    f"photo ids must be unique over {' and '.join(reading.photos)}: number "
                    f"one file's anew"
                )
        listed.add(photo.image_id)
        before = photos.setdefault(photo.image_id, Gathered(photo)).photo
        if (before.file, before.width, before.height) != (photo.file, photo.width, photo.height):
            raise DatasetError(
                f"{where}: {clip(photo.file)}, {photo.width} x {photo.height} px, is "
                f"{clip(before.file)}, {before.width} x {before.height} px, in the instances file; "
                f"are both from the same release?"
            )


def _read_photo(
    value: Any, position: int, licences: Mapping[int, str], place: str, path: str
) -> Photo:
    where = f"{path}, photo {_label(value, position)}"
    given = get(value, "id", where)
    number = whole(given)
    if number is None or not 0 <= number <= MAX_IMAGE_ID:
        raise DatasetError(
            f"{where}: its id {show(given)} is not a whole number from 0 to {MAX_IMAGE_ID}"
        )
    width, height = _side(value, "width", where), _side(value, "height", where)
    name = get(value, "file_name", where)
    if not stays_inside(name):
        raise DatasetError(
            f"{where}: its file_name {show(name)} is not a plain relative path, with "
            f"forward slashes, that stays inside {place}/"
        )
    licence = whole(value.get("license"))
    return Photo(
        image_id=number,
        file=str(PurePosixPath(place, name)),
        width=width,
        height=height,
        split="train",  # settled by reader.py
        licence=licences.get(licence, "") if licence is not None else "",
        source_url=url(value.get("flickr_url")) or url(value.get("coco_url")),
    )


def _side(photo: Any, name: str, where: str) -> int:
    given = get(photo, name, where)
    if (px := side(given)) is None:
        raise DatasetError(
            f"{where}: its {name} {show(given)} is not a whole number from 1 to {MAX_SIDE_PX} px"
        )
    return px


def _photo_of(annotation: Any, photos: Mapping[int, Gathered], place: _Place) -> Gathered:
    given = get(annotation, "image_id", place)
    image_id = whole(given)
    if image_id is None or image_id not in photos:
        raise DatasetError(
            f"{place}: image_id {show(given)} is not among the {counted(len(photos), 'photo')} "
            f"listed; are all annotation files from the same release?"
        )
    return photos[image_id]


def _add(
    annotation: Any,
    gathered: Gathered,
    categories: Mapping[int, str],
    place: _Place,
    reading: Reading,
) -> None:
    """Count an annotation of its photo, and keep it where its box is large enough."""
    given = get(annotation, "category_id", place)
    category_id = whole(given)
    if category_id is None or category_id not in categories:
        raise DatasetError(
            f"{place}: category_id {show(given)} is not among the {len(categories)} "
            f"categories of that file; are all annotation files from the same release?"
        )
    box = get(annotation, "bbox", place)
    if not is_box(box):
        raise DatasetError(f"{place}: its bbox {show(box)} is not four numbers x, y, w, h in px")
    photo, index = gathered.photo, gathered.num_annotations
    reading.boxes.add(box, photo, place.short)
    gathered.num_annotations += 1
    if index > MAX_OBJECT_INDEX:
        raise DatasetError(
            f"{place}: photo {photo.image_id} has more than {MAX_OBJECT_INDEX + 1:,} annotations; "
            f"a patch id has no place for more"
        )
    category = categories[category_id]
    if _is_large(box, photo) and category != reading.left_out:
        x, y, width, height = (float(v) for v in box)
        segmentation = annotation.get("segmentation")
        label = _label(annotation, place.position)
        gathered.objects.append(
            LargeObject(index, category, (x, y, width, height), segmentation, place.path, label)
        )


def annotated_object(large: LargeObject, photo: Photo) -> AnnotatedObject:
    """With its segmentation parsed and checked."""
    where = f"{large.path}, annotation {large.label}"
    values = decoded(large.segmentation, msgspec.json.decode, f"{where}, its segmentation")
    try:
        segmentation = usable_segmentation(values, photo.width, photo.height)
    except ValueError as error:
        raise DatasetError(f"{where}: its segmentation is malformed: {error}") from error
    return AnnotatedObject(large.object_index, large.category, large.box_px, segmentation)


def _label(value: Any, position: int) -> str:
    """How a message names an entry: by its id, or by its place where it has none."""
    number = value.get("id") if isinstance(value, dict) else None
    return show(number) if isinstance(number, int | float | str) else f"at place {position}"


def _is_large(box: list[float], photo: Photo) -> bool:
    _, _, width, height = box
    # A box turned inside out both ways would have a large area.
    return width > 0 and width * height / (photo.width * photo.height) > MIN_AREA


def _licences(values: Any) -> dict[int, str]:
    """Licence number -> its URL, which names the version too, or else its name."""
    entries = [v for v in values if isinstance(v, dict)] if isinstance(values, list) else []
    return {
        number: url(v.get("url")) or words(v.get("name"))
        for v in entries
        if (number := whole(v.get("id"))) is not None
    }
