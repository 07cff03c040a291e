"""Bold silhouettes of the toy world: what each category looks like, whatever the style.

A shape is a list of parts in its own frame: u to the right, v downwards, both in [0, 1]. Outer
parts make the silhouette, hence mask and box. Inner marks are cut to the silhouette: they vary the
look of an object without a trace in graph, box or mask.

Only +, -, *, /, min and max act on pixels here and in the painting, never sin, exp or a matrix
product: these are rounded the same on every CPU, so the photos are the same bytes everywhere.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]  # one value per pixel, or per pixel and colour
Point = tuple[float, float]

MARKS = 3  # every category comes with this many sets of inner marks


class Part(NamedTuple):
    """A convex polygon (`points` are corners) or an ellipse (`points` are centre and radii)."""

    points: tuple[Point, ...]
    colour: str  # a role: main, second, dark, light, bright, glass or wood
    round: bool = False


class Frame(NamedTuple):
    """Where a shape's unit square lies in the photo, in px; `mirror` flips left and right."""

    x: float
    y: float
    width: float
    height: float
    mirror: bool = False


class Stroke(NamedTuple):
    """A part on the pixel grid: its window and how far each pixel lies inside it, 0 to 1."""

    window: tuple[slice, slice]
    coverage: Field  # (h, w)


def rectangle(u0: float, v0: float, u1: float, v1: float, colour: str) -> Part:
    return Part(((u0, v0), (u1, v0), (u1, v1), (u0, v1)), colour)


def ellipse(u: float, v: float, radius_u: float, radius_v: float, colour: str) -> Part:
    return Part(((u, v), (radius_u, radius_v)), colour, round=True)


def rasterise(part: Part, frame: Frame, size: tuple[int, int]) -> Stroke:
    """Soft-edged coverage of `part` on a photo of `size` (width, height) px."""
    (left, right), (top, bottom) = _extent(part, frame)
    rows = slice(max(int(top) - 1, 0), max(min(int(bottom) + 2, size[1]), 0))
    columns = slice(max(int(left) - 1, 0), max(min(int(right) + 2, size[0]), 0))
    x = np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5
    y = np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5
    distance = _ellipse_distance if part.round else _polygon_distance
    inside: Field = np.clip(0.5 - distance(part, frame, x, y), 0, 1)
    return Stroke((rows, columns), inside)


def _pixel(point: Point, frame: Frame) -> Point:
    u = 1 - point[0] if frame.mirror else point[0]
    return frame.x + u * frame.width, frame.y + point[1] * frame.height


def _extent(part: Part, frame: Frame) -> tuple[Point, Point]:
    if part.round:
        (x, y), (u, v) = _pixel(part.points[0], frame), part.points[1]
        return (
            (x - u * frame.width, x + u * frame.width),
            (y - v * frame.height, y + v * frame.height),
        )
    corners = [_pixel(p, frame) for p in part.points]
    xs, ys = [c[0] for c in corners], [c[1] for c in corners]
    return (min(xs), max(xs)), (min(ys), max(ys))


def _ellipse_distance(part: Part, frame: Frame, x: Field, y: Field) -> Field:
    """About the distance to the edge in px, negative inside; exact for circles."""
    cx, cy = _pixel(part.points[0], frame)
    a, b = part.points[1][0] * frame.width, part.points[1][1] * frame.height
    radius = np.sqrt(((x - cx) / a)[None, :] ** 2 + ((y - cy) / b)[:, None] ** 2)
    return (radius - 1) * min(a, b)


def _polygon_distance(part: Part, frame: Frame, x: Field, y: Field) -> Field:
    """Distance to the furthest of the half planes that make the polygon, in px."""
    corners = [_pixel(p, frame) for p in part.points]
    following = corners[1:] + corners[:1]
    area = sum(
        p[0] * q[1] - q[0] * p[1] for p, q in zip(corners, following, strict=True)
    )  # its sign tells which way round the corners go
    distance = np.full((len(y), len(x)), -np.inf, np.float32)
    for (px, py), (qx, qy) in zip(corners, following, strict=True):
        length = math.sqrt((qx - px) ** 2 + (qy - py) ** 2) or 1.0
        nx, ny = (qy - py) / length, (px - qx) / length
        if area < 0:
            nx, ny = -nx, -ny
        np.maximum(distance, ((x - px) * nx)[None, :] + ((y - py) * ny)[:, None], out=distance)
    return distance


