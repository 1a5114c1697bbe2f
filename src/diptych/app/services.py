"""The services that all visitors share: models are loaded once, whoever comes, and each library is opened once."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from diptych.app.frame import show_error, watched
from diptych.app.settings import Settings
from diptych.cache import cache_dir
from diptych.errors import DiptychError
from diptych.images import content_hash
from diptych.index import HIDDEN, Store, index_folder
from diptych.index.results import Hit
from diptych.loaded import Kind
from diptych.photographs import photographs
from diptych.service import Service

DEFAULT_MODEL = "mini"
_LIBRARY = "diptych-library"  # in the visitor's session: the library that is shown


def service_here(model: str | None = None) -> Service:
    """The service over the library that this visitor looks at; its index is made the first time.

    Where it cannot be had, the page says why and ends.
    """
    try:
        with st.spinner("Loading the model …", show_time=True):
            library = library_here()
            service = shared_service(Settings.current(), library, model)
            index = service.index  # opening it loads the model
        if not index and not Store.is_one(Path(library)):
            with watched() as progress:
                service.add(library, progress=progress)
        return service
    except DiptychError as error:
        show_error(str(error))
        st.stop()


@st.cache_resource(max_entries=32, show_spinner=False)
def shared_service(settings: Settings, library: str, model: str | None = None) -> Service:
    """The service over a library, by the settings' models or by another dual encoder."""
    name = model or settings.model or _model_of(library) or DEFAULT_MODEL
    return _models(settings, name).at(index_home(library, name))


@st.cache_resource(max_entries=4, show_spinner=False)
def _models(settings: Settings, model: str) -> Service:
    parts = {"captioner": settings.captioner, "matcher": settings.matcher, "prompter": settings.prompter}
    own = model == (settings.model or DEFAULT_MODEL)
    roots = (*settings.roots, settings.index or sample_library())
    return Service(model, **(parts if own else {}), roots=roots, device=settings.device)


def model_name(service: Service) -> str:
    """What the service's dual encoder is called."""
    return str(service.models()[0]["name"])


def index_home(library: str, model: str) -> Path:
    """Where the index of a library by a model lies: in the library, or in the cache folder if another's is there."""
    own = index_folder(library)
    if not Store.is_one(own) or Store.open(own).identity.name in (model, str(Path(model).resolve())):
        return own
    return (
        cache_dir()
        / "app"
        / content_hash(f"{own}\n{Path(model).resolve() if Path(model).exists() else model}".encode())
    )


def _model_of(library: str) -> str | None:
    own = index_folder(library)
    return Store.open(own).identity.name if Store.is_one(own) else None


def missing(service: Service, kind: Kind) -> str:
    """What to say where the service has no model of a kind."""
    return (
        f"'{model_name(service)}' has no {kind}. Start the page with --{kind} NAME: a directory, a "
        "training run or a hub name."
    )


# libraries


def library_here() -> str:
    """The library that this visitor looks at: the one last chosen, else the settings' own, else the sample library."""
    return st.session_state.get(_LIBRARY) or Settings.current().index or sample_library()


def look_at(library: str) -> None:
    """Have this visitor look at another library."""
    st.session_state[_LIBRARY] = library


@st.cache_resource(show_spinner=False)
def sample_library() -> str:
    """The folder of the sample photographs, laid out in the cache folder.

    Raises:
        MissingExtra: the packages that carry them are not installed.
    """
    home = cache_dir() / "app" / "sample"
    photographs(home)
    return str(home / "images")


def library_name(library: str) -> str:
    """A library's name for people."""
    path = Path(library)
    home = path.parent if path.name == HIDDEN else path
    return "the sample library" if library == sample_library() else home.name


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
