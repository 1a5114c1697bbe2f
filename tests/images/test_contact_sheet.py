"""Contact sheets: layout, whole images, and texts of any kind."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFont

from diptych.images import contact_sheet as grids
from diptych.images.contact_sheet import CARD, MAT, PAPER, RIGHT, Tile, image_grid

RED, BLUE = (255, 0, 0), (0, 0, 255)


def _count(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(sheet) == colour).all(axis=2).sum())


def _extent(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int]:
    """Width and height of the area that has a colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    return int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


@pytest.mark.parametrize(("size", "fitted"), [((400, 100), (80, 20)), ((10, 40), (20, 80)), ((30, 30), (80, 80))])
def test_an_image_keeps_its_shape_and_fills_the_tile_in_one_direction(
    size: tuple[int, int], fitted: tuple[int, int]
) -> None:
    sheet = image_grid([Tile(Image.new("RGB", size, RED))], title="", tile_size=80)
    assert _extent(sheet, RED) == fitted


def test_a_picture_is_not_cropped() -> None:
    halves = Image.new("RGB", (100, 20), RED)
    halves.paste(BLUE, (50, 0, 100, 20))
    sheet = image_grid([Tile(halves)], title="", tile_size=100)
    assert _extent(sheet, RED) == _extent(sheet, BLUE) == (50, 20)


def test_tiles_are_laid_out_in_the_requested_columns() -> None:
    tiles = [Tile(Image.new("RGB", (9, 9), RED)) for _ in range(5)]
    two, five = (image_grid(tiles, title="t", columns=columns, tile_size=50) for columns in (2, 5))
    assert two.width < five.width
    assert two.height > five.height
    assert _count(two, RED) == _count(five, RED) > 5 * 48 * 48


def test_only_the_highlighted_tile_has_a_green_frame() -> None:
    tile = Image.new("RGB", (20, 20), RED)
    plain = image_grid([Tile(tile), Tile(tile)], title="", tile_size=60)
    framed = image_grid([Tile(tile), Tile(tile, highlight=True)], title="", tile_size=60)
    assert plain.size == framed.size
    assert _count(plain, RIGHT) == 0
    rows, columns = np.nonzero((np.asarray(framed) == RIGHT).all(axis=2))
    assert columns.min() > framed.width // 2
    assert len(rows) > 300


def test_a_missing_picture_is_a_grey_field_with_a_word_in_it() -> None:
    without_word = image_grid([Tile(None, missing="")], title="", tile_size=80)
    with_word = image_grid([Tile(None, missing="truncated")], title="", tile_size=80)
    assert 80 * 80 * 0.98 < _count(without_word, MAT) <= 80 * 80
    assert _count(with_word, MAT) < _count(without_word, MAT) - 50


def test_texts_are_cut_to_the_lines_allowed_and_stay_inside_their_tile() -> None:
    long = Tile(None, "word " * 500 + "x" * 500)
    sheet = image_grid([long], title="", tile_size=100, lines=2)
    assert sheet.height == image_grid([Tile(None, "word " * 22)], title="", tile_size=100, lines=2).height
    beside_text = np.asarray(sheet)[28 + 120 : 28 + 120 + 38, 28 + 10 + 100 : 28 + 120]  # the padding at its right
    assert (beside_text == CARD).all()


def test_wrapping_keeps_all_words_and_marks_truncation() -> None:
    text = "a small black house to the left of a large red fish on a mint background"
    whole = grids._wrap(text, 14, 120, 10)
    assert " ".join(whole.lines) == text
    assert all(whole.font.getlength(line) <= 120 for line in whole.lines)
    cut = grids._wrap(text, 14, 120, 2)
    assert len(cut.lines) == 2
    assert cut.lines[0] == whole.lines[0]
    assert cut.lines[1].endswith("…")
    assert cut.font.getlength(cut.lines[1]) <= 120
    assert "".join(grids._wrap("x" * 90, 14, 120, 10).lines) == "x" * 90


@pytest.mark.parametrize(
    "text", ["Café à Łódź", "一只狗在草地上跑", "🐶🏽‍🦱", "\x00\x1b[31m\u200f\ud800", "مرحبا", "\n\t ", "a\u0301" * 50]
)
def test_no_text_breaks_a_grid(text: str) -> None:
    sheet = image_grid([Tile(None, text, heading=text, missing=text)], title=text, tile_size=60)
    assert sheet.width == 60 + 2 * 10 + 2 * 28


def test_letters_that_no_font_has_lose_their_accents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "_FONT_FILES", ())
    text, _ = grids._drawable("Café  à\nla crème", 14)
    assert text == "Cafe a la creme"


def test_a_font_that_has_the_letters_is_preferred() -> None:
    own = ImageFont.load_default(14)
    assert isinstance(own, ImageFont.FreeTypeFont)
    assert grids._font_for("plain words", 14).getname() == own.getname()
    if grids._font("DejaVuSans.ttf", 14):
        assert grids._drawable("Café", 14)[0] == "Café"


def test_a_grid_without_tiles_is_its_title() -> None:
    empty, titled = image_grid([], title=""), image_grid([], title="Nothing was found")
    assert titled.height > empty.height
    assert _count(empty, PAPER) == empty.width * empty.height