# What each thing is made of. `pose` is a few uniform draws in [0, 1) from the geometry stream.
Pose = Sequence[float]


def _house(pose: Pose) -> list[Part]:
    eaves = 0.40 + 0.08 * pose[0]
    ridge = 0.5 if pose[1] < 0.5 else 0.32
    parts = [rectangle(0.09, eaves - 0.02, 0.91, 1, "main")]
    if pose[2] < 0.6:
        parts.insert(0, rectangle(0.68, 0.05, 0.82, 0.35, "wood"))
    return [*parts, Part(((ridge, 0), (1 - ridge, 0), (1, eaves), (0, eaves)), "second")]


def _house_marks(kind: int) -> list[Part]:
    door = (0.18, 0.40, 0.62)[kind]
    door_part = rectangle(door, 0.62, door + 0.20, 1, "dark")
    panes = ((0.54, 0.76), (0.15, 0.69), (0.20, 0.42))[kind]
    width = (0.15, 0.16, 0.14)[kind]
    return [door_part, *(rectangle(u, 0.58, u + width, 0.77, "glass") for u in panes)]


def _tree(pose: Pose) -> list[Part]:
    trunk = rectangle(0.41, 0.55, 0.59, 1, "wood")
    if pose[0] < 0.5:  # a conifer
        tiers = ((0, 0.40, 0.30), (0.18, 0.62, 0.42), (0.38, 0.86, 0.5))
        return [
            trunk,
            *(Part(((0.5, t), (0.5 + w, b), (0.5 - w, b)), "main") for t, b, w in reversed(tiers)),
        ]
    lift = 0.05 * pose[1]
    return [
        trunk,
        ellipse(0.27, 0.46 - lift, 0.27, 0.23, "main"),
        ellipse(0.73, 0.44 + lift, 0.27, 0.23, "main"),
        ellipse(0.50, 0.27, 0.33, 0.27, "main"),
        ellipse(0.50, 0.50, 0.30, 0.20, "main"),
    ]


def _tree_marks(kind: int) -> list[Part]:
    if kind == 0:
        return []
    if kind == 1:  # fruit
        spots = ((0.36, 0.30), (0.62, 0.24), (0.50, 0.46), (0.26, 0.52), (0.75, 0.50), (0.52, 0.66))
        return [ellipse(u, v, 0.065, 0.05, "second") for u, v in spots]
    return [ellipse(0.40, 0.20, 0.16, 0.10, "bright"), ellipse(0.36, 0.46, 0.18, 0.08, "bright")]


def _car(pose: Pose) -> list[Part]:
    front = 0.70 + 0.08 * pose[0]
    cabin = Part(((0.28, 0), (front - 0.10, 0), (front + 0.06, 0.45), (0.14, 0.45)), "main")
    return [
        cabin,
        rectangle(0, 0.38, 1, 0.80, "main"),
        ellipse(0.23, 0.79, 0.125, 0.21, "dark"),
        ellipse(0.77, 0.79, 0.125, 0.21, "dark"),
        ellipse(0.23, 0.79, 0.05, 0.09, "light"),
        ellipse(0.77, 0.79, 0.05, 0.09, "light"),
        Part(((0.31, 0.08), (0.60, 0.08), (0.70, 0.38), (0.23, 0.38)), "glass"),
    ]


def _car_marks(kind: int) -> list[Part]:
    lamp = rectangle(0.93, 0.44, 1, 0.58, "light")
    pillar = rectangle(0.44, 0.06, 0.49, 0.40, "main")
    if kind == 0:
        return [lamp, pillar]
    if kind == 1:
        return [lamp, rectangle(0, 0.52, 1, 0.64, "second")]
    return [lamp, pillar, rectangle(0.42, 0.42, 0.62, 0.70, "second")]


def _sheep(pose: Pose) -> list[Part]:
    drop = 0.14 * pose[0]  # grazing or looking up
    wool = ((0.20, 0.48), (0.36, 0.27), (0.58, 0.27), (0.66, 0.50), (0.50, 0.58), (0.32, 0.60))
    legs = [rectangle(u, 0.60, u + 0.09, 1, "dark") for u in (0.22, 0.34, 0.52, 0.64)]
    head = [
        ellipse(0.85, 0.34 + drop, 0.15, 0.17, "dark"),
        Part(((0.68, 0.20 + drop), (0.84, 0.22 + drop), (0.80, 0.34 + drop)), "dark"),  # the ear
    ]
    return [*legs, *(ellipse(u, v, 0.20, 0.25, "main") for u, v in wool), *head]


