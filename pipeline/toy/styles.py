"""The twelve hidden styles: light, palette, texture and weather that one photo's objects share.

Five palettes come twice, with another texture or weather: the mean colour of a patch does not
give its style away.
"""

from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.toy.scenes import HEIGHT, WIDTH, between
from pipeline.toy.shapes import Field

Colour = tuple[float, float, float]  # 0 to 255
Texture = Literal["plain", "brush", "grain", "halftone", "scanlines", "curtain"]
Weather = Literal["clear", "rain", "snow", "fog"]


class Palette(NamedTuple):
    """What a photo's dark, middle and bright tones are drawn towards, and how strongly (0-1)."""

    shadow: Colour
    middle: Colour
    bright: Colour
    strength: float
    exposure: float = 1.0


class Style(NamedTuple):
    name: str
    palette: Palette
    light: tuple[float, float]  # where it comes from: x to the right, y downwards
    texture: Texture = "plain"
    weather: Weather = "clear"


NOON = Palette((36, 44, 60), (130, 142, 120), (255, 252, 238), 0.08, 1.04)
DUSK = Palette((58, 16, 62), (228, 104, 44), (255, 226, 128), 0.74)
MOON = Palette((5, 9, 36), (40, 72, 150), (170, 204, 255), 0.82, 0.86)
SEPIA = Palette((38, 22, 10), (152, 112, 70), (246, 228, 188), 0.95)
NEON = Palette((34, 6, 84), (236, 34, 162), (96, 246, 255), 0.82)
MIST = Palette((84, 98, 90), (146, 160, 148), (214, 222, 212), 0.72)
AURORA = Palette((4, 30, 46), (16, 140, 96), (190, 255, 150), 0.80)

STYLES = (
    Style("noon", NOON, (-0.6, -0.8)),
    Style("noon, snow", NOON, (0.3, -0.9), weather="snow"),
    Style("dusk", DUSK, (0.95, -0.3)),
    Style("dusk, brush", DUSK, (-0.9, -0.4), texture="brush"),
    Style("moon", MOON, (0.5, -0.8)),
    Style("moon, rain", MOON, (-0.4, -0.9), weather="rain"),
    Style("sepia, grain", SEPIA, (-0.8, -0.6), texture="grain"),
    Style("sepia, halftone", SEPIA, (0.8, -0.6), texture="halftone"),
    Style("neon", NEON, (0.0, 1.0)),
    Style("neon, scanlines", NEON, (-1.0, 0.0), texture="scanlines"),
    Style("fog", MIST, (0.0, -1.0), weather="fog"),
    Style("aurora", AURORA, (0.7, -0.7), texture="curtain"),
)


def apply_style(photo: Field, style: Style, random: np.random.Generator) -> Field:
    """(HEIGHT, WIDTH, 3) painted colours, 0 to 1 -> what the camera saw, 0 to 1."""
    photo = _tone(photo, style.palette, random)
    photo = _texture(photo, style.texture, random)
    photo = _weather(photo, style.weather, random)
    tint = np.array([between(random, 0.95, 1.05) for _ in range(3)], np.float32)
    noise = random.random((HEIGHT, WIDTH, 1), np.float32) - np.float32(0.5)
    finished: Field = np.clip(photo * tint + 0.05 * noise, 0, 1)
    return finished


def _tone(photo: Field, palette: Palette, random: np.random.Generator) -> Field:
    """Exposure, then every tone towards the palette's colour of the same lightness."""
    photo = photo * np.float32(palette.exposure * between(random, 0.90, 1.10))
    strength = min(palette.strength * between(random, 0.94, 1.04), 1.0)
    lightness = photo[..., 0] * 0.30 + photo[..., 1] * 0.59 + photo[..., 2] * 0.11
    lightness = np.clip(lightness, 0, 1)[..., None]
    shadow, middle, bright = (np.array(c, np.float32) / 255 for c in palette[:3])
    low = shadow + (middle - shadow) * np.minimum(lightness * 2, 1)
    toned = low + (bright - middle) * np.maximum(lightness * 2 - 1, 0)
    toned_photo: Field = photo + (toned - photo) * np.float32(strength)
    return toned_photo


@cache
def _pixels() -> tuple[Field, Field]:
    """x as (1, WIDTH) and y as (HEIGHT, 1), in px."""
    x = np.arange(WIDTH, dtype=np.float32)[None, :]
    return x, np.arange(HEIGHT, dtype=np.float32)[:, None]


def triangle(phase: Field) -> Field:
    """A wave of period 1 between 0 and 1, from nothing but exactly rounded operations."""
    return np.abs((phase - np.floor(phase)) * 2 - 1)


