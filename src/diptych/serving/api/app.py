"""The FastAPI app: the routes over one service, and the layers that stand around them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from diptych.errors import require
from diptych.serving.api.settings import Settings
from diptych.serving.service import Service

require("fastapi", extra="api")
require("python_multipart", extra="api")

from fastapi import FastAPI, Request  # noqa: E402 - what is missing has been said by now
from fastapi.exceptions import RequestValidationError  # noqa: E402
from fastapi.middleware.cors import CORSMiddleware  # noqa: E402
from fastapi.responses import JSONResponse, Response  # noqa: E402
from starlette.exceptions import HTTPException  # noqa: E402

from diptych.serving.api import error_responses as refusals  # noqa: E402
from diptych.serving.api import responses as told  # noqa: E402
from diptych.serving.api.access import Guard, check_keys  # noqa: E402
from diptych.serving.api.limits import Bounds, Room  # noqa: E402
from diptych.serving.api.middleware import ErrorMiddleware  # noqa: E402
from diptych.serving.api.openai_embeddings import embeddings_route  # noqa: E402
from diptych.serving.api.operations import Operations  # noqa: E402
from diptych.serving.api.prometheus import ServerMetrics  # noqa: E402
from diptych.serving.api.routes import routes  # noqa: E402

log = logging.getLogger("diptych.serving.api")
_TYPES = {404: "not_found", 405: "method_not_allowed"}


def make_app(service: Service, settings: Settings | None = None, keys: Sequence[str] = ()) -> FastAPI:
    """The API over a service, whose model it loads when it starts; with `keys`, whoever asks needs one of them.

    Raises:
        ConfigError: a key is short enough to be guessed.
        MissingExtra: FastAPI or what it needs is not installed.
    """
    settings = settings or Settings()
    figures = ServerMetrics()
    operations = Operations(service, settings, figures)
    ready = Readiness()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        operations.open()
        loading = asyncio.create_task(ready.load(service))
        yield
        loading.cancel()
        await operations.close()

    app = FastAPI(title="diptych", version=_version(), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.operations = operations
    app.include_router(routes(operations))
    app.include_router(embeddings_route(operations))
    _add_health(app, ready, figures)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    _add_layers(app, settings, keys, figures)
    return app


def _add_layers(app: FastAPI, settings: Settings, keys: Sequence[str], figures: ServerMetrics) -> None:
    """What stands around the routes, the innermost first."""
    requests, memory = Room(settings.queue, "requests", settings.per_client), Room(settings.memory, "bytes")
    figures.watch(lambda: requests.held)
    app.add_middleware(Bounds, settings=settings, requests=requests, memory=memory)
    app.add_middleware(Guard, settings=settings, keys=check_keys(keys))
    app.add_middleware(ErrorMiddleware, figures=figures)
    if settings.cors:  # around the errors too, or those pages could not read them
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors, allow_methods=["*"], allow_headers=["*"])


class Readiness:
    """Whether the model is loaded, or cannot be; why is for the log, since everybody may ask whether."""

    def __init__(self) -> None:
        self.loaded = self.failed = False

    async def load(self, service: Service) -> None:
        try:
            await asyncio.to_thread(service.warm)
            self.loaded = True
        except Exception:
            log.exception("the model cannot be loaded")
            self.failed = True


def _add_health(app: FastAPI, ready: Readiness, figures: ServerMetrics) -> None:
    error = {"model": told.ErrorTold}

    @app.get("/healthz", response_model=told.HealthTold)
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=told.HealthTold, responses={503: error})
    async def readyz() -> dict[str, str]:
        """The model is loaded and requests are answered at once."""
        if not ready.loaded:
            failed = "the model cannot be loaded; the server's log says why"
            message = failed if ready.failed else "the model is being loaded; ask again soon"
            raise refusals.RequestRefused(503, "not_ready", message, {"Retry-After": "2"})
        return {"status": "ready"}

    text = {"content": {figures.media_type: {"schema": {"type": "string"}}}}

    @app.get("/metrics", response_class=Response, responses={200: text, 401: error, 403: error, 429: error})
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(figures.text(), media_type=figures.media_type)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors in our shape: no such page, no such method, a form that is none."""
    assert isinstance(error, HTTPException)
    type, message = _TYPES.get(error.status_code, "invalid_request"), str(error.detail)
    if error.status_code in _TYPES:
        message = f"there is no {request.method} {request.url.path}; /openapi.json lists what there is"
    return _shaped(request, error.status_code, type, message, dict(error.headers or {}))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3])
    return _shaped(request, 422, "invalid_request", faults)


def _shaped(
    request: Request, status: int, type: str, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(refusals.body(type, message, request.state.request_id), status, headers)


def _version() -> str:
    from diptych import __version__

    return __version__
