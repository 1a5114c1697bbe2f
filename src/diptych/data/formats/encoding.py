"""Text decoding of caption files, and the split names found in file and folder names."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from diptych.errors import DataError
from diptych.runtime.files import MAX_RECORD, TextFile, open_file

SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "dev", "test")

# Five bytes are undefined in cp1252; they are decoded as Latin-1.
_CP1252 = "".join(
    bytes([byte]).decode("latin-1" if byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else "cp1252") for byte in range(256)
)
# Bytes that cannot start a UTF-8 character. A run of them is decoded in one call; one call per byte takes minutes.
_NEVER_FIRST = re.compile(rb"[\x80-\xc1\xf5-\xff]*")


def _as_cp1252(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    end = error.end
    if error.encoding == "utf-8" and (run := _NEVER_FIRST.match(error.object, end)):
        end = run.end()
    return codecs.charmap_decode(error.object[error.start : end], "strict", _CP1252)[0], end


# Caption files edited on Windows mix encodings within a file, so each invalid UTF-8 byte is decoded as cp1252.
codecs.register_error("diptych_cp1252", _as_cp1252)


def open_text(path: Path, newline: str | None = None) -> TextFile:
    """Open a caption file as UTF-8 (with or without a BOM) or UTF-16 (with a BOM); invalid UTF-8 is decoded as cp1252.

    Raises:
        DataError: the path is not a regular file, or, while reading, a line is longer than `MAX_RECORD`.
    """
    with open_file(path) as file:
        bom = file.read(2)
    encoding = "utf-16" if bom in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    return TextFile(path, encoding, "diptych_cp1252", newline)


_MAX_LINES = 100_000


def wrong_encoding(path: Path) -> list[int]:
    """The line numbers, from 1, of at most 100,000 lines that are not valid UTF-8 and are decoded as cp1252."""
    wrong: list[int] = []
    with open_file(path) as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return wrong
        file.seek(0)
        number, decoder = 1, codecs.getincrementaldecoder("utf-8")()
        while len(wrong) < _MAX_LINES and (piece := file.readline(MAX_RECORD)):
            ends = piece.endswith(b"\n")
            try:
                decoder.decode(piece, final=ends)
            except UnicodeDecodeError:
                decoder.reset()
                if not wrong or wrong[-1] != number:
                    wrong.append(number)
            number += ends
    if decoder.getstate()[0]:  # the file ends within a character
        wrong.append(number)
    return wrong


def clean(caption: object) -> str:
    """The caption as stripped text; null and NaN become ""."""
    if caption is None or caption != caption:
        return ""
    try:
        text = str(caption)
    except RecursionError as error:
        raise DataError(f"a caption is nested too deeply ({error}); write it as text") from error
    return text.encode("utf-8", "replace").decode().strip()  # JSON allows lone surrogates, Arrow does not


# What pandas reads as a missing value, and so what programs write for one.
EMPTY_CELLS = frozenset(
    ("nan", "NaN", "-nan", "-NaN", "NA", "<NA>", "N/A", "n/a", "#N/A", "#NA", "None", "NULL", "Null", "null", "NaT")
)


def caption_text(caption: object) -> str:
    """The caption as stripped text; what programs write for a missing value, such as `nan` or `None`, is ""."""
    text = clean(caption)
    return "" if text in EMPTY_CELLS else text


def split_of(path: Path, base: Path) -> str | None:
    """The split named by a file (`captions_train2014.json`, `cc-val-0001.tar`), or else by its folder.

    Only folders below `base`, the root of the data set, count: a whole data set may lie in a folder called "test".
    """
    words = [word for word in re.findall("[a-z]+", path.name.split(".")[0].lower()) if word in SPLIT_NAMES]
    if words:
        return words[0] if len(words) == 1 else None
    return folder_split(path, base)


def folder_split(path: Path, base: Path) -> str | None:
    """The split named by the parent folder of `path`, if that folder lies below `base`."""
    folder = path.absolute().parent
    return folder.name.lower() if folder != base and folder.name.lower() in SPLIT_NAMES else None


def split_in_name(name: str) -> str | None:
    """The split named by the first folder of an image name that is a split: `train` for `images/train/cat/1.jpg`."""
    return next((part.lower() for part in name.split("/")[:-1] if part.lower() in SPLIT_NAMES), None)
