"""attributes.json -> each photo's objects with the attributes that are listed for them."""

from array import array
from collections.abc import Collection, Iterable
from typing import NamedTuple

from pipeline.visual_genome.entries import Source
from pipeline.visual_genome.names import NamePool, Names
from pipeline.visual_genome.rules import MOST_ATTRIBUTES
from pipeline.visual_genome.shapes import AttributedObject, AttributesEntry


class Attributed(NamedTuple):
    """A photo's objects in the order of the file."""

    ids: "array[int]"
    attributes: list[Names]

    def by_object(self) -> dict[int, Names]:
        """Object's id -> its attributes; where it occurs twice, the later ones."""
        return dict(zip(self.ids, self.attributes, strict=True))


def read_attributes(
    source: Source, photos: Collection[int], pool: NamePool
) -> dict[int, Attributed]:
    """Of `photos`, in file order; where one is listed twice, the later list stands."""
    attributed: dict[int, Attributed] = {}
    for image_id, entry in source.entries("attributes", AttributesEntry):
        if image_id in photos:
            attributed[image_id] = _compact(entry.attributes, image_id, pool)
    return attributed


def _compact(objects: list[AttributedObject], image_id: int, pool: NamePool) -> Attributed:
    return Attributed(
        array("q", [o.object_id for o in objects]),
        [pool.add(tuple(o.attributes or ()), image_id, place) for place, o in enumerate(objects)],
    )


def frequent_ones(attributes: Iterable[str], known: Collection[str]) -> Names:
    """In their order, the first so many."""
    return tuple(a for a in attributes if a in known)[:MOST_ATTRIBUTES]
