"""Matches: the images of a data set nearest to a text, without an index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from diptych.data.pairs import Pairs
from diptych.errors import ConfigError
from diptych.images.contact_sheet import Tile, image_grid
from diptych.images.decode import ImageSource, decode, thumbnail
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import dataset_image_embeddings
from diptych.models.modalities import checked_texts
from diptych.runtime.progress import Progress, silent

_BLOCK = 65_536


@dataclass(frozen=True, slots=True)
class Match:
    """An image that was found; `score` is the cosine of image and text, in [-1, 1]."""

    image_id: str
    image: ImageSource
    captions: tuple[str, ...]
    score: float


def find_matches(
    model: DualEncoder, text: str, pairs: Pairs, k: int = 9, *, progress: Progress = silent
) -> list[Match]:
    """The `k` images of `pairs` nearest to `text`, best first; equal scores are in row order.

    The image embeddings are computed once and cached on disk. Images that cannot be decoded are left out.

    Raises:
        ConfigError: the text is empty or is not a string, or `k` is below 1.
    """
    (text,) = checked_texts([text])
    if not text.strip():
        raise ConfigError("the text is empty; describe what the images should show")
    if k < 1:
        raise ConfigError(f"k is {k}; it must be at least 1")
    embeddings = dataset_image_embeddings(model, pairs, progress=progress)  # (images, dim)
    query = model.encode_texts([text])[0]
    blocks = [embeddings[start : start + _BLOCK] @ query for start in range(0, len(embeddings), _BLOCK)]
    scores = np.concatenate(blocks or [np.empty(0)])  # (images,)
    scores = np.where(np.isnan(scores), -np.inf, scores)  # images that cannot be decoded
    best = np.argsort(-scores, kind="stable")[:k]
    rows = ((pairs[int(index)], float(scores[index])) for index in best if np.isfinite(scores[index]))
    return [Match(row.image_id, row.image, row.captions, score) for row, score in rows]


def match_grid(matches: list[Match], title: str, tile_size: int = 200) -> Image.Image:
    """A contact sheet of the matches, each with its score and first caption; `tile_size` is in pixels."""
    tiles = [
        Tile(
            thumbnail(decode(match.image, min_side=tile_size), tile_size),
            (match.captions or (match.image_id,))[0],
            heading=f"{match.score:.3f}",
        )
        for match in matches
    ]
    return image_grid(tiles, title=title, tile_size=tile_size)
