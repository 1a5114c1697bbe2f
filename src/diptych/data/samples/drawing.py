"""Scene rendering: shapes with a white outline and a soft shadow on a painted backdrop."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from diptych.data.samples.scenes import COLOURS, RADII, Scene, Thing

Colour = tuple[int, int, int]
Part = tuple[float, np.ndarray]  # tone and polygon (points, 2); tone 0 is a hole, 1 the colour itself, 2 white

SCALE = 4  # supersampling factor, for anti-aliased edges
PALE: dict[str, Colour] = {
    "cream": (252, 243, 219),
    "mint": (196, 235, 214),
    "lavender": (221, 211, 245),
    "grey": (204, 208, 214),
    "peach": (255, 212, 186),
}


def render(scene: Scene, size: int = 128) -> Image.Image:
    """Render a scene as an RGB image of `size` x `size` pixels; the result is deterministic."""
    side = size * SCALE
    image = paint_backdrop(scene, side)
    for thing in scene.things:
        _paste(image, thing)
    small = np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float32)  # (size, size, 3)
    grain = np.random.default_rng(list(scene.key.encode())).normal(0, 2.0, (size, size, 1))
    return Image.fromarray(np.clip(small + grain, 0, 255).astype(np.uint8))


def _paste(image: Image.Image, thing: Thing) -> None:
    """Draw one thing into the image, with its outline and shadow."""
    side = image.width
    radius = RADII[thing.size] * side
    half = int(radius * 1.5)
    box = (2 * half, 2 * half)
    mask, drawn = Image.new("L", box), Image.new("RGB", box)
    mask_brush, brush = ImageDraw.Draw(mask), ImageDraw.Draw(drawn)
    for tone, outline in PARTS[thing.shape]:
        points = [(x, y) for x, y in (_rotate(outline, thing.tilt) * radius + half).tolist()]
        mask_brush.polygon(points, fill=255 if tone else 0)
        brush.polygon(points, fill=_toned(COLOURS[thing.colour], tone))
    rim = mask.filter(ImageFilter.BoxBlur(side * 0.011)).point(lambda value: 255 if value > 12 else 0)
    shadow = ImageChops.offset(rim, 0, side // 90).filter(ImageFilter.BoxBlur(side * 0.014))
    corner = (round(thing.x * side) - half, round(thing.y * side) - half)
    image.paste((20, 24, 40), corner, shadow.point(lambda value: value * 0.34))
    image.paste((255, 255, 255), corner, rim)
    image.paste(drawn, corner, mask)


def _rotate(points: np.ndarray, degrees: float) -> np.ndarray:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return points @ np.array([[cos, sin], [-sin, cos]])


def _toned(colour: Colour, tone: float) -> Colour:
    """Blend a colour towards black for tones below 1, towards white for tones above 1."""
    other, share = (0, 1 - tone) if tone < 1 else (255, tone - 1)
    red, green, blue = (round(value + (other - value) * share) for value in colour)
    return red, green, blue


# Shapes are polygons in [-1, 1] x [-1, 1], y downwards.


def _points(*values: float) -> np.ndarray:
    return np.array(values).reshape(-1, 2)


def _oval(x: float, y: float, rx: float, ry: float | None = None) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + (rx if ry is None else ry) * np.sin(angle)], axis=1)


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return _points(left, top, right, top, right, bottom, left, bottom)


def _star() -> np.ndarray:
    angle = np.arange(10) * np.pi / 5 - np.pi / 2
    reach = np.where(np.arange(10) % 2, 0.44, 1.05)
    return np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([np.sin(t) ** 3, -(y + 2.5) / 15.5], axis=1)


def _moon() -> np.ndarray:
    outer, inner = np.linspace(0.75, 5.53, 60), np.linspace(5.2, 1.08, 60)
    bow = np.stack([0.1 + np.cos(outer), np.sin(outer)], axis=1)
    bite = np.stack([0.48 + 0.77 * np.cos(inner), 0.77 * np.sin(inner)], axis=1)
    return np.concatenate([bow, bite])


PARTS: dict[str, list[Part]] = {
    "circle": [(1, _oval(0, 0, 0.92)), (1.3, _oval(-0.32, -0.36, 0.26, 0.2))],
    "square": [(1, _box(-0.84, -0.84, 0.84, 0.84)), (0.86, _box(-0.84, 0.5, 0.84, 0.84))],
    "triangle": [(1, _points(0, -0.98, 0.98, 0.8, -0.98, 0.8)), (0.86, _points(0, -0.98, 0.98, 0.8, 0.3, 0.8))],
    "star": [(1, _star())],
    "cross": [(1, _box(-0.3, -0.92, 0.3, 0.92)), (1, _box(-0.92, -0.3, 0.92, 0.3))],
    "ring": [(1, _oval(0, 0, 0.96)), (0, _oval(0, 0, 0.52))],
    "heart": [(1, _heart()), (1.35, _oval(-0.5, -0.42, 0.18, 0.14))],
    "diamond": [(1, _points(0, -1, 0.74, 0, 0, 1, -0.74, 0)), (0.82, _points(0, -1, 0.74, 0, 0, 1))],
    "moon": [(1, _moon())],
    "house": [
        (1, _box(-0.7, -0.1, 0.7, 0.9)), (0.66, _points(0, -0.95, 0.98, -0.05, -0.98, -0.05)),
        (1.85, _box(-0.48, 0.14, -0.12, 0.5)), (0.5, _box(0.12, 0.3, 0.46, 0.9)),
    ],
    "tree": [
        (0.5, _box(-0.14, 0.4, 0.14, 1.0)), (0.8, _points(0, -0.3, 0.82, 0.62, -0.82, 0.62)),
        (0.9, _points(0, -0.65, 0.68, 0.22, -0.68, 0.22)), (1, _points(0, -1.05, 0.52, -0.2, -0.52, -0.2)),
    ],
    "boat": [
        (0.72, _points(-0.98, 0.42, 0.98, 0.42, 0.6, 0.9, -0.6, 0.9)), (0.5, _box(-0.05, -0.95, 0.05, 0.42)),
        (1, _points(0.1, -0.9, 0.8, 0.28, 0.1, 0.28)), (1.35, _points(-0.1, -0.6, -0.1, 0.28, -0.62, 0.28)),
    ],
    "fish": [
        (0.75, _points(0.42, 0, 1.02, -0.55, 0.9, 0, 1.02, 0.55)), (0.75, _points(-0.3, -0.4, 0.3, -0.8, 0.35, -0.3)),
        (1, _oval(-0.18, 0, 0.82, 0.52)), (2, _oval(-0.58, -0.12, 0.15)), (0.15, _oval(-0.61, -0.12, 0.075)),
    ],
    "flower": [
        *((1.0, _oval(0.56 * math.cos(a), 0.56 * math.sin(a), 0.4)) for a in np.arange(6) * np.pi / 3),
        (1.75, _oval(0, 0, 0.32)),
    ],
    "mushroom": [
        (1.8, _points(-0.28, 0, 0.28, 0, 0.36, 0.92, -0.36, 0.92)),
        (1, np.minimum(_oval(0, 0.1, 0.96, 1.0), [1, 0.14])),
        (1.8, _oval(-0.42, -0.28, 0.17)), (1.8, _oval(0.2, -0.48, 0.19)), (1.8, _oval(0.56, -0.1, 0.13)),
    ],
    "balloon": [
        (0.45, _box(-0.035, 0.5, 0.035, 1.1)), (0.8, _points(0, 0.44, 0.16, 0.68, -0.16, 0.68)),
        (1, _oval(0, -0.25, 0.68, 0.78)), (1.45, _oval(-0.26, -0.52, 0.13, 0.22)),
    ],
}  # fmt: skip


def paint_backdrop(scene: Scene, side: int) -> Image.Image:
    """The backdrop of a scene as an RGB image of `side` x `side` pixels."""
    rng = random.Random(f"backdrop {scene.key}")
    if scene.backdrop in LANDSCAPES:
        return _landscape(scene.backdrop, side, rng)
    colour, pattern = scene.backdrop.split()
    pale = PALE[colour]
    image = _gradient(_toned(pale, 1.35), _toned(pale, 0.93), side)
    brush, step = ImageDraw.Draw(image), side / rng.uniform(6.5, 9.5)
    if pattern == "stripes":
        lean = rng.choice((-side, 0, side))
        for band_index in range(-int(side / step) - 1, 2 * int(side / step) + 2, 2):
            left = band_index * step
            band = [(left, 0), (left + step, 0), (left + step + lean, side), (left + lean, side)]
            brush.polygon(band, fill=_toned(pale, 0.88))
    elif pattern == "dots":
        for row in range(int(side / step) + 2):
            for column in range(int(side / step) + 2):
                x, y, r = (column + row % 2 / 2) * step, row * step, step * 0.2
                brush.ellipse((x - r, y - r, x + r, y + r), fill=_toned(pale, 0.82))
    return image


def _gradient(top: Colour, bottom: Colour, side: int) -> Image.Image:
    down = np.linspace(0, 1, side)[:, None, None]  # (side, 1, 1)
    column = np.array(top) * (1 - down) + np.array(bottom) * down
    return Image.fromarray(np.broadcast_to(column, (side, side, 3)).astype(np.uint8))


# Sky at the top, sky at the horizon, distant ground, near ground.
LANDSCAPES: dict[str, tuple[Colour, Colour, Colour, Colour]] = {
    "hills": ((136, 200, 245), (226, 243, 252), (150, 204, 110), (104, 172, 84)),
    "sea": ((150, 208, 248), (240, 248, 252), (74, 150, 206), (44, 116, 182)),
    "snow": ((176, 198, 224), (232, 238, 246), (250, 252, 255), (224, 234, 246)),
    "desert": ((250, 208, 150), (255, 240, 214), (232, 190, 122), (214, 162, 92)),
    "night": ((14, 20, 52), (48, 56, 112), (34, 40, 78), (22, 26, 56)),
    "sunset": ((92, 60, 134), (252, 158, 96), (110, 58, 98), (70, 38, 78)),
}


def _landscape(name: str, side: int, rng: random.Random) -> Image.Image:
    sky, horizon, far, near = LANDSCAPES[name]
    image = _gradient(sky, horizon, side)
    brush = ImageDraw.Draw(image)
    if name == "night":
        for _ in range(46):
            x, y, r = rng.uniform(0, side), rng.uniform(0, side * 0.7), side * rng.choice((0.003, 0.005, 0.008))
            brush.ellipse((x - r, y - r, x + r, y + r), fill=(252, 246, 214))
    height, waves = (0.012, 9) if name == "sea" else (0.05, 1.4)
    for level, ground in ((0.62, far), (0.76, near)):
        level, phase, bend = level + rng.uniform(-0.03, 0.03), rng.uniform(0, 6.28), waves * rng.uniform(0.8, 1.25)
        ridge = [(x, side * (level + height * math.sin(phase + bend * 6.28 * x / side))) for x in range(0, side + 4, 4)]
        brush.polygon([*ridge, (side, side), (0, side)], fill=ground)
    return image
