"""The suite of a comparison: the images, captions, classes, pairs and checks that every model is measured on."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from diptych.data.classes import Classes, read_classes, read_labelled
from diptych.data.doctor.inspect import usable_pairs
from diptych.data.formats.read import read_pairs
from diptych.data.pairs import Pairs, split_position
from diptych.errors import ConfigError, DataError
from diptych.evaluation.compositional.checks import Checks, make_checks
from diptych.evaluation.evaluators import ZeroShotEvaluator
from diptych.matching.negatives import LabelledPairs, make_labelled_pairs
from diptych.models.cosine import normalize
from diptych.runtime.progress import Progress, silent

VERSION = 1
"""Version of the measurements; a model measured with another version is measured again."""

Sources = dict[str, dict[str, str | int]]
"""Of `data` and `class_data`: path, split, and counts."""

LIMIT = 1000


@dataclass(frozen=True)
class Suite:
    """The data of a comparison. Every image decodes.

    Attributes:
        pairs: images with captions, or None.
        labelled: images whose first captions name their classes, or None.
        classes: the candidate classes; None for those that `labelled` has.
        source: paths, splits and sizes of the data, for the report.
        prompts: name of the prompt templates for class names.
        limit: limit on the captioned images for matchers and captioners, which are slow (`subset`).
        seed: of every random choice.
    """

    pairs: Pairs | None
    labelled: Pairs | None
    classes: Classes | None
    source: Sources
    prompts: str = "eighty"
    limit: int = LIMIT
    seed: int = 0

    @functools.cached_property
    def subset_rows(self) -> NDArray[np.int64]:
        """Rows of `pairs` for matchers and captioners, chosen by a hash of the image ids, ascending: (subset,)."""
        assert self.pairs is not None
        drawn = sorted(range(len(self.pairs)), key=lambda row: split_position(f"{self.seed} {self._ids[row]}"))
        return np.sort(np.array(drawn[: self.limit], np.int64))

    @functools.cached_property
    def subset(self) -> Pairs:
        """The images at `subset_rows`."""
        assert self.pairs is not None
        return self.pairs.select(self.subset_rows.tolist())

    @functools.cached_property
    def labelled_pairs(self) -> LabelledPairs | None:
        """Matching and non-matching pairs of `subset`; None if there are no negatives.

        Hard negatives are images whose captions share words with the caption, so they do not depend on any model.
        """
        if len(self.subset) < 2:
            return None
        try:
            return make_labelled_pairs(self.subset, *word_embeddings(self.subset), seed=self.seed)
        except DataError:  # no negatives: every caption describes every image
            return None

    @functools.cached_property
    def checks(self) -> Checks | None:
        """Compositional checks made from the captions; None if the captions allow none."""
        assert self.pairs is not None
        try:
            return make_checks(self.pairs, seed=self.seed)
        except DataError:
            return None

    @functools.cached_property
    def evaluator(self) -> ZeroShotEvaluator:
        """The zero-shot evaluator of the labelled images."""
        assert self.labelled is not None
        return ZeroShotEvaluator(self.labelled, self.classes)

    @functools.cached_property
    def key(self) -> str:
        """A hash of the suite; measurements with equal keys are comparable."""
        digest = hashlib.sha256(json.dumps([VERSION, self.prompts, self.limit, self.seed]).encode())
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

    def save(self, folder: Path) -> None:
        """Write the suite to a folder, for another process."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, pairs in (("pairs", self.pairs), ("labelled", self.labelled)):
            if pairs is not None:
                with (
                    pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink,
                    pa.ipc.new_file(sink, pairs.table.schema) as writer,
                ):
                    writer.write_table(pairs.table)
        content = {"source": self.source, "prompts": self.prompts, "most": self.limit, "seed": self.seed}
        content["classes"] = [list(self.classes.labels), list(self.classes.names)] if self.classes else None
        (folder / "suite.json").write_text(json.dumps(content), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Suite:
        """Read a folder that `save` wrote."""
        content = json.loads((folder / "suite.json").read_text("utf-8"))
        names, limit = content.pop("classes"), content.pop("most")
        classes = Classes(*map(tuple, names)) if names else None
        pairs, labelled = (_read_table(folder / f"{name}.arrow") for name in ("pairs", "labelled"))
        return cls(pairs, labelled, classes, limit=limit, **content)


def read_suite(
    data: str | Path | None,
    *,
    split: str = "test",
    format: str | None = None,
    class_data: str | Path | None = None,
    class_split: str = "all",
    classes: str | Path | None = None,
    prompts: str = "eighty",
    limit: int = LIMIT,
    seed: int = 0,
    max_bad_share: float = 0.1,
    progress: Progress = silent,
) -> Suite:
    """Read the data of a comparison; images that do not decode are left out.

    Args:
        data: data set of images with captions, or None.
        split: split of `data`.
        format: format of `data`; detected by default.
        class_data: data set whose first captions are classes, such as class folders, or None.
        class_split: split of `class_data`.
        classes: the candidate classes, as for `read_classes`; by default those of `class_data`.
        prompts: name of the prompt templates for class names.
        limit: limit on the captioned images for matchers and captioners.
        seed: of every random choice.
        max_bad_share: largest fraction of images that may be left out, 0 to 1.
        progress: reports progress.

    Raises:
        ConfigError: neither `data` nor `class_data` is given.
        DataError: the data cannot be read, no image is left, or too many cannot be used.
    """
    if data is None and class_data is None:
        raise ConfigError(
            "there is no data to compare on: give captioned images as `data`, labelled images as `class_data`, or both"
        )
    source: Sources = {}
    pairs = labelled = None
    if data is not None:
        pairs, report = usable_pairs(
            read_pairs(data, format).with_val().split(split), max_bad_share=max_bad_share, progress=progress
        )
        counts = {"images": len(pairs), "captions": len(pairs.flat_captions()[0]), "left_out": report.bad_images}
        source["data"] = {"path": str(data), "split": split, **counts}
    if class_data is not None:
        labelled, report = usable_pairs(
            read_labelled(class_data).split(class_split), max_bad_share=max_bad_share, progress=progress
        )
        source["class_data"] = {"path": str(class_data), "split": class_split, "images": len(labelled)}
        source["class_data"]["left_out"] = report.bad_images
    known = read_classes(classes) if classes else None
    return Suite(pairs, labelled, known, source, prompts=prompts, limit=limit, seed=seed)


def word_embeddings(pairs: Pairs, dim: int = 128) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Embed captions by their words alone (latent semantic analysis, Deerwester et al. 1990).

    Args:
        pairs: images with captions.
        dim: dimension; less if the captions have fewer words.

    Returns:
        Unit vectors: (images, dim), the normalized sum of each image's captions, and (captions, dim). An image without
        captions has zeros.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    captions, owner = pairs.flat_captions()
    counts = TfidfVectorizer(token_pattern=r"\w+").fit_transform(captions)
    dim = min(dim, counts.shape[1] - 1)
    with np.errstate(invalid="ignore"):  # scikit-learn divides by the variance, zero for equal captions
        words = TruncatedSVD(dim, random_state=0).fit_transform(counts) if dim > 0 else counts.toarray()
    images = np.zeros((len(pairs), words.shape[1]))
    np.add.at(images, owner, words)
    return normalize(images), normalize(words)


def _read_table(path: Path) -> Pairs | None:
    if not path.exists():
        return None
    with pa.OSFile(str(path)) as file:
        return Pairs(pa.ipc.open_file(file).read_all())
