"""Files fetched over HTTP: resumed where they were cut, checked against a checksum, whole or not there at all."""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.errors import DataError
from diptych.progress import Progress, silent

_BLOCK = 1 << 20
_TRIES = 5  # in a row without a byte
_TIMEOUT = 30.0  # seconds without an answer or a byte
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
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return f"{name}:{digest.hexdigest()}"


def open_url(url: str, start: int = 0, timeout: float = _TIMEOUT) -> Any:
    """The answer to a GET, from byte `start` on if the server can.

    Raises:
        DataError: the server refuses in a way that trying again does not mend, or `url` is not http or https.
    """
    if not url.startswith(("http://", "https://")):
        raise DataError(f"'{url}' is no http or https address")
    headers = {
        "User-Agent": "diptych",
        "Accept-Encoding": "identity",
        **({"Range": f"bytes={start}-"} if start else {}),
    }
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code in (408, 429) or error.code >= 500:
            raise
        step = {401: "it asks for a login", 403: "it is not free to fetch", 404: "it was moved or removed"}
        raise DataError(f"'{url}' answers {error.code}: {step.get(error.code, error.reason)}") from error


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
            while have < file.size and (block := answer.read(min(_BLOCK, file.size - have))):
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
