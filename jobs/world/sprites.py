"""The pictures of single objects and of what is behind them."""

import math
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

CELL_PX = 32
"""Side of the cell that one object stands in."""
BODY_PX = 22
"""Side of an object's shape."""
SHAPES = (
    "star", "heart", "square", "circle", "triangle", "diamond", "cross", "ring", "moon", "arrow", "house", "drop",
)  # fmt: skip
BAG = "bag"
"""Left behind by a visitor."""
BURST = "burst"
"""What a collision looks like."""
RGB = {
    "red": (215, 40, 40), "green": (40, 165, 60), "blue": (50, 80, 225), "yellow": (235, 215, 50),
    "white": (245, 245, 245), "purple": (150, 50, 180), "orange": (245, 140, 30), "black": (20, 20, 20),
}  # fmt: skip
COLORS = ("red", "green", "blue", "yellow", "white", "purple")
DIGITS = tuple("123456789")
FINE = 4
"""Shapes are drawn this much larger and scaled down."""
BACKDROPS = ((120, 150, 170), (95, 95, 100), (150, 140, 120), (60, 70, 85), (130, 155, 120))

Sprite = npt.NDArray[np.float32]


def _polygon(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Scale points of the unit square to the canvas that shapes are drawn on."""
    return [(x * BODY_PX * FINE, y * BODY_PX * FINE) for x, y in points]


def _star(spikes: int, inner: float) -> list[tuple[float, float]]:
    angles = [math.pi * step / spikes - math.pi / 2 for step in range(2 * spikes)]
    radii = [0.5 if step % 2 == 0 else inner for step in range(2 * spikes)]
    return [(0.5 + r * math.cos(a), 0.5 + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


POLYGONS = {
    "star": _star(5, 0.2),
    BURST: _star(9, 0.28),
    "square": [(0.08, 0.08), (0.92, 0.08), (0.92, 0.92), (0.08, 0.92)],
    "triangle": [(0.5, 0.02), (0.98, 0.95), (0.02, 0.95)],
    "diamond": [(0.5, 0.0), (0.9, 0.5), (0.5, 1.0), (0.1, 0.5)],
    "cross": [(0.35, 0), (0.65, 0), (0.65, 0.35), (1, 0.35), (1, 0.65), (0.65, 0.65), (0.65, 1), (0.35, 1),
              (0.35, 0.65), (0, 0.65), (0, 0.35), (0.35, 0.35)],
    "arrow": [(0, 0.35), (0.5, 0.35), (0.5, 0.05), (1, 0.5), (0.5, 0.95), (0.5, 0.65), (0, 0.65)],
    "house": [(0.5, 0), (1, 0.45), (0.85, 0.45), (0.85, 1), (0.15, 1), (0.15, 0.45), (0, 0.45)],
    "heart": [(0.5, 1), (0.02, 0.45), (0.05, 0.15), (0.28, 0.05), (0.5, 0.25), (0.72, 0.05), (0.95, 0.15),
              (0.98, 0.45)],
    "drop": [(0.5, 0), (0.72, 0.4), (0.8, 0.7), (0.65, 0.93), (0.5, 1), (0.35, 0.93), (0.2, 0.7), (0.28, 0.4)],
    BAG: [(0.1, 0.45), (0.3, 0.45), (0.3, 0.25), (0.7, 0.25), (0.7, 0.45), (0.9, 0.45), (0.9, 0.95), (0.1, 0.95)],
}  # fmt: skip


@cache
def sprite(shape: str, color: str, digit: str) -> Sprite:
    """Return an object as [CELL_PX, CELL_PX, 4] float32: RGB times cover, and cover in [0, 1].

    Its digit, if it has one, stands on a plate at its lower right.
    """
    side = BODY_PX * FINE
    body = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(body)
    if shape in POLYGONS:
        pen.polygon(_polygon(POLYGONS[shape]), fill=255)
    else:
        pen.ellipse((2, 2, side - 2, side - 2), fill=255)
    if shape == "ring":
        pen.ellipse((side * 0.28, side * 0.28, side * 0.72, side * 0.72), fill=0)
    if shape == "moon":
        pen.ellipse((side * 0.35, -side * 0.05, side * 1.15, side * 0.75), fill=0)
    cover = np.zeros((CELL_PX, CELL_PX), np.float32)
    small = np.asarray(body.resize((BODY_PX, BODY_PX), Image.Resampling.LANCZOS), np.float32) / 255
    edge = (CELL_PX - BODY_PX) // 2 - (2 if digit else 0)
    cover[edge : edge + BODY_PX, edge : edge + BODY_PX] = small
    picture = np.zeros((CELL_PX, CELL_PX, 4), np.float32)
    picture[..., :3] = cover[..., None] * np.asarray(RGB[color], np.float32)
    picture[..., 3] = cover
    if digit:
        plate = _plate(digit)
        height, width = plate.shape
        picture[-height - 1 : -1, -width - 1 : -1, :3] = plate[..., None]
        picture[-height - 1 : -1, -width - 1 : -1, 3] = 1
    return picture


def _plate(digit: str) -> npt.NDArray[np.float32]:
    """Return a digit in black on a light plate, [height, width] in 0 .. 255."""
    font = ImageFont.load_default(size=15)
    plate = Image.new("L", (11, 15), 235)
    ImageDraw.Draw(plate).text((5.5, 7.5), digit, fill=0, font=font, anchor="mm")
    return np.asarray(plate, np.float32)


def paste(picture: npt.NDArray[np.float32], thing: Sprite, middle_px: npt.NDArray[np.int64]) -> None:
    """Draw an object into a picture [H, W, 3], its middle at (row, column); what lies outside is cut off."""
    half = CELL_PX // 2
    top, left = (int(value) - half for value in middle_px)
    rows = slice(max(0, top), min(picture.shape[0], top + CELL_PX))
    columns = slice(max(0, left), min(picture.shape[1], left + CELL_PX))
    part = thing[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    picture[rows, columns] = picture[rows, columns] * (1 - part[..., 3:]) + part[..., :3]


def backdrop(rng: np.random.Generator, side_px: int) -> npt.NDArray[np.float32]:
    """Return what is behind the objects: a slope of one colour with smears, [side_px, side_px, 3]."""
    base = np.asarray(BACKDROPS[rng.integers(len(BACKDROPS))], np.float32) + rng.normal(0, 8, 3)
    slope = np.linspace(-1, 1, side_px, dtype=np.float32)
    shade = rng.normal(0, 12) * slope[:, None] + rng.normal(0, 12) * slope[None]
    coarse = rng.normal(0, 6, (8, 8)).astype(np.float32)
    smears = np.kron(coarse, np.ones((side_px // 8, side_px // 8), np.float32))
    return (base + (shade + smears)[..., None]).astype(np.float32)
