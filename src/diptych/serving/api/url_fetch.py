"""Fetching images by URL from public addresses only, so that clients cannot reach the server's own network (SSRF)."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Collection, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from diptych.errors import require
from diptych.serving.api.error_responses import RequestRefused

if TYPE_CHECKING:
    import httpx2

OnBytes = Callable[[int], None]

_MAX_REDIRECTS = 3
_PORTS = (80, 443)

# IANA's special-purpose registries, multicast, and addresses of cloud infrastructure. A list of our own, because
# `ipaddress.is_global` differs between versions of Python.
_SPECIAL_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24"),
            *("192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
            *("224.0.0.0/4", "240.0.0.0/4"),
            "168.63.129.16/32",  # Azure's host as seen from its virtual machines
        ),
    )
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")  # all that IANA has allocated
_SPECIAL_V6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20")))
_EMBEDDED_V4 = {  # networks whose addresses contain an IPv4 address, and its offset in bits from the end
    ipaddress.IPv6Network("::ffff:0:0/96"): 0,
    ipaddress.IPv6Network("64:ff9b::/96"): 0,  # NAT64
    ipaddress.IPv6Network("2002::/16"): 80,  # 6to4
}


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet; for IPv6 that contains an IPv4 address, whether that one is."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _SPECIAL_V4)
    if ip.scope_id is not None:
        return False
    for network, bits in _EMBEDDED_V4.items():
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
    on_bytes: OnBytes | None = None,
) -> bytes:
    """The bytes at an http or https URL, after at most three redirects.

    Each host name is resolved once, all its addresses must be permitted, and the connection goes to the address that
    was checked, so that a changing DNS answer (DNS rebinding) has no effect. The address of the peer is checked again
    before anything is sent. Proxies of the environment are not used, and nothing is decompressed.

    Args:
        url: The URL.
        max_bytes: Maximum size of the response.
        seconds: Maximum time, redirects included.
        permitted: Whether an IP address may be connected to.
        ports: Permitted ports.
        on_bytes: Called with the size of each chunk before it is kept; it may raise.

    Raises:
        RequestRefused: 403, an address or port is not permitted; 413, the response is too large; 422, the URL is
            invalid or cannot be fetched.
    """
    httpx = require("httpx2", extra="api")
    try:
        async with asyncio.timeout(seconds), httpx.AsyncClient(trust_env=False, timeout=seconds) as client:
            for _ in range(_MAX_REDIRECTS + 1):
                target = _parsed(httpx, url)
                port = target.port or (443 if target.scheme == "https" else 80)
                if port not in ports:
                    allowed = ", ".join(map(str, ports))
                    raise _forbidden(f"port {port} of '{target.host}' is not allowed (allowed: {allowed})")
                address = await _resolve(target.host, port, permitted)
                body_or_redirect = await _get(client, target, address, max_bytes, on_bytes, permitted)
                if isinstance(body_or_redirect, bytes):
                    return body_or_redirect
                url = str(target.join(body_or_redirect))
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise _failed(url, f"it cannot be fetched ({reason})") from error
    raise _failed(url, f"it redirects more than {_MAX_REDIRECTS} times")


def _parsed(httpx: ModuleType, url: str) -> httpx2.URL:
    target: httpx2.URL = httpx.URL(url)
    if target.scheme not in ("http", "https") or not target.host or target.userinfo:
        raise _failed(url, "only http and https URLs without credentials are allowed")
    if target.port is not None and target.port > 65_535:
        raise _failed(url, f"port {target.port} does not exist")
    return target


async def _resolve(host: str, port: int, permitted: Callable[[str], bool]) -> str:
    """The first address of a host, if all its addresses are permitted."""
    entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in entries]
    if not addresses or not all(permitted(address) for address in addresses):
        raise _forbidden(f"'{host}' is not on the public internet")
    return addresses[0]


async def _get(
    client: httpx2.AsyncClient,
    target: httpx2.URL,
    address: str,
    max_bytes: int,
    on_bytes: OnBytes | None,
    permitted: Callable[[str], bool],
) -> bytes | str:
    """The body from this address, or the location it redirects to."""

    async def check_peer(event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            peer = info["return_value"].get_extra_info("server_addr")
            if not permitted(str(peer[0])):
                raise _forbidden(f"'{target.host}' is not on the public internet")

    by_address = target.copy_with(host=address)
    host = target.netloc.decode("ascii")
    headers = {"Host": host, "Accept": "image/*", "Accept-Encoding": "identity"}
    extensions = {"sni_hostname": target.host, "trace": check_peer}
    request = client.build_request("GET", by_address, headers=headers, extensions=extensions)
    response = await client.send(request, stream=True, follow_redirects=False)
    try:
        if response.has_redirect_location:
            location: str = response.headers["location"]
            return location
        if response.status_code != 200:
            raise _failed(str(target), f"its server responded with status {response.status_code}")
        data = bytearray()
        async for chunk in response.aiter_raw():
            if len(data) + len(chunk) > max_bytes:
                raise RequestRefused(
                    413, "too_large", f"'{target}' has more than {max_bytes:,} bytes; send a smaller image"
                )
            if on_bytes is not None:
                on_bytes(len(chunk))
            data += chunk
        return bytes(data)
    finally:
        await response.aclose()


def _forbidden(why: str) -> RequestRefused:
    return RequestRefused(403, "forbidden_address", f"{why}; send the image itself")


def _failed(url: str, why: str) -> RequestRefused:
    return RequestRefused(422, "url_error", f"'{url[:200]}': {why}; send the image itself")
