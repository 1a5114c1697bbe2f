"""Caption sinks: JSON lines, CSV, or a text file beside each image. An interrupted run continues where it stopped."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from diptych.captioning.many_images import CaptionResult
from diptych.errors import ConfigError, DataError, NextStep
from diptych.images.paths import from_text
from diptych.runtime.atomic import storing, write_bytes, write_text
from diptych.runtime.files import open_file

SCORES = ("score", "confidence", "similarity", "probability")
COLUMNS = ("image", "rank", "caption", *SCORES, "error")
_HEADER = ",".join(COLUMNS) + "\n"
_ONE_FILE = NextStep("name that file", "output")
_LINE_START = '{"image": "'  # of a JSON line


class CaptionSink(Protocol):
    """A destination of captions."""

    def done(self, path: str) -> bool:
        """Whether an earlier run wrote this image's captions, or the reason why it has none."""

    def write(self, results: Iterable[CaptionResult]) -> None:
        """Write the captions of some images."""


class CaptionFile:
    """A `.jsonl` or `.csv` file of captions. Captions of an earlier run are kept; a truncated last line is removed.

    Raises:
        ConfigError: The suffix is another.
        DataError: The file exists and does not hold captions.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in _FORMATS:
            raise ConfigError(f"'{path}' has the suffix '{path.suffix}'; valid: {', '.join(_FORMATS)}")
        self.path = path
        self._lines, paths = _FORMATS[path.suffix.lower()]
        path.parent.mkdir(parents=True, exist_ok=True)
        content = b""
        if path.exists():
            with open_file(path) as file:
                content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        try:
            self._done = paths(complete.decode("utf-8"), content[len(complete) :].decode("utf-8", "ignore"))
        except (ValueError, KeyError, TypeError, csv.Error, RecursionError) as error:
            raise DataError(f"'{path}' contains no captions of an earlier run ({error}); use another file") from error
        if len(complete) < len(content):
            write_bytes(path, complete)

    def done(self, path: str) -> bool:
        """Whether the file already had this image when it was opened."""
        return path in self._done

    def write(self, results: Iterable[CaptionResult]) -> None:
        """Append the captions of some images."""
        is_new = not self.path.exists() or not self.path.stat().st_size
        text = "".join(self._lines(result) for result in results)
        remaining = (_HEADER + text if is_new and self.path.suffix.lower() == ".csv" else text).encode()
        note = "the captions before these are kept, and the same command continues after them"
        with (
            storing(self.path, note),
            self.path.open("ab", buffering=0) as file,  # unbuffered: a killed process cannot split one write
        ):
            while remaining:  # a nearly full disk accepts a part and refuses the rest
                remaining = remaining[file.write(remaining) :]


class Sidecars:
    """A text file beside each image, `photo.txt` for `photo.jpg`, one caption a line.

    Existing text files are never overwritten; of `photo.jpg` and `photo.png` the first gets it. Images without captions
    get no file. Images inside an archive cannot have one.
    """

    def done(self, path: str) -> bool:
        """Whether the image's text file exists."""
        return os.path.lexists(self._sidecar(path))  # writing would follow a dangling link

    def write(self, results: Iterable[CaptionResult]) -> None:
        """Write the text files of some images.

        Raises:
            ConfigError: A file cannot be written, or an image lies inside an archive.
        """
        for result in results:
            if not result.texts or os.path.lexists(target := self._sidecar(result.path)):
                continue
            try:
                write_text(target, "".join(f"{text.text}\n" for text in result.texts))
            except OSError as error:
                raise ConfigError(
                    f"cannot write '{target}' ({error.strerror}); write the captions to one file instead",
                    steps=[_ONE_FILE],
                ) from error

    def _sidecar(self, path: str) -> Path:
        image = from_text(path)
        if not image.parent.is_dir():
            raise ConfigError(
                f"'{path}' lies inside another file, so no text file can stand beside it; write the captions to one "
                "file instead",
                steps=[_ONE_FILE],
            )
        return image.with_suffix(".txt")


def as_dict(result: CaptionResult) -> dict[str, object]:
    """An image and its texts as a JSON object."""
    if result.reason:
        return {"image": result.path, "error": result.reason, "message": result.message}
    texts = [{key: _rounded(value) for key, value in asdict(text).items()} for text in result.texts]
    return {"image": result.path, "captions": texts}


def _json_lines(result: CaptionResult) -> str:
    return json.dumps(as_dict(result), ensure_ascii=False) + "\n"


def _json_paths(text: str, rest: str) -> set[str]:
    """The images of an earlier run's lines; `rest` follows the last complete line."""
    if not rest.startswith(_LINE_START[: len(rest)]):
        raise ValueError(f"its last line begins with {rest[:20]}")
    # Not `splitlines`: a caption or a name may contain other line separators, such as U+2028.
    records = [json.loads(line) for line in text.split("\n") if line]
    try:
        last = [json.loads(rest)]
    except ValueError:  # truncated, as a killed run leaves it
        last = []
    for record in (*records, *last):
        if not {"captions", "error"} & set(record):
            raise ValueError(f"a line of it has only {', '.join(record)}")
    return {record["image"] for record in records}


def _csv_lines(result: CaptionResult) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    if result.reason:
        writer.writerow({"image": result.path, "error": result.reason})
    for rank, text in enumerate(result.texts, 1):
        scores = {name: _rounded(getattr(text, name)) for name in SCORES if hasattr(text, name)}
        writer.writerow({"image": result.path, "rank": rank, "caption": text.text, **scores})
    return file.getvalue()


def _csv_paths(text: str, rest: str) -> set[str]:
    lines = csv.reader(io.StringIO(text))
    header = next(lines, None)
    if header != list(COLUMNS) if header else not _HEADER.startswith(rest):
        raise ValueError(f"its columns are {', '.join(header or rest.split(','))}")
    return {line[0] for line in lines if line}


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


_FORMATS = {".jsonl": (_json_lines, _json_paths), ".csv": (_csv_lines, _csv_paths)}
