"""Contact sheets: images in a grid, each with a heading and a caption below it."""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from diptych.errors import ConfigError
from diptych.runtime.atomic import new_file

Colour = tuple[int, int, int]

PAPER: Colour = (244, 245, 248)
CARD: Colour = (255, 255, 255)
MAT: Colour = (232, 234, 239)
INK: Colour = (28, 32, 42)
FAINT: Colour = (104, 111, 125)
RIGHT: Colour = (34, 160, 84)

_SOFTWARE, _NAME = 0x0131, "diptych"  # the EXIF tag that marks a sheet as made by diptych

_MARGIN, _GAP, _PAD, _RADIUS = 28, 18, 10, 10
_TITLE, _HEADING, _TEXT = 24, 15, 14  # font sizes
_LINE = 1.35  # line height, in font sizes

# Pillow's own font has little more than ASCII; the first of these that has all of a text's characters is used.
_FONT_FILES = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "Arial Unicode.ttf", "NotoSansCJK-Regular.ttc"),
    *("PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc", "meiryo.ttc", "malgun.ttf", "wqy-zenhei.ttc"),
)


@dataclass(frozen=True, slots=True)
class Tile:
    """A cell of the grid. Without a `image`, a grey field shows `missing`; `highlight` adds a green frame."""

    image: Image.Image | None
    text: str = ""
    heading: str = ""
    highlight: bool = False
    missing: str = "no image"


def image_grid(
    tiles: Sequence[Tile], *, title: str, columns: int | None = None, tile_size: int = 200, lines: int = 3
) -> Image.Image:
    """The tiles in rows below a title. Images are fitted into squares of `tile_size` pixels with their shape kept.

    Texts are wrapped to at most `lines` lines. By default there are 3 to 6 columns. Thumbnails of `tile_size` pixels
    are large enough.
    """
    columns = max(1, min(columns or _default_columns(len(tiles)), len(tiles) or 1))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    wrapped = [[_wrap(tile.text, _TEXT, tile_size, lines) for tile in row] for row in rows]
    heights = [_card_height(row, texts, tile_size) for row, texts in zip(rows, wrapped, strict=True)]
    inner = columns * (tile_size + 2 * _PAD) + (columns - 1) * _GAP
    head = _wrap(title, _TITLE, inner, 2)
    top = _MARGIN + head.height + (_GAP if head.lines else 0)
    height = top + sum(heights) + _GAP * max(0, len(rows) - 1) + _MARGIN
    sheet = Image.new("RGB", (inner + 2 * _MARGIN, height), PAPER)
    _write(sheet, head, (_MARGIN, _MARGIN), INK)
    for row, texts, card_height in zip(rows, wrapped, heights, strict=True):
        for column, (tile, text) in enumerate(zip(row, texts, strict=True)):
            left = _MARGIN + column * (tile_size + 2 * _PAD + _GAP)
            sheet.paste(_card(tile, text, tile_size, card_height), (left, top))
        top += card_height + _GAP
    return sheet


def _default_columns(count: int) -> int:
    return min(6, max(3, math.ceil(math.sqrt(count * 1.5))))


@dataclass(frozen=True, slots=True)
class _Text:
    """A text wrapped into lines, and a font that has its characters."""

    lines: list[str]
    font: ImageFont.FreeTypeFont
    size: int

    @property
    def height(self) -> int:
        return round(len(self.lines) * self.size * _LINE)


def _card_height(row: Sequence[Tile], texts: Sequence[_Text], tile_size: int) -> int:
    """The height of a row's cards, for its longest text."""
    heading = round(_HEADING * _LINE) if any(tile.heading for tile in row) else 0
    text = max(text.height for text in texts)
    return tile_size + 2 * _PAD + heading + text + (_PAD if heading or text else 0)


