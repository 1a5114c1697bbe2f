"""Running an ASGI app with uvicorn: addresses, host names, and a graceful shutdown."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from diptych.errors import ConfigError, require
from diptych.serving.api.access import MAX_HEAD_BYTES
from diptych.serving.api.settings import LOOPBACK
from diptych.serving.names import as_names

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

_ALL_ADDRESSES = ("0.0.0.0", "::", "[::]", "")
_IDLE_CONNECTIONS = 136  # beside those with a request in flight: 200 by default, where macOS allows 256 open files


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(host: str, keys: str | Sequence[str], without_key: bool = False) -> None:
    """Refuse to listen on a network without API keys, unless `without_key` allows it.

    Raises:
        ConfigError: `host` is not a loopback address, there is no key, and `without_key` is not set.
    """
    if not is_loopback(host) and not keys and not without_key:
        raise ConfigError(
            f"listening on '{host}', anyone on the network could use this server; set DIPTYCH_API_KEYS or --key-file, "
            "or allow it with --without-key"
        )


def accepted_hosts(host: str, hosts: str | Sequence[str] = (), keys: str | Sequence[str] = ()) -> tuple[str, ...]:
    """The Host headers that a server at `host` accepts beside its own address: the loopback names and `hosts`.

    With keys, every Host is accepted unless `hosts` are given: a page under another name has no key.
    """
    if keys and not hosts and not is_loopback(host):
        return ("*",)
    own = () if host in _ALL_ADDRESSES else (host.strip("[]"),)
    return tuple(dict.fromkeys((*LOOPBACK, *own, *as_names(hosts))))


def check_port(host: str, port: int) -> None:
    """Check that a server can listen on this address.

    Raises:
        ConfigError: the port is in use, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"cannot listen on {host}, port {port} ({error}); choose another with --port, or stop what uses it"
            ) from error


def run(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    grace: int = 30,
    queue: int = 64,
    stop: Callable[[], None] = lambda: None,
    message_bytes: int | None = None,
) -> None:
    """Serve plain HTTP until SIGTERM or Ctrl-C, then finish the requests in flight.

    Put a proxy with TLS in front of it on an untrusted network.

    Args:
        app: The ASGI app.
        host: The address to listen on.
        port: The port to listen on.
        grace: Seconds that requests in flight have to finish at shutdown.
        queue: Requests that the app has in flight at most; 136 more connections may be open.
        stop: Called when the shutdown begins.
        message_bytes: Maximum bytes of a WebSocket message, which may not be compressed; None refuses WebSockets.

    Raises:
        ConfigError: the address cannot be used, or the server does not start.
        MissingExtra: uvicorn is not installed.
    """
    uvicorn = require("uvicorn", extra="api")
    check_port(host, port)
    options = uvicorn_options(max_connections=queue + _IDLE_CONNECTIONS)
    if message_bytes is not None:
        options |= {"ws": "websockets-sansio", "ws_max_size": message_bytes, "ws_per_message_deflate": False}
    config = uvicorn.Config(app, host=host, port=port, timeout_graceful_shutdown=grace, **options)
    server = server_of(config, stop)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again after the shutdown
        server.run()
    if not server.started:
        raise ConfigError(f"the server on {host}, port {port}, could not start; see its log")


def server_of(config: uvicorn.Config, stop: Callable[[], None]) -> uvicorn.Server:
    """A server that calls `stop` when its shutdown begins, before it waits for the requests in flight."""
    uvicorn = require("uvicorn", extra="api")

    class Server(uvicorn.Server):  # type: ignore[name-defined]
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            stop()
            await super().shutdown(sockets)

    return Server(config)


def uvicorn_options(*, max_connections: int | None = None, idle_seconds: float | None = None) -> dict[str, object]:
    """Keyword arguments of `uvicorn.Config`; None uses the default of `connections.Connection`."""
    from diptych.serving.api.connections import IDLE_SECONDS, MAX_CONNECTIONS, Connection

    return {
        # On h11, the implementation that bounds the size of headers.
        "http": partial(
            Connection,
            max_connections=MAX_CONNECTIONS if max_connections is None else max_connections,
            idle_seconds=IDLE_SECONDS if idle_seconds is None else idle_seconds,
        ),
        "ws": "none",
        "h11_max_incomplete_event_size": MAX_HEAD_BYTES,
        "proxy_headers": False,  # with X-Forwarded-For, a client could use up another client's limits
        "server_header": False,
        "access_log": False,
        "log_config": None,
    }
