"""Themes: the images of an index in clusters, each named by words of a general vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diptych.errors import ConfigError
from diptych.models.cosine import normalize
from diptych.search.layout import guarded
from diptych.search.vector_search import embedding_matrix
from diptych.search.vocabulary import vocabulary, vocabulary_embeddings

if TYPE_CHECKING:
    from diptych.search.index import Index

_NAMES = 3  # words in a theme's name
_MAX_FITTED = 100_000  # images that the clusters are fitted on; the others join the nearest


@dataclass(frozen=True, slots=True)
class Theme:
    """A cluster of images: the words that set it apart, and its paths, nearest to the centre first."""

    name: str
    paths: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The theme as JSON can hold it."""
        return {"name": self.name, "images": len(self.paths), "paths": list(self.paths)}


def find_themes(index: Index, groups: int | None = None, *, where: str | None = None, seed: int = 0) -> list[Theme]:
    """Clusters of similar images of an index, largest first.

    Clusters are found by k-means on the unit embeddings; without `groups` there are about sqrt(images / 2) of them, at
    most 24. A cluster is named by the words of `vocabulary()` that are near its centre, and nearer to it than to the
    centres of the library and of the other clusters. `where` is an SQL condition that images must meet. The same index
    and seed give the same clusters.

    Raises:
        ConfigError: `groups` is below 1.
    """
    if groups is not None and groups < 1:
        raise ConfigError(f"groups is {groups}; it must be at least 1")
    with guarded(index.folder):
        query = index.store.table.search().select(["id", "path", "vector"])
        table = (query.where(where) if where else query).to_arrow().sort_by("id")
    if not table.num_rows:
        return []
    embeddings = embedding_matrix(table)  # (images, dim) float16
    centres = _centres(embeddings, min(groups or _default_groups(table.num_rows), table.num_rows), seed)
    nearest = _nearest_centre(embeddings, centres)
    names = _names(centres, embeddings, vocabulary_embeddings(lambda: index.text_encoder, index.model_fingerprint))
    paths = np.array(table["path"].to_pylist(), object)
    themes = []
    for cluster, name in enumerate(names):
        rows = np.flatnonzero(nearest == cluster)
        order = np.argsort(-(embeddings[rows].astype(np.float32) @ centres[cluster]), kind="stable")
        themes.append(Theme(name, tuple(paths[rows[order]])))
    return sorted((theme for theme in themes if theme.paths), key=lambda theme: (-len(theme.paths), theme.name))


def _default_groups(images: int) -> int:
    return max(1, min(24, round((images / 2) ** 0.5)))


def _centres(embeddings: NDArray[np.float16], groups: int, seed: int) -> NDArray[np.float32]:
    """The cluster centres, normalized: (groups, dim)."""
    from sklearn.cluster import MiniBatchKMeans

    generator = np.random.default_rng(seed)
    rows = np.sort(generator.permutation(len(embeddings))[:_MAX_FITTED])
    kmeans = MiniBatchKMeans(groups, random_state=seed, batch_size=4096, n_init=5)
    centres = kmeans.fit(embeddings[rows].astype(np.float32)).cluster_centers_
    return normalize(centres, eps=1e-6)


def _nearest_centre(embeddings: NDArray[np.float16], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """The index of the centre nearest to each image, (images,)."""
    blocks = (embeddings[start : start + 16_384].astype(np.float32) for start in range(0, len(embeddings), 16_384))
    return np.concatenate([(block @ centres.T).argmax(axis=1) for block in blocks])


def _names(centres: NDArray[np.float32], embeddings: NDArray[np.float16], words: NDArray[np.float32]) -> list[str]:
    """A name for each centre: words near to it, and nearer than to the library's and the other clusters' centres."""
    near = centres @ words.T  # (groups, words)
    apart = near - embeddings.mean(axis=0, dtype=np.float32) @ words.T
    apart -= apart.mean(axis=0, keepdims=True)
    scores = _standardized(near) + _standardized(apart)
    return [", ".join(_without_article(vocabulary()[word]) for word in _distinct(row, words)) for row in scores]


def _standardized(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row with mean 0 and standard deviation 1."""
    return (scores - scores.mean(axis=1, keepdims=True)) / np.maximum(scores.std(axis=1, keepdims=True), 1e-6)


def _distinct(scores: NDArray[np.float32], words: NDArray[np.float32]) -> Sequence[int]:
    """The best words, without those that mean nearly the same as a better one."""
    chosen: list[int] = []
    for word in np.argsort(-scores, kind="stable"):
        if all(float(words[word] @ words[other]) < 0.6 for other in chosen):
            chosen.append(int(word))
        if len(chosen) == _NAMES:
            break
    return chosen


def _without_article(phrase: str) -> str:
    first, _, rest = phrase.partition(" ")
    return rest if first in ("a", "an", "the") and rest else phrase
