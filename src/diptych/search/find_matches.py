"""Finding: which pictures of a data set match a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from diptych.data.pairs import Pairs
from diptych.errors import ConfigError
from diptych.images.contact_sheet import Tile, image_grid
from diptych.images.decode import Picture, decode, thumbnail
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import picture_vectors
from diptych.models.modalities import checked_texts
from diptych.runtime.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class Match:
    """A picture that was found; `score` is the cosine of picture and text, in [-1, 1]."""

    image_id: str
    image: Picture
    captions: tuple[str, ...]
    score: float


def find_matches(
    model: DualEncoder, text: str, pairs: Pairs, k: int = 9, *, progress: Progress = silent
) -> list[Match]:
    """The `k` pictures of `pairs` nearest to `text`, best first; of two with equal scores the earlier row comes first.

    The pictures' vectors are computed once and kept on disk. Pictures that cannot be decoded are never found.

    Raises:
        ConfigError: the text is empty or is not a string, or `k` is below 1.
    """
    (text,) = checked_texts([text])
    if not text.strip():
        raise ConfigError("the text is empty; say in words what the picture shows")
    if k < 1:
        raise ConfigError(f"k is {k}; it must be at least 1")
    vectors = picture_vectors(model, pairs, progress=progress)
    query = model.encode_texts([text])[0]
    scores = np.concatenate([vectors[at : at + 65536] @ query for at in range(0, len(vectors), 65536)] or [np.empty(0)])
    scores = np.where(np.isnan(scores), -np.inf, scores)  # undecodable pictures
    best = np.argsort(-scores, kind="stable")[:k]
    rows = ((pairs[int(index)], float(scores[index])) for index in best if np.isfinite(scores[index]))
    return [Match(row.image_id, row.image, row.captions, score) for row, score in rows]


def match_grid(matches: list[Match], title: str, tile_size: int = 200) -> Image.Image:
    """The matches as a grid of pictures, best first, each with its score and first caption."""
    tiles = [
        Tile(
            thumbnail(decode(match.image, min_side=tile_size), tile_size),
            (match.captions or (match.image_id,))[0],
            heading=f"{match.score:.3f}",
        )
        for match in matches
    ]
    return image_grid(tiles, title=title, tile_size=tile_size)
