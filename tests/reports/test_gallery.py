"""HTML documents and galleries: self-contained pages, contact sheets, and images that cannot be shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from diptych.errors import ConfigError
from diptych.images.roots import Roots
from diptych.reports.gallery import Card, Gallery, Section, html_page, save_gallery, thumbnails
from diptych.reports.html import data_uri, html_document, svg_data_uri


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (80, 40), "red").save(tmp_path / "a & b.png")
    return tmp_path / "a & b.png"


def test_a_document_escapes_its_title_and_note_and_fetches_nothing() -> None:
    page = html_document("<b>title</b>", 'a "note" & more', "<p>body</p>", "p { color: red }")
    assert "<h1>&lt;b&gt;title&lt;/b&gt;</h1>" in page
    assert "a &quot;note&quot; &amp; more" in page
    assert "<p>body</p></main>" in page
    assert "p { color: red }</style>" in page
    assert "default-src 'none'" in page
    assert not re.search(r"<script|https?://", page)


def test_images_and_drawings_are_embedded_as_data_urls() -> None:
    assert data_uri(Image.new("RGB", (8, 8))).startswith("data:image/jpeg;base64,/9j/")
    assert svg_data_uri(b"<svg/>") == "data:image/svg+xml;base64,PHN2Zy8+"


def test_a_gallery_page_links_to_its_files_and_names_what_is_missing(image: Path) -> None:
    cards = (Card(str(image), "a & b.png", "a <red> square"), Card(str(image.with_name("none.png")), "none.png"))
    page = html_page(Gallery("squares", "2 pictures", (Section("all", cards),)), 40)
    assert page.count("data:image/jpeg") == 1
    assert page.count("not available") == 1
    assert f'href="{image.as_uri()}"' in page
    assert 'alt="a &lt;red&gt; square"' in page


def test_images_outside_the_roots_are_not_shown(image: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    paths = [str(image), str(image.with_name("none.png"))]
    shown = thumbnails(paths, 40)
    assert [thumbnail.size if thumbnail else None for thumbnail in shown] == [(40, 20), None]
    assert thumbnails(paths, 40, Roots([tmp_path / "root"])) == [None, None]


def test_each_section_gets_a_contact_sheet_of_its_own(image: Path, tmp_path: Path) -> None:
    sections = tuple(Section(title, (Card(str(image), title),)) for title in ("one", "two"))
    sheets = save_gallery(Gallery("all", "", sections), tmp_path / "sheet.png", 60)
    assert [sheet.name for sheet in sheets] == ["sheet-1.png", "sheet-2.png"]
    assert all(Image.open(sheet).width >= 60 for sheet in sheets)


@pytest.mark.parametrize(
    ("name", "message"), [("page.pdf", "has the suffix '.pdf'"), ("none/page.html", "cannot write")]
)
def test_a_file_that_cannot_be_written_is_refused_with_the_reason(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        save_gallery(Gallery("", "", ()), tmp_path / name)
