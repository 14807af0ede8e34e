"""Measure an image of the shapes world from its pixels alone.

It works on anything a model draws and never fails: a picture with nothing on it measures as nothing visible.
Lengths are pixels, colours RGB in 0..255, angles degrees.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from drawing import CANVAS, HUES, RADII, SHAPES, FloatArray, ImageArray, coverage, pure_rgb

_GRID = 24
_SPAN = 1.75
"""Half-width of the normalised shape grid, in units of sqrt(area / pi)."""
_MIN_CONTRAST = 22.0
_MIN_AREA = 20.0
_ANGLES = tuple(range(-24, 25, 6))


@dataclass(frozen=True)
class Facts:
    """Measurements of one image."""

    visible: bool
    background: tuple[float, float, float]
    foreground: tuple[float, float, float]
    area: float
    centre_x: float
    centre_y: float
    edge_width: float
    """Mean width of the shape's edge in pixels; about 1 for the sharpest."""
    residual: float
    """Root mean square of the residual after fitting one flat shape on one flat background, in grey levels."""
    shape_scores: Mapping[str, float]
    """Similarity to each known shape, 1 = identical outline, comparable across shapes."""

    @property
    def chroma(self) -> float:
        """Largest minus smallest channel of the shape's colour, 0..1."""
        return (max(self.foreground) - min(self.foreground)) / 255.0

    @property
    def distance_from_centre(self) -> float:
        """Distance of the shape's centre of mass from the canvas centre, in pixels."""
        return float(np.hypot(self.centre_x - CANVAS / 2, self.centre_y - CANVAS / 2))


def hue_distance(rgb: tuple[float, float, float], colour: str) -> float:
    """Degrees on the colour wheel between an RGB triple and a named colour, 0..180; 180 for a grey."""
    top, bottom = max(rgb), min(rgb)
    if top - bottom < 12.0:
        return 180.0
    red, green, blue = ((top - channel) / (top - bottom) for channel in rgb)
    sixths = (blue - green, 2.0 + red - blue, 4.0 + green - red)[int(np.argmax(rgb))]
    gap = abs(sixths * 60.0 % 360.0 - HUES[colour])
    return float(min(gap, 360.0 - gap))


def _normalised(alpha: FloatArray, centre_x: float, centre_y: float, area: float) -> FloatArray:
    """The mask on a small grid that is centred on it and scaled by its area, flattened."""
    step = np.linspace(-_SPAN, _SPAN, _GRID, dtype=np.float32) * np.sqrt(area / np.pi)
    x, y = np.meshgrid(centre_x - 0.5 + step, centre_y - 0.5 + step)
    x, y = np.clip(x, 0, CANVAS - 1.001), np.clip(y, 0, CANVAS - 1.001)
    left, top = x.astype(int), y.astype(int)
    fx, fy = x - left, y - top
    upper = alpha[top, left] * (1 - fx) + alpha[top, left + 1] * fx
    lower = alpha[top + 1, left] * (1 - fx) + alpha[top + 1, left + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy, dtype=np.float32).ravel()


def _moments(alpha: FloatArray) -> tuple[float, float, float]:
    """Area, centre x and centre y of a mask."""
    grid = np.arange(CANVAS, dtype=np.float32) + 0.5
    area = float(alpha.sum())
    return area, float((alpha.sum(0) * grid).sum() / area), float((alpha.sum(1) * grid).sum() / area)


@lru_cache(maxsize=1)
def _templates() -> dict[str, FloatArray]:
    """Normalised masks [angles x sizes, grid points] of every shape."""
    angle = np.tile(np.asarray(_ANGLES, dtype=np.float32), len(RADII))
    radius = np.repeat(np.asarray(list(RADII.values()), dtype=np.float32), len(_ANGLES))
    centre = np.full((len(angle), 2), CANVAS / 2, dtype=np.float32)
    softness = np.full(len(angle), 1.5, dtype=np.float32)
    found: dict[str, FloatArray] = {}
    for shape in SHAPES:
        masks = coverage(shape, radius, centre, angle, softness)
        found[shape] = np.stack([_normalised(m, *_moments(m)[1:], _moments(m)[0]) for m in masks])
    return found


