"""The models of a service: dual encoder, captioner, matcher and prompter, each loaded once, on first use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, overload

from diptych.errors import ModelError, NextStep
from diptych.models.checkpoints import model_directory, read_metadata
from diptych.models.open_clip.names import is_named
from diptych.serving.results import Kind as Kind
from diptych.serving.results import ModelStatus

if TYPE_CHECKING:
    from diptych.captioning.captioner import Captioner
    from diptych.matching.matcher import Matcher
    from diptych.models.dual_encoder import DualEncoder
    from diptych.prompting.prompter import Prompter

    Model = DualEncoder | Captioner | Matcher | Prompter

KINDS: tuple[Kind, ...] = get_args(Kind)
_RECIPES = {"captioner": "caption", "matcher": "match", "prompter": "prompt"}  # the recipe that trains each kind


class LoadedModels:
    """Models by kind. `names` has a name, a path, a model, or None for the model that comes with the encoder.

    Thread-safe. The first thread that needs a model loads it while the others wait. `using` gives a model to one thread
    at a time: tokenizers are not safe to share, and concurrent forward passes only compete for the same cores.
    """

    def __init__(self, names: Mapping[Kind, str | Path | Model | None], device: str = "auto") -> None:
        self.names, self.device = dict(names), device
        self._models: dict[Kind, Model] = {}
        self._loading = {kind: threading.Lock() for kind in KINDS}
        towers = threading.RLock()  # a matcher that comes with the encoder runs the same towers
        self._in_use = {kind: towers if kind in ("encoder", "matcher") else threading.RLock() for kind in KINDS}

    def name(self, kind: Kind) -> str:
        """The name of a model; a model that comes with the encoder has the encoder's name."""
        model = self.names.get(kind)
        if model is None:
            model = self.names["encoder"]
        return str(model) if isinstance(model, str | Path) else getattr(model, "name", None) or "(a model in memory)"

    def has(self, kind: Kind) -> bool:
        """Whether there is a model of this kind; loads nothing.

        Raises:
            ModelError: the encoder's name is not a model.
        """
        if kind == "encoder" or self.names.get(kind) is not None:
            return True
        encoder = self.names["encoder"]
        if not isinstance(encoder, str | Path) or is_named(encoder):
            return False
        return bool(read_metadata(model_directory(encoder)).get(kind))

    def is_loaded(self, kind: Kind) -> bool:
        """Whether the model of this kind has been loaded."""
        return kind in self._models

    def status(self) -> list[ModelStatus]:
        """The status of each kind, in the order of `KINDS`; loads nothing."""
        return [ModelStatus(kind, self.name(kind), self.has(kind), self.is_loaded(kind)) for kind in KINDS]

    @overload
    def get(self, kind: Literal["encoder"]) -> DualEncoder: ...
    @overload
    def get(self, kind: Literal["captioner"]) -> Captioner: ...
    @overload
    def get(self, kind: Literal["matcher"]) -> Matcher: ...
    @overload
    def get(self, kind: Literal["prompter"]) -> Prompter: ...
    def get(self, kind: Kind) -> Model:
        """The model of a kind, loaded on first use.

        Raises:
            ModelError: there is none, or it cannot be loaded.
        """
        with self._loading[kind]:
            if kind not in self._models:
                self._models[kind] = self._load(kind)
            return self._models[kind]

    def lock(self, kind: Kind) -> AbstractContextManager[object]:
        """The reentrant lock that a thread holds while it runs the model of a kind."""
        return self._in_use[kind]

    @overload
    def using(self, kind: Literal["encoder"]) -> AbstractContextManager[DualEncoder]: ...
    @overload
    def using(self, kind: Literal["captioner"]) -> AbstractContextManager[Captioner]: ...
    @overload
    def using(self, kind: Literal["matcher"]) -> AbstractContextManager[Matcher]: ...
    @overload
    def using(self, kind: Literal["prompter"]) -> AbstractContextManager[Prompter]: ...
    @contextmanager
    def using(self, kind: Kind) -> Iterator[Any]:
        """The model of a kind, for this thread alone while the context lasts; raises as `get`."""
        model = self.get(kind)
        with self._in_use[kind]:
            yield model

    def _load(self, kind: Kind) -> Model:
        name = self.names.get(kind)
        if name is not None and not isinstance(name, str | Path):
            return name
        if not self.has(kind):
            raise ModelError(
                f"'{self.name(kind)}' has no {kind}; start with one (a directory, a run or a hub name), or train one "
                f"with `diptych train {_RECIPES[kind]}`",
                steps=[NextStep("name one", kind)],
            )
        path = cast("str | Path", name if name is not None else self.names["encoder"])  # a model in memory has no parts
        if kind == "matcher" and name is None:
            matcher = _load_matcher(path, self.device)
            matcher.encoder = self.get("encoder")  # share the weights
            return matcher
        return _LOADERS[kind](path, self.device)


def _load_encoder(name: str | Path, device: str) -> DualEncoder:
    from diptych.models.dual_encoder import load

    return load(name, device)


def _load_captioner(name: str | Path, device: str) -> Captioner:
    from diptych.captioning.captioner import load_captioner

    return load_captioner(name, device=device)


def _load_matcher(name: str | Path, device: str) -> Matcher:
    from diptych.matching.matcher import load_matcher

    return load_matcher(name, device=device)


def _load_prompter(name: str | Path, device: str) -> Prompter:
    from diptych.prompting.prompter import load_prompter

    return load_prompter(name, device=device)


_LOADERS: dict[Kind, Callable[[str | Path, str], Model]] = {
    "encoder": _load_encoder,
    "captioner": _load_captioner,
    "matcher": _load_matcher,
    "prompter": _load_prompter,
}
