"""Names and texts in reports, pages, cards, plots and tables: none becomes a tag, a link, a formula or a file."""

from __future__ import annotations

import csv
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from diptych.captioning.candidates import Candidate
from diptych.captioning.many_images import CaptionResult
from diptych.captioning.sinks import CaptionFile, Sidecars
from diptych.evaluation.compare.report_files import _markdown_table
from diptych.evaluation.compare.report_page import _table
from diptych.evaluation.compare.tables import Cell, Table
from diptych.evaluation.image_classifier import Classified, write_table
from diptych.evaluation.match_plots import reliability_diagram
from diptych.reports.gallery import Card, Gallery, Section, html_page
from diptych.runtime.quoting import ReportTable, code_block, code_span, escaped, markdown

NASTY = (
    "\"><script>alert(1)</script><img src=x onerror='alert(1)'>",
    "[click](javascript:alert(1)) ![x](http://evil.example/x.png) <http://evil.example>",
    "a | b `c` ``` # h\n# heading\n\n---\n| x |",
    "- item",
    "1. item",
    "~~~\n$x_$ &lt; \\",
    "    code",
    "\x1b]0;x\x07\u202e\ud800",
)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        assert not [name for name, _ in attributes if name.startswith("on")]
        self.links += [value or "" for name, value in attributes if name in ("href", "src")]


def tags(page: str) -> Tags:
    page.encode()
    parser = Tags()
    parser.feed(page)
    return parser


def rendered(text: str) -> Tags:
    """Markdown as a reader such as GitHub's shows it: with tables, and with HTML."""
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return tags(parser.render(text))


def test_a_gallery_has_no_tag_of_a_name_and_links_to_files_alone() -> None:
    names = (*NASTY, "javascript:alert(1)", "a#b?c%d'e.png", "//evil.example/x")
    cards = tuple(Card(name.replace("\0", ""), name, name, name) for name in names if "\ud800" not in name)
    page = html_page(Gallery(NASTY[0], NASTY[1], (Section(NASTY[2], cards),)))
    found = tags(page)
    assert not found.found & {"script", "img", "iframe", "b"}
    assert len(found.links) == len(cards)
    assert all(link.startswith("file:///") for link in found.links)
    assert any(link.endswith("a%23b%3Fc%25d%27e.png") for link in found.links)


@pytest.mark.parametrize("text", NASTY)
def test_a_report_table_in_html_and_in_markdown_holds_a_text_as_text(text: str) -> None:
    table = Table(text, text, ("model", text), ((Cell(text, text, best=True), Cell(text, tied=True)),))
    assert tags(_table(table)).found == {"section", "h2", "p", "div", "table", "tr", "th", "td", "span", "small"}
    found = rendered(_markdown_table(table))
    assert found.found <= {"h2", "p", "table", "thead", "tbody", "tr", "th", "td", "strong"}
    assert {"h2", "table"} <= found.found


@pytest.mark.parametrize("text", NASTY)
def test_markdown_shows_a_text_as_it_is(text: str) -> None:
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark")
    assert rendered(markdown(text)).found == {"p"}
    assert parser.render(markdown(text)) == f"<p>{escaped(markdown_free(text))}</p>\n".replace("&#x27;", "'")
    assert rendered(f"x {code_span(text)} y").found == {"p", "code"}
    assert rendered(f"{code_block(text, 'yaml')}\n").found == {"pre", "code"}


def markdown_free(text: str) -> str:
    from diptych.runtime.quoting import printable

    return printable(text).strip()


def test_a_model_card_holds_hostile_settings_as_text() -> None:
    from diptych.training.contrastive.config import ContrastiveRecipe
    from diptych.training.model_card import model_card

    recipe = ContrastiveRecipe(data="x/`<script>`\n# h", start="`[a](b)`\n```\n<img src=x>")
    scores = {f"{key}_r@{k}": 1.0 for key in ("t2i", "i2t") for k in (1, 5, 10)}
    body = model_card(recipe, {"train": 1, "val": 1}, scores).partition("\n---\n")[2]
    found = rendered(body).found
    assert not found & {"script", "img", "hr"}
    assert body.count("\n# ") + body.startswith("# ") == 1


