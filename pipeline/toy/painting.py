"""A scene, a style and chance -> a photo."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipeline.toy.scenes import HEIGHT, WIDTH, Placed, between, silhouette
from pipeline.toy.shapes import SHAPES, Field, Frame, ellipse, rasterise
from pipeline.toy.styles import STYLES, apply_style, smooth_noise, triangle

Paints = Mapping[str, Field]  # role -> (3,) colour, 0 to 1

# What a thing may be painted with in white light, in RRGGBB; roles not named are COMMON's.
COMMON = {
    "dark": "2c282e 3c2e28",
    "light": "faf8f0 f0ecde",
    "glass": "96cde8 fae28c",
    "wood": "704c30 5a4232",
}
CHOICES = {
    "airplane": {
        "main": "f2f4f8 e2e2e8",
        "second": "d63c3c 3c5ab4",
    },
    "boat": {
        "main": "c43430 2c4678 784c30",
        "second": "f0b432 dc4646",
    },
    "car": {
        "main": "d6302e f0bc28 2c68be ececec",
        "second": "fafaf4 3c3c42",
    },
    "clouds": {
        "main": "fafafc f0f2f8",
        "second": "c4ccdc",
    },
    "grass": {
        "main": "689e3e 589246",
        "second": "8eba54",
        "bright": "faec78 fafafa",
    },
    "house": {
        "main": "ece0c4 e2966e f4d682 beced8",
        "second": "aa3c30 545060 784634",
    },
    "kite": {
        "main": "ec4046 fac428 7846be",
        "second": "3cbe78 fafaf0 3c6edc",
    },
    "mountain": {
        "main": "808092 7e7870",
        "second": "5c5e72 5e5856",
        "bright": "a09ca0",
    },
    "sand": {
        "main": "e2c890 dabc88",
        "second": "eedaaa",
        "bright": "b0926c",
    },
    "sea": {
        "main": "2870a6 227e9e",
        "second": "549ec4",
        "bright": "e8f4f8",
    },
    "sheep": {
        "main": "f4f0e4 e4dccc",
        "second": "c4aa8c 5a504c",
    },
    "sky-other": {
        "main": "5c9ce2 6eaae2",
        "second": "cae2f2",
        "bright": "fffae2",
    },
    "sports ball": {
        "main": "f6f4ee f48228 fad23c",
        "second": "dc363c 3264c8",
    },
    "tree": {
        "main": "2c6a34 3e7a30 245c42",
        "second": "e03c32 f6aa32",
        "bright": "7aa84c",
    },
    "umbrella": {
        "main": "e23c3c 2e74c8 fabe32",
        "second": "faf6ec fae278",
    },
}


def paint(
    objects: Sequence[Placed], style: int, marks: Sequence[int], random: np.random.Generator
) -> NDArray[np.uint8]:
    """(HEIGHT, WIDTH, 3) RGB of `objects`, furthest first, each with its set of inner marks."""
    photo = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    light = STYLES[style].light
    paints = [_mix_paints(o.category, random) for o in objects]
    for placed, mark, paint_of in zip(objects, marks, paints, strict=True):
        if placed.frame is None:
            _paint_stuff(photo, placed, mark, paint_of, random)
        else:
            _paint_thing(photo, placed, placed.frame, mark, paint_of, light)
    finished = apply_style(photo, STYLES[style], random)
    return (finished * 255 + np.float32(0.5)).astype(np.uint8)


def _mix_paints(category: str, random: np.random.Generator) -> Paints:
    """One colour per role, each a little different every time."""
    mixed = {}
    for role, choices in {**COMMON, **CHOICES[category]}.items():
        chosen = _colours(choices)[int(random.integers(len(_colours(choices))))]
        jitter = [between(random, -0.05, 0.05) for _ in range(3)]
        mixed[role] = chosen * np.float32(between(random, 0.93, 1.07)) + np.array(
            jitter, np.float32
        )
    return mixed


@cache
def _colours(choices: str) -> Field:
    """(n, 3) from "RRGGBB RRGGBB ...", 0 to 1."""
    return np.array([list(bytes.fromhex(c)) for c in choices.split()], np.float32) / 255


def _paint_thing(
    photo: Field,
    placed: Placed,
    frame: Frame,
    mark: int,
    paints: Paints,
    light: tuple[float, float],
) -> None:
    shape = silhouette(placed.parts, frame)
    ground_shadow = placed.category not in ("clouds", "airplane", "kite", "mountain")
    if ground_shadow:
        _shade_ground(photo, frame, light)
    for part in placed.parts:
        window, coverage = rasterise(part, frame, (WIDTH, HEIGHT))
        _lay(photo, window, coverage, paints[part.colour], light, 0.20)
    for part in SHAPES[placed.category].marks(mark):
        window, coverage = rasterise(part, frame, (WIDTH, HEIGHT))
        _lay(photo, window, np.minimum(coverage, shape[window]), paints[part.colour], light, 0.10)


def _lay(
    photo: Field,
    window: tuple[slice, slice],
    coverage: Field,
    colour: Field,
    light: tuple[float, float],
    relief: float,
) -> None:
    """Cover a window with a colour that is brighter towards the light by up to `relief`."""
    height, width = coverage.shape
    if not height or not width:
        return
    v = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    u = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    shade = 1 + (u * light[0] + v * light[1]) * np.float32(relief)
    under = photo[window]
    under += (colour * shade[..., None] - under) * coverage[..., None]


def _shade_ground(photo: Field, frame: Frame, light: tuple[float, float]) -> None:
    """A soft shadow at a thing's foot, away from the light."""
    shadow = ellipse(0.5 - 0.18 * light[0], 0.98, 0.55, 0.085, "dark")
    window, coverage = rasterise(shadow, frame._replace(mirror=False), (WIDTH, HEIGHT))
    photo[window] *= 1 - 0.38 * coverage[..., None]


