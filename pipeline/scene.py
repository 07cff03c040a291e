"""What flows: a dataset's photos in, scenes with relations and patch ids out.

Readers produce these records and everything else consumes them; past a reader no code asks which
dataset a scene came from, except to find the toy world's files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

IMAGE = "__image__"  # the node that stands for the whole picture
IN_IMAGE = "__in_image__"  # ... and the relation every object has to it
GEOMETRIC = ("left of", "right of", "above", "below", "inside", "surrounding")

MASK_SIZE = 16  # side of a stored mask, in cells (sg2im)


class Box(NamedTuple):
    """Corners as fractions of the photo's width and height, in [0, 1]; y grows downwards."""

    x0: float
    y0: float
    x1: float
    y1: float


class Relation(NamedTuple):
    """`predicate` holds from `subject` to `object`, both positions in a graph's objects."""

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Names <-> indices. Index 0 is `__image__` among objects, `__in_image__` among predicates."""

    objects: tuple[str, ...]
    predicates: tuple[str, ...]
    _object_index: Mapping[str, int] = field(init=False, repr=False, compare=False)
    _predicate_index: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.objects[:1] != (IMAGE,) or self.predicates[:1] != (IN_IMAGE,):
            raise ValueError(f"a vocabulary starts with {IMAGE} and {IN_IMAGE}")
        for name, names in (("_object_index", self.objects), ("_predicate_index", self.predicates)):
            index = {word: i for i, word in enumerate(names)}
            if len(index) != len(names):
                raise ValueError("a vocabulary names each thing once")
            object.__setattr__(self, name, index)

    def object_index(self, name: str) -> int:
        return self._object_index[name]

    def predicate_index(self, name: str) -> int:
        return self._predicate_index[name]

    def to_json(self) -> dict[str, list[str]]:
        return {"objects": list(self.objects), "predicates": list(self.predicates)}

    @classmethod
    def from_json(cls, value: Mapping[str, Sequence[str]]) -> "Vocabulary":
        return cls(tuple(value["objects"]), tuple(value["predicates"]))


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo on disk, with its licence and source."""

    image_id: int
    file: str  # relative to the data folder, never outside it
    width: int  # px
    height: int  # px
    split: Split
    licence: str  # name or URL; "" where none is known
    source_url: str  # where the photo can be seen; "" where unknown


@dataclass(frozen=True, slots=True)
class AnnotatedObject:
    """One object as annotated: a pixel box, and a COCO segmentation where there is one."""

    object_index: int  # place among all of the photo's annotations, before any filter
    category: str
    box_px: tuple[float, float, float, float]  # x, y, width, height
    segmentation: Any = None  # polygons or RLE as in COCO's JSON; None where there is no mask
    attributes: tuple[str, ...] = ()  # "wooden", "tall": where the dataset has them


@dataclass(frozen=True, slots=True)
class AnnotatedPhoto:
    """What a reader returns for one photo that passed its filter: plain JSON values only."""

    photo: Photo
    objects: tuple[AnnotatedObject, ...]
    # Given relations between object indices; None: they follow from the geometry.
    relations: tuple[Relation, ...] | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A photo or object that gives no patch, and why: a row of failures.jsonl."""

    image_id: int
    object_index: int | None  # None: the whole photo
    reason: str  # a short code, e.g. "photo_missing"
    detail: str


@dataclass(frozen=True, slots=True)
class SceneGraph:
    """What a user asks for: objects, relations and perhaps boxes. No `__image__` node."""

    objects: tuple[str, ...]
    relations: tuple[Relation, ...]
    boxes: tuple[Box, ...] | None = None


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object of a scene; `mask` is (16, 16) uint8 in {0, 1} over its box, or None."""

    object_index: int
    category: str
    box: Box
    mask: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """A photo as a graph whose objects are patches."""

    photo: Photo
    objects: tuple[SceneObject, ...]
    relations: tuple[Relation, ...]  # the geometric or given ones, without `__in_image__`

    @property
    def graph(self) -> SceneGraph:
        return SceneGraph(
            tuple(o.category for o in self.objects),
            self.relations,
            tuple(o.box for o in self.objects),
        )

    @property
    def patch_ids(self) -> tuple[int, ...]:
        return tuple(patch_id(self.photo.image_id, o.object_index) for o in self.objects)


MAX_OBJECT_INDEX = (1 << 16) - 1
MAX_IMAGE_ID = (1 << 47) - 1  # a patch id is a signed 64-bit number, 16 bits of it the object's

Ids = TypeVar("Ids", int, NDArray[np.int64], "Tensor")


def patch_id(image_id: Ids, object_index: int) -> Ids:
    """Known from the annotation alone, so that no shard needs another's counts."""
    return image_id << 16 | object_index


def image_of(patch: Ids) -> Ids:
    """The photo a patch was cut from; of an array or tensor, that of each."""
    return patch >> 16
