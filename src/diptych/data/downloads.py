"""Downloads over HTTP: resumed after an interruption, verified by checksum, complete or absent."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from diptych.errors import DataError
from diptych.runtime.files import open_file
from diptych.runtime.progress import Progress, silent

_BLOCK = 1 << 20
_TRIES = 5  # consecutive attempts without progress
_TIMEOUT = 30.0  # seconds without a response or a byte
_MIN_RATE, _PERIOD = 1_000, 60.0  # bytes per second, averaged over this many seconds
_PART = ".part"


@dataclass(frozen=True)
class RemoteFile:
    """A remote file: its URL, the relative path to save it under (with `/`), its size in bytes and its checksum.

    `checksum` is `sha256:HEX`, or `git:HEX` for git's blob hash (SHA-1 over a header and the content), which is what
    the hub publishes for small files.
    """

    url: str
    path: str
    size: int
    checksum: str


def fetch(file: RemoteFile, folder: str | Path, *, progress: Progress = silent, wait: float = 1.0) -> Path:
    """Download a file into `folder` and return its path.

    A partial download is kept beside the target as `.part` and resumed, within this call (up to five consecutive
    attempts without progress, waiting `wait` seconds, then twice as long, and so on) or by a later one. A file with the
    right checksum is not downloaded again; one with other content is replaced once the new one is complete.

    Raises:
        DataError: the path leads out of `folder`, the server does not have the file or does not respond, or the size or
            checksum differs from the expected one.
    """
    target = _inside(Path(folder), file.path)
    if target.is_file() and target.stat().st_size == file.size and checksum(target, file.checksum) == file.checksum:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + _PART)
    if part.exists() and part.stat().st_size > file.size:
        part.unlink()
    for _ in progress(_arriving(file, part, wait), -(-file.size // _BLOCK), f"fetching {file.path}, MiB"):
        pass
    if (actual := checksum(part, file.checksum)) != file.checksum:
        part.unlink()
        raise DataError(
            f"'{file.path}' has the checksum {actual} instead of {file.checksum} and was deleted. Download it again; "
            "if this happens twice, the file changed at its source"
        )
    part.replace(target)
    return target


def checksum(path: Path, kind: str) -> str:
    """The checksum of a file as `sha256:HEX` or `git:HEX`, whichever `kind` begins with."""
    name = kind.partition(":")[0]
    digest = hashlib.sha256() if name == "sha256" else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with open_file(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return f"{name}:{digest.hexdigest()}"


def open_url(url: str, start: int = 0, timeout: float = _TIMEOUT) -> Any:
    """The response to a GET request, from byte `start` on if the server supports ranges.

    Raises:
        DataError: the server refuses permanently, `url` is not HTTP or HTTPS, or it redirects to another scheme or from
            a public host into a private network.
    """
    if not url.startswith(("http://", "https://")):
        raise DataError(f"'{url}' is not an HTTP or HTTPS URL")
    headers = {
        "User-Agent": "diptych",
        "Accept-Encoding": "identity",
        **({"Range": f"bytes={start}-"} if start else {}),
    }
    try:
        return _OPENER.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code in (408, 429) or error.code >= 500:
            raise
        step = {401: "it requires a login", 403: "access is forbidden", 404: "it was moved or removed"}
        raise DataError(f"'{url}' returned status {error.code}: {step.get(error.code, error.reason)}") from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to HTTP and HTTPS only, and none from a public host to a private address."""

    def redirect_request(
        self, request: urllib.request.Request, answer: Any, code: int, message: str, headers: Any, url: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(request.full_url), urlsplit(url)
        if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme == "http"):
            raise DataError(f"'{request.full_url}' redirects to '{url}', which is not {old.scheme}")
        if new.hostname != old.hostname and _is_private(new.hostname) and not _is_private(old.hostname):
            raise DataError(f"'{request.full_url}' redirects to '{url}', which is in a private network")
        return super().redirect_request(request, answer, code, message, headers, url)


_OPENER = urllib.request.build_opener(_Redirects)


def _is_private(host: str | None) -> bool:
    """Whether any address of a host is not globally routable. A host that does not resolve fails on connection."""
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(not ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_global for address in addresses)


def read_response(url: str, limit: int) -> tuple[bytes, Any]:
    """The body of the response to a GET request, at most `limit` bytes, and its headers.

    Raises:
        DataError: as `open_url`, or the body is longer than `limit`.
        OSError: the server does not respond, or sends less than 1 kB/s.
    """
    content = bytearray()
    with open_url(url) as answer:
        for block in _blocks(answer, limit + 1):
            content += block
        if len(content) > limit:
            raise DataError(f"'{url}' returned more than {limit:,} bytes; check the URL")
        return bytes(content), answer.headers


def _blocks(answer: Any, size: int) -> Iterator[bytes]:
    """The next `size` bytes of a response, as they arrive."""
    began, arrived, checked = time.monotonic(), 0, 0
    while arrived < size and (block := answer.read1(min(_BLOCK, size - arrived))):
        arrived += len(block)
        yield block
        if (now := time.monotonic()) - began > _PERIOD:
            if arrived - checked < _MIN_RATE * _PERIOD:
                raise _TooSlowError(f"the server sends less than {_MIN_RATE:,} bytes per second")
            began, checked = now, arrived


class _TooSlowError(OSError):
    """The transfer rate fell below the minimum."""


def _arriving(file: RemoteFile, part: Path, wait: float) -> Iterator[int]:
    """Append to `part` until it has the size of the file; yields once for each MiB downloaded."""
    reported, idle, reason = 0, 0, ""
    while (have := part.stat().st_size if part.exists() else 0) < file.size or not part.exists():
        if idle >= _TRIES:
            raise DataError(
                f"'{file.url}' was interrupted after {have:,} of {file.size:,} bytes, {_TRIES} times in a row "
                f"({reason}); run the command again to resume"
            )
        if idle:
            time.sleep(wait * 2 ** (idle - 1))
        try:
            for size in _appended(file, part, have):
                while reported < min(size // _BLOCK, file.size // _BLOCK):
                    reported += 1
                    yield reported
        except _TooSlowError as error:
            raise DataError(f"'{file.url}': {error}; run the command again to resume") from error
        except (OSError, http.client.HTTPException) as error:  # URLError, timeouts and resets are OSErrors
            reason = str(error) or type(error).__name__
        idle = 0 if part.exists() and part.stat().st_size > have else idle + 1
    while reported < -(-file.size // _BLOCK):
        reported += 1
        yield reported


def _appended(file: RemoteFile, part: Path, have: int) -> Iterator[int]:
    """Append the bytes of one request; yields the size so far. Never writes beyond the size of the file."""
    with open_url(file.url, have) as answer:
        if have and answer.status != 206:  # the server sends the whole file again
            have = 0
        with part.open("r+b" if have else "wb") as sink:
            sink.seek(have)
            for block in _blocks(answer, file.size - have):
                sink.write(block)
                have += len(block)
                yield have
    if have < file.size:
        raise ConnectionError(f"the connection ended after {have:,} bytes")


def _inside(folder: Path, path: str) -> Path:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or ":" in path or any(part in ("..", ".") for part in parts):
        raise DataError(f"the server lists a file '{path}' that leads out of the folder; it was not downloaded")
    return folder.joinpath(*parts)