def _paint_stuff(
    photo: Field, placed: Placed, mark: int, paints: Paints, random: np.random.Generator
) -> None:
    """Fill a band from edge to edge: colour running from far to near, then the inner marks."""
    top, bottom = round(placed.band[0]), round(placed.band[1])
    depth = ((np.arange(top, bottom, dtype=np.float32) + 0.5 - top) / (bottom - top))[:, None]
    main, second = paints["main"], paints["second"]
    far, near = (main, second) if placed.category == "sky-other" else (second, main)
    colours = (far + (near - far) * depth)[:, None, :]
    relief = 0.86 + 0.28 * smooth_noise(random, 20, 9)[top:bottom]
    if placed.category == "sky-other":
        relief = 0.96 + 0.08 * smooth_noise(random, 6, 4)[top:bottom]
    band = colours * relief[..., None]
    covered = _stuff_marks(placed.category, mark, depth, random)[..., None]
    photo[top:bottom] = band + (paints["bright"] - band) * covered


def _stuff_marks(category: str, mark: int, depth: Field, random: np.random.Generator) -> Field:
    """(h, WIDTH) fraction of the bright colour; `depth` is (h, 1), 0 far and 1 near."""
    x = np.arange(WIDTH, dtype=np.float32)[None, :]
    bands = len(depth) / 14  # as many bands as keep their width, whatever the height
    if mark == 0:
        return 0.0 * depth * x
    if category == "sky-other" and mark == 1:
        disc_x, disc_y = between(random, 0.15, 0.85) * WIDTH, between(random, 0.2, 0.6)
        away = np.sqrt((x - disc_x) ** 2 + ((depth - disc_y) * len(depth)) ** 2)
        return np.clip(9.5 - away, 0, 1) + 0.5 * np.clip(1 - away / 30, 0, 1)
    if category in ("grass", "sand") and mark == 2:  # flowers, pebbles
        dots = np.zeros((len(depth), WIDTH), np.float32)
        for _ in range(26):
            row, radius = between(random, 0.05, 1), between(random, 0.9, 2.2)
            away = np.sqrt((x - between(random, 0, WIDTH)) ** 2 + ((depth - row) * len(depth)) ** 2)
            np.maximum(dots, np.clip(radius * (0.5 + row) - away, 0, 1), out=dots)
        return dots
    sway = smooth_noise(random, 6, 5)[: len(depth)] * (1.5 if category == "sky-other" else 0.8)
    waves = triangle(depth * bands + sway)
    if category == "sea" and mark == 2:  # crests, broken
        broken = smooth_noise(random, 40, 14)[: len(depth)]
        return np.clip(waves * 6 - 5, 0, 1) * np.clip(broken * 8 - 4, 0, 1)
    return np.clip(waves * 2 - 1, 0, 1) * (0.45 if category != "sand" else 0.35)