def _card(tile: Tile, text: _Text, tile_size: int, height: int) -> Image.Image:
    size = (tile_size + 2 * _PAD, height)
    card = Image.new("RGB", size, PAPER)
    if tile.highlight:
        card.paste(RIGHT, (0, 0, *size), _rounded(size, _RADIUS))
        inside = (size[0] - 6, size[1] - 6)
        card.paste(CARD, (3, 3, size[0] - 3, size[1] - 3), _rounded(inside, _RADIUS - 3))
    else:
        card.paste(CARD, (0, 0, *size), _rounded(size, _RADIUS))
    card.paste(_framed(tile, tile_size), (_PAD, _PAD), _rounded((tile_size, tile_size), _RADIUS // 2))
    y = tile_size + 2 * _PAD
    if tile.heading:
        heading = _wrap(tile.heading, _HEADING, tile_size, 1)
        _write(card, heading, (_PAD, y), RIGHT if tile.highlight else INK)
        y += heading.height
    _write(card, text, (_PAD, y), FAINT if tile.heading else INK)
    return card


def _framed(tile: Tile, tile_size: int) -> Image.Image:
    """The image centred in a square with its shape kept, or the text that replaces it."""
    square = Image.new("RGB", (tile_size, tile_size), MAT)
    if tile.image is None:
        words = _wrap(tile.missing, _TEXT, tile_size - 2 * _PAD, 4)
        _write(square, words, (tile_size // 2, (tile_size - words.height) // 2), FAINT, centred=True)
        return square
    fitted = ImageOps.contain(tile.image.convert("RGB"), (tile_size, tile_size), Image.Resampling.LANCZOS)
    square.paste(fitted, ((tile_size - fitted.width) // 2, (tile_size - fitted.height) // 2))
    return square


@functools.lru_cache(maxsize=64)
def _rounded(size: tuple[int, int], radius: int) -> Image.Image:
    """An antialiased mask of a rectangle with rounded corners."""
    mask = Image.new("L", (size[0] * 3, size[1] * 3))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] * 3 - 1, size[1] * 3 - 1), radius * 3, fill=255)
    return mask.resize(size, Image.Resampling.BOX)


def _write(image: Image.Image, text: _Text, at: tuple[int, int], ink: Colour, *, centred: bool = False) -> None:
    """Write lines downwards from `at`."""
    brush = ImageDraw.Draw(image)
    for number, line in enumerate(text.lines):
        place = (at[0], at[1] + round(number * text.size * _LINE))
        brush.text(place, line, ink, text.font, anchor="ma" if centred else "la")


def _wrap(text: str, size: int, width: int, lines: int) -> _Text:
    """Wrap a text into at most `lines` lines of `width` pixels, with an ellipsis where it is cut off."""
    text, font = _drawable(text, size)
    done: list[str] = []
    while text:
        if len(done) == lines:
            done[-1] = _cut(done[-1] + " " + text, font, width - font.getlength("…")).rstrip() + "…"
            break
        line = _cut(text, font, width)
        if len(line) < len(text) and text[len(line)] != " " and " " in line.rstrip():
            line = line[: line.rindex(" ")]
        done.append(line.rstrip())
        text = text[len(line) :].lstrip()
    return _Text(done, font, size)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The longest beginning of `text` that fits into `width` pixels, at least one character."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return text[:low]


def _drawable(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """The text as one line of printable characters, and its font; letters that the font lacks lose their accents."""
    text = unicodedata.normalize("NFC", " ".join(text.split())[:2000])
    text = "".join(letter for letter in text if letter.isprintable())
    font = _font_for(text, size)
    return "".join(letter if _has(font, letter) else _plain(letter) for letter in text), font


def _plain(letter: str) -> str:
    return unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or letter


def _font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The first font that has every character of the text, or else the one that lacks the fewest."""
    letters = set(text)
    best, fewest = _font(None, size), math.inf
    for name in (None, *_FONT_FILES):
        if font := _font(name, size):
            lacking = sum(not _has(font, letter) for letter in letters)
            if lacking < fewest:
                best, fewest = font, lacking
            if not lacking:
                break
    assert best is not None
    return best


@functools.lru_cache(maxsize=128)
def _font(name: str | None, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        font = ImageFont.load_default(size) if name is None else ImageFont.truetype(name, size)
    except OSError:
        return None
    return font if isinstance(font, ImageFont.FreeTypeFont) else None


@functools.lru_cache(maxsize=8192)
def _has(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    """Whether the font has a glyph for the letter; U+FFFF is not a character, so it shows the replacement glyph."""
    return bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))


def save_contact_sheet(image: Image.Image, path: Path) -> None:
    """Save a contact sheet, replacing an earlier one but never another image.

    Raises:
        ConfigError: `path` is a file that diptych did not make.
    """
    if path.is_file() and path.stat().st_size and not _is_ours(path):
        raise ConfigError(f"'{path}' exists and was not made by diptych; name another file")
    marked = Image.Exif()
    marked[_SOFTWARE] = _NAME
    with new_file(path) as file:
        image.save(file, exif=marked)


def _is_ours(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.getexif().get(_SOFTWARE) == _NAME
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
