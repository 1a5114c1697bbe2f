"""Where captions go: JSON lines, CSV, or text files beside the pictures; a killed run goes on where it was."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from diptych.captioning.many_images import CaptionResult
from diptych.errors import ConfigError, DataError
from diptych.images.paths import from_text
from diptych.runtime.atomic import storing, write_bytes, write_text
from diptych.runtime.files import open_file

SCORES = ("score", "confidence", "similarity", "probability")
COLUMNS = ("image", "rank", "caption", *SCORES, "error")
_HEADER = ",".join(COLUMNS) + "\n"
_BEGINNING = '{"image": "'  # of a JSON line


class CaptionSink(Protocol):
    """Where captions go."""

    def done(self, path: str) -> bool:
        """Whether an earlier run wrote the captions of this picture, or why it has none."""

    def write(self, described: Iterable[CaptionResult]) -> None: ...


class CaptionFile:
    """A file of captions, `.jsonl` or `.csv`; what an earlier run wrote stays, but for a line that was cut off.

    Raises:
        ConfigError: the suffix is another.
        DataError: the file is there and holds something else.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in _FORMS:
            raise ConfigError(f"captions are written as {' or '.join(_FORMS)}, not as '{path.name}'; name another file")
        self.path = path
        self._lines, paths = _FORMS[path.suffix.lower()]
        path.parent.mkdir(parents=True, exist_ok=True)
        there = b""
        if path.exists():
            with open_file(path) as file:
                there = file.read()
        whole = there[: there.rfind(b"\n") + 1]
        try:
            self._there = paths(whole.decode("utf-8"), there[len(whole) :].decode("utf-8", "ignore"))
        except (ValueError, KeyError, TypeError, csv.Error, RecursionError) as error:
            raise DataError(f"'{path}' holds no captions of an earlier run ({error}); name another file") from error
        if len(whole) < len(there):
            write_bytes(path, whole)

    def done(self, path: str) -> bool:
        return path in self._there

    def write(self, described: Iterable[CaptionResult]) -> None:
        is_new = not self.path.exists() or not self.path.stat().st_size
        text = "".join(self._lines(each) for each in described)
        left = (_HEADER + text if is_new and self.path.suffix.lower() == ".csv" else text).encode()
        kept = "the captions before these are kept, and the same command goes on behind them"
        with (
            storing(self.path, kept),
            self.path.open("ab", buffering=0) as file,
        ):  # one call, which a kill does not cut in two
            while left:  # a disk that is nearly full takes a part, and refuses the rest
                left = left[file.write(left) :]


class Sidecars:
    """A text file beside each picture, `photo.txt` for `photo.jpg`, a line a caption; pictures in a tar have none.

    One that is there already is left alone, whoever wrote it: of `photo.jpg` and `photo.png` the first has it. Pictures
    without captions get none.
    """

    def done(self, path: str) -> bool:
        return os.path.lexists(self._beside(path))  # a link that leads nowhere would be written through

    def write(self, described: Iterable[CaptionResult]) -> None:
        for each in described:
            if not each.texts or os.path.lexists(target := self._beside(each.path)):
                continue
            try:
                write_text(target, "".join(f"{text.text}\n" for text in each.texts))
            except OSError as error:
                raise ConfigError(f"cannot write '{target}' ({error.strerror}); use --out") from error

    def _beside(self, path: str) -> Path:
        picture = from_text(path)
        if not picture.parent.is_dir():
            raise ConfigError(f"'{path}' lies inside another file, so no text file can stand beside it; use --out")
        return picture.with_suffix(".txt")


def as_dict(described: CaptionResult) -> dict[str, Any]:
    """A picture and its texts as JSON has them."""
    if described.reason:
        return {"image": described.path, "error": described.reason, "message": described.message}
    texts = [{key: _rounded(value) for key, value in asdict(text).items()} for text in described.texts]
    return {"image": described.path, "captions": texts}


def _json_lines(described: CaptionResult) -> str:
    return json.dumps(as_dict(described), ensure_ascii=False) + "\n"


def _json_paths(text: str, cut: str) -> set[str]:
    """The pictures of an earlier run's lines; `cut` is what stands behind the last whole line."""
    if not cut.startswith(_BEGINNING[: len(cut)]):
        raise ValueError(f"its last line begins with {cut[:20]}")
    # Not `splitlines`: a caption or a name may hold what it takes for the end of a line, such as U+2028.
    records = [json.loads(line) for line in text.split("\n") if line]
    try:
        last = [json.loads(cut)]
    except ValueError:  # cut off, as a killed run leaves it
        last = []
    for record in (*records, *last):
        if not {"captions", "error"} & set(record):
            raise ValueError(f"a line of it has only {', '.join(record)}")
    return {record["image"] for record in records}


def _csv_lines(described: CaptionResult) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    if described.reason:
        writer.writerow({"image": described.path, "error": described.reason})
    for rank, text in enumerate(described.texts, 1):
        told = {name: _rounded(getattr(text, name)) for name in SCORES if hasattr(text, name)}
        writer.writerow({"image": described.path, "rank": rank, "caption": text.text, **told})
    return file.getvalue()


def _csv_paths(text: str, cut: str) -> set[str]:
    lines = csv.reader(io.StringIO(text))
    header = next(lines, None)
    if header != list(COLUMNS) if header else not _HEADER.startswith(cut):
        raise ValueError(f"its columns are {', '.join(header or cut.split(','))}")
    return {line[0] for line in lines if line}


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


_FORMS = {".jsonl": (_json_lines, _json_paths), ".csv": (_csv_lines, _csv_paths)}
