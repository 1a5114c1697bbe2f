"""The model of an index: which one made it, whether it may be loaded, and loading it when it is first needed."""

from __future__ import annotations

import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.errors import ModelError
from diptych.models.onnx.text_graph import TextEncoder, keep_text_graph, kept_text_graph
from diptych.search.layout import has_rows_only
from diptych.search.permissions import allow, allowed_model, canonical_name, is_model_allowed
from diptych.search.store import ModelIdentity, Store
from diptych.search.vocabulary import vocabulary_embeddings

if TYPE_CHECKING:
    from diptych.matching.matcher import Matcher
    from diptych.models.dual_encoder import DualEncoder

_IN_MEMORY = "(a model in memory)"


class IndexModel:
    """The model that makes the embeddings of an index.

    Args:
        folder: the index folder; an index is made if there is none and `given` is not None.
        given: the model, its name or its path; None takes the one that made the index, if it may be loaded.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Attributes:
        store: the opened index.
        loaded: the model once it is loaded; None before.

    Raises:
        DataError: there is no index, and no model to make one with.
        ModelError: `given` is not the model that made the index.
    """

    def __init__(self, folder: Path, given: str | Path | DualEncoder | None, device: str) -> None:
        self.folder, self.device = folder, device
        self.loaded: DualEncoder | None = None
        self._given, self._lock = given, threading.Lock()
        self.store = self._open()
        if isinstance(given, str | Path) and self._given_name == self.store.identity.name:
            allow(self.store, model=given)

    def _open(self) -> Store:
        if self._given is None:
            return Store.open(self.folder)
        if Store.is_index(self.folder) or has_rows_only(self.folder):  # which `open` refuses before a model is loaded
            store = Store.open(self.folder)
            if not isinstance(self._given, str | Path) or self._given_name != store.identity.name:
                store.identity.check(self._identity(), self.folder)
            return store
        return Store.create(self.folder, self._identity())

    def _identity(self) -> ModelIdentity:
        model = self.loaded = self.loaded or self._load()
        return ModelIdentity(self._given_name, model.fingerprint(), model.dim, model.image_size)

    @property
    def _given_name(self) -> str:
        return canonical_name(self._given) if isinstance(self._given, str | Path) else _IN_MEMORY

    @cached_property
    def name(self) -> str | None:
        """The name by which the model may be loaded; None if it was passed in memory.

        Raises:
            UntrustedModel: only the index names it, and it was never allowed for this index.
        """
        if isinstance(self._given, str | Path):
            return self._given_name
        if self._given is not None:
            return self.store.identity.name if is_model_allowed(self.store) else None
        return None if self.store.identity.name == _IN_MEMORY else allowed_model(self.store)

    def _load(self) -> DualEncoder:
        if not isinstance(self._given, str | Path | None):
            return self._given
        from diptych.models.dual_encoder import load  # imports torch, which an index without changes never needs

        name = self._given if self._given is not None else self.name
        if name is None:
            raise ModelError(f"'{self.folder}' was made by a model that was not loaded by name; pass it as `model`")
        return load(name, self.device)

    def get(self) -> DualEncoder:
        """The model, loaded on first use.

        Raises:
            ModelError: it cannot be loaded, or has changed since the index was made.
        """
        with self._lock:
            if self.loaded is None:
                model = self._load()
                identity = ModelIdentity(self.store.identity.name, model.fingerprint(), model.dim, model.image_size)
                self.store.identity.check(identity, self.folder)
                self.loaded = model
            return self.loaded

    @property
    def fingerprint(self) -> str:
        """`DualEncoder.fingerprint()` of the model."""
        return self.store.identity.hash or self.get().fingerprint()

    @cached_property
    def text_graph(self) -> TextEncoder | None:
        """The text tower as a graph in the cache folder, which needs no torch; None if there is none."""
        fingerprint = self.store.identity.hash
        return kept_text_graph(fingerprint) if fingerprint else None

    @property
    def text_encoder(self) -> TextEncoder:
        """The model if it is loaded, else its text graph, else the model. Raises as `get`."""
        return self.loaded or (self.text_graph if self.name else None) or self.get()

    def cache_text_encoder(self) -> bool:
        """Cache the text graph and the embeddings of the vocabulary; False if the model has no such graph."""
        vocabulary_embeddings(lambda: self.text_encoder, self.fingerprint)
        return self.text_graph is not None or keep_text_graph(self.get(), self.fingerprint)

    @cached_property
    def matcher(self) -> Matcher:
        """The matcher of the model, loaded on first use.

        Raises:
            ModelError: the model has none, or cannot be loaded.
        """
        from diptych.matching.matcher import load_matcher

        if self.name is None:
            raise ModelError(f"the model of '{self.folder}' is in memory and has no matcher; pass `matcher` to search")
        return load_matcher(self.name, device=self.device)
