"""The space in which a prompter works: a sentence-transformers text encoder, and the vectors it gives prompts."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from diptych.errors import ModelError
from diptych.models.bundled import PYPI_TEXT_TOWERS, packaged_model
from diptych.models.checkpoints import loading, model_directory
from diptych.models.embedding_cache import VectorFile, write_vectors
from diptych.models.fingerprint import modules_fingerprint
from diptych.models.loading import load_modules
from diptych.models.modalities import checked_texts, inputs_to_encode
from diptych.runtime.cache import cache_dir
from diptych.runtime.progress import Progress, silent

MINILM = "pypi/all-minilm-l6-v2"


class TextSpace:
    """A text encoder by its name: texts become unit vectors of `dim` numbers."""

    def __init__(self, model: SentenceTransformer, name: str) -> None:
        self.model, self.name = model.eval(), name
        self.dim = int(model.get_embedding_dimension() or 0)
        modules: list[Any] = list(model)
        # A hash of weights and tokenizer: two encoders share it exactly when they give the same vectors.
        self.identity = modules_fingerprint(modules)

    def encode(self, texts: Sequence[str], *, batch_size: int = 128) -> np.ndarray:
        """Unit vectors of texts: (texts, dim) float32; longer ones than the encoder reads are cut.

        Raises:
            ConfigError: one is not a string.
        """
        inputs = inputs_to_encode(self.model, texts)
        vectors = self.model.encode(inputs, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)
        return vectors.reshape(len(inputs), self.dim)

    def vectors(self, texts: Sequence[str], *, progress: Progress = silent, label: str = "embedding") -> np.ndarray:
        """As `encode`, but kept on disk under the identities of encoder and texts, and gone on with after a kill.

        Each text is embedded once, however often it comes.
        """
        texts = checked_texts(texts)
        by_length = sorted(set(texts), key=lambda text: (len(text), text))  # batches of one length pad little
        places = {text: at for at, text in enumerate(by_length)}
        content = hashlib.sha256("\0".join(by_length).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        sink = VectorFile(cache_dir() / "texts" / f"{self.identity}-{content}", (len(by_length), self.dim))
        stored = write_vectors(
            sink, by_length, list, self.encode, batch_size=512, progress=progress, label=f"{label}, once"
        )
        return np.array(stored[[places[text] for text in texts]]).reshape(len(texts), self.dim)


def load_text_space(name: str = MINILM, device: str = "auto") -> TextSpace:
    """A text encoder: `pypi/...`, a directory, or the hub name of any sentence-transformers model or BERT.

    A checkpoint without sentence-transformers' own files (BERT) is pooled by the mean over its tokens. Only
    safetensors are read.

    Raises:
        ModelError: there is no such encoder, or it does not embed texts.
        MissingExtra: it comes with a package that is not installed.
    """
    path = Path(packaged_model(PYPI_TEXT_TOWERS, name)) if name.startswith("pypi/") else model_directory(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no modules.json: the mean is what is wanted
        model = load_modules(path, f"text encoder '{name}'", device)
    with loading(f"text encoder '{name}'"):
        if not model.supports("text") or not model.get_embedding_dimension():
            raise ModelError(f"'{name}' does not embed texts (it embeds {model.modalities}); name a text encoder")
        return TextSpace(model, name)
