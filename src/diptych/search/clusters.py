"""Themes: a library's pictures grouped by what they show, each group named in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.errors import ConfigError
from diptych.search.nearest import matrix
from diptych.search.vocabulary import vocabulary, vocabulary_vectors

if TYPE_CHECKING:
    from diptych.search.index import Index

_NAMES = 3
_FITTED_ON = 100_000  # pictures that the groups are found by; the others join the nearest


@dataclass(frozen=True, slots=True)
class Theme:
    """A group of pictures: what sets it apart, in words, and its paths, the most typical first."""

    name: str
    paths: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "pictures": len(self.paths), "paths": list(self.paths)}


def find_themes(index: Index, groups: int | None = None, *, where: str | None = None, seed: int = 0) -> list[Theme]:
    """The pictures of an index in groups of like pictures, the largest group first.

    Groups are found by k-means on the unit vectors; without `groups` there are about sqrt(pictures / 2), 24 at most.
    A group's name is the words of `vocabulary()` that are near its middle, and nearer than to the middles of the
    library and of the other groups. `where` is an SQL condition that pictures must meet. The same index and seed give
    the same groups.

    Raises:
        ConfigError: `groups` is below 1.
        MissingExtra: scikit-learn is not installed.
    """
    if groups is not None and groups < 1:
        raise ConfigError(f"groups is {groups}; it must be at least 1")
    query = index.store.table.search().select(["id", "path", "vector"])
    table = (query.where(where) if where else query).to_arrow().sort_by("id")
    if not table.num_rows:
        return []
    vectors = matrix(table)  # float16
    wanted = min(groups or _usual(table.num_rows), table.num_rows)
    middles = _middles(vectors, wanted, seed)
    nearest = _nearest_middle(vectors, middles)
    names = _names(middles, vectors, vocabulary_vectors(lambda: index.texts, index.model_hash))
    paths = np.array(table["path"].to_pylist(), object)
    found = []
    for at, name in enumerate(names):
        rows = np.flatnonzero(nearest == at)
        typical = np.argsort(-(vectors[rows].astype(np.float32) @ middles[at]), kind="stable")
        found.append(Theme(name, tuple(paths[rows[typical]])))
    return sorted((theme for theme in found if theme.paths), key=lambda theme: (-len(theme.paths), theme.name))


def _usual(pictures: int) -> int:
    return max(1, min(24, round((pictures / 2) ** 0.5)))


def _middles(vectors: np.ndarray, groups: int, seed: int) -> np.ndarray:
    """The groups' middles as unit vectors: (groups, dim) float32."""
    from sklearn import cluster

    generator = np.random.default_rng(seed)
    rows = np.sort(generator.permutation(len(vectors))[:_FITTED_ON])
    kmeans = cluster.MiniBatchKMeans(groups, random_state=seed, batch_size=4096, n_init=5)
    middles = kmeans.fit(vectors[rows].astype(np.float32)).cluster_centers_
    return middles / np.maximum(np.linalg.norm(middles, axis=1, keepdims=True), 1e-6)


def _nearest_middle(vectors: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """For each picture the index of the middle nearest to it: (pictures,)."""
    blocks = (vectors[start : start + 16_384].astype(np.float32) for start in range(0, len(vectors), 16_384))
    return np.concatenate([(block @ middles.T).argmax(axis=1) for block in blocks])


def _names(middles: np.ndarray, vectors: np.ndarray, words: np.ndarray) -> list[str]:
    """For each middle the words that are near to it, and nearer than to the library's and the other groups' middles."""
    near = middles @ words.T  # (groups, words)
    apart = near - vectors.mean(axis=0, dtype=np.float32) @ words.T
    apart -= apart.mean(axis=0, keepdims=True)
    scores = _standard(near) + _standard(apart)
    return [", ".join(_short(vocabulary()[at]) for at in _distinct(row, words)) for row in scores]


def _standard(scores: np.ndarray) -> np.ndarray:
    """Each row in its standard deviations from its mean."""
    return (scores - scores.mean(axis=1, keepdims=True)) / np.maximum(scores.std(axis=1, keepdims=True), 1e-6)


def _distinct(scores: np.ndarray, words: np.ndarray) -> Sequence[int]:
    """The best words, leaving out those that say nearly the same as a better one."""
    chosen: list[int] = []
    for at in np.argsort(-scores, kind="stable"):
        if all(float(words[at] @ words[other]) < 0.6 for other in chosen):
            chosen.append(int(at))
        if len(chosen) == _NAMES:
            break
    return chosen


def _short(phrase: str) -> str:
    """The phrase without its article."""
    first, _, rest = phrase.partition(" ")
    return rest if first in ("a", "an", "the") and rest else phrase
