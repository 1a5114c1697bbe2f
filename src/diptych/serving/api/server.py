"""Running an ASGI app with uvicorn: where it may listen, and an end that finishes what has begun."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from diptych.errors import ConfigError, require
from diptych.serving.api.access import HEAD_BYTES
from diptych.serving.api.settings import LOOPBACK

if TYPE_CHECKING:
    import uvicorn

_ALL = ("0.0.0.0", "::", "[::]", "")  # every address of the machine
_WAITING = 136  # connections beside those with a request in hand: 200 in all, as it comes, where macOS allows 256 files


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach a server that listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_place(host: str, keys: Sequence[str], without_key: bool = False) -> None:
    """Refuse to listen where others can reach it, unless they need a key or it is said that they need none.

    Raises:
        ConfigError: `host` is not of the loopback, there is no key, and `without_key` is not set.
    """
    if not is_loopback(host) and not keys and not without_key:
        raise ConfigError(
            f"on '{host}' everybody in the network could use this server; set DIPTYCH_API_KEYS or give --key-file, "
            "or say --without-key if that is meant"
        )


def hosts_of(host: str, hosts: Sequence[str] = (), keys: Sequence[str] = ()) -> tuple[str, ...]:
    """The names that a server at `host` answers to, beside the address it is reached at: the loopback's, and `hosts`.

    With keys any name will do, unless some are given: a page that goes by another name has no key.
    """
    if keys and not hosts and not is_loopback(host):
        return ("*",)
    own = () if host in _ALL else (host.strip("[]"),)
    return tuple(dict.fromkeys((*LOOPBACK, *own, *hosts)))


def check_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on.

    Raises:
        ConfigError: something else listens there, or it is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"cannot listen on {host}, port {port} ({error}); name another with --port, or end what uses it"
            ) from error


def run(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    grace: int = 30,
    queue: int = 64,
    stop: Callable[[], None] = lambda: None,
    **options: Any,
) -> None:
    """Serve until SIGTERM or Ctrl-C; then take no new requests, and give those in hand `grace` seconds to end.

    Plain HTTP: put a proxy with TLS before it where the network is not trusted. Headers over 32 KB are refused. `queue`
    is how many requests the app has in hand at most; connections are a few more, and may not be silent: `Connection`.
    `stop` is called when the server begins to end. `options` are further ones of uvicorn.
    """
    uvicorn = require("uvicorn", extra="api")
    check_free(host, port)
    limits = {**uvicorn_options(most=queue + _WAITING), **options}
    server = server_of(uvicorn.Config(app, host=host, port=port, timeout_graceful_shutdown=grace, **limits), stop)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again once all has ended
        server.run()
    if not server.started:
        raise ConfigError(f"the server on {host}, port {port}, could not start; its log says why")


def server_of(config: uvicorn.Config, stop: Callable[[], None]) -> uvicorn.Server:
    """A server that calls `stop` when it begins to end, before it waits for the requests in hand."""
    uvicorn = require("uvicorn", extra="api")

    class Server(uvicorn.Server):  # type: ignore[name-defined]
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            stop()
            await super().shutdown(sockets)

    return Server(config)


def uvicorn_options(**limits: Any) -> dict[str, Any]:
    """How uvicorn serves; `limits` are those of a `Connection`."""
    from diptych.serving.api.connections import Connection

    return {
        "http": partial(Connection, **limits),  # on h11, the one that bounds a request's headers
        "ws": "none",
        "h11_max_incomplete_event_size": HEAD_BYTES,
        "proxy_headers": False,  # X-Forwarded-For would let anybody take another's rate
        "server_header": False,
        "access_log": False,
        "log_config": None,
    }
