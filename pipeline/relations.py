"""An annotated photo -> its scene: objects with masks, and the relations between them.

Where the dataset gives relations, those are taken. Else they follow from the geometry by sg2im's
rules for COCO-Stuff; the one difference: an object's partner is drawn once, from the photo's id,
and not anew at every access.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.errors import DatasetError
from pipeline.masks import Mask, masks_over_boxes
from pipeline.scene import (
    MASK_SIZE,
    AnnotatedObject,
    AnnotatedPhoto,
    Box,
    Photo,
    Relation,
    Scene,
    SceneObject,
)


def scene_of(annotated: AnnotatedPhoto) -> Scene:
    """The same scene whatever was read before it, on any machine."""
    photo = annotated.photo
    objects = tuple(
        SceneObject(o.object_index, o.category, _box(photo, o.box_px), mask, o.attributes)
        for o, mask in zip(annotated.objects, _masks(annotated), strict=True)
    )
    if annotated.relations is None:
        return Scene(photo, objects, _geometric(photo, objects))
    return Scene(photo, objects, _given(annotated.relations, objects))


def _geometric(photo: Photo, objects: Sequence[SceneObject]) -> tuple[Relation, ...]:
    places = _places(objects)
    return tuple(
        Relation(s, _predicate(places[s], places[o]), o)
        for s, o in drawn_pairs(photo.image_id, len(objects))
    )


def _given(relations: Sequence[Relation], objects: Sequence[SceneObject]) -> tuple[Relation, ...]:
    """Relations between object indices -> between places; one whose end is gone goes too."""
    place = {o.object_index: at for at, o in enumerate(objects)}
    return tuple(
        Relation(place[r.subject], r.predicate, place[r.object])
        for r in relations
        if r.subject in place and r.object in place
    )


def drawn_pairs(image_id: int, num_objects: int) -> list[tuple[int, int]]:
    """(subject, object) for every object in turn: it and a random other, in random direction.

    Drawn from the raw output of Philox, which numpy promises never to change.
    """
    if num_objects < 2:
        return []
    raw = np.random.Philox(key=image_id).random_raw(2 * num_objects)
    pairs = []
    for current in range(num_objects):
        other = int(raw[2 * current]) % (num_objects - 1)
        other += other >= current  # any but itself
        pairs.append((current, other) if int(raw[2 * current + 1]) >> 63 else (other, current))
    return pairs


def predicate_of(subject: SceneObject, object: SceneObject) -> str:
    """One of `GEOMETRIC`. Angles are taken in the unit square; y grows downwards."""
    return _predicate(*_places([subject, object]))


STEPS = np.arange(MASK_SIZE)


class Place(NamedTuple):
    """What relations are computed from."""

    box: Box  # in single precision, as sg2im: edges that two boxes have in common stay so
    x: float  # of the mask's centre
    y: float


def _places(objects: Sequence[SceneObject]) -> list[Place]:
    boxes = np.array([o.box for o in objects], np.float32).tolist()
    return [
        Place(Box(*box), *_centre(Box(*box), o.mask)) for box, o in zip(boxes, objects, strict=True)
    ]


def _predicate(subject: Place, object: Place) -> str:
    a, b = subject.box, object.box
    if a.x0 < b.x0 and a.y0 < b.y0 and a.x1 > b.x1 and a.y1 > b.y1:
        return "surrounding"
    if a.x0 > b.x0 and a.y0 > b.y0 and a.x1 < b.x1 and a.y1 < b.y1:
        return "inside"
    # sg2im cuts atan2's circle at odd multiples of pi/4; comparing is the same on every machine.
    right, down = subject.x - object.x, subject.y - object.y
    if right < 0 and abs(down) <= -right:
        return "left of"
    if down < 0 and -down > abs(right):
        return "above"
    return "below" if down > 0 and down >= abs(right) else "right of"


def _centre(box: Box, mask: Mask | None) -> tuple[float, float]:
    """x, y of the mean of the mask's cells, the outer ones lying on the box's edges."""
    if mask is None or not (cells := np.count_nonzero(mask)):
        return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    steps = (MASK_SIZE - 1) * cells
    across, down = int((mask @ STEPS).sum()) / steps, int((STEPS @ mask).sum()) / steps
    return box.x0 + across * (box.x1 - box.x0), box.y0 + down * (box.y1 - box.y0)


def _box(photo: Photo, box_px: tuple[float, float, float, float]) -> Box:
    """The part of a box that lies in the photo."""
    x, y, width, height = box_px
    corners = (
        x / photo.width,
        y / photo.height,
        (x + width) / photo.width,
        (y + height) / photo.height,
    )
    return Box(*(min(max(corner, 0.0), 1.0) for corner in corners))


def _masks(annotated: AnnotatedPhoto) -> list[Mask | None]:
    """DatasetError for a malformed segmentation, naming it."""
    photo = annotated.photo
    try:
        return _masks_of(photo, annotated.objects)
    except ValueError:
        for object_ in annotated.objects:
            try:
                _masks_of(photo, [object_])
            except ValueError as error:
                raise DatasetError(
                    f"photo {photo.image_id} ({photo.file}), object {object_.object_index} "
                    f"({object_.category!r}): its segmentation is malformed: {error}"
                ) from error
        raise


def _masks_of(photo: Photo, objects: Sequence[AnnotatedObject]) -> list[Mask | None]:
    segmentations, boxes_px = [o.segmentation for o in objects], [o.box_px for o in objects]
    return masks_over_boxes(segmentations, boxes_px, photo.width, photo.height)
