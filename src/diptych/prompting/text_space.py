"""The text embedding space of a prompter: a sentence-transformers encoder with an embedding cache on disk."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from diptych.errors import ModelError
from diptych.models.bundled import PYPI_TEXT_TOWERS, packaged_model
from diptych.models.checkpoints import loading, model_directory
from diptych.models.embedding_cache import EmbeddingFile, write_embeddings
from diptych.models.fingerprint import modules_fingerprint
from diptych.models.loading import load_modules
from diptych.models.modalities import checked_texts, inputs_to_encode
from diptych.models.unknown_words import unknown_to
from diptych.runtime.cache import cache_dir
from diptych.runtime.progress import Progress, silent

MINILM = "pypi/all-minilm-l6-v2"


class TextSpace:
    """A text encoder that maps texts to unit embeddings.

    Attributes:
        name: the name or path it was loaded from.
        dim: the embedding dimension.
        identity: a hash of weights and tokenizer, equal for encoders that give the same embeddings.
    """

    def __init__(self, model: SentenceTransformer, name: str) -> None:
        self.model, self.name = model.eval(), name
        self.dim = int(model.get_embedding_dimension() or 0)
        modules: list[Any] = list(model)
        self.identity = modules_fingerprint(modules)

    def encode(self, texts: Sequence[str], *, batch_size: int = 128) -> NDArray[np.float32]:
        """Unit embeddings of texts: (texts, dim) float32. Texts beyond the encoder's maximum length are truncated.

        Raises:
            ConfigError: an item is not a string.
        """
        inputs = inputs_to_encode(self.model, texts)
        embeddings = self.model.encode(
            inputs, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return embeddings.reshape(len(inputs), self.dim)

    def unknown_texts(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts of which the encoder knows no word, in order: their embeddings say nothing about them.

        Raises:
            ConfigError: an item is not a string.
        """
        first: Any = self.model[0]
        trunk = first.sub_modules["text"][0] if hasattr(first, "sub_modules") else first  # of a Router, or alone
        return unknown_to(trunk, checked_texts(texts))

    def encode_cached(
        self, texts: Sequence[str], *, progress: Progress = silent, label: str = "embedding"
    ) -> NDArray[np.float32]:
        """Like `encode`, but cached on disk by encoder and texts; an interrupted call is resumed.

        Duplicate texts are embedded once.

        Raises:
            ConfigError: an item is not a string.
        """
        texts = checked_texts(texts)
        by_length = sorted(set(texts), key=lambda text: (len(text), text))  # similar lengths need little padding
        index = {text: i for i, text in enumerate(by_length)}
        content = hashlib.sha256("\0".join(by_length).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        sink = EmbeddingFile(cache_dir() / "texts" / f"{self.identity}-{content}", (len(by_length), self.dim))
        stored = write_embeddings(sink, by_length, list, self.encode, batch_size=512, progress=progress, label=label)
        return np.array(stored[[index[text] for text in texts]]).reshape(len(texts), self.dim)


def load_text_space(name: str = MINILM, device: str = "auto") -> TextSpace:
    """Load a text encoder: `pypi/...`, a directory, or the hub name of a sentence-transformers model or a BERT.

    A plain transformer checkpoint such as BERT gets mean pooling. Only safetensors are read.

    Raises:
        ModelError: the model does not exist, or does not embed texts.
        MissingExtra: the package that contains the model is not installed.
    """
    path = Path(packaged_model(PYPI_TEXT_TOWERS, name)) if name.startswith("pypi/") else model_directory(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a missing modules.json; mean pooling is intended
        model = load_modules(path, f"text encoder '{name}'", device)
    with loading(f"text encoder '{name}'"):
        if not model.supports("text") or not model.get_embedding_dimension():
            raise ModelError(f"'{name}' does not embed texts (it embeds {model.modalities}); choose a text encoder")
        return TextSpace(model, name)
