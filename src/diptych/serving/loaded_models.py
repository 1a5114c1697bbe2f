"""The models of a service: dual encoder, captioner, matcher and prompter, each loaded once, when first used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from diptych.errors import ModelError
from diptych.models.checkpoints import model_directory, read_metadata
from diptych.models.open_clip.names import is_named

Kind = Literal["encoder", "captioner", "matcher", "prompter"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_TRAIN = {"captioner": "caption", "matcher": "match", "prompter": "prompt"}  # the recipe that trains one


class LoadedModels:
    """Models by kind; `names` has what was asked for: a name, a path, a model, or None for what the encoder brings.

    Threads share them: a model is loaded by the first that needs it while the others wait, and `using` lends it to one
    at a time, since tokenizers are not safe to share and two forward passes at once only share the same cores.
    """

    def __init__(self, names: dict[Kind, Any], device: str = "auto") -> None:
        self.names, self.device = names, device
        self._models: dict[Kind, Any] = {}
        self._loading = {kind: threading.Lock() for kind in KINDS}
        towers = threading.RLock()  # a matcher of the model's own looks through the same towers
        self._in_use = {kind: towers if kind in ("encoder", "matcher") else threading.RLock() for kind in KINDS}

    def name(self, kind: Kind) -> str:
        """What the model of a kind is called; one without a name of its own is called as the encoder that brings it."""
        given = self.names.get(kind)
        if given is None:
            given = self.names["encoder"]
        return str(given) if isinstance(given, str | Path) else getattr(given, "name", None) or "(a model in memory)"

    def has(self, kind: Kind) -> bool:
        """Whether there is a model of this kind, without loading it.

        Raises:
            ModelError: the encoder's name is of no model.
        """
        if kind == "encoder" or self.names.get(kind) is not None:
            return True
        own = self.names["encoder"]
        if not isinstance(own, str | Path) or is_named(own):
            return False
        return bool(read_metadata(model_directory(own)).get(kind))

    def is_loaded(self, kind: Kind) -> bool:
        return kind in self._models

    def told(self) -> list[dict[str, Any]]:
        """Of each kind: `kind`, `name`, whether `available` and whether `loaded`."""
        return [
            {"kind": kind, "name": self.name(kind), "available": self.has(kind), "loaded": self.is_loaded(kind)}
            for kind in KINDS
        ]

    def get(self, kind: Kind) -> Any:
        """The model of a kind, loaded if it is not yet.

        Raises:
            ModelError: there is none, or it cannot be loaded.
        """
        with self._loading[kind]:
            if kind not in self._models:
                self._models[kind] = self._load(kind)
            return self._models[kind]

    @contextmanager
    def using(self, kind: Kind) -> Iterator[Any]:
        """The model of a kind, for this thread alone."""
        model = self.get(kind)
        with self._in_use[kind]:
            yield model

    def _load(self, kind: Kind) -> Any:
        given = self.names.get(kind)
        if given is not None and not isinstance(given, str | Path):
            return given
        if not self.has(kind):
            raise ModelError(
                f"'{self.name(kind)}' has no {kind}; name one (--{kind}, or {kind}= in Python): a directory, a run or "
                f"a hub name. `diptych train {_TRAIN[kind]}` trains one"
            )
        model = _LOADERS[kind](given if given is not None else self.names["encoder"], self.device)
        if kind == "matcher" and given is None:
            model.encoder = self.get("encoder")  # the same weights, held once
        return model


def _encoder(name: str | Path, device: str) -> Any:
    from diptych.models.dual_encoder import load

    return load(name, device)


def _captioner(name: str | Path, device: str) -> Any:
    from diptych.captioning.captioner import load_captioner

    return load_captioner(name, device=device)


def _matcher(name: str | Path, device: str) -> Any:
    from diptych.matching.matcher import load_matcher

    return load_matcher(name, device=device)


def _prompter(name: str | Path, device: str) -> Any:
    from diptych.prompting.prompter import load_prompter

    return load_prompter(name, device=device)


_LOADERS = {"encoder": _encoder, "captioner": _captioner, "matcher": _matcher, "prompter": _prompter}
