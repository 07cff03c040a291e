"""Where things stand in a toy scene: drawn before, and without, any thought of its style."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.toy.shapes import SHAPES, Field, Frame, Part, rasterise

WIDTH, HEIGHT = 160, 128  # px of a toy photo

SMALLEST_BOX = 0.026  # fraction of the photo: clear of the 2 % below which readers drop an object
LEAST_VISIBLE = 0.6  # fraction of a thing's silhouette that nearer things leave to be seen
MOST_OVERLAP = 0.25  # of two frames, as a fraction of the smaller


class Size(NamedTuple):
    """How large a thing is drawn: height in px, width as a multiple of the height."""

    height: tuple[float, float]
    aspect: tuple[float, float]


SIZES = {
    "airplane": Size((24, 29), (1.7, 2.1)),
    "boat": Size((42, 60), (0.85, 1.1)),
    "car": Size((25, 33), (1.7, 2.0)),
    "clouds": Size((20, 27), (2.0, 2.8)),
    "house": Size((44, 60), (0.95, 1.3)),
    "kite": Size((34, 44), (0.6, 0.75)),
    "mountain": Size((30, 44), (2.1, 3.0)),
    "sheep": Size((28, 36), (1.25, 1.45)),
    "sports ball": Size((25, 32), (1.0, 1.0)),
    "tree": Size((50, 68), (0.6, 0.8)),
    "umbrella": Size((44, 58), (0.95, 1.15)),
}
FAR_ASHORE = ("house", "tree")  # stand near the horizon; other things stand nearer


@dataclass(frozen=True)
class Placed:
    """One object of a scene. A stuff region has no frame: it is the band between two heights."""

    category: str
    frame: Frame | None
    parts: tuple[Part, ...]
    band: tuple[float, float]  # px from the top; of things, where they begin and stand
    mask: NDArray[np.bool_]  # (HEIGHT, WIDTH), what can be seen of it

    @property
    def box_px(self) -> tuple[int, int, int, int]:
        """x, y, width, height of what can be seen."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        x, y = int(columns[0]), int(rows[0])
        return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def between(random: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(random.random())


def draw_scene(random: np.random.Generator) -> tuple[Placed, ...]:
    """Four to six objects, furthest first, each large enough to be kept by every reader."""
    while True:
        objects = _arrange(random)
        if objects is not None:
            return objects


def _arrange(random: np.random.Generator) -> tuple[Placed, ...] | None:
    bands, things = _cast(random)
    if not 4 <= len(bands) + len(things) <= 6:
        return None
    horizon = bands[1][1]
    placed: list[tuple[str, Frame]] = []
    for category in things:
        frame = _find_place(random, category, horizon, bands, placed)
        if frame is None:
            return None
        placed.append((category, frame))
    # Mountains stand behind land and sea, things in the sky behind things on the ground.
    placed.sort(key=lambda p: (_layer(p[0]), p[1].y + p[1].height))
    return _with_masks(random, bands, placed)


def _cast(random: np.random.Generator) -> tuple[list[tuple[str, float, float]], list[str]]:
    """Which stuff lies where (category, top, bottom in px) and which things are there."""
    horizon = between(random, 52, 68)
    sky = ("sky-other", 0.0, horizon)
    kind = float(random.random())
    if kind < 0.50:
        bands = [sky, ("grass", horizon, float(HEIGHT))]
        things = _choose(random, ["house", "house", "tree", "tree", "car", "sheep", "sheep"], 1, 3)
    elif kind < 0.80:
        shore = horizon + between(random, 16, 24)
        things = _choose(
            random, ["umbrella", "umbrella", "sports ball", "sports ball", "tree", "car"], 1, 2
        )
        if random.random() < 0.6:
            bands = [sky, ("sea", horizon, shore), ("sand", shore, float(HEIGHT))]
            if random.random() < 0.5:
                things.append("boat")
        else:
            bands = [sky, ("sand", horizon, float(HEIGHT))]
    else:
        bands = [sky, ("sea", horizon, float(HEIGHT))]
        things = _choose(random, ["boat", "boat"], 1, 2)
    if random.random() < 0.35:
        things.append("mountain")
    return bands, things + _choose(random, ["clouds", "airplane", "kite", "clouds"], 0, 2)


def _choose(random: np.random.Generator, names: list[str], least: int, most: int) -> list[str]:
    count = int(random.integers(least, most + 1))
    return [names[i] for i in random.permutation(len(names))[:count]]


def _layer(category: str) -> int:
    if category == "mountain":
        return 0
    return 1 if category in ("clouds", "airplane", "kite") else 2


def _find_place(
    random: np.random.Generator,
    category: str,
    horizon: float,
    bands: list[tuple[str, float, float]],
    placed: list[tuple[str, Frame]],
) -> Frame | None:
    """A frame that hides no earlier one of its kind of place too much, or None."""
    size = SIZES[category]
    for _ in range(30):
        height = between(random, *size.height)
        width = height * between(random, *size.aspect)
        foot = _foot(random, category, height, horizon, bands)
        x = between(random, 2, WIDTH - width - 2)
        frame = Frame(x, foot - height, width, height, bool(random.random() < 0.5))
        rivals = [f for c, f in placed if (category == "mountain") == (c == "mountain")]
        if frame.y >= 2 and all(_overlap(frame, other) <= MOST_OVERLAP for other in rivals):
            return frame
    return None


def _foot(
    random: np.random.Generator,
    category: str,
    height: float,
    horizon: float,
    bands: list[tuple[str, float, float]],
) -> float:
    """The lowest line of a thing, in px from the top."""
    if category == "mountain":
        return horizon + 1
    if _layer(category) == 1:
        return between(random, height + 3, max(height + 4, horizon - 8))
    if category == "boat" and len(bands) == 3:
        return between(random, horizon + 8, bands[1][2])
    if category == "boat":
        return between(random, horizon + 14, HEIGHT - 8)
    start = bands[-1][1]
    if category in FAR_ASHORE:
        return start + between(random, 8, 26)
    return between(random, max(start + 22, height), HEIGHT - 4)


def _overlap(a: Frame, b: Frame) -> float:
    """Common area of two frames as a fraction of the smaller."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    return max(width, 0) * max(height, 0) / min(a.width * a.height, b.width * b.height)


def _with_masks(
    random: np.random.Generator,
    bands: list[tuple[str, float, float]],
    placed: list[tuple[str, Frame]],
) -> tuple[Placed, ...] | None:
    """Masks of what can be seen, nearest first; None where too little of something can."""
    free = np.ones((HEIGHT, WIDTH), bool)
    nearest_first: list[Placed] = []
    for category, frame in reversed(placed):
        parts = tuple(SHAPES[category].outer([float(r) for r in random.random(3)]))
        whole = silhouette(parts, frame) > 0.5
        if category == "mountain":
            whole[round(bands[0][2]) :] = False
        mask = whole & free
        if mask.sum() < LEAST_VISIBLE * whole.sum():
            return None
        free &= ~whole
        nearest_first.append(
            Placed(category, frame, parts, (frame.y, frame.y + frame.height), mask)
        )
    stuff = []
    for category, top, bottom in bands:
        mask = np.zeros_like(free)
        mask[round(top) : round(bottom)] = free[round(top) : round(bottom)]
        stuff.append(Placed(category, None, (), (top, bottom), mask))
    things = list(reversed(nearest_first))
    mountains = [o for o in things if _layer(o.category) == 0]
    objects = (stuff[0], *mountains, *stuff[1:], *things[len(mountains) :])
    if any(not o.mask.any() or _box_fraction(o) < SMALLEST_BOX for o in objects):
        return None
    return objects


def _box_fraction(placed: Placed) -> float:
    _, _, width, height = placed.box_px
    return width * height / (WIDTH * HEIGHT)


def silhouette(parts: tuple[Part, ...], frame: Frame) -> Field:
    """(HEIGHT, WIDTH) coverage of all parts together."""
    whole = np.zeros((HEIGHT, WIDTH), np.float32)
    for part in parts:
        window, coverage = rasterise(part, frame, (WIDTH, HEIGHT))
        np.maximum(whole[window], coverage, out=whole[window])
    return whole
