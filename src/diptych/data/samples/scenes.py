"""Synthetic scenes: a few coloured shapes on a backdrop, and captions generated from them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 45, 48),
    "orange": (248, 138, 26),
    "yellow": (250, 212, 40),
    "green": (52, 158, 72),
    "turquoise": (40, 196, 190),
    "blue": (42, 92, 214),
    "purple": (126, 62, 178),
    "pink": (244, 132, 182),
    "brown": (128, 80, 46),
    "black": (38, 40, 46),
}

SHAPES = (
    "circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond", "moon", "house", "tree", "boat",
    "fish", "flower", "mushroom", "balloon",
)  # fmt: skip

BACKDROPS: dict[str, str] = {
    **{f"{colour} plain": f"on a {colour} background" for colour in ("cream", "mint", "lavender", "grey", "peach")},
    **{f"{colour} stripes": f"on {colour} stripes" for colour in ("mint", "lavender", "peach", "grey")},
    **{f"{colour} dots": f"on a {colour} dotted background" for colour in ("cream", "mint", "lavender", "peach")},
    "hills": "in front of green hills",
    "sea": "in front of a blue sea",
    "snow": "in front of snowy hills",
    "desert": "in front of sand dunes",
    "night": "on a starry night",
    "sunset": "at sunset",
}

# Centres of the things by their number, in image coordinates [0, 1], y downwards.
LAYOUTS: dict[int, tuple[tuple[tuple[float, float], ...], ...]] = {
    2: (
        ((0.27, 0.50), (0.73, 0.50)),
        ((0.50, 0.27), (0.50, 0.73)),
        ((0.28, 0.28), (0.72, 0.72)),
        ((0.28, 0.72), (0.72, 0.28)),
    ),
    3: (
        ((0.26, 0.28), (0.74, 0.28), (0.50, 0.73)),
        ((0.26, 0.73), (0.74, 0.73), (0.50, 0.27)),
        ((0.27, 0.26), (0.27, 0.74), (0.73, 0.50)),
        ((0.73, 0.26), (0.73, 0.74), (0.27, 0.50)),
    ),
    4: (((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)),),
}
RADII = {"small": 0.115, "large": 0.195}
NUMBERS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured shape: its centre (x, y) in [0, 1], y downwards, and its rotation in degrees."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    tilt: float = 0.0


@dataclass(frozen=True, slots=True)
class Scene:
    """Things on a backdrop; `key` seeds the random choices of rendering and captions."""

    key: str
    backdrop: str
    things: tuple[Thing, ...]


def series(seed: int, count: int) -> Iterator[tuple[int, str, Scene]]:
    """The first `count` scenes of the series `seed`: number, name and scene."""
    return ((index, f"scene-{seed}-{index:05}", imagine(seed, index)) for index in range(count))


def imagine(seed: int, index: int) -> Scene:
    """Generate scene number `index` of the series `seed`; the result is deterministic.

    All things in a scene have different shapes and colours, so "the red one" is unambiguous.
    """
    key = f"{seed}:{index}"
    rng = random.Random(f"scene {key}")
    count = rng.choices((2, 3, 4), weights=(5, 4, 2))[0]
    centres = rng.choice(LAYOUTS[count])
    things = tuple(
        Thing(shape, colour, rng.choice(tuple(RADII)), _near(x, rng), _near(y, rng), rng.uniform(-10, 10))
        for shape, colour, (x, y) in zip(
            rng.sample(SHAPES, count), rng.sample(tuple(COLOURS), count), rng.sample(centres, count), strict=True
        )
    )
    return Scene(key, rng.choice(tuple(BACKDROPS)), things)


def captions(scene: Scene, count: int = 5) -> tuple[str, ...]:
    """Generate `count` (at most 5) distinct, correct captions of a scene, from different templates.

    Each caption names at least two things by colour and shape.
    """
    rng = random.Random(f"captions {scene.key}")
    texts: dict[str, None] = {}
    for template in rng.sample(TEMPLATES, len(TEMPLATES)):
        text = template(scene, rng)
        texts[text[0].upper() + text[1:]] = None
        if len(texts) == count:
            break
    return tuple(texts)


def relation(first: Thing, second: Thing) -> str:
    """The position of `first` relative to `second`, along the axis on which they are farther apart."""
    across, down = second.x - first.x, second.y - first.y
    if abs(across) > abs(down):
        return "to the left of" if across > 0 else "to the right of"
    return "above" if down > 0 else "below"


def place(thing: Thing) -> str:
    """The position of a thing in the image, in words."""
    column = "left" if thing.x < 0.4 else "right" if thing.x > 0.6 else ""
    row = "top" if thing.y < 0.4 else "bottom" if thing.y > 0.6 else ""
    if row and column:
        return f"in the {row} {column} corner"
    if row:
        return f"at the {row}"
    return f"on the {column}" if column else "in the middle"


def _near(value: float, rng: random.Random) -> float:
    return round(value + rng.uniform(-0.03, 0.03), 4)


def _an(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _list(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _short(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def _full(thing: Thing) -> str:
    return f"{thing.size} {thing.colour} {thing.shape}"


def _shuffled(scene: Scene, rng: random.Random) -> list[Thing]:
    return rng.sample(scene.things, len(scene.things))


def _inventory(scene: Scene, rng: random.Random) -> str:
    return _list([_an(_short(thing)) for thing in _shuffled(scene, rng)])


def _inventory_on_backdrop(scene: Scene, rng: random.Random) -> str:
    return f"{_inventory(scene, rng)} {BACKDROPS[scene.backdrop]}."


def _sizes(scene: Scene, rng: random.Random) -> str:
    return f"a picture of {_list([_an(_full(thing)) for thing in _shuffled(scene, rng)])}"


def _one_relation(scene: Scene, rng: random.Random) -> str:
    first, second = _shuffled(scene, rng)[:2]
    return f"the {_short(first)} is {relation(first, second)} the {_short(second)}."


def _relation_in_full(scene: Scene, rng: random.Random) -> str:
    first, second, *others = _shuffled(scene, rng)
    text = f"{_an(_full(first))} {relation(first, second)} {_an(_full(second))}"
    if others:
        text += f", with {_list([_an(_short(thing)) for thing in others]) if others[1:] else _an(_short(others[0]))}"
    return f"{text}, {BACKDROPS[scene.backdrop]}"


def _places(scene: Scene, rng: random.Random) -> str:
    return f"{_list([f'{_an(_short(thing))} {place(thing)}' for thing in _shuffled(scene, rng)])}."


def _counted(scene: Scene, rng: random.Random) -> str:
    number = NUMBERS[len(scene.things)]
    return f"{number} things {BACKDROPS[scene.backdrop]}: {_inventory(scene, rng)}"


def _there_is(scene: Scene, rng: random.Random) -> str:
    first, *others = _shuffled(scene, rng)
    rest = [_an(_short(thing)) for thing in others]
    return f"there is {_an(_full(first))} {place(first)}, together with {_list(rest) if rest[1:] else rest[0]}."


TEMPLATES: tuple[Callable[[Scene, random.Random], str], ...] = (
    _inventory,
    _inventory_on_backdrop,
    _sizes,
    _one_relation,
    _relation_in_full,
    _places,
    _counted,
    _there_is,
)
