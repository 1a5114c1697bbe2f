"""Caption files as text: UTF-8 if they are, readable if they are not."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import TextIO

SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "dev", "test")


def _as_cp1252(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    wrong = error.object[error.start : error.end]
    try:
        return wrong.decode("cp1252"), error.end
    except UnicodeDecodeError:
        return wrong.decode("latin-1"), error.end  # five bytes mean nothing in cp1252


# Caption files typed on Windows mix encodings line by line, so each byte that is not UTF-8 is read as cp1252 by itself.
codecs.register_error("diptych_cp1252", _as_cp1252)


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """Open a caption file: UTF-8 with or without a mark, or UTF-16 with one; bytes that are not UTF-8 as cp1252."""
    with path.open("rb") as file:
        mark = file.read(2)
    encoding = "utf-16" if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    return path.open(encoding=encoding, errors="diptych_cp1252", newline=newline)


def wrong_encoding(path: Path) -> list[int]:
    """The numbers (from 1) of the lines that are not UTF-8 and were read as cp1252; for the doctor."""
    wrong = []
    with path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return []
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                wrong.append(number)
    return wrong


def clean(caption: object) -> str:
    """A caption without surrounding whitespace; nothing (null, NaN) is ""."""
    if caption is None or caption != caption:
        return ""
    return str(caption).encode("utf-8", "replace").decode().strip()  # JSON may hold lone surrogates; Arrow may not


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
