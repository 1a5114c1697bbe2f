"""A picture by its URL, from public addresses alone: the server never asks its own network for somebody outside it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from diptych.api.refusals import Refused
from diptych.errors import require

Take = Callable[[int], None]

_REDIRECTS = 3
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an address is of the public internet, also by the IPv4 address that an IPv6 one may carry inside."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inside = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inside = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(str(inside))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


async def fetch(
    url: str,
    *,
    max_bytes: int,
    seconds: float = 10.0,
    permitted: Callable[[str], bool] = is_public,
    take: Take = lambda count: None,
) -> bytes:
    """The bytes at an http or https URL, following three redirects; `take` is told of each few before they are kept.

    Each name is resolved once, all its addresses must be `permitted`, and the connection goes to the one that was
    checked, so that a name which resolves to something else a moment later gains nothing. Proxies of the environment
    are not used, and nothing is decompressed.

    Raises:
        Refused: 403 for an address that is not permitted, 413 for too many bytes, what `take` raises, 422 for all else.
    """
    httpx = require("httpx2", extra="api")
    try:
        async with asyncio.timeout(seconds), httpx.AsyncClient(trust_env=False, timeout=seconds) as client:
            for _ in range(_REDIRECTS + 1):
                target = _parsed(httpx, url)
                address = await _resolve(target.host, target.port or _port(target), permitted)
                answer = await _get(client, target, address, max_bytes, take)
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
    return target


def _port(target: Any) -> int:
    return 443 if target.scheme == "https" else 80


async def _resolve(host: str, port: int, permitted: Callable[[str], bool]) -> str:
    """One address of a name, all of which are permitted."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(permitted(address) for address in addresses):
        raise Refused(403, "forbidden_address", f"'{host}' is not on the public internet; send the picture itself")
    return addresses[0]


async def _get(client: Any, target: Any, address: str, max_bytes: int, take: Take) -> bytes | str:
    """The body from this very address, or where it redirects to."""
    there = target.copy_with(host=address)
    host = target.netloc.decode("ascii")
    headers = {"Host": host, "Accept": "image/*", "Accept-Encoding": "identity"}
    request = client.build_request("GET", there, headers=headers, extensions={"sni_hostname": target.host})
    answer = await client.send(request, stream=True, follow_redirects=False)
    try:
        if answer.has_redirect_location:
            return answer.headers["location"]
        if answer.status_code != 200:
            raise _failed(str(target), f"its server answers {answer.status_code}")
        data = bytearray()
        async for chunk in answer.aiter_raw():
            if len(data) + len(chunk) > max_bytes:
                raise Refused(413, "too_large", f"'{target}' has more than {max_bytes:,} bytes; send a smaller picture")
            take(len(chunk))
            data += chunk
        return bytes(data)
    finally:
        await answer.aclose()


def _failed(url: str, why: str) -> Refused:
    return Refused(422, "url_error", f"'{url[:200]}': {why}; send the picture itself")
