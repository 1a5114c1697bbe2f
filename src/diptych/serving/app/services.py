"""Services shared by all visitors: each model is loaded once, and each library is opened once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import streamlit as st

from diptych.errors import DataError
from diptych.images.decode import content_hash
from diptych.images.roots import Roots
from diptych.runtime.cache import cache_dir
from diptych.search.add_report import AddReport
from diptych.search.index import Store, index_folder
from diptych.search.permissions import allowed_model, canonical_name
from diptych.search.results import Hit
from diptych.serving.app.layout import error_as_message
from diptych.serving.app.libraries import current_library, image_folder, sample_library, show_back_button
from diptych.serving.app.progress import progress_bar
from diptych.serving.app.settings import Settings
from diptych.serving.loaded_models import Kind
from diptych.serving.service import Service

DEFAULT_MODEL = "mini"
_PREVIEW = 24  # images of a library that are offered without a search
_HIT_COLUMNS = ["id", "path", "width", "height", "taken", "camera", "caption"]


def current_service(model: str | None = None) -> Service:
    """The service for this visitor's library; a folder that has no index yet is indexed first.

    `model` is the dual encoder, by default the page's own. If the service is not available, the page shows why and the
    script stops.
    """
    service = None
    with error_as_message():
        service = _ready_service(model)
    if service is None:
        show_back_button()
        st.stop()
    return service


def _ready_service(model: str | None) -> Service:
    with st.spinner("Loading the model…", show_time=True):
        library = current_library()
        service = shared_service(Settings.current(), library, model)
        index = service.index  # opening the index loads the model
    if not index and image_folder(library) == library:
        index_library(service, library)
    return service


@st.cache_resource(max_entries=8, show_spinner=False)
def shared_service(settings: Settings, library: str, model: str | None = None) -> Service:
    """The service for a library, with the page's own models or with another dual encoder."""
    own = settings.model or _model_of(library) or DEFAULT_MODEL
    name = model or own
    return _models(settings, name, name == own).at(index_location(library, name))


@st.cache_resource(max_entries=4, show_spinner=False)
def _models(settings: Settings, model: str, own: bool) -> Service:
    """A service without an index. Captioner, matcher and prompter of the settings go with the page's own model only."""
    parts = {"captioner": settings.captioner, "matcher": settings.matcher, "prompter": settings.prompter}
    roots = (*settings.roots, image_folder(settings.index) if settings.index else sample_library())
    return Service(
        model,
        **(parts if own else {}),
        roots=tuple(filter(None, roots)),
        follow_links=settings.follow_links,
        device=settings.device,
    )


def _model_of(library: str) -> str | None:
    """The model that made a library's index; None without an index."""
    folder = index_folder(library)
    return allowed_model(Store.open(folder)) if Store.is_index(folder) else None


def service_for(settings: Settings, library: str, name: str, kind: Kind) -> Service:
    """The service in which the model `name` acts as `kind`: a dual encoder that brings one, or a model of that kind."""
    service = shared_service(settings, library, name)
    if service.has(kind):
        return service
    changes: dict[str, str] = {kind: name}
    return shared_service(replace(settings, **changes), library)  # type: ignore[arg-type]


def model_name(service: Service) -> str:
    """The name of the service's dual encoder."""
    return str(service.models()[0].name)


def index_location(library: str, model: str) -> Path:
    """Where the index of a library by a model is stored.

    It is inside the library, or in the cache folder if the library contains an index made by another model.
    """
    own = index_folder(library)
    resolved = canonical_name(model)
    if not Store.is_index(own) or Store.open(own).identity.name in (model, resolved):
        return own
    return cache_dir() / "app" / content_hash(f"{own}\n{resolved}".encode())


def index_library(service: Service, library: str, *, wait: float | None = None) -> AddReport:
    """Index a library or update its index, with a progress bar.

    Raises:
        DataError: the index does not record which folder it was made for.
        IndexBusy: another process is still writing to the index after `wait` seconds.
    """
    folder = image_folder(library)
    if folder is None:
        raise DataError(f"the index '{library}' does not record its image folder; name the folder instead")
    return add_folder(service, folder, wait=wait)


def add_folder(service: Service, folder: str, *, wait: float | None = None) -> AddReport:
    """Update the service's index from a folder, with a progress bar; raises the errors of `Service.add`."""
    with progress_bar() as progress:
        return service.add(folder, prune=True, progress=progress, wait=wait)


def missing_model(service: Service, kind: Kind) -> str:
    """The message for a service that has no model of a kind."""
    return (
        f"'{model_name(service)}' has no {kind}. Start the page with --{kind} NAME, where NAME is a model directory, a "
        "training run or a hub name."
    )


def current_roots() -> Roots:
    """The folders from which images of this visitor's library may be read."""
    return shared_service(Settings.current(), current_library()).readable


def library_images(service: Service, count: int = _PREVIEW) -> list[Hit]:
    """Up to `count` images of the service's index, sorted by path, as hits with a score of 0."""
    index = service.index
    if index is None:
        return []
    rows = index.store.table.search().select(_HIT_COLUMNS).limit(count).to_list()
    rows.sort(key=lambda row: row["path"])
    return [Hit(score=0.0, **{name: row[name] for name in _HIT_COLUMNS}) for row in rows]


def library_paths(service: Service, count: int = _PREVIEW) -> list[str]:
    """The paths of up to `count` images of the service's index."""
    return [hit.path for hit in library_images(service, count)]
