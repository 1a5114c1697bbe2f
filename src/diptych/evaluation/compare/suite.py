"""What every model of a comparison is asked: the same pictures, captions, classes, pairs and checks."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from diptych.data.classes import Classes, read_classes, read_labelled
from diptych.data.doctor.inspect import sound
from diptych.data.formats.read import read_pairs
from diptych.data.pairs import Pairs, split_position
from diptych.errors import ConfigError, DataError
from diptych.evaluation.compositional.checks import Checks, checks_of
from diptych.evaluation.evaluators import ZeroShotEvaluator
from diptych.matching.negatives import LabelledPairs, make_labelled_pairs
from diptych.runtime.progress import Progress, silent

VERSION = 1
"""Of what is measured and how; a model measured by another version is measured again."""

MOST = 1000


@dataclass(frozen=True)
class Suite:
    """Captioned pictures `pairs`, or pictures `labelled` by `classes`, or both; every picture decodes.

    Matchers and captioners are slow and see `most` of the captioned pictures, drawn by a hash of their ids (`few`).
    `source` says in words where all this comes from.
    """

    pairs: Pairs | None
    labelled: Pairs | None
    classes: Classes | None
    source: dict[str, Any]
    prompts: str = "eighty"
    most: int = MOST
    seed: int = 0

    @functools.cached_property
    def few(self) -> np.ndarray:
        """The rows of `pairs` that matchers and captioners are asked about, ascending."""
        assert self.pairs is not None
        drawn = sorted(range(len(self.pairs)), key=lambda row: split_position(f"{self.seed} {self._ids[row]}"))
        return np.sort(np.array(drawn[: self.most], np.int64))

    @functools.cached_property
    def some(self) -> Pairs:
        """The pictures at `few`."""
        assert self.pairs is not None
        return self.pairs.select(self.few.tolist())

    @functools.cached_property
    def judged(self) -> LabelledPairs | None:
        """Pairs of `some` and their captions, matches and not; None for a picture alone.

        Hard negatives are pictures whose captions share words with the caption, so that no model has chosen them.
        """
        if len(self.some) < 2:
            return None
        try:
            return make_labelled_pairs(self.some, *word_vectors(self.some), seed=self.seed)
        except DataError:  # a caption describes every picture
            return None

    @functools.cached_property
    def checks(self) -> Checks | None:
        """Compositional checks of the captions; None where they allow none."""
        assert self.pairs is not None
        try:
            return checks_of(self.pairs, seed=self.seed)
        except DataError:
            return None

    @functools.cached_property
    def evaluator(self) -> ZeroShotEvaluator:
        """Of the labelled pictures."""
        assert self.labelled is not None
        return ZeroShotEvaluator(self.labelled, self.classes)

    @functools.cached_property
    def key(self) -> str:
        """A hash of all that is asked: numbers of one key may stand side by side."""
        digest = hashlib.sha256(json.dumps([VERSION, self.prompts, self.most, self.seed]).encode())
        for pairs in (self.pairs, self.labelled):
            if pairs is not None:
                digest.update(pairs.fingerprint().encode())
                digest.update(json.dumps(pairs.table.column("captions").to_pylist()).encode())
        if self.classes:
            digest.update(json.dumps([self.classes.labels, self.classes.names]).encode())
        return digest.hexdigest()[:16]

    @property
    def _ids(self) -> list[str]:
        assert self.pairs is not None
        return self.pairs.image_ids

    # disk: how a suite comes into another process

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, pairs in (("pairs", self.pairs), ("labelled", self.labelled)):
            if pairs is not None:
                with (
                    pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink,
                    pa.ipc.new_file(sink, pairs.table.schema) as writer,
                ):
                    writer.write_table(pairs.table)
        told = {"source": self.source, "prompts": self.prompts, "most": self.most, "seed": self.seed}
        told["classes"] = [list(self.classes.labels), list(self.classes.names)] if self.classes else None
        (folder / "suite.json").write_text(json.dumps(told), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Suite:
        told = json.loads((folder / "suite.json").read_text("utf-8"))
        classes = Classes(*map(tuple, told.pop("classes"))) if told["classes"] else told.pop("classes")
        return cls(_read_table(folder / "pairs.arrow"), _read_table(folder / "labelled.arrow"), classes, **told)


def read_suite(
    data: str | Path | None,
    *,
    split: str = "test",
    format: str | None = None,
    class_data: str | Path | None = None,
    class_split: str = "all",
    classes: str | Path | None = None,
    prompts: str = "eighty",
    most: int = MOST,
    seed: int = 0,
    max_bad_share: float = 0.1,
    progress: Progress = silent,
) -> Suite:
    """Read captioned pictures (`data`), labelled ones (`class_data`), or both; those that do not decode are left out.

    Raises:
        ConfigError: neither is given.
        DataError: they cannot be read, nothing is left, or too many pictures cannot be used.
    """
    if data is None and class_data is None:
        raise ConfigError("there is nothing to compare on: give captioned pictures (--data), classes (--class-data)")
    source: dict[str, Any] = {}
    pairs = labelled = None
    if data is not None:
        pairs, report = sound(
            read_pairs(data, format).with_val().split(split), max_bad_share=max_bad_share, progress=progress
        )
        counts = {"pictures": len(pairs), "captions": len(pairs.flat_captions()[0]), "left_out": report.bad_pictures}
        source["data"] = {"path": str(data), "split": split, **counts}
    if class_data is not None:
        labelled, report = sound(
            read_labelled(class_data).split(class_split), max_bad_share=max_bad_share, progress=progress
        )
        source["class_data"] = {"path": str(class_data), "split": class_split, "pictures": len(labelled)}
        source["class_data"]["left_out"] = report.bad_pictures
    known = read_classes(classes) if classes else None
    return Suite(pairs, labelled, known, source, prompts=prompts, most=most, seed=seed)


def word_vectors(pairs: Pairs, dim: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """What captions say as unit vectors, from their words alone (latent semantic analysis, Deerwester et al. 1990).

    Returns (pictures, dim) of the mean of a picture's captions, and (captions, dim); `dim` is less for few words.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    captions, owner = pairs.flat_captions()
    counts = TfidfVectorizer(token_pattern=r"\w+").fit_transform(captions)
    dim = min(dim, counts.shape[1] - 1)
    with np.errstate(invalid="ignore"):  # scikit-learn divides by the variance, which equal captions have none of
        words = TruncatedSVD(dim, random_state=0).fit_transform(counts) if dim > 0 else counts.toarray()
    pictures = np.zeros((len(pairs), words.shape[1]))
    np.add.at(pictures, owner, words)
    return _unit(pictures), _unit(words)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _read_table(path: Path) -> Pairs | None:
    if not path.exists():
        return None
    with pa.OSFile(str(path)) as file:
        return Pairs(pa.ipc.open_file(file).read_all())
