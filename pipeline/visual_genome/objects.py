"""objects.json -> each photo's objects as listed, and of these the ones that sg2im keeps."""

from array import array
from collections.abc import Collection, Mapping
from functools import cache
from typing import NamedTuple

from pipeline.visual_genome.entries import Source
from pipeline.visual_genome.names import NamePool, Names
from pipeline.visual_genome.shapes import ListedObject, ObjectsEntry

BoxPx = tuple[float, float, float, float]  # x, y, width, height


class Listed(NamedTuple):
    """A photo's objects in file order, compact: there are millions."""

    ids: "array[int]"
    names: list[Names]  # after their aliases
    boxes: "array[float]"  # four numbers for each object

    def box(self, place: int) -> BoxPx:
        x, y, width, height = self.boxes[4 * place : 4 * place + 4]
        return x, y, width, height


class Kept(NamedTuple):
    """Of a photo's listed objects those in force."""

    places: list[int]  # in the list, rising
    taken_from: list[int]  # for each, the place whose name and box stand for it
    position: Mapping[int, int]  # object's id -> position in `places`, which relationships mean
    num_named: int  # listed objects of a frequent name
    num_large: int  # ... that are large enough too


def read_objects(source: Source, photos: Collection[int], pool: NamePool) -> dict[int, Listed]:
    """Of `photos`, in file order; where one is listed twice, the later list stands."""
    listed: dict[int, Listed] = {}
    for image_id, entry in source.entries("objects", ObjectsEntry):
        if image_id in photos:
            listed[image_id] = _compact(entry.objects, image_id, pool)
    return listed


def _compact(objects: list[ListedObject], image_id: int, pool: NamePool) -> Listed:
    boxes = array("d")
    for object_ in objects:
        boxes.extend((object_.x, object_.y, object_.w, object_.h))
    return Listed(
        array("q", [o.object_id for o in objects]),
        [pool.add(tuple(o.names), image_id, place) for place, o in enumerate(objects)],
        boxes,
    )


class ObjectFilter:
    """Keeps objects of the vocabulary's names, `min_px` wide and high at least."""

    def __init__(self, names: Collection[str], min_px: int) -> None:
        known = frozenset(names)
        self._min_px = min_px
        # Millions of objects have a few thousand combinations of names.
        self._name_of = cache(lambda names: next((n for n in names if n in known), ""))

    def name_at(self, listed: Listed, place: int) -> str:
        """The first of an object's names that is in the vocabulary, or ""."""
        return self._name_of(listed.names[place])

    def keep(self, listed: Listed) -> Kept:
        """Where an id occurs twice, the later object stands for both, as in sg2im's table."""
        named = [p for p, names in enumerate(listed.names) if self._name_of(names)]
        large = [p for p in named if min(listed.boxes[4 * p + 2 : 4 * p + 4]) >= self._min_px]
        stands = {listed.ids[place]: place for place in large}
        places = [place for place, number in enumerate(listed.ids) if number in stands]
        return Kept(
            places,
            [stands[listed.ids[place]] for place in places],
            {listed.ids[place]: position for position, place in enumerate(places)},
            len(named),
            len(large),
        )
