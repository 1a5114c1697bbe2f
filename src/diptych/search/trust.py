"""What the user allowed for an index: which models it may load, and which folders its pictures may lie in.

An index may come with a stranger's folder, so nothing of this is kept inside it: it stands in the cache folder, by the
place of the index and a number that is drawn when an index is made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from diptych.errors import UntrustedModel
from diptych.images.decode import content_hash
from diptych.images.roots import ANYWHERE, Roots
from diptych.models.checkpoints import bundled_models
from diptych.runtime.cache import cache_dir
from diptych.search.store import Store, write_json


@dataclass(frozen=True, slots=True)
class Allowed:
    """The models and folders that the user has named for one index; `anywhere`: links and metadata may lead out."""

    models: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    anywhere: bool = False


def allowed(store: Store) -> Allowed:
    """What was allowed for this index so far."""
    try:
        kept = json.loads(_file(store).read_text("utf-8"))
        return Allowed(tuple(map(str, kept["models"])), tuple(map(str, kept["roots"])), kept["anywhere"] is True)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):  # none is there, or it is damaged
        return Allowed()


def allow(store: Store, *, model: str | Path | None = None, roots: Iterable[str] = (), anywhere: bool = False) -> None:
    """Remember that the user named a model, or folders, for this index. Where nothing can be kept, nothing is."""
    before = allowed(store)
    models = (*before.models, *([canonical_name(model)] if model is not None else []))
    after = Allowed(_each(models), _each((*before.roots, *roots)), before.anywhere or anywhere)
    if after != before:
        file = _file(store)
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"index": os.path.realpath(store.folder), **asdict(after)})


def model_of(store: Store) -> str:
    """The name of the model that made an index, if it may be loaded: one in the box, or named by the user before.

    Raises:
        UntrustedModel: it is another.
    """
    name = store.identity.name
    if is_allowed(store):
        return name
    raise UntrustedModel(
        f"the index '{store.folder}' would load the model {name!r}, which is not in the box and was never named for "
        "this index by you. An index can name anything; if you trust that model, name it once: --model with "
        f"`diptych search` or `diptych index`, or Index(path, {name!r}) in Python"
    )


def is_allowed(store: Store) -> bool:
    """Whether the model that made an index may be loaded by its name."""
    name = store.identity.name
    return name in bundled_models() or canonical_name(name) in allowed(store).models


def readable(store: Store) -> Roots:
    """Where the pictures of an index may lie: in its `homes`, or anywhere if the user had links followed."""
    return ANYWHERE if allowed(store).anywhere else homes(store)


def homes(store: Store) -> Roots:
    """The library that an index is hidden in, and the folders that the user added to it."""
    library = [store.root] if store.root is not None else []
    return Roots([*library, *allowed(store).roots])


def canonical_name(model: str | Path) -> str:
    """The one name of a model: that in the box, a directory by its real path, else as it is."""
    if isinstance(model, str) and model in bundled_models():
        return model
    return str(Path(model).resolve()) if Path(model).exists() else str(model)


def _file(store: Store) -> Path:
    key = json.dumps([os.path.realpath(store.folder), store.id])
    return cache_dir() / "allowed" / f"{content_hash(key.encode())}.json"


def _each(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