def _sheep_marks(kind: int) -> list[Part]:
    eye = ellipse(0.87, 0.34, 0.03, 0.04, "light")
    if kind == 0:
        return [eye]
    if kind == 1:
        return [eye, ellipse(0.26, 0.40, 0.12, 0.14, "second")]
    return [eye, rectangle(0.38, 0, 0.54, 0.62, "second")]


def _umbrella(pose: Pose) -> list[Part]:
    rim = 0.44 + 0.06 * pose[0]
    dome = (
        (0, rim), (0.06, 0.28), (0.19, 0.12), (0.36, 0.03), (0.5, 0),
        (0.64, 0.03), (0.81, 0.12), (0.94, 0.28), (1, rim),
    )  # fmt: skip
    return [rectangle(0.465, 0.2, 0.535, 1, "wood"), Part(dome, "main")]


def _umbrella_marks(kind: int) -> list[Part]:
    if kind == 0:  # every second segment
        return [
            Part(((0.5, 0), (0.16, 0.52), (0.36, 0.52)), "second"),
            Part(((0.5, 0), (0.64, 0.52), (0.84, 0.52)), "second"),
        ]
    if kind == 1:
        return [rectangle(0, 0.33, 1, 0.50, "second"), rectangle(0.465, 0.33, 0.535, 0.5, "second")]
    return [ellipse(u, 0.26, 0.08, 0.08, "second") for u in (0.22, 0.5, 0.78)]


def _ball(pose: Pose) -> list[Part]:
    return [ellipse(0.5, 0.5, 0.5, 0.5, "main")]


def _ball_marks(kind: int) -> list[Part]:
    if kind == 0:
        return [
            Part(((0.5, 0.5), (0.1, -0.2), (0.6, -0.2)), "second"),
            Part(((0.5, 0.5), (1.2, 0.3), (1.1, 0.9)), "second"),
            Part(((0.5, 0.5), (0.5, 1.2), (-0.1, 0.9)), "second"),
        ]
    if kind == 1:
        return [rectangle(0, 0.36, 1, 0.64, "second")]
    spots = ((0.5, 0.5), (0.5, 0.04), (0.96, 0.4), (0.04, 0.4), (0.78, 0.92), (0.22, 0.92))
    return [ellipse(u, v, 0.15, 0.15, "dark") for u, v in spots]


def _boat(pose: Pose) -> list[Part]:
    mast = 0.44 + 0.06 * pose[0]
    jib = 0.10 + 0.25 * pose[1]
    parts = [
        Part(((0, 0.74), (1, 0.74), (0.84, 1), (0.15, 1)), "main"),
        rectangle(mast - 0.022, 0, mast + 0.022, 0.76, "wood"),
        Part(((mast + 0.04, 0.03), (0.97, 0.66), (mast + 0.04, 0.66)), "light"),
    ]
    if pose[2] < 0.75:
        parts.append(Part(((mast - 0.05, jib), (mast - 0.05, 0.66), (0.06, 0.66)), "light"))
    return parts


def _boat_marks(kind: int) -> list[Part]:
    if kind == 0:
        return [rectangle(0, 0.73, 1, 0.80, "second")]
    if kind == 1:
        return [rectangle(0, 0.42, 1, 0.56, "second")]
    return [ellipse(0.66, 0.50, 0.09, 0.09, "second"), rectangle(0, 0.92, 1, 1, "dark")]


def _kite(pose: Pose) -> list[Part]:
    sway = 0.25 + 0.5 * pose[0]
    waist = 0.24 + 0.06 * pose[1]
    return [
        Part(((0.47, 0.6), (0.55, 0.6), (sway + 0.05, 0.88), (sway - 0.04, 0.88)), "dark"),
        Part(((sway, 0.76), (sway + 0.16, 0.70), (sway + 0.16, 0.82)), "second"),
        Part(((sway, 0.76), (sway - 0.16, 0.70), (sway - 0.16, 0.82)), "second"),
        Part(((sway, 0.94), (sway + 0.16, 0.88), (sway + 0.16, 1.0)), "second"),
        Part(((sway, 0.94), (sway - 0.16, 0.88), (sway - 0.16, 1.0)), "second"),
        Part(((0.5, 0), (1, waist), (0.5, 0.68), (0, waist)), "main"),
    ]


