"""The FastAPI app: the routes over one service, inside access control, limits and error handling."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from diptych.errors import require
from diptych.serving.api.settings import Settings
from diptych.serving.service import Service

require("fastapi", extra="api")
require("python_multipart", extra="api")

from fastapi import FastAPI, Request  # noqa: E402 - after the check that it is installed
from fastapi.exceptions import RequestValidationError  # noqa: E402
from fastapi.middleware.cors import CORSMiddleware  # noqa: E402
from fastapi.responses import HTMLResponse, JSONResponse, Response  # noqa: E402
from starlette.exceptions import HTTPException  # noqa: E402

from diptych.serving.api.access import AccessControl, check_keys  # noqa: E402
from diptych.serving.api.error_responses import ErrorResponse, RequestRefused, error_body  # noqa: E402
from diptych.serving.api.limits import CapacityLimiter, RequestLimits  # noqa: E402
from diptych.serving.api.middleware import ErrorMiddleware, HeadAsGet  # noqa: E402
from diptych.serving.api.openai_embeddings import make_embeddings_router  # noqa: E402
from diptych.serving.api.operations import Operations  # noqa: E402
from diptych.serving.api.prometheus import ServerMetrics  # noqa: E402
from diptych.serving.api.reference_page import reference_page  # noqa: E402
from diptych.serving.api.responses import HealthResponse  # noqa: E402
from diptych.serving.api.routes import make_router  # noqa: E402
from diptych.serving.validation_messages import describe_all  # noqa: E402

log = logging.getLogger("diptych.serving.api")
_TYPES = {404: "not_found", 405: "method_not_allowed"}


def make_app(service: Service, settings: Settings | None = None, keys: str | Sequence[str] = ()) -> FastAPI:
    """The API over a service. It loads the service's model at startup.

    Args:
        service: The service.
        settings: Limits, batching, and allowed origins and hosts.
        keys: API keys of at least 16 characters. With keys, every request but health checks needs one.

    Raises:
        ConfigError: a key is too short.
        MissingExtra: FastAPI or a package that it needs is not installed.
    """
    settings = settings or Settings()
    metrics = ServerMetrics()
    operations = Operations(service, settings, metrics)
    readiness = Readiness()

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        operations.open()
        loading = asyncio.create_task(readiness.load(service))
        yield
        loading.cancel()
        await operations.close()

    app = FastAPI(title="diptych", version=_version(), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.operations = operations
    app.include_router(make_router(operations))
    app.include_router(make_embeddings_router(operations))
    _add_server_routes(app, readiness, metrics)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    _add_middleware(app, settings, keys, metrics)
    return app


def _add_middleware(app: FastAPI, settings: Settings, keys: str | Sequence[str], metrics: ServerMetrics) -> None:
    """The middleware, innermost first."""
    requests = CapacityLimiter(settings.queue, "requests", settings.per_client)
    memory = CapacityLimiter(settings.memory, "bytes")
    metrics.watch_requests(lambda: requests.held)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestLimits, settings=settings, requests=requests, memory=memory)
    app.add_middleware(AccessControl, settings=settings, keys=check_keys(keys))
    app.add_middleware(ErrorMiddleware, metrics=metrics)
    if settings.cors:  # outside the error middleware, so that pages of these origins can read errors
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors, allow_methods=["*"], allow_headers=["*"])


class Readiness:
    """Whether the model is loaded, or failed to load. The reason is only logged: anybody may ask for readiness."""

    def __init__(self) -> None:
        self.loaded = self.failed = False

    async def load(self, service: Service) -> None:
        """Load the service's models in a thread."""
        try:
            await asyncio.to_thread(service.warm)
            self.loaded = True
        except Exception:
            log.exception("the model cannot be loaded")
            self.failed = True


def _add_server_routes(app: FastAPI, readiness: Readiness, metrics: ServerMetrics) -> None:
    error = {"model": ErrorResponse}

    @app.get("/healthz")
    async def healthz() -> HealthResponse:
        """The process is alive."""
        return HealthResponse("ok")

    @app.get("/readyz", responses={503: error})
    async def readyz() -> HealthResponse:
        """The model is loaded."""
        if not readiness.loaded:
            failed = "the model cannot be loaded; see the server's log"
            message = failed if readiness.failed else "the model is loading; try again soon"
            raise RequestRefused(503, "not_ready", message, {"Retry-After": "2"})
        return HealthResponse("ready")

    text = {"content": {metrics.media_type: {"schema": {"type": "string"}}}}
    responses: dict[int | str, dict[str, Any]] = {200: text, 401: error, 403: error, 429: error}

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    async def docs() -> HTMLResponse:
        """The routes and their fields as a page that works offline."""
        return HTMLResponse(reference_page(app.openapi()))

    @app.get("/metrics", name="metrics", response_class=Response, responses=responses)
    async def prometheus_metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(metrics.text(), media_type=metrics.media_type)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors: an unknown route, a wrong method, an invalid form."""
    assert isinstance(error, HTTPException)
    kind, message = _TYPES.get(error.status_code, "invalid_request"), str(error.detail)
    if error.status_code in _TYPES:
        message = f"there is no {request.method} {request.url.path}; /openapi.json lists the routes"
    return _error_response(request, error.status_code, kind, message, dict(error.headers or {}))


async def _validation_error(request: Request, error: Exception) -> Response:
    """Invalid path and query parameters."""
    assert isinstance(error, RequestValidationError)
    return _error_response(request, 422, "invalid_request", describe_all(error.errors()))


def _error_response(
    request: Request, status: int, kind: str, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(error_body(kind, message, request.state.request_id), status, headers)


def _version() -> str:
    from diptych import __version__

    return __version__