def smooth_noise(random: np.random.Generator, rows: int, columns: int) -> Field:
    """(HEIGHT, WIDTH) between 0 and 1: a random grid of rows x columns cells, interpolated."""
    grid = random.random((rows + 1, columns + 1), np.float32)
    (top, down), (left, right) = _between_cells(HEIGHT, rows), _between_cells(WIDTH, columns)
    tall = grid[top] * (1 - down)[:, None] + grid[top + 1] * down[:, None]
    return tall[:, left] * (1 - right) + tall[:, left + 1] * right


@cache
def _between_cells(pixels: int, cells: int) -> tuple[NDArray[np.int64], Field]:
    """For each pixel the cell it lies in and how far into it, eased so that no kink shows."""
    place = (np.arange(pixels, dtype=np.float32) + 0.5) * np.float32(cells / pixels)
    cell = place.astype(np.int64)
    into = place - cell.astype(np.float32)
    return cell, into * into * (3 - 2 * into)


def _lattice(random: np.random.Generator, u: Field, v: Field) -> Field:
    """One random number for each unit cell of the plane that u and v are coordinates of."""
    table = random.random((64, 64), np.float32)
    values: Field = table[np.floor(u).astype(np.int64) % 64, np.floor(v).astype(np.int64) % 64]
    return values


def _texture(photo: Field, texture: Texture, random: np.random.Generator) -> Field:
    x, y = _pixels()
    phase, amount = between(random, 0, 1), between(random, 0.85, 1.15)
    if texture == "brush":
        # Strokes of 4 x 14 px along the diagonal, each taking its colour from a place nearby.
        across, along = (x + y) * np.float32(0.25) + phase, (x - y) * np.float32(0.07) + 32
        stroke = _lattice(random, across, along) - np.float32(0.5)
        shift = (stroke * 5).astype(np.int64)
        rows = np.clip(y.astype(np.int64) + shift, 0, HEIGHT - 1)
        columns = np.clip(x.astype(np.int64) - shift, 0, WIDTH - 1)
        stroked: Field = photo[rows, columns] * (1 + stroke * np.float32(0.40 * amount))[..., None]
        return stroked
    if texture == "grain":
        coarse = np.repeat(np.repeat(random.random((64, 80), np.float32), 2, 0), 2, 1)
        fine = random.random((HEIGHT, WIDTH), np.float32)
        return photo + ((coarse + 0.6 * fine - 0.8) * (0.22 * amount))[..., None]
    if texture == "halftone":
        u, v = (x + y) / 7 + phase, (x - y) / 7 + phase
        dots = triangle(u) + triangle(v) - 1  # -1 to 1
        return photo + (np.clip(dots * 3, -1, 1) * (0.12 * amount))[..., None]
    if texture == "scanlines":
        lines = np.clip(triangle(y / 6 + phase) * 3 - 1.5, -1, 1)
        lined: Field = photo * (1 + lines * (0.30 * amount))[..., None]
        return lined
    if texture == "curtain":
        sway = smooth_noise(random, 3, 4) * 10
        folds = triangle((x + sway) / 13 + phase) - 0.5
        return photo * (1 + folds * (0.55 * amount))[..., None]
    return photo


def _weather(photo: Field, weather: Weather, random: np.random.Generator) -> Field:
    x, y = _pixels()
    amount = between(random, 0.8, 1.2)
    if weather == "rain":
        across = (x + y * np.float32(0.3)) / 2
        along = y / 15 + _lattice(random, across, across * 0) * 5
        drops = _lattice(random, across, along) < 0.22 * amount
        return photo + drops[..., None] * np.float32(0.28)
    if weather == "snow":
        u, v = (x + 0 * y) / 11, (y + 0 * x) / 11
        size = _lattice(random, u, v)
        radius = 2.6 - 1.4 * size
        dx = (u - np.floor(u)) * 11 - 2.6 - 5.8 * _lattice(random, u, v)
        dy = (v - np.floor(v)) * 11 - 2.6 - 5.8 * _lattice(random, u, v)
        flake = np.clip(radius - np.sqrt(dx * dx + dy * dy) + 0.5, 0, 1)
        flake = flake * (size < 0.85 * amount)
        cold = photo * np.array((0.94, 0.98, 1.04), np.float32)
        snowed: Field = cold + (1 - cold) * (0.95 * flake)[..., None]
        return snowed
    if weather == "fog":
        _, height = _pixels()
        thick = 0.30 + 0.24 * smooth_noise(random, 4, 4) - np.abs(height - 58) * 0.0016
        mist = np.array((0.82, 0.86, 0.83), np.float32)
        return photo + (mist - photo) * (np.clip(thick * amount, 0.15, 0.65))[..., None]
    return photo
