"""Prompt libraries: candidate prompts with their text embeddings, and reading prompts from files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diptych.data.formats.delimited import column_names, csv_fields, delimiter_of
from diptych.data.formats.encoding import clean, open_text
from diptych.data.formats.read import read_pairs
from diptych.data.formats.tables import CAPTION_COLUMNS
from diptych.errors import ConfigError, DataError
from diptych.models.cosine import top_k
from diptych.models.modalities import checked_texts
from diptych.models.unknown_words import warn_of_unknown_words
from diptych.prompting.text_space import TextSpace
from diptych.runtime.progress import Progress, silent

_BLOCK = 256  # images compared with all prompts at a time


@dataclass(frozen=True)
class Prompt:
    """A prompt for an image; `score` is the cosine of its embedding and the predicted one, in [-1, 1]."""

    text: str
    score: float


@dataclass(frozen=True)
class PromptLibrary:
    """Distinct prompts and their unit embeddings, (prompts, dim) float32."""

    texts: list[str]
    embeddings: NDArray[np.float32]

    @classmethod
    def of(cls, texts: Iterable[str], space: TextSpace, progress: Progress = silent) -> PromptLibrary:
        """Build a library from texts: duplicates are removed, and embeddings are cached on disk.

        A prompt without a word that the encoder knows gets an `UnknownWordsWarning`.

        Raises:
            ConfigError: an item is not a string.
            DataError: there is no non-empty text.
        """
        distinct = list(dict.fromkeys(text for text in checked_texts(texts) if text.strip()))
        if not distinct:
            raise DataError("the prompt library is empty; pass at least one prompt")
        warn_of_unknown_words(space.unknown_texts(distinct))
        return cls(distinct, space.encode_cached(distinct, progress=progress, label="embedding the prompt library"))

    def nearest(self, predicted: NDArray[np.floating], k: int = 1) -> list[list[Prompt]]:
        """The `k` prompts nearest to each of (images, dim) unit vectors, best first; ties are ordered by text.

        Raises:
            ConfigError: `k` is below 1.
        """
        if k < 1:
            raise ConfigError(f"k is {k}; it must be at least 1")
        nearest = zip(*top_k(predicted, self.embeddings, k, block=_BLOCK), strict=True)
        return [
            sorted(
                (Prompt(self.texts[i], float(score)) for i, score in zip(rows, scores, strict=True)), key=_best_first
            )
            for rows, scores in nearest
        ]


def _best_first(prompt: Prompt) -> tuple[float, str]:
    return -prompt.score, prompt.text


def read_prompts(path: str | Path) -> list[str]:
    """Read prompts from a `.txt` file with one a line, a table with a prompt column, or the captions of a data set.

    Raises:
        DataError: the file does not exist, or contains no prompts.
    """
    path = Path(path)
    if path.suffix.lower() == ".txt" and path.is_file() and not _is_data_set(path):
        with open_text(path) as file:
            prompts = [clean(line) for line in file if not line.startswith("#")]
    elif path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        prompts = _prompt_column(path)
    else:
        prompts = read_pairs(path).flat_captions()[0]
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise DataError(f"'{path}' contains no prompts; write one a line, or a table with a column 'prompt'")
    return prompts


def _is_data_set(path: Path) -> bool:
    """Whether a text file contains image captions, like Flickr8k's `captions.txt`."""
    with open_text(path) as file:
        head = file.readline().strip().lower()
    return head.startswith(("image,caption", "image\tcaption")) or "#0\t" in head


def _prompt_column(path: Path) -> list[str]:
    with open_text(path) as file:
        header = file.readline()
    names = [name.lower() for name in column_names(header, f"'{path}'")]
    if (column := next((names.index(name) for name in CAPTION_COLUMNS if name in names), None)) is None:
        raise DataError(
            f"'{path}' has no prompt column: it has {', '.join(names[:50]) or 'none'}; rename one to 'prompt'"
        )
    table = csv_fields(path, delimiter_of(header))
    return [clean(fields[column]) for number, fields in table if number > 1 and len(fields) > column]
