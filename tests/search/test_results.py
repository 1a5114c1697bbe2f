"""Results as sequences, DataFrames and notebook pages, and the kinds of query."""

from __future__ import annotations

import base64
import io
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diptych.errors import ConfigError, MissingExtra
from diptych.images.roots import Roots
from diptych.search.notebook import MAX_TILES, SIDE
from diptych.search.query import Query, as_query
from diptych.search.results import Hit, Results
from tests.libraries import index_of

HOSTILE = '"><script>alert(1)</script>\x1b[31m'


def results(*hits: Hit, **values: Any) -> Results:
    usual = {"query": "“a dog”", "total": len(hits), "more": False, "searched": 15, "cutoff": "no cutoff"}
    return Results(hits=hits, **(usual | values))


def photograph(folder: Path, name: str = "a.png", size: tuple[int, int] = (800, 400)) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(folder / name)
    return str(folder / name)


def thumbnails(page: str) -> list[Image.Image]:
    encoded = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in encoded]


def test_results_are_a_sequence_of_hits() -> None:
    first, second = Hit("1", "/p/1", 0.9), Hit("2", "/p/2", 0.8)
    found = results(first, second)
    assert (len(found), list(found), found[0], found[-1]) == (2, [first, second], first, second)
    assert found[1:] == (second,)
    assert second in found
    assert found.index(second) == 1
    assert list(reversed(found)) == [second, first]
    assert not results()


def test_a_table_has_a_row_for_each_hit_by_its_rank() -> None:
    pandas = pytest.importorskip("pandas")
    taken = datetime(2020, 5, 17, 12)
    table = results(Hit("1", "/p/1", 0.9, taken=taken), Hit("2", "/p/2", 0.8), before=20, page=2).to_pandas()
    assert list(table.index) == [21, 22]
    assert table["path"].tolist() == ["/p/1", "/p/2"]
    assert table["taken"].iloc[0] == pandas.Timestamp(taken)
    assert results().to_pandas().columns[:3].tolist() == ["id", "path", "score"]


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match="pip install pandas"):
        results().to_pandas()


def test_the_repr_shows_the_message_and_the_first_hits() -> None:
    found = results(*(Hit(str(place), f"/p/{place}.jpg", 0.5) for place in range(12)))
    lines = repr(found).splitlines()
    assert lines[0] == "Results: “a dog”: 12 of 15 images"
    assert lines[1] == "  1  0.500  /p/0.jpg"
    assert lines[-1] == "  … 2 more"
    assert len(lines) == 12


def test_a_notebook_shows_small_thumbnails_of_images_that_may_be_read(tmp_path: Path) -> None:
    inside, outside = photograph(tmp_path / "in"), photograph(tmp_path / "out")
    hits = (
        Hit("1", inside, 0.9, caption="a red card"),
        Hit("2", outside, 0.8),
        Hit("3", f"{tmp_path}/in/gone.png", 0.7),
    )
    page = results(*hits, readable=Roots([tmp_path / "in"]))._repr_html_()
    assert [image.size for image in thumbnails(page)] == [(SIDE, SIDE // 2)]
    assert page.count("no image") == 2
    assert 'alt="a red card"' in page
    assert not thumbnails(results(*hits)._repr_html_())


def test_a_notebook_shows_a_bounded_number_of_thumbnails(tmp_path: Path) -> None:
    path = photograph(tmp_path)
    page = results(*(Hit(str(n), path, 0.5) for n in range(MAX_TILES + 5)), readable=Roots([tmp_path]))._repr_html_()
    assert len(thumbnails(page)) == MAX_TILES
    assert "and 5 more" in page


def test_names_captions_and_queries_are_escaped_in_a_notebook() -> None:
    hit = Hit("1", f"/p/{HOSTILE}", 0.9, caption=HOSTILE)
    page = results(hit, query=HOSTILE, cutoff=HOSTILE)._repr_html_()
    assert "<script" not in page
    assert "\x1b" not in page
    assert page.count("&lt;script&gt;") >= 4


def test_an_index_tells_its_results_where_images_may_be_read(tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    paths = [photograph(tmp_path / "in", f"{place}.png") for place in range(3)]
    index = index_of(tmp_path / "index", [{"path": path, "vector": np.eye(3)[n]} for n, path in enumerate(paths)])
    index.readable = Roots([tmp_path / "in"])
    found = index.search(Query.of(like=paths[0]))
    assert len(thumbnails(found._repr_html_())) == len(found) == 2


def test_a_query_is_a_text_an_image_or_a_query(tmp_path: Path) -> None:
    path = Path(photograph(tmp_path))
    assert as_query("a dog^2") == Query.of("a dog^2")
    assert as_query(path) == Query.of(image=path)
    assert as_query(path.read_bytes()).parts[0].kind == "image"
    (part,) = as_query(Image.new("RGB", (4, 4), "red")).parts
    assert isinstance(part.value, bytes)
    with pytest.raises(ConfigError, match="empty"):
        as_query(" ")


def test_an_index_is_searched_by_an_image_itself(tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    paths = [photograph(tmp_path, f"{colour}.png") for colour in ("red", "blue")]
    model = FakeEncoder()
    index = index_of(tmp_path / "index", [{"path": path, "vector": np.eye(4)[n]} for n, path in enumerate(paths)])
    index._encoder.loaded = model  # type: ignore[assignment]
    found = index.search(Image.new("RGB", (40, 40), "red"), k=1)
    assert [hit.path for hit in found] == [paths[0]]


class FakeEncoder:
    """An encoder for which every image is the first axis."""

    image_size = 32

    def encode_images(self, images: list[Image.Image]) -> np.ndarray:
        return np.tile(np.eye(4, dtype=np.float32)[0], (len(images), 1))


def test_a_matcher_is_passed_to_a_search_and_not_kept(tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    paths = [photograph(tmp_path / "in", f"{place}.png") for place in range(3)]
    rows = [{"path": path, "vector": [1, place / 10, 0]} for place, path in enumerate(paths)]
    index = index_of(tmp_path / "index", rows)
    index.readable = Roots([tmp_path / "in"])
    vars(index._encoder)["text_graph"], vars(index._encoder)["name"] = FakeTexts(), "fake"
    found = index.search("a dog", keep=None, rerank=3, matcher=FakeMatcher())  # type: ignore[arg-type]
    assert [hit.path for hit in found] == paths[::-1]
    assert [hit.match for hit in found] == [2.0, 1.0, 0.0]
    assert "matcher" not in vars(index._encoder)


class FakeTexts:
    """A text encoder for which every text is the first axis."""

    def unknown_texts(self, texts: Sequence[str]) -> list[str]:
        return []

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        return np.tile(np.eye(3, dtype=np.float32)[0], (len(texts), 1))


class FakeMatcher:
    """A matcher that prefers the image that comes last."""

    encoder = FakeEncoder()

    def predict(self, images: list[Image.Image], texts: list[str]) -> np.ndarray:
        return np.arange(len(images), dtype=float)
