"""Prompters on disk: beside a dual encoder, or with an image tower of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from diptych.errors import ModelError
from diptych.models import dual_encoder as dual
from diptych.models.bundled import PYPI_TEXT_TOWERS
from diptych.models.checkpoints import (
    METADATA,
    HeadSettings,
    Metadata,
    bundled_models,
    closed_folder,
    loading,
    model_directory,
    read_metadata,
    refuse_unsafe,
    write_metadata,
)
from diptych.models.cosine import normalize
from diptych.models.loading import load_modules
from diptych.models.weights import read_weights, save_weights
from diptych.prompting.features import ImageFeatures
from diptych.prompting.head import PromptHead
from diptych.prompting.library import PromptLibrary
from diptych.prompting.text_space import TextSpace, load_text_space
from diptych.runtime.atomic import write_text
from diptych.runtime.quiet import quiet

if TYPE_CHECKING:
    from diptych.captioning.captioner import Captioner

WEIGHTS = "prompter.safetensors"
_TOWER, _TEXT, _LIBRARY = "picture_tower", "text_encoder", "prompt_library"
_KEY = "prompter"


class StoredPrompter(Protocol):
    """The parts of a `Prompter` that are saved."""

    image_features: ImageFeatures
    head: nn.Module
    settings: HeadSettings

    @property
    def space(self) -> TextSpace:
        """The text encoder."""


@dataclass(frozen=True)
class PrompterParts:
    """The arguments of a `Prompter`, as read from a directory."""

    image_features: ImageFeatures
    head: PromptHead
    name: str
    settings: HeadSettings
    space: Callable[[], TextSpace]
    library: Callable[[], PromptLibrary] | None
    captioner: Callable[[], Captioner] | None


def save_prompter(
    prompter: StoredPrompter, path: str | Path, *, half: bool = False, metadata: Mapping[str, object] | None = None
) -> None:
    """Save a prompter to a directory: `prompter.safetensors`, and its settings in `diptych.json`.

    In the directory of its dual encoder, the prompter is added to that model; in any other directory, the image tower
    is saved too. The text encoder is copied, because loading a model must not download another one; an encoder from an
    installed package is stored by name. The prompt library is saved separately, with `save_library`.

    Args:
        prompter: the prompter to save.
        path: the directory; created if it does not exist.
        half: whether to store the head in half precision.
        metadata: more entries for the metadata of the prompter.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    model_metadata = read_metadata(path) or {"kind": _KEY}
    save_weights(path / WEIGHTS, prompter.head.state_dict(), half=half)
    if model_metadata["kind"] == _KEY:
        with quiet():
            prompter.image_features.model.save_pretrained(
                str(path / _TOWER), create_model_card=False, safe_serialization=True
            )
    space = prompter.space
    packaged = _is_packaged(space.name)
    if not packaged:
        with quiet():
            space.model.save_pretrained(str(path / _TEXT), create_model_card=False, safe_serialization=True)
    text_encoder = {"name": space.name if packaged else None, "identity": space.identity, "dim": space.dim}
    own = {"settings": prompter.settings, "text_encoder": text_encoder, **(metadata or {})}
    write_metadata(path, {**model_metadata, _KEY: own})


def save_library(library: PromptLibrary, path: str | Path) -> None:
    """Save a prompt library in the directory of its prompter, with embeddings in half precision."""
    import torch

    folder = Path(path) / _LIBRARY
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / "vectors.safetensors", {"vectors": torch.from_numpy(library.embeddings)}, half=True)
    write_text(folder / "prompts.json", json.dumps(library.texts, ensure_ascii=False))


def read_prompter(name: str | Path, device: str = "auto") -> PrompterParts:
    """Read the parts of a prompter; see `Prompter.from_pretrained` for the arguments and errors."""
    path = _directory(name)
    metadata = read_metadata(path)
    if _KEY not in metadata:
        raise ModelError(
            f"'{name}' has no prompter; train one on it: "
            f"diptych train prompt --model {name} --data PATH --output runs/prompt"
        )
    refuse_unsafe(path)
    own = metadata[_KEY]
    with loading(f"prompter '{name}'"):
        images = _images(name, path, device)
        text_encoder = {key: own["text_encoder"][key] for key in ("name", "identity")}
        head = PromptHead(**own["settings"])
        head.load_state_dict(read_weights(path / WEIGHTS))
    return PrompterParts(
        images,
        head,
        name=str(name),
        settings=own["settings"],
        space=partial(_space, text_encoder, path, device),
        library=partial(_library, path) if (path / _LIBRARY).is_dir() else None,
        captioner=_captioner(name, metadata, device),
    )


def _directory(name: str | Path) -> Path:
    """Like `model_directory`, but also accepts a directory that contains only a prompter."""
    for candidate in (Path(name), Path(name) / "model"):
        if (candidate / WEIGHTS).exists():
            return closed_folder(candidate, Path(name))
    return model_directory(name)


def _images(name: str | Path, path: Path, device: str) -> ImageFeatures:
    tower = path / _TOWER
    if not tower.is_dir():
        return ImageFeatures.of_encoder(dual.load(name, device))
    modules: list[Any] = list(load_modules(tower, f"prompter '{name}'", device))
    return ImageFeatures.of_tower(modules, device)


def _space(text_encoder: Metadata, path: Path, device: str) -> TextSpace:
    """Load the text encoder, and check that it is the one that the head was trained for."""
    name = None if (path / _TEXT).is_dir() else text_encoder["name"]
    if name is not None and not _is_packaged(name):
        raise ModelError(
            f"'{path / METADATA}' names the text encoder '{name}', which is not loaded because it comes from the "
            f"model's metadata; if you trust '{name}', copy its files to '{path / _TEXT}'"
        )
    space = load_text_space(name or str(path / _TEXT), device)
    if space.identity != text_encoder["identity"]:
        raise ModelError(
            f"text encoder '{space.name}' gives other embeddings than the one that this prompter was trained for; "
            "its weights or its tokenizer have changed"
        )
    return space


def _is_packaged(name: object) -> bool:
    """Whether a text encoder is part of diptych or of an installed package."""
    return isinstance(name, str) and name in (*PYPI_TEXT_TOWERS, *bundled_models())


def _library(path: Path) -> PromptLibrary:
    with loading(f"the prompt library of '{path}'"):
        texts = json.loads((path / _LIBRARY / "prompts.json").read_text("utf-8"))
        embeddings = read_weights(path / _LIBRARY / "vectors.safetensors")["vectors"].numpy()
        return PromptLibrary(texts, normalize(embeddings))


def _captioner(name: str | Path, metadata: Metadata, device: str) -> Callable[[], Captioner] | None:
    """A loader for the captioner in the same directory, if there is one."""
    if "captioner" not in metadata:
        return None
    from diptych.captioning.captioner import load_captioner

    return partial(load_captioner, name, device)
