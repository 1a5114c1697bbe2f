"""Prompts to choose from: texts with their vectors in one text encoder's space."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.data.formats.delimited import column_names, csv_fields, delimiter_of
from diptych.data.formats.encoding import clean, open_text
from diptych.data.formats.read import read_pairs
from diptych.data.formats.tables import CAPTION_COLUMNS
from diptych.errors import ConfigError, DataError
from diptych.models.modalities import checked_texts
from diptych.prompting.text_space import TextSpace
from diptych.runtime.progress import Progress, silent

_BLOCK = 256  # pictures compared with all prompts at once


@dataclass(frozen=True)
class Prompt:
    """A prompt for a picture; `score` is the cosine of its vector and the one predicted, in [-1, 1]."""

    text: str
    score: float


@dataclass(frozen=True)
class PromptLibrary:
    """Different prompts, and their unit vectors: (prompts, dim) float32."""

    texts: list[str]
    vectors: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str], space: TextSpace, progress: Progress = silent) -> PromptLibrary:
        """Texts, each once, with their vectors from the cache or embedded now.

        Raises:
            ConfigError: one is not a string.
            DataError: there is no text, or all are empty.
        """
        different = list(dict.fromkeys(text for text in checked_texts(texts) if text.strip()))
        if not different:
            raise DataError("the prompt library is empty; give at least one prompt to choose from")
        return cls(different, space.vectors(different, progress=progress, label="embedding the prompt library"))

    def nearest(self, predicted: np.ndarray, count: int = 1) -> list[list[Prompt]]:
        """The `count` prompts nearest to each of (pictures, dim) unit vectors, best first; equals by their text."""
        if count < 1:
            raise ConfigError(f"count is {count}; ask for at least 1 prompt")
        found = []
        for start in range(0, len(predicted), _BLOCK):
            cosines = predicted[start : start + _BLOCK] @ self.vectors.T  # (block, prompts)
            for row in cosines:
                near = np.argpartition(-row, min(count, len(row)) - 1)[:count]
                chosen = sorted((Prompt(self.texts[at], float(row[at])) for at in near), key=_best_first)
                found.append(chosen)
        return found


def _best_first(prompt: Prompt) -> tuple[float, str]:
    return -prompt.score, prompt.text


def read_prompts(path: str | Path) -> list[str]:
    """The prompts in a file: a `.txt` with one a line, a table with a prompt column, or a data set's captions.

    Raises:
        DataError: there is no such file, or it holds no prompt.
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
        raise DataError(f"'{path}' holds no prompt; write one a line, or a table with the column prompt")
    return prompts


def _is_data_set(path: Path) -> bool:
    """Whether a text file holds captions of pictures, as Flickr8k's `captions.txt` does."""
    with open_text(path) as file:
        head = file.readline().strip().lower()
    return head.startswith(("image,caption", "image\tcaption")) or "#0\t" in head


def _prompt_column(path: Path) -> list[str]:
    with open_text(path) as file:
        header = file.readline()
    names = [name.lower() for name in column_names(header, f"'{path}'")]
    if (at := next((names.index(name) for name in CAPTION_COLUMNS if name in names), None)) is None:
        raise DataError(
            f"'{path}' has no column for the prompt: it has {', '.join(names[:50]) or 'none'}; name one 'prompt'"
        )
    table = csv_fields(path, delimiter_of(header))
    return [clean(fields[at]) for number, fields in table if number > 1 and len(fields) > at]
