"""Example queries: the top images of each model for the same caption."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.data.pairs import split_position
from diptych.evaluation.compare.comparison import Comparison
from diptych.evaluation.compare.measurements import Measured


@dataclass(frozen=True, slots=True)
class ModelResult:
    """The result of one model: the `rank` of the right image, and the `rows` of its top images."""

    model: str
    rank: int
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A caption, the row of its image, and the result of each model."""

    caption: str
    row: int
    results: tuple[ModelResult, ...]


def examples(comparison: Comparison, drawn: int = 4, disputed: int = 4) -> dict[str, list[Example]]:
    """Choose example captions: some at random (by a hash), and those on which the models' ranks differ most.

    Args:
        comparison: the measured models.
        drawn: number of random captions.
        disputed: number of captions on which the models differ.

    Returns:
        Title of a section to its examples; every image occurs once. Empty without retrieval results.
    """
    models = [model for model in comparison.models if "nearest" in model.arrays]
    suite = comparison.suite
    if not models or suite.pairs is None:
        return {}
    captions, owner = suite.pairs.flat_captions()
    shuffled = sorted(range(len(captions)), key=lambda i: split_position(f"{suite.seed} {i} {captions[i]}"))
    ranks = np.stack([model.arrays["found_images"] for model in models])  # (models, captions)
    spread = np.ptp(np.log(ranks), axis=0)
    used: set[int] = set()
    sections = {"Chosen at random": _example_list(shuffled, drawn, captions, owner, models, used)}
    if len(models) > 1:
        order = np.argsort(-spread, kind="stable").tolist()[: 20 * disputed]
        title = "Where the models differ most"
        sections[title] = _example_list(order, disputed, captions, owner, models, used)
    return sections


def _example_list(
    order: list[int],
    count: int,
    captions: list[str],
    owner: NDArray[np.int64],
    models: list[Measured],
    used: set[int],
) -> list[Example]:
    """The first `count` captions of `order` whose image is not in `used`, which is updated."""
    chosen: list[Example] = []
    for i in order:
        row = int(owner[i])
        if len(chosen) < count and row not in used:
            used.add(row)
            results = tuple(
                ModelResult(m.name, int(m.arrays["found_images"][i]), tuple(m.arrays["nearest"][i].tolist()))
                for m in models
            )
            chosen.append(Example(captions[i], row, results))
    return chosen
