"""A toy scene's geometry -> what annotators would say of it, in Visual Genome's manner.

Names and predicates are spelt one way or another, some need the alias lists, some are in capitals;
small parts and rare words are there for the filters to find. The look of a photo has no say in it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.toy.scenes import HEIGHT, WIDTH, Placed

# A category's name, then other spellings of it.
NAMES = {
    "airplane": ("airplane", "plane", "airplanes", "jet"),
    "boat": ("boat", "boats", "sailboat"),
    "car": ("car", "cars", "vehicle"),
    "clouds": ("cloud", "clouds"),
    "grass": ("grass", "lawn", "grassy field"),
    "house": ("house", "houses", "home"),
    "kite": ("kite", "kites"),
    "mountain": ("mountain", "mountains", "hill"),
    "sand": ("sand", "sandy beach", "beach sand"),
    "sea": ("ocean", "sea", "ocean water"),
    "sheep": ("sheep", "sheeps", "lamb"),
    "sky-other": ("sky", "skies", "the sky"),
    "sports ball": ("ball", "balls", "beach ball"),
    "tree": ("tree", "trees"),
    "umbrella": ("umbrella", "umbrellas", "parasol"),
}
PREDICATES = {
    "above": ("above", "over", "is above"),
    "behind": ("behind", "are behind", "in back of"),
    "below": ("below", "lower than"),
    "in": ("in", "are in", "flying in"),
    "next to": ("next to", "near", "beside", "by"),
    "of": ("of", "part of"),
    "on": ("on", "is on", "standing on", "on top of"),
    "to left of": ("to left of", "left of"),
    "to right of": ("to right of", "right of"),
    "under": ("under", "underneath", "beneath"),
}
RARE = (
    "backdrop", "detail", "edge", "feature", "figure", "item", "landmark", "landscape", "motif",
    "object", "outline", "scenery", "shape", "silhouette", "view", "vista",
)  # fmt: skip

IN_THE_SKY = ("airplane", "clouds", "kite")
NEAR_PX = 10  # between two things that are next to each other
WHEEL_PX = 12  # side of a wheel at most

BoxPx = tuple[int, int, int, int]  # x, y, width, height


class Said(NamedTuple):
    """An object as annotated."""

    names: tuple[str, ...]
    box_px: BoxPx
    attributes: tuple[str, ...] = ()


class Link(NamedTuple):
    """`predicate` as annotated, between positions among a photo's objects."""

    subject: int
    predicate: str
    object: int


def describe(scene: Sequence[Placed], random: np.random.Generator) -> tuple[list[Said], list[Link]]:
    """First the scene's objects in their order, then parts and rare words; one link at least."""
    said = [Said(_names(o, random), o.box_px, _attributes(o, random)) for o in scene]
    subjects = [i for i in range(len(scene)) if random.random() < 0.8] or [0]
    links = [_link(i, scene, random) for i in subjects]
    for car in [i for i, placed in enumerate(scene) if placed.category == "car"]:
        if random.random() < 0.5:
            links.append(Link(len(said), _spelt("of", random), car))
            said.append(Said(("wheel",), _wheel(scene[car].box_px)))
    if random.random() < 0.04:
        said.append(Said((_rare(random),), scene[int(random.integers(len(scene)))].box_px))
    return said, links


def alias_lines(names: dict[str, tuple[str, ...]]) -> str:
    """A line for each name that has other spellings, as in Visual Genome's alias lists."""
    return "".join(f"{','.join(spellings)}\n" for spellings in names.values())


def _names(placed: Placed, random: np.random.Generator) -> tuple[str, ...]:
    usual, *others = NAMES[placed.category]
    kind = random.random()
    if kind < 0.75:
        return (usual,)
    if kind < 0.99:
        return (others[int(random.integers(len(others)))],)
    return (_rare(random), usual)


def _rare(random: np.random.Generator) -> str:
    return RARE[int(random.integers(len(RARE)))]


def _attributes(placed: Placed, random: np.random.Generator) -> tuple[str, ...]:
    _, _, width, height = placed.box_px
    fraction = width * height / (WIDTH * HEIGHT)
    true = {
        "large": fraction > 0.25,
        "small": fraction < 0.04,
        "wide": width > 2 * height,
        "tall": height > 1.2 * width,
    }
    return tuple(word for word, holds in true.items() if holds and random.random() < 0.7)


def _link(subject: int, scene: Sequence[Placed], random: np.random.Generator) -> Link:
    object = int(random.integers(len(scene) - 1))
    object += object >= subject  # any but itself
    return Link(subject, _spelt(_predicate(scene[subject], scene[object]), random), object)


def _spelt(predicate: str, random: np.random.Generator) -> str:
    usual, *others = PREDICATES[predicate]
    kind = random.random()
    if kind < 0.7:
        return usual
    if kind < 0.85:
        return others[int(random.integers(len(others)))]
    return usual.upper() if kind < 0.95 else f"{usual} "


def _predicate(subject: Placed, object: Placed) -> str:
    if subject.frame and object.frame:
        return _between_things(subject.box_px, object.box_px)
    if object.frame and subject.category == "sky-other":
        return "behind"
    if object.frame and _holds(subject, object):
        return "under"
    if subject.category in IN_THE_SKY and object.category == "sky-other":
        return "in"
    if subject.frame and _holds(object, subject):
        return "on"
    return "above" if _middle(subject) < _middle(object) else "below"


def _middle(placed: Placed) -> float:
    """px from the top."""
    _, y, _, height = placed.box_px
    return y + height / 2


def _holds(stuff: Placed, thing: Placed) -> bool:
    """Whether the lowest line that is seen of the thing is on that stretch of land or sea."""
    _, y, _, height = thing.box_px
    top, bottom = stuff.band
    return stuff.category != "sky-other" and round(top) <= y + height <= round(bottom)


def _between_things(a: BoxPx, b: BoxPx) -> str:
    right = a[0] + a[2] / 2 - b[0] - b[2] / 2
    down = a[1] + a[3] / 2 - b[1] - b[3] / 2
    gap = abs(right) - (a[2] + b[2]) / 2
    if abs(down) > abs(right):
        return "above" if down < 0 else "below"
    if gap < NEAR_PX:
        return "next to"
    return "to left of" if right < 0 else "to right of"


def _wheel(car: BoxPx) -> BoxPx:
    x, y, width, height = car
    side = max(min(height // 3, width // 3, WHEEL_PX), 1)
    return x + width // 8, y + height - side, side, side
