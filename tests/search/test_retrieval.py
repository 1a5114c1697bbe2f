"""Retrieval from indexes with known content: hits, their order, cutoff, pages and galleries."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import diptych
from diptych.cli import main
from diptych.errors import ConfigError, DataError
from diptych.reports.gallery import Card, Gallery, Section, gallery_of, html_page, save_gallery
from diptych.search.filters import Filters
from diptych.search.index import Index
from diptych.search.query import Query
from diptych.search.vocabulary import vocabulary
from tests.libraries import index_of

pytest.importorskip("lancedb")

SHOWN = ("a dog", "a cat", "a car", "the sea", "a birthday cake", "a guitar")


@pytest.fixture(scope="module")
def model() -> diptych.DualEncoder:
    """An untrained model that knows the vocabulary's words apart."""
    text = {"dim": 128, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    torch.manual_seed(0)
    return diptych.build(
        "timm/test_resnet", pretrained=False, image_size=32, text_arguments=text, captions=list(vocabulary()), dim=128
    )


@pytest.fixture(scope="module")
def index(model: diptych.DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Pictures whose vectors are those of texts: the first shows a dog and nothing else, and so on."""
    vectors = model.encode_texts(SHOWN)
    days = [datetime.datetime(2020, 1, 1 + at) for at in range(len(SHOWN))]
    rows = [
        {"path": f"/p/{text}.jpg", "vector": vector, "taken": day, "caption": text}
        for text, vector, day in zip(SHOWN, vectors, days, strict=True)
    ]
    return index_of(tmp_path_factory.mktemp("library") / "index", rows, model)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Twelve pictures on a quarter circle, every 5 degrees, each a day older than the one before; no model."""
    angles = np.radians(np.arange(12) * 5)
    rows = [
        {
            "path": f"/p/{at:02}",
            "vector": [np.cos(angle), np.sin(angle), 0],
            "taken": datetime.datetime(2020, 1, 20 - at),
        }
        for at, angle in enumerate(angles)
    ]
    return index_of(tmp_path_factory.mktemp("plane") / "index", rows)


def _names(found: Any) -> list[str]:
    return [Path(hit.path).name for hit in found]


# what is found


@pytest.mark.parametrize("text", SHOWN)
def test_a_text_finds_the_picture_that_shows_it(index: Index, text: str) -> None:
    found = index.search(text)
    assert found.hits[0].path == f"/p/{text}.jpg"
    assert found.hits[0].score == pytest.approx(1, abs=1e-3)
    assert found.hits[0].caption == text
    assert not found.nothing_found


@pytest.mark.parametrize("text", ["a volcano", "a receipt", "people dancing"])
def test_a_text_that_matches_nothing_finds_nothing_and_says_so(index: Index, text: str) -> None:
    found = index.search(text)
    assert found.hits == ()
    assert found.nothing_found
    assert found.message.startswith(f"nothing found: none of the 6 images matches “{text}”")
    assert found.nearest is not None
    assert found.nearest.path in found.message


def test_without_a_cutoff_the_nearest_are_found_whatever_they_show(index: Index) -> None:
    found = index.search("a volcano", keep=None)
    assert len(found) == found.total == 6
    assert "no relevance cutoff" in found.cutoff


def test_a_stricter_share_finds_no_more(index: Index) -> None:
    kept = [index.search("a dog", keep=keep).total for keep in (1.0, 0.95, 0.5, 0.1)]
    assert kept == sorted(kept, reverse=True)


def test_unwanted_parts_change_the_order_and_not_the_subject(index: Index) -> None:
    found = index.search(Query.of("a dog", unwanted="a car"), keep=None)
    wanted = index.search("a dog", keep=None)
    assert _names(found)[0] == "a dog.jpg"
    assert _names(found).index("a car.jpg") >= _names(wanted).index("a car.jpg")
    assert index.search(Query.of("a volcano", unwanted="a car")).nothing_found


def test_results_say_if_the_model_is_not_calibrated(index: Index) -> None:
    assert "not calibrated" in index.search("a dog").cutoff


def test_a_query_by_a_row_does_not_find_the_row_itself(plane: Index) -> None:
    found = plane.search(Query.of(like="/p/03"), k=3)
    assert sorted(_names(found)[:2]) == ["02", "04"]
    assert [hit.score for hit in found] == pytest.approx(np.cos(np.radians([5, 5, 10])), abs=1e-3)
    by_id = plane.search(Query.of(like=plane.search(Query.of(like="/p/02"), k=1).hits[0].id), k=1)
    assert len(by_id) == 1


def test_an_unknown_row_is_refused_by_its_name(plane: Index) -> None:
    with pytest.raises(DataError, match="/p/99"):
        plane.search(Query.of(like="/p/99"))


def test_an_unwanted_row_moves_its_neighbours_back(plane: Index) -> None:
    # (cos 25° - 0.5, sin 25°) points to 46°.
    assert _names(plane.search(Query.of(like="/p/05", unwanted_like="/p/00"), k=1)) == ["09"]


# order, pages, filters, folding


def test_pages_neither_skip_nor_repeat_a_hit(plane: Index) -> None:
    pages = [plane.search(Query.of(like="/p/00"), k=4, page=page) for page in (1, 2, 3, 4)]
    assert [name for page in pages for name in _names(page)] == [f"{at:02}" for at in range(1, 12)]
    assert [page.before for page in pages] == [0, 4, 8, 11]
    assert [page.total for page in pages] == [11] * 4
    assert "page 4 is empty" in pages[3].message


def test_sorting_by_date_orders_all_matches(plane: Index) -> None:
    assert _names(plane.search(Query.of(like="/p/00"), k=2, sort="oldest")) == ["11", "10"]
    assert _names(plane.search(Query.of(like="/p/11"), k=2, sort="newest")) == ["00", "01"]


def test_filters_and_sql_conditions_are_combined(plane: Index) -> None:
    filters = Filters(since=datetime.date(2020, 1, 15), until=datetime.date(2020, 1, 18))
    found = plane.search(Query.of(like="/p/00"), filters=filters, where="path <> '/p/04'")
    assert (_names(found), found.searched) == (["02", "03", "05"], 3)


def test_the_message_says_when_no_image_meets_the_filters(plane: Index) -> None:
    found = plane.search(Query.of(like="/p/00"), filters=Filters(camera="Leica"))
    assert found.message == "nothing found: the index is empty, or no image in it passes the filters"


@pytest.mark.parametrize("settings", [{"k": 0}, {"page": 0}, {"k": 5_000, "page": 2}, {"sort": "size"}])
def test_an_option_out_of_range_is_refused(plane: Index, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        plane.search(Query.of(like="/p/00"), **settings)


def test_an_invalid_sql_condition_is_refused(plane: Index) -> None:
    with pytest.raises(ConfigError, match="path = "):
        plane.search(Query.of(like="/p/00"), where="path = ")


def test_copies_are_folded_into_the_best_one(tmp_path: Path) -> None:
    rows = [
        {"path": "/p/query", "vector": [1, 0.0]},
        {"path": "/p/near", "vector": [1, 0.1], "hash": "h"},
        {"path": "/p/copy", "vector": [1, 0.1001], "hash": "h"},
        {"path": "/p/far", "vector": [0, 1]},
    ]
    index = index_of(tmp_path / "index", rows)
    (near, far) = index.search(Query.of(like="/p/query"))
    assert {near.path, *near.copies} == {"/p/near", "/p/copy"}
    assert (far.path, far.copies) == ("/p/far", ())
    assert len(index.search(Query.of(like="/p/query"), fold=False)) == 3


def test_hits_beyond_the_first_batch_of_rows_are_found(model: diptych.DualEncoder, tmp_path: Path) -> None:
    """Some 900 pictures show a dog: all pages come, whatever was fetched at first."""
    vector, other = model.encode_texts(["a dog", "a volcano"])
    noise = np.random.default_rng(0).standard_normal((900, model.dim)) * 1e-4
    rows = [{"path": f"/dog/{at}", "vector": vector + noise[at]} for at in range(900)]
    rows += [{"path": f"/other/{at}", "vector": other} for at in range(100)]
    found = index_of(tmp_path / "index", rows, model).search("a dog", k=300, page=3, fold=False)
    assert len(found) == 300
    assert all(hit.path.startswith("/dog/") for hit in found)


def test_results_can_be_written_as_json(index: Index) -> None:
    content = json.loads(json.dumps(index.search("a dog").to_dict()))
    assert content["hits"][0]["taken"] == "2020-01-01T00:00:00"
    assert content["hits"][0]["path"] == "/p/a dog.jpg"


# what is shown


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name for name in ("one.png", "gone.png")]
    Image.new("RGB", (600, 300), "teal").save(paths[0])
    return [str(path) for path in paths]


def test_a_gallery_page_stands_alone_and_escapes_every_text(images: list[str]) -> None:
    nasty = '<script>alert(1)</script>" onload="x\' & \udcff'
    cards = tuple(Card(path, nasty, nasty, nasty) for path in images)
    page = html_page(Gallery(nasty, nasty, (Section(nasty, cards),)))
    assert "<script" not in page
    assert 'onload="' not in page
    assert page.count("data:image/jpeg;base64,") == 1
    assert page.count("not available") == 1
    assert not re.findall(r'(?:src|href)="(?!data:|file:)', page)
    assert "default-src 'none'" in page
    page.encode("utf-8")


def test_a_sheet_has_a_picture_for_each_hit_and_sections_have_their_own(images: list[str], tmp_path: Path) -> None:
    cards = tuple(Card(path, "name") for path in images)
    one = Gallery("t", "n", (Section("", cards),))
    assert save_gallery(one, tmp_path / "sheet.png") == [tmp_path / "sheet.png"]
    colours = {colour for _, colour in Image.open(tmp_path / "sheet.png").convert("RGB").getcolors(1 << 24) or ()}
    assert (0, 128, 128) in colours
    two = Gallery("t", "n", (Section("a", cards), Section("b", cards)))
    assert save_gallery(two, tmp_path / "two.png") == [tmp_path / "two-1.png", tmp_path / "two-2.png"]


def test_a_gallery_of_nothing_says_so(index: Index, tmp_path: Path) -> None:
    found = index.search("a volcano")
    save_gallery(gallery_of(found), tmp_path / "page.html")
    assert "nothing found" in (tmp_path / "page.html").read_text("utf-8")
    save_gallery(gallery_of(found), tmp_path / "sheet.png")


def test_another_suffix_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="html"):
        save_gallery(Gallery("", "", ()), tmp_path / "page.pdf")
    with pytest.raises(ConfigError, match="cannot write"):
        save_gallery(Gallery("", "", ()), tmp_path / "none" / "page.html")


# the commands


@pytest.fixture
def run(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs `diptych` in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        told = capfdbinary.readouterr()
        return int(ended.value.code or 0), told.out.decode(), told.err.decode()

    return run


@pytest.fixture(scope="module")
def library(model: diptych.DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library on disk with three pictures, two of them the same, and the model beside it."""
    root = tmp_path_factory.mktemp("disk")
    model.save(root / "model")
    generator = np.random.default_rng(0)
    for name in ("one.png", "two.png"):
        Image.fromarray(generator.integers(0, 255, (16, 16, 3), np.uint8)).resize((96, 96)).save(root / name)
    (root / "sub").mkdir()
    (root / "sub" / "copy.png").write_bytes((root / "one.png").read_bytes())
    Index(root, root / "model").add(root)
    return root


def test_search_finds_its_index_from_below_and_prints_paths(run: Any, library: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(library / "sub")
    code, out, _ = run("search", "--like", "copy.png", "--paths")
    assert (code, out) == (0, f"{library / 'two.png'}\n")
    code, out, _ = run("search", "--image", library / "two.png", "-0", "--no-fold", "-k", 1)
    assert out == f"{library / 'two.png'}\0"


def test_search_prints_a_table_and_writes_a_page(run: Any, library: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(library)
    code, out, _ = run("search", "--image", "one.png", "--not", "a car", "--out", tmp_path / "found.html")
    assert code == 0
    assert "(+1)" in out  # one.png and its copy
    assert "two.png" in out
    assert (tmp_path / "found.html").stat().st_size > 1_000
    code, out, _ = run("search", "a dog", "--nearest", "--json", "--shape", "square", "--min-side", "90")
    assert len(json.loads(out)["hits"]) == 2


def test_search_that_finds_nothing_says_so_beside_the_empty_list(run: Any, library: Path) -> None:
    code, out, error = run("search", "a dog", "--caption", "nobody said so", "--paths", "--index", library)
    assert (code, out) == (0, "")
    assert "nothing found" in error


def test_dedupe_prints_the_copies_and_never_the_one_to_keep(run: Any, library: Path) -> None:
    code, out, _ = run("dedupe", "--paths", "--index", library)
    assert (code, out) == (0, f"{library / 'sub' / 'copy.png'}\n")
    code, out, _ = run("dedupe", "--index", library)
    assert "nothing was deleted" in out
    assert (library / "sub" / "copy.png").exists()


def test_cluster_names_every_picture_once(run: Any, library: Path, tmp_path: Path) -> None:
    code, out, _ = run("cluster", "--groups", 2, "--json", "--index", library, "--out", tmp_path / "themes.html")
    assert code == 0
    assert sorted(path for theme in json.loads(out) for path in theme["paths"]) == sorted(
        str(path) for path in library.rglob("*.png")
    )
    assert (tmp_path / "themes.html").exists()
