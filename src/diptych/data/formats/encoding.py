"""Caption files as text: UTF-8 if they are, readable if they are not."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from diptych.errors import DataError
from diptych.runtime.files import MAX_RECORD, TextFile, open_file

SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "dev", "test")

# Five bytes mean nothing in cp1252; they are read as Latin-1.
_CP1252 = "".join(
    bytes([byte]).decode("latin-1" if byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else "cp1252") for byte in range(256)
)
# Bytes that no UTF-8 character begins with. A run of them is read in one call, since a call for each takes minutes.
_NEVER_FIRST = re.compile(rb"[\x80-\xc1\xf5-\xff]*")


def _as_cp1252(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    end = error.end
    if error.encoding == "utf-8" and (run := _NEVER_FIRST.match(error.object, end)):
        end = run.end()
    return codecs.charmap_decode(error.object[error.start : end], "strict", _CP1252)[0], end


# Caption files typed on Windows mix encodings line by line, so each byte that is not UTF-8 is read as cp1252 by itself.
codecs.register_error("diptych_cp1252", _as_cp1252)


def open_text(path: Path, newline: str | None = None) -> TextFile:
    """Open a caption file: UTF-8 with or without a mark, or UTF-16 with one; bytes that are not UTF-8 as cp1252.

    Raises:
        DataError: it is no regular file; while it is read: a line is longer than `MAX_RECORD`.
    """
    with open_file(path) as file:
        mark = file.read(2)
    encoding = "utf-16" if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    return TextFile(path, encoding, "diptych_cp1252", newline)


_MOST_WRONG = 100_000


def wrong_encoding(path: Path) -> list[int]:
    """The numbers (from 1) of the first 100,000 lines that are not UTF-8 and were read as cp1252; for the doctor."""
    wrong: list[int] = []
    with open_file(path) as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return wrong
        file.seek(0)
        number, decoder = 1, codecs.getincrementaldecoder("utf-8")()
        while len(wrong) < _MOST_WRONG and (piece := file.readline(MAX_RECORD)):
            ends = piece.endswith(b"\n")
            try:
                decoder.decode(piece, final=ends)
            except UnicodeDecodeError:
                decoder.reset()
                if not wrong or wrong[-1] != number:
                    wrong.append(number)
            number += ends
    if decoder.getstate()[0]:  # the last line ends within a character
        wrong.append(number)
    return wrong


def clean(caption: object) -> str:
    """A caption without surrounding whitespace; nothing (null, NaN) is ""."""
    if caption is None or caption != caption:
        return ""
    try:
        text = str(caption)
    except RecursionError as error:
        raise DataError(f"a caption is nested too deeply ({error}); write it as text") from error
    return text.encode("utf-8", "replace").decode().strip()  # JSON may hold lone surrogates; Arrow may not


def split_of(path: Path, base: Path) -> str | None:
    """The split that a file's name says (`captions_train2014.json`, `cc-val-0001.tar`), else the name of its folder.

    The folder counts only below `base`, the data set's own: people keep whole data sets in folders called "test".
    """
    words = [word for word in re.findall("[a-z]+", path.name.split(".")[0].lower()) if word in SPLIT_NAMES]
    if words:
        return words[0] if len(words) == 1 else None
    return folder_split(path, base)


def folder_split(path: Path, base: Path) -> str | None:
    folder = path.absolute().parent
    return folder.name.lower() if folder != base and folder.name.lower() in SPLIT_NAMES else None
