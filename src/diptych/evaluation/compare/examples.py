"""Example queries: what each model finds for the same caption, side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diptych.data.pairs import split_position
from diptych.evaluation.compare.comparison import Comparison
from diptych.evaluation.compare.measurements import Measured


@dataclass(frozen=True, slots=True)
class Found:
    """What one model found: the `rank` of the right picture, and the `rows` of those that it found first."""

    model: str
    rank: int
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A caption, the row of its picture, and what each model found."""

    caption: str
    row: int
    found: tuple[Found, ...]


def examples(comparison: Comparison, drawn: int = 4, disputed: int = 4) -> dict[str, list[Example]]:
    """Some captions drawn by chance (a hash), and some on which the models differ most; no picture comes twice."""
    models = [model for model in comparison.models if "nearest" in model.arrays]
    suite = comparison.suite
    if not models or suite.pairs is None:
        return {}
    captions, owner = suite.pairs.flat_captions()
    by_chance = sorted(range(len(captions)), key=lambda at: split_position(f"{suite.seed} {at} {captions[at]}"))
    ranks = np.stack([model.arrays["found_pictures"] for model in models])  # (models, captions)
    spread = np.ptp(np.log(ranks), axis=0)
    used: set[int] = set()
    found = {"Drawn by chance": _example_list(by_chance, drawn, captions, owner, models, used)}
    if len(models) > 1:
        order = sorted(np.argsort(-spread, kind="stable").tolist()[: 20 * disputed], key=lambda at: -spread[at])
        title = "Where the models differ most"
        found[title] = _example_list(order, disputed, captions, owner, models, used)
    return found


def _example_list(
    order: list[int], count: int, captions: list[str], owner: np.ndarray, models: list[Measured], used: set[int]
) -> list[Example]:
    chosen: list[Example] = []
    for at in order:
        row = int(owner[at])
        if len(chosen) < count and row not in used:
            used.add(row)
            found = tuple(
                Found(m.name, int(m.arrays["found_pictures"][at]), tuple(m.arrays["nearest"][at].tolist()))
                for m in models
            )
            chosen.append(Example(captions[at], row, found))
    return chosen
