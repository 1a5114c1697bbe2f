"""A picture by its URL, from public addresses alone: the server never asks its own network for somebody outside it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Collection
from typing import Any

from diptych.errors import require
from diptych.serving.api.error_responses import RequestRefused

Take = Callable[[int], None]

_REDIRECTS = 3
_PORTS = (80, 443)

# What IANA's special-purpose registries and the clouds keep for themselves, and multicast. Python's own `is_global`
# changes from one version to the next.
_SPECIAL_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24"),
            *("192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
            *("224.0.0.0/4", "240.0.0.0/4"),
            "168.63.129.16/32",  # Azure's host, from inside its machines
        ),
    )
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")  # all that IANA has given out for the internet
_SPECIAL_V6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20")))
_CARRIERS = {  # networks whose addresses carry an IPv4 address inside: how far from their end
    ipaddress.IPv6Network("::ffff:0:0/96"): 0,
    ipaddress.IPv6Network("64:ff9b::/96"): 0,  # NAT64
    ipaddress.IPv6Network("2002::/16"): 80,  # 6to4
}


def is_public(address: str) -> bool:
    """Whether an address is of the public internet; one that carries an IPv4 address inside is if that one is."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _SPECIAL_V4)
    if ip.scope_id is not None:
        return False
    for network, bits in _CARRIERS.items():
        if ip in network:
            return is_public(str(ipaddress.IPv4Address(int(ip) >> bits & 0xFFFFFFFF)))
    return ip in _PUBLIC_V6 and not any(ip in network for network in _SPECIAL_V6)


async def fetch(
    url: str,
    *,
    max_bytes: int,
    seconds: float = 10.0,
    permitted: Callable[[str], bool] = is_public,
    ports: Collection[int] = _PORTS,
    take: Take = lambda count: None,
) -> bytes:
    """The bytes at an http or https URL, following three redirects; `take` is told of each few before they are kept.

    Each name is resolved once, all its addresses must be `permitted`, and the connection goes to the one that was
    checked, so that a name which resolves to something else a moment later gains nothing. Before anything is sent, the
    address at the other end is checked again. Other `ports` are refused, proxies of the environment are not used, and
    nothing is decompressed.

    Raises:
        Refused: 403 for an address or port that is not permitted, 413 for too many bytes, what `take` raises, 422 for
            all else.
    """
    httpx = require("httpx2", extra="api")
    try:
        async with asyncio.timeout(seconds), httpx.AsyncClient(trust_env=False, timeout=seconds) as client:
            for _ in range(_REDIRECTS + 1):
                target = _parsed(httpx, url)
                port = target.port or (443 if target.scheme == "https" else 80)
                if port not in ports:
                    known = ", ".join(map(str, ports))
                    raise _forbidden(f"port {port} of '{target.host}' is not one of those pictures come from ({known})")
                address = await _resolve(target.host, port, permitted)
                answer = await _get(client, target, address, max_bytes, take, permitted)
                if isinstance(answer, bytes):
                    return answer
                url = str(target.join(answer))
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise _failed(url, f"it cannot be fetched ({reason})") from error
    raise _failed(url, f"it redirects more than {_REDIRECTS} times")


def _parsed(httpx: Any, url: str) -> Any:
    target = httpx.URL(url)
    if target.scheme not in ("http", "https") or not target.host or target.userinfo:
        raise _failed(url, "only http and https URLs without a user name are fetched")
    if target.port is not None and target.port > 65_535:
        raise _failed(url, f"there is no port {target.port}")
    return target


async def _resolve(host: str, port: int, permitted: Callable[[str], bool]) -> str:
    """One address of a name, all of which are permitted."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(permitted(address) for address in addresses):
        raise _forbidden(f"'{host}' is not on the public internet")
    return addresses[0]


async def _get(
    client: Any, target: Any, address: str, max_bytes: int, take: Take, permitted: Callable[[str], bool]
) -> bytes | str:
    """The body from this very address, or where it redirects to."""

    async def check_peer(event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            peer = info["return_value"].get_extra_info("server_addr")
            if not permitted(str(peer[0])):
                raise _forbidden(f"'{target.host}' is not on the public internet")

    there = target.copy_with(host=address)
    host = target.netloc.decode("ascii")
    headers = {"Host": host, "Accept": "image/*", "Accept-Encoding": "identity"}
    extensions = {"sni_hostname": target.host, "trace": check_peer}
    request = client.build_request("GET", there, headers=headers, extensions=extensions)
    answer = await client.send(request, stream=True, follow_redirects=False)
    try:
        if answer.has_redirect_location:
            return answer.headers["location"]
        if answer.status_code != 200:
            raise _failed(str(target), f"its server answers {answer.status_code}")
        data = bytearray()
        async for chunk in answer.aiter_raw():
            if len(data) + len(chunk) > max_bytes:
                raise RequestRefused(
                    413, "too_large", f"'{target}' has more than {max_bytes:,} bytes; send a smaller picture"
                )
            take(len(chunk))
            data += chunk
        return bytes(data)
    finally:
        await answer.aclose()


def _forbidden(why: str) -> RequestRefused:
    return RequestRefused(403, "forbidden_address", f"{why}; send the picture itself")


def _failed(url: str, why: str) -> RequestRefused:
    return RequestRefused(422, "url_error", f"'{url[:200]}': {why}; send the picture itself")