def _kite_marks(kind: int) -> list[Part]:
    if kind == 0:
        return [
            Part(((0.5, 0), (0.5, 0.27), (1, 0.27)), "second"),
            Part(((0.5, 0.68), (0.5, 0.27), (0, 0.27)), "second"),
        ]
    if kind == 1:
        return [rectangle(0.42, 0, 0.58, 0.62, "second")]
    return [ellipse(0.5, 0.27, 0.17, 0.12, "second")]


def _airplane(pose: Pose) -> list[Part]:
    sweep = 0.06 * pose[0]
    return [
        Part(((0.44, 0.42), (0.56, 0.42), (0.36 - sweep, 0), (0.27 - sweep, 0)), "second"),
        ellipse(0.52, 0.50, 0.48, 0.17, "main"),
        Part(((0.02, 0.10), (0.13, 0.10), (0.28, 0.48), (0.10, 0.50)), "second"),
        Part(((0.40, 0.50), (0.62, 0.50), (0.34 - sweep, 1), (0.22 - sweep, 1)), "second"),
    ]


def _airplane_marks(kind: int) -> list[Part]:
    nose = ellipse(0.90, 0.46, 0.05, 0.06, "glass")
    if kind == 0:
        return [nose, *(ellipse(u, 0.44, 0.025, 0.045, "glass") for u in (0.42, 0.54, 0.66, 0.78))]
    if kind == 1:
        return [nose, rectangle(0, 0.50, 1, 0.58, "dark")]
    return [nose, rectangle(0.68, 0, 0.78, 1, "dark")]


def _clouds(pose: Pose) -> list[Part]:
    hump = 0.30 + 0.3 * pose[0]
    return [
        ellipse(0.20, 0.66, 0.20, 0.30, "main"),
        ellipse(hump, 0.42, 0.24, 0.42, "main"),
        ellipse(0.72 - 0.08 * pose[1], 0.56, 0.22, 0.36, "main"),
        ellipse(0.84, 0.72, 0.16, 0.26, "main"),
        ellipse(0.5, 0.76, 0.44, 0.24, "main"),
    ]


def _clouds_marks(kind: int) -> list[Part]:
    if kind == 0:
        return []
    if kind == 1:
        return [ellipse(0.5, 0.98, 0.60, 0.22, "second")]
    return [ellipse(0.30, 0.66, 0.16, 0.14, "second"), ellipse(0.66, 0.70, 0.20, 0.14, "second")]


def _mountain(pose: Pose) -> list[Part]:
    peak, shoulder = 0.36 + 0.1 * pose[0], 0.30 + 0.2 * pose[1]
    return [
        Part(((0.72, shoulder), (1, 1), (0.42, 1)), "main"),
        Part(((0.20, 0.45 + 0.2 * pose[2]), (0.44, 1), (0, 1)), "main"),
        Part(((peak, 0), (0.82, 1), (0.08, 1)), "main"),
        Part(((peak, 0), (0.82, 1), (peak + 0.06, 1)), "second"),
    ]


def _mountain_marks(kind: int) -> list[Part]:
    if kind == 0:
        return []
    if kind == 1:  # snow
        return [rectangle(0, 0, 1, 0.26, "light")]
    return [rectangle(0, 0.50, 1, 0.58, "bright"), rectangle(0, 0.74, 1, 0.82, "bright")]


class Shape(NamedTuple):
    outer: Callable[[Pose], list[Part]]
    marks: Callable[[int], list[Part]]


SHAPES = {
    "airplane": Shape(_airplane, _airplane_marks),
    "boat": Shape(_boat, _boat_marks),
    "car": Shape(_car, _car_marks),
    "clouds": Shape(_clouds, _clouds_marks),
    "house": Shape(_house, _house_marks),
    "kite": Shape(_kite, _kite_marks),
    "mountain": Shape(_mountain, _mountain_marks),
    "sheep": Shape(_sheep, _sheep_marks),
    "sports ball": Shape(_ball, _ball_marks),
    "tree": Shape(_tree, _tree_marks),
    "umbrella": Shape(_umbrella, _umbrella_marks),
}
