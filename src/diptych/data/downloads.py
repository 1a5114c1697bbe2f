"""Files fetched over HTTP: resumed where they were cut, checked against a checksum, whole or not there at all."""

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
_TRIES = 5  # in a row without a byte
_TIMEOUT = 30.0  # seconds without an answer or a byte
_SLOWEST, _PERIOD = 1_000, 60.0  # bytes a second, over so many seconds: a byte now and then is no answer
_PART = ".part"


@dataclass(frozen=True)
class RemoteFile:
    """A file that is to be fetched: where from, where to (a relative path with `/`), its size and its checksum.

    `checksum` is `sha256:HEX`, or `git:HEX` for the hash by which git knows a file's content (SHA-1 over a header and
    the content), which is what the hub tells of small files.
    """

    url: str
    path: str
    size: int
    checksum: str


def fetch(file: RemoteFile, folder: str | Path, *, progress: Progress = silent, wait: float = 1.0) -> Path:
    """Fetch a file into `folder`, and return its path there.

    What arrived before a cut stays beside it as `.part` and is gone on with, in this call (up to five times in a row
    without a byte, waiting `wait` seconds, then twice as long, and so on) or in a later one. A file that is there with
    the right checksum is not fetched again; one with another content is replaced once the new one is whole.

    Raises:
        DataError: its path leads out of the folder, the server has no such file or stays silent, or what came has
            another size or checksum than was told.
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
    if (found := checksum(part, file.checksum)) != file.checksum:
        part.unlink()
        raise DataError(
            f"'{file.path}' arrived with the checksum {found}, not {file.checksum}; it was removed. Fetch it again: "
            "if it happens twice, the file changed at its source or on its way"
        )
    part.replace(target)
    return target


def checksum(path: Path, kind: str) -> str:
    """The checksum of a file, of the kind that `kind` begins with (`sha256:` or `git:`)."""
    name = kind.partition(":")[0]
    digest = hashlib.sha256() if name == "sha256" else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with open_file(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return f"{name}:{digest.hexdigest()}"


def open_url(url: str, start: int = 0, timeout: float = _TIMEOUT) -> Any:
    """The answer to a GET, from byte `start` on if the server can.

    Raises:
        DataError: the server refuses in a way that trying again does not mend, `url` is not http or https, or it is
            redirected to something else, or from the internet into a private network.
    """
    if not url.startswith(("http://", "https://")):
        raise DataError(f"'{url}' is no http or https address")
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
        step = {401: "it asks for a login", 403: "it is not free to fetch", 404: "it was moved or removed"}
        raise DataError(f"'{url}' answers {error.code}: {step.get(error.code, error.reason)}") from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects to http and https alone, and not from a public host to one of this machine or its network."""

    def redirect_request(
        self, request: urllib.request.Request, answer: Any, code: int, message: str, headers: Any, url: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(request.full_url), urlsplit(url)
        if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme == "http"):
            raise DataError(f"'{request.full_url}' is redirected to '{url}', which is not {old.scheme}")
        if new.hostname != old.hostname and _is_private(new.hostname) and not _is_private(old.hostname):
            raise DataError(f"'{request.full_url}' is redirected to '{url}', which is in a private network")
        return super().redirect_request(request, answer, code, message, headers, url)


_OPENER = urllib.request.build_opener(_Redirects)


def _is_private(host: str | None) -> bool:
    """Whether any address of a host is not on the internet; a host without an address is left to the connection."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(not ipaddress.ip_address(str(each[4][0]).partition("%")[0]).is_global for each in found)


def read_answer(url: str, most: int) -> tuple[bytes, Any]:
    """The whole answer to a GET, of at most `most` bytes, and its headers.

    Raises:
        DataError: as `open_url`, or the answer is longer.
        OSError: the server does not answer, or is slower than 1 kB/s.
    """
    content = bytearray()
    with open_url(url) as answer:
        for block in _blocks(answer, most + 1):
            content += block
        if len(content) > most:
            raise DataError(f"'{url}' answers with more than {most:,} bytes; check the address")
        return bytes(content), answer.headers


def _blocks(answer: Any, size: int) -> Iterator[bytes]:
    """The next `size` bytes of an answer as they arrive."""
    began, arrived, checked = time.monotonic(), 0, 0
    while arrived < size and (block := answer.read1(min(_BLOCK, size - arrived))):
        arrived += len(block)
        yield block
        if (now := time.monotonic()) - began > _PERIOD:
            if arrived - checked < _SLOWEST * _PERIOD:
                raise _TooSlowError(f"fewer than {_SLOWEST:,} bytes a second arrive")
            began, checked = now, arrived


class _TooSlowError(OSError):
    """A server sends a byte now and then."""


def _arriving(file: RemoteFile, part: Path, wait: float) -> Iterator[int]:
    """Append to `part` until it has the file's size; yields once for each MiB that is there."""
    told, idle, reason = 0, 0, ""
    while (have := part.stat().st_size if part.exists() else 0) < file.size or not part.exists():
        if idle >= _TRIES:
            raise DataError(
                f"'{file.url}' was cut after {have:,} of {file.size:,} bytes, {_TRIES} times in a row ({reason}); "
                "run the command again to go on from there"
            )
        if idle:
            time.sleep(wait * 2 ** (idle - 1))
        try:
            for size in _appended(file, part, have):
                while told < min(size // _BLOCK, file.size // _BLOCK):
                    told += 1
                    yield told
        except _TooSlowError as error:
            raise DataError(f"'{file.url}': {error}; run the command again to go on from what arrived") from error
        except (OSError, http.client.HTTPException) as error:  # URLError, timeouts and resets are OSErrors
            reason = str(error) or type(error).__name__
        idle = 0 if part.exists() and part.stat().st_size > have else idle + 1
    while told < -(-file.size // _BLOCK):
        told += 1
        yield told


def _appended(file: RemoteFile, part: Path, have: int) -> Iterator[int]:
    """One request's bytes, appended; yields the size so far. Never writes more than the file's size."""
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
        raise DataError(f"the server names a file '{path}', which leads out of the folder; it is not fetched")
    return folder.joinpath(*parts)
