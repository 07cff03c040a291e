"""What an entry of each of Visual Genome's JSON files must hold; more it may.

Of release 1.4 (objects, relationships) and 1.2 (attributes, image_data). An entry may lack its
photo's id, as one in the published relationships does.
"""

import re
from typing import Annotated, Any, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType, ValidationError, convert

from pipeline.checks import MAX_BOX_PX, MAX_SIDE_PX, show
from pipeline.errors import DatasetError
from pipeline.scene import MAX_IMAGE_ID, MAX_OBJECT_INDEX

ImageId = Annotated[int, Meta(ge=0, le=MAX_IMAGE_ID)]
ObjectId = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Px = Annotated[float, Meta(ge=-MAX_BOX_PX, le=MAX_BOX_PX)]
SidePx = Annotated[int, Meta(ge=1, le=MAX_SIDE_PX)]


class PhotoEntry(Struct, gc=False):
    """Of image_data.json."""

    width: SidePx
    height: SidePx
    url: str
    image_id: ImageId | UnsetType = UNSET


class ListedObject(Struct, gc=False):
    object_id: ObjectId
    names: list[str]
    x: Px
    y: Px
    w: Px
    h: Px
    merged_object_ids: Any | UnsetType = UNSET


class ObjectsEntry(Struct):
    objects: Annotated[list[ListedObject], Meta(max_length=MAX_OBJECT_INDEX + 1)]
    image_id: ImageId | UnsetType = UNSET


class End(Struct, gc=False):
    """Subject or object of a relationship."""

    object_id: ObjectId
    merged_object_ids: Any | UnsetType = UNSET


class ListedRelation(Struct, gc=False):
    subject: End
    object: End
    predicate: str


class RelationshipsEntry(Struct):
    relationships: list[ListedRelation]
    image_id: ImageId | UnsetType = UNSET


class AttributedObject(Struct, gc=False):
    object_id: ObjectId
    attributes: list[str] | None = None


class AttributesEntry(Struct):
    attributes: list[AttributedObject]
    image_id: ImageId | UnsetType = UNSET


AnyEntry = PhotoEntry | ObjectsEntry | RelationshipsEntry | AttributesEntry


class SplitLists(Struct, forbid_unknown_fields=True):
    """vg_splits.json."""

    train: list[ImageId]
    val: list[ImageId]
    test: list[ImageId]


Shape = TypeVar("Shape")


def shaped(value: Any, shape: type[Shape], where: str) -> Shape:
    """The value as a record; DatasetError, beginning with `where`, names the place in it.

    Not strict: tools write 7 as 7.0 or as "7" too.
    """
    try:
        return convert(value, shape, strict=False)
    except ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`").lstrip(".")
        raise DatasetError(f"{where}{_shown(value, path)}: {what.replace('`', '')}") from None
    except UnicodeEncodeError as error:  # half of a pair, as JSON may escape it
        raise DatasetError(
            f"{where}: {error.object[error.start]!r} in it is no character"
        ) from None


def _shown(value: Any, path: str) -> str:
    """`, objects[3].w -1e999`; a list or an object, which may be large and deep, by its path."""
    part = _at(value, path)
    content = "" if isinstance(part, list | dict | None) else f" {show(part)}"
    return f", {path}{content}" if path else ""


def _at(value: Any, path: str) -> Any:
    """What `objects[3].w` is in a value; None where it breaks off."""
    for key, index in re.findall(r"(\w+)|\[(\d+)\]", path):
        try:
            value = value[key or int(index)]
        except (LookupError, TypeError):
            return None
    return value
