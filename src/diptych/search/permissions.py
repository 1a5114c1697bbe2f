"""Permissions of an index: the models that it may load and the folders that its images may lie in.

An index may come with somebody else's folder, so its permissions are not kept inside it. They lie in the cache folder,
under a name made of the place of the index and a random number drawn when the index was made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from diptych.errors import DataError, UntrustedModel
from diptych.images.decode import content_hash
from diptych.images.roots import ANYWHERE, Roots
from diptych.models.checkpoints import bundled_models
from diptych.runtime.cache import cache_dir
from diptych.search.metadata import write_json
from diptych.search.store import Store


@dataclass(frozen=True, slots=True)
class Permissions:
    """The models and folders that the user named for an index; with `anywhere`, links and metadata may lead out."""

    models: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    anywhere: bool = False


def permissions(store: Store) -> Permissions:
    """The permissions of an index; none if they are missing or damaged."""
    try:
        content = json.loads(_file(store).read_text("utf-8"))
        models, roots = tuple(map(str, content["models"])), tuple(map(str, content["roots"]))
        return Permissions(models, roots, content["anywhere"] is True)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return Permissions()


def allow(store: Store, *, model: str | Path | None = None, roots: Iterable[str] = (), anywhere: bool = False) -> None:
    """Add a model, folders, or every place to the permissions of an index; does nothing if they cannot be written."""
    before = permissions(store)
    models = (*before.models, *([canonical_name(model)] if model is not None else []))
    after = Permissions(_unique(models), _unique((*before.roots, *roots)), before.anywhere or anywhere)
    if after != before:
        file = _file(store)
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"index": os.path.realpath(store.folder), **asdict(after)})


def allowed_model(store: Store) -> str:
    """The name of the model that made an index, if it is bundled with diptych or was named by the user before.

    Raises:
        UntrustedModel: it is neither.
    """
    name = store.identity.name
    if is_model_allowed(store):
        return name
    raise UntrustedModel(
        f"the index '{store.folder}' would load the model {name!r}, which is neither bundled with diptych nor allowed "
        "by you for this index. An index can name any model; if you trust this one, name it once: "
        f"`diptych search --model NAME`, `diptych index --model NAME`, or Index(path, {name!r}) in Python"
    )


def recorded_model(folder: Path) -> str | None:
    """The name of the model that made the index in a folder, if that can be read and the model may be loaded."""
    try:
        store = Store.open(folder)
        return store.identity.name if is_model_allowed(store) else None
    except DataError:
        return None


def is_model_allowed(store: Store) -> bool:
    """Whether the model that made an index may be loaded by its name."""
    name = store.identity.name
    return name in bundled_models() or canonical_name(name) in permissions(store).models


def readable_roots(store: Store) -> Roots:
    """Where the images of an index may be read: in its `library_roots`, or anywhere if the user had links followed."""
    return ANYWHERE if permissions(store).anywhere else library_roots(store)


def library_roots(store: Store) -> Roots:
    """The library that an index is hidden in, and the folders that the user added to it."""
    library = [store.root] if store.root is not None else []
    return Roots([*library, *permissions(store).roots])


def canonical_name(model: str | Path) -> str:
    """One name for one model: a bundled model's name, the real path of a directory, otherwise the name as it is."""
    if isinstance(model, str) and model in bundled_models():
        return model
    return str(Path(model).resolve()) if Path(model).exists() else str(model)


def _file(store: Store) -> Path:
    key = json.dumps([os.path.realpath(store.folder), store.id])
    return cache_dir() / "allowed" / f"{content_hash(key.encode())}.json"


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