def test_the_numbers_of_a_strangers_model_make_no_markup_of_its_card_on_the_hub() -> None:
    from diptych.export.model_card import _data_section, _measured_section

    metadata = {"validation": dict.fromkeys(NASTY, 1.0), "recipe": {"data": f"x{NASTY[0]}`"}, "pictures": {NASTY[0]: 1}}
    assert rendered(_measured_section(metadata)).found == {"p", "table", "thead", "tbody", "tr", "th", "td"}
    assert rendered(_data_section(metadata)).found == {"p", "code"}


def test_a_plot_draws_a_dollar_and_a_leading_underscore_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sets = {name: (np.array([0.1, 0.9]), np.array([0, 1])) for name in (r"$\frac{$", "_hidden")}
    figure = reliability_diagram(sets, r"title $\nosuch$ [x]")
    figure.savefig(tmp_path / "plot.svg")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert any("_hidden" in label for label in labels)
    assert (tmp_path / "plot.svg").stat().st_size


def test_a_report_for_spreadsheets_has_no_formula_and_keeps_its_numbers(tmp_path: Path) -> None:
    formulas = ("=cmd|' /C calc'!A0", "+1+cmd", "-2+3", "@SUM(1)", "\t=1", "\r=1")
    write_table([Classified(name, "", (name,), (0.5,)) for name in formulas], tmp_path / "classes.csv")
    with (tmp_path / "classes.csv").open(newline="", encoding="utf-8") as file:
        _, *rows = list(csv.reader(file))
    assert [row[:3] for row in rows] == [[f"'{name}", f"'{name}", "0.5000"] for name in formulas]
    with (tmp_path / "numbers.csv").open("w+", newline="", encoding="utf-8") as file:
        ReportTable(file).writerow(("-0.25", -0.25, "+1e-3", None, "a-b", "dog.jpg"))
        file.seek(0)
        assert next(csv.reader(file)) == ["-0.25", "-0.25", "+1e-3", "", "a-b", "dog.jpg"]


def test_captions_as_data_are_exact_and_are_found_again(tmp_path: Path) -> None:
    for name in ("captions.csv", "captions.jsonl"):
        paths = ["=1+1.png", "a\nb.png", "\x1b[31m.png"]
        CaptionFile(tmp_path / name).write(CaptionResult(path, [Candidate(f"-{path}", 0.5, 0.5)]) for path in paths)
        again = CaptionFile(tmp_path / name)
        assert all(again.done(path) for path in paths)


def test_a_link_beside_a_picture_does_not_move_its_caption_elsewhere(tmp_path: Path) -> None:
    victim, image = tmp_path / "victim", tmp_path / "photo.jpg"
    victim.write_text("untouched")
    (tmp_path / ".photo.txt.tmp").symlink_to(victim)
    Sidecars().write([CaptionResult(str(image), [Candidate("a dog", 0.5, 0.5)])])
    assert victim.read_text() == "untouched"
    assert (tmp_path / "photo.txt").read_text() == "a dog\n"
    assert not (tmp_path / "photo.txt").is_symlink()


@pytest.mark.parametrize("text", [*NASTY, ":dog: :material_home: :material/home: :red[x]", "www.evil.example a@b.co"])
def test_a_part_of_the_page_shows_names_captions_and_errors_as_text(text: str) -> None:
    testing = pytest.importorskip("streamlit.testing.v1")

    def page(text: str) -> None:
        from diptych.search.results import Hit
        from diptych.serving.app.grid import hit_grid
        from diptych.serving.app.layout import show_error, show_note

        show_error(text)
        show_note(text)
        path = "/nowhere/" + text.encode("utf-8", "replace").decode().replace("/", "")
        hit_grid([Hit("0" * 32, path, 0.5, caption=text, camera=text)], key="x", on_more_like=print)

    test = testing.AppTest.from_function(page, args=(text,), default_timeout=60).run()
    assert not test.exception
    for element in (test.error[0].value, test.info[0].value, test.button[0].help):
        assert rendered(element).found == {"p"}
        finished = element.replace("\\", "")  # the page looks for these when backslashes are gone
        assert not [code for code in (":dog:", ":material_home:", ":material/", "www.", "a@b.") if code in finished]
    assert tags("".join(each.value for each in test.html)).found <= {"div", "span"}
