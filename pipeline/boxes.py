"""Boxes that are numbers like any others, but not the dataset's: counted, with what they may be.

Of the 4,437 boxes of 388 of COCO's photos none reaches beyond its photo, and one is smaller than
2 px each way. Of their 1,144 masks none is empty over its box; the emptiest has 2 of 256 cells. Of
the 147 boxes of Visual Genome's first five photos four reach 1 px beyond their photo, none further.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.checks import show
from pipeline.masks import masks_over_boxes
from pipeline.scene import AnnotatedPhoto, Photo

BEYOND_PX = 1  # a box may reach so far beyond its photo: tools round, and count from 0 or 1
TINY_PX = 2  # a box is tiny that is narrower and lower
MANY_TINY = 0.1  # of all boxes: so many are no small things far away
NEARLY_ALL = 0.9
MANY_EMPTY = 0.01  # of the masks
PHOTOS_LOOKED_AT = 1000  # for their masks: a second's work, and what is wrong is so everywhere


@dataclass
class BoxTally:
    """Of annotations that were read."""

    whose: str = "COCO"
    beyond_px: int = BEYOND_PX
    accepted: float = 0.0  # share of the boxes that may reach further
    boxes: int = 0
    beyond: int = 0
    tiny: int = 0
    as_corners: int = 0  # those that lie in their photo if read as x0, y0, x1, y1
    beyond_as_corners: int = 0  # those that lie beyond it as they are
    example_beyond: str = ""
    example_tiny: str = ""

    def add(self, box: Sequence[float], photo: Photo, place: Callable[[], str]) -> None:
        """`place` says where the box stands."""
        x, y, width, height = box
        self.boxes += 1
        if width < TINY_PX and height < TINY_PX:
            self.tiny += 1
            self.example_tiny = self.example_tiny or f"{place()}: {show(list(box))}"
        left = top = -self.beyond_px
        right, bottom = photo.width + self.beyond_px, photo.height + self.beyond_px
        corners = left <= x < width <= right and top <= y < height <= bottom
        self.as_corners += corners
        if x < left or y < top or x + width > right or y + height > bottom:
            self.beyond += 1
            self.beyond_as_corners += corners
            if not self.example_beyond:
                size = f"{photo.width} x {photo.height} px"
                self.example_beyond = f"{place()}: {show(list(box))} in {size}"

    def notes(self) -> list[str]:
        """A line for each kind of box that is none of the dataset's."""
        return [note for note in (self._tiny_note(), self._beyond_note()) if note]

    def _tiny_note(self) -> str:
        if self.tiny <= MANY_TINY * self.boxes:
            return ""
        return (
            f"{self.tiny:,} of {self.boxes:,} boxes are smaller than {TINY_PX} px each way (e.g. "
            f"{self.example_tiny}): are they shares of the photo? {self.whose} has px"
        )

    def _beyond_note(self) -> str:
        if self.beyond <= self.accepted * self.boxes:
            return ""
        share = min(self.as_corners / self.boxes, self.beyond_as_corners / self.beyond)
        if share > NEARLY_ALL:
            hint = f"are they corners x0, y0, x1, y1? {self.whose} has x, y, width, height"
        else:
            hint = "are they of this size of the photo, and x, y their upper left corner?"
        return (
            f"{self.beyond:,} of {self.boxes:,} boxes reach more than {self.beyond_px} px beyond "
            f"their photo, which {self.whose}'s do not (e.g. {self.example_beyond}): {hint}"
        )


def empty_masks_note(photos: Sequence[AnnotatedPhoto]) -> list[str]:
    """A line where segmentations and boxes are of different places: cut at its box, such a mask is
    empty. Every so many photos are looked at."""
    masks, empty, example = 0, 0, ""
    for annotated in photos[:: -(-len(photos) // PHOTOS_LOOKED_AT) or 1]:
        photo, objects = annotated.photo, annotated.objects
        segmentations, boxes = [o.segmentation for o in objects], [o.box_px for o in objects]
        cut = masks_over_boxes(segmentations, boxes, photo.width, photo.height)
        for object_, mask in zip(objects, cut, strict=True):
            masks += mask is not None
            if mask is not None and not mask.any():
                empty += 1
                box = show(list(object_.box_px))
                example = example or f"photo {photo.image_id}, {object_.category}: box {box}"
    if empty <= MANY_EMPTY * masks:
        return []
    return [
        f"{empty:,} of {masks:,} segmentations have nothing inside their box, as none of COCO's "
        f"(e.g. {example}): boxes and polygons are of different places; is a box's y counted from "
        f"the top, and are both of this size of the photo?"
    ]