@lru_cache(maxsize=1)
def unit_areas() -> dict[str, float]:
    """Area of each shape drawn with radius 1."""
    one = np.ones(1, dtype=np.float32)
    centre = np.full((1, 2), CANVAS / 2, dtype=np.float32)
    return {s: float(coverage(s, 20 * one, centre, 0 * one, one).sum()) / 400.0 for s in SHAPES}


def _shape_scores(alpha: FloatArray, centre_x: float, centre_y: float, area: float) -> dict[str, float]:
    seen = _normalised(alpha, centre_x, centre_y, area)
    scores: dict[str, float] = {}
    for shape, known in _templates().items():
        overlap = np.minimum(known, seen).sum(1) / np.maximum(known, seen).sum(1)
        scores[shape] = float(overlap.max())
    return scores


def _edge_width(alpha: FloatArray) -> float:
    """Mean edge width: the grey zone's area over the outline's length, scaled to a smooth ramp's width."""
    inner = alpha[1:-1, 1:-1]
    slope_x = (alpha[1:-1, 2:] - alpha[1:-1, :-2]) / 2
    slope_y = (alpha[2:, 1:-1] - alpha[:-2, 1:-1]) / 2
    outline = float(np.hypot(slope_x, slope_y).sum())
    return float((inner * (1 - inner)).sum() / max(outline, 1.0) / 0.13)


def _border(pixels: FloatArray) -> FloatArray:
    rows = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3)])
    columns = np.concatenate([pixels[:, :2].reshape(-1, 3), pixels[:, -2:].reshape(-1, 3)])
    return np.asarray(np.median(np.concatenate([rows, columns]), axis=0), dtype=np.float32)


def _triple(rgb: FloatArray) -> tuple[float, float, float]:
    return float(rgb[0]), float(rgb[1]), float(rgb[2])


def measure(image: ImageArray) -> Facts:
    """Measure one uint8 image [H, W, 3] of the canvas size.

    The background is the border's median, the shape's colour the median of the pixels furthest from it, and the mask
    each pixel's position on the line between the two.
    """
    if image.shape != (CANVAS, CANVAS, 3) or image.dtype != np.uint8:
        raise ValueError(f"An image must be uint8 [{CANVAS}, {CANVAS}, 3], got {image.dtype} {list(image.shape)}.")
    pixels = image.astype(np.float32)
    back = _border(pixels)
    away = np.linalg.norm(pixels - back, axis=-1)
    contrast = float(np.percentile(away, 99.0))
    nothing = Facts(False, _triple(back), _triple(back), 0.0, 0.0, 0.0, 99.0, 0.0, dict.fromkeys(SHAPES, 0.0))
    if contrast < _MIN_CONTRAST:
        return nothing
    front = np.asarray(np.median(pixels[away > 0.75 * contrast], axis=0), dtype=np.float32)
    line = front - back
    share = np.clip((pixels - back) @ line / max(float(line @ line), 1.0), 0.0, 1.0)
    alpha = np.where(share < 0.08, 0.0, share).astype(np.float32)
    area, centre_x, centre_y = _moments(alpha) if alpha.any() else (0.0, 0.0, 0.0)
    if area < _MIN_AREA:
        return nothing
    residual = float(np.sqrt(np.mean((pixels - back - alpha[..., None] * line) ** 2)))
    scores = _shape_scores(alpha, centre_x, centre_y, area)
    return Facts(True, _triple(back), _triple(front), area, centre_x, centre_y, _edge_width(alpha), residual, scores)


def expected_chroma(colour: str) -> float:
    """Chroma (0..1) of a named colour at full vividness."""
    rgb = pure_rgb(colour)
    return float((rgb.max() - rgb.min()) / 255.0)
