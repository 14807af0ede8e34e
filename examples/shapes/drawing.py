"""Draw one coloured shape on a plain background, from numbers alone.

Shape letters: N scenes, H and W pixels, V polygon corners. Pixel values are uint8 RGB; lengths are pixels of the
64 x 64 canvas; angles are degrees.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]

CANVAS = 64
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "diamond", "ring")
HUES: Mapping[str, float] = {
    "red": 0.0,
    "orange": 27.0,
    "yellow": 54.0,
    "green": 120.0,
    "teal": 176.0,
    "blue": 222.0,
    "purple": 272.0,
    "pink": 325.0,
}
RADII: Mapping[str, float] = {"small": 8.0, "medium": 13.0, "large": 19.0}
BACKGROUNDS: Mapping[str, tuple[int, int, int]] = {
    "white": (248, 248, 248),
    "grey": (150, 150, 150),
    "black": (24, 24, 24),
    "beige": (232, 214, 180),
    "navy": (28, 36, 84),
}
PURE_CHROMA = 0.80
_PURE_VALUE = 0.92
_PALE_GREY = 205.0
_RING_OUTER, _RING_INNER = 1.12, 0.58


@dataclass(frozen=True)
class Subject:
    """The parts of an image that a caption names; each word is a key of the tables above."""

    size: str
    colour: str
    shape: str
    background: str

    @property
    def caption(self) -> str:
        """The English caption, which `world.parse_caption` reads back."""
        return f"a {self.size} {self.colour} {self.shape} on a {self.background} background"


@dataclass(frozen=True)
class Scene:
    """A subject and everything that its caption leaves open."""

    subject: Subject
    vividness: float = 1.0
    """1 is the pure colour, 0 a light grey."""
    centre_x: float = CANVAS / 2
    centre_y: float = CANVAS / 2
    rotation: float = 0.0
    softness: float = 1.0
    """Width of the edge in pixels; 1 is as sharp as antialiasing allows."""
    radius_factor: float = 1.0


def pure_rgb(colour: str) -> FloatArray:
    """RGB in 0..255 of a named colour at full vividness."""
    hue = HUES[colour] / 60.0
    chroma = PURE_CHROMA
    second = chroma * (1.0 - abs(hue % 2.0 - 1.0))
    order = [(chroma, second, 0), (second, chroma, 0), (0, chroma, second)]
    order += [(0, second, chroma), (second, 0, chroma), (chroma, 0, second)]
    rgb = np.asarray(order[int(hue) % 6], dtype=np.float32)
    return np.asarray((rgb + _PURE_VALUE - chroma) * 255.0, dtype=np.float32)


def _corners(shape: str) -> FloatArray:
    """Corners [V, 2] of a polygon of unit size, y pointing down."""
    if shape == "square":
        points = [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]
    elif shape == "diamond":
        points = [(0.0, -1.28), (0.8, 0.0), (0.0, 1.28), (-0.8, 0.0)]
    else:
        count, outer, inner = (3, 1.28, 0.0) if shape == "triangle" else (5, 1.3, 0.56)
        points = []
        for corner in range(count):
            angle = 2 * np.pi * corner / count
            points.append((outer * np.sin(angle), -outer * np.cos(angle)))
            if inner:
                angle += np.pi / count
                points.append((inner * np.sin(angle), -inner * np.cos(angle)))
    return np.asarray(points, dtype=np.float32)


def _polygon_distance(x: FloatArray, y: FloatArray, corners: FloatArray) -> FloatArray:
    """Signed distance (negative inside) from points to a polygon's outline."""
    squared = np.full(x.shape, np.inf, dtype=np.float32)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        edge_x, edge_y = bx - ax, by - ay
        along = ((x - ax) * edge_x + (y - ay) * edge_y) / (edge_x**2 + edge_y**2)
        along = np.clip(along, 0.0, 1.0)
        squared = np.minimum(squared, (x - ax - along * edge_x) ** 2 + (y - ay - along * edge_y) ** 2)
        if ay != by:
            crosses = ((y < ay) != (y < by)) & (x < edge_x * (y - ay) / edge_y + ax)
            inside ^= crosses
    return np.where(inside, -1.0, 1.0).astype(np.float32) * np.sqrt(squared)


def unit_distance(shape: str, x: FloatArray, y: FloatArray) -> FloatArray:
    """Signed distance to a shape of unit radius at the origin, negative inside, in units of that radius."""
    if shape in ("circle", "ring"):
        distance = np.hypot(x, y)
        if shape == "circle":
            return distance - np.float32(1.0)
        middle, half = (_RING_OUTER + _RING_INNER) / 2, (_RING_OUTER - _RING_INNER) / 2
        return np.abs(distance - np.float32(middle)) - np.float32(half)
    return _polygon_distance(x, y, _corners(shape))


def coverage(shape: str, radius: FloatArray, centre: FloatArray, angle: FloatArray, softness: FloatArray) -> FloatArray:
    """Share of each pixel the shape covers [N, H, W]; radius, angle, softness are [N], centre is [N, 2] (x, y)."""
    grid = np.arange(CANVAS, dtype=np.float32) + np.float32(0.5)
    dx = grid[None, None, :] - centre[:, 0, None, None]
    dy = grid[None, :, None] - centre[:, 1, None, None]
    turn = np.deg2rad(angle)[:, None, None].astype(np.float32)
    cos, sin, size = np.cos(turn), np.sin(turn), radius[:, None, None]
    distance = unit_distance(shape, (cos * dx + sin * dy) / size, (cos * dy - sin * dx) / size) * size
    ramp = np.clip(0.5 - distance / softness[:, None, None], 0.0, 1.0)
    return np.asarray(ramp * ramp * (3.0 - 2.0 * ramp), dtype=np.float32)


def _foregrounds(scenes: Sequence[Scene]) -> FloatArray:
    pure = np.stack([pure_rgb(scene.subject.colour) for scene in scenes])
    vivid = np.asarray([scene.vividness for scene in scenes], dtype=np.float32)[:, None]
    return np.asarray(vivid * pure + (1.0 - vivid) * _PALE_GREY, dtype=np.float32)


def draw(scenes: Sequence[Scene]) -> ImageArray:
    """Render scenes to images [N, H, W, 3]."""
    masks = np.zeros((len(scenes), CANVAS, CANVAS), dtype=np.float32)
    for shape in SHAPES:
        rows = [row for row, scene in enumerate(scenes) if scene.subject.shape == shape]
        if not rows:
            continue
        chosen = [scenes[row] for row in rows]
        radius = np.asarray([RADII[s.subject.size] * s.radius_factor for s in chosen], dtype=np.float32)
        centre = np.asarray([(s.centre_x, s.centre_y) for s in chosen], dtype=np.float32)
        angle = np.asarray([s.rotation for s in chosen], dtype=np.float32)
        softness = np.asarray([s.softness for s in chosen], dtype=np.float32)
        masks[rows] = coverage(shape, radius, centre, angle, softness)
    back = np.asarray([BACKGROUNDS[s.subject.background] for s in scenes], dtype=np.float32)[:, None, None, :]
    front = _foregrounds(scenes)[:, None, None, :]
    pixels = back + (front - back) * masks[..., None]
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
