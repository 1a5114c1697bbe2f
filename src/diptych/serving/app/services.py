"""The services that all visitors share: models are loaded once, whoever comes, and each library is opened once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st

from diptych.data.samples.photographs import photographs
from diptych.errors import DataError
from diptych.images.decode import content_hash
from diptych.images.roots import Roots
from diptych.runtime.cache import cache_dir
from diptych.search.add_report import Added
from diptych.search.index import HIDDEN, Store, index_folder
from diptych.search.permissions import allowed_model, canonical_name
from diptych.search.results import Hit
from diptych.serving.app.frame import plain, told, watched
from diptych.serving.app.settings import Settings
from diptych.serving.loaded_models import Kind
from diptych.serving.service import Service

DEFAULT_MODEL = "mini"
_LIBRARY = "diptych-library"  # in the visitor's session: the library that is shown


def service_here(model: str | None = None) -> Service:
    """The service over the library that this visitor looks at; a folder of pictures is indexed the first time.

    Where it cannot be had, the page says why and ends.
    """
    service = None
    with told():
        service = _ready(model)
    if service is None:
        show_way_back()
        st.stop()
    return service


def _ready(model: str | None) -> Service:
    with st.spinner("Loading the model …", show_time=True):
        library = library_here()
        service = shared_service(Settings.current(), library, model)
        index = service.index  # opening it loads the model
    if not index and pictures_of(library) == library:
        index_library(service, library)
    return service


@st.cache_resource(max_entries=8, show_spinner=False)
def shared_service(settings: Settings, library: str, model: str | None = None) -> Service:
    """The service over a library, by the page's own models or by another dual encoder."""
    own = settings.model or _model_of(library) or DEFAULT_MODEL
    name = model or own
    return _models(settings, name, name == own).at(index_home(library, name))


@st.cache_resource(max_entries=4, show_spinner=False)
def _models(settings: Settings, model: str, own: bool) -> Service:
    """The models without an index; what the page was told to caption and match by goes with its own model alone."""
    parts = {"captioner": settings.captioner, "matcher": settings.matcher, "prompter": settings.prompter}
    roots = (*settings.roots, pictures_of(settings.index) if settings.index else sample_library())
    return Service(
        model,
        **(parts if own else {}),
        roots=tuple(filter(None, roots)),
        follow_links=settings.follow_links,
        device=settings.device,
    )


def _model_of(library: str) -> str | None:
    own = index_folder(library)
    return allowed_model(Store.open(own)) if Store.is_one(own) else None


def service_with(settings: Settings, library: str, name: str, kind: Kind) -> Service:
    """The service where the model `name` does one thing: a dual encoder that can, or a captioner or matcher alone."""
    service = shared_service(settings, library, name)
    if service.has(kind):
        return service
    alone: dict[str, Any] = {kind: name}
    return shared_service(replace(settings, **alone), library)


def model_name(service: Service) -> str:
    """What the service's dual encoder is called."""
    return str(service.models()[0].name)


def index_home(library: str, model: str) -> Path:
    """Where the index of a library by a model lies: in the library, or in the cache folder if another's is there."""
    own = index_folder(library)
    resolved = canonical_name(model)
    if not Store.is_one(own) or Store.open(own).identity.name in (model, resolved):
        return own
    return cache_dir() / "app" / content_hash(f"{own}\n{resolved}".encode())


def pictures_of(library: str) -> str | None:
    """The folder that a library's pictures lie in: itself, or what an index folder was made for; None if not known."""
    if not Store.is_one(Path(library)):
        return None if is_gathering(library) else library
    root = Store.open(library).root
    return str(root) if root else None


def is_gathering(library: str) -> bool:
    """Whether it is an index folder, there or not yet, that gathers folders from elsewhere."""
    path = Path(library)
    return path.name != HIDDEN and index_folder(path) == path.expanduser().resolve()


def index_library(service: Service, library: str, *, wait: float | None = None) -> Added:
    """Index a library, or bring its index up to date, with the progress on the page.

    Raises:
        DataError: it is an index that does not say which folder it was made for.
        IndexBusy: something else still writes to it after `wait` seconds.
    """
    pictures = pictures_of(library)
    if pictures is None:
        raise DataError(f"'{library}' does not say which folder it was made for; name the folder itself")
    return add_folder(service, pictures, wait=wait)


def add_folder(service: Service, folder: str, *, wait: float | None = None) -> Added:
    """Bring the service's index up to date with a folder, with the progress on the page; raises as `Service.add`."""
    with watched() as progress:
        return service.add(folder, prune=True, progress=progress, wait=wait)


def missing(service: Service, kind: Kind) -> str:
    """What to say where the service has no model of a kind."""
    return (
        f"'{model_name(service)}' has no {kind}. Start the page with --{kind} NAME: a directory, a "
        "training run or a hub name."
    )


# libraries


def library_here() -> str:
    """The library that this visitor looks at: the one last chosen, else the first."""
    return st.session_state.get(_LIBRARY) or first_library()


def first_library() -> str:
    """The library that every visitor looks at first: the settings' own, else the sample library."""
    return Settings.current().index or sample_library()


def look_at(library: str) -> None:
    """Have this visitor look at another library."""
    st.session_state[_LIBRARY] = library


def show_way_back() -> None:
    """A button that leads back to the first library, for a visitor who looks at another."""
    chosen = st.session_state.get(_LIBRARY)
    if chosen and chosen != (first := first_library()):
        label = f"Back to {plain(library_name(first))}"
        st.button(label, on_click=look_at, args=(first,), icon=":material/undo:", type="tertiary")


@st.cache_resource(show_spinner=False)
def sample_library() -> str:
    """The folder of the sample photographs, laid out in the cache folder.

    Raises:
        MissingExtra: the packages that carry them are not installed.
    """
    photographs(_sample_home())
    return str(_sample_home() / "images")


def _sample_home() -> Path:
    return cache_dir() / "app" / "sample"


def library_name(library: str) -> str:
    """A library's name for people."""
    path = Path(library)
    home = path.parent if path.name == HIDDEN else path
    return "the sample library" if home.parent == _sample_home() else home.name


def roots_here() -> Roots:
    """The folders in which the pictures of this visitor's library may lie."""
    return shared_service(Settings.current(), library_here()).readable


def library_pictures(service: Service, count: int = 24) -> list[Hit]:
    """The first pictures of the service's index, as hits that nothing was asked for."""
    index = service.index
    if index is None:
        return []
    columns = ["id", "path", "width", "height", "taken", "camera", "caption"]
    rows = index.store.table.search().select(columns).limit(count).to_list()
    return [
        Hit(score=0.0, **{name: row[name] for name in columns}) for row in sorted(rows, key=lambda row: row["path"])
    ]


def library_paths(service: Service, count: int = 24) -> list[str]:
    """The paths of its first pictures."""
    return [hit.path for hit in library_pictures(service, count)]
